"""Forgetting: only quotes that came to nothing, only old ones, and never what owes something."""

from __future__ import annotations

from dataclasses import replace

from market.agreement import Agreement, Phase
from market.units import UnixTime
from node.forgetting import VOID_KEPT, VOID_S, forgettable
from tests.samples import START_S, manifest, provider, requester, running_provider


def void(number: int, **changes: object) -> Agreement:
    plain = replace(
        provider(), id=number.to_bytes(32, "big"), phase=Phase.VOID, created_at_ms=number
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def test_the_newest_are_kept_and_the_rest_once_they_cannot_be_opened_any_more() -> None:
    quotes = [void(number) for number in range(VOID_KEPT + 3)]
    late = quotes[0].terms.timing.open_by_s + VOID_S
    assert forgettable(quotes, UnixTime(late)) == ()
    assert set(forgettable(quotes, UnixTime(late + 1))) == {q.id for q in quotes[:3]}
    assert forgettable(quotes[3:], UnixTime(late + 1)) == ()


def test_what_is_not_over_or_owes_something_is_never_forgotten() -> None:
    old = [
        void(0, opened_at_s=START_S),
        void(1, manifest=manifest(), staged=True),  # still to be scrubbed
        replace(requester(), phase=Phase.VOID),
        running_provider(),
        provider(),
    ]
    crowd = [void(number) for number in range(10, VOID_KEPT + 10)]
    found = forgettable([*old, *crowd], UnixTime(START_S + 10**6))
    assert not {a.id for a in old} & set(found)
