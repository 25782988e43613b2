"""Contest: who starts and what it pays, on queues small enough to draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.contest import decide, price
from market.matching import clearing_price
from market.policy import POLICIES
from market.site import Policy, Queued, Running, Site, Usage, decayed, past_use
from market.slots import USUAL_SIZES, choose_units, usual_sizes
from market.units import UnixTime

NOW = UnixTime(1_800_000_000.0)
WINDOW_S = 2.0
ASK = 100


def wants(name: str, bid: int, units: int = 1, ago_s: float = 1.0, **changes: object) -> Queued:
    plain = Queued(
        name.encode(), name[:1].encode(), UnixTime(NOW - ago_s), units, 60.0, price_per_hour=bid
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def site(units: int, *taken: int) -> Site:
    running = tuple(
        Running(bytes([n]), b"z", mask, NOW, UnixTime(NOW + 600)) for n, mask in enumerate(taken)
    )
    return Site(units, running)


def started(queue: Sequence[Queued], where: Site, policy: str = "fcfs", **how: object) -> str:
    found = decide(queue, where, NOW, POLICIES[policy], window_s=WINDOW_S, **how)  # type: ignore[arg-type]
    return " ".join(one.demand_id.decode() for one in found.start)


def prices(
    queue: Sequence[Queued], where: Site, policy: Policy = POLICIES["fcfs"], elsewhere: int = 0
) -> Mapping[str, int]:
    found = decide(queue, where, NOW, policy, window_s=WINDOW_S)
    return {
        one.demand_id.decode(): price(
            one, ASK, queue, where, NOW, policy, window_s=WINDOW_S, elsewhere=elsewhere
        )
        for one in found.start
    }


def test_within_a_window_the_higher_bid_goes_first_and_the_best_loser_is_paid() -> None:
    queue = [wants("a", 150, ago_s=1.9), wants("b", 300, ago_s=0.1), wants("c", 220)]
    assert prices(queue, site(1)) == {"b": 220}
    assert prices(queue, site(2)) == {"b": 150, "c": 150}
    assert prices(queue, site(3)) == {"a": ASK, "b": ASK, "c": ASK}


def test_who_waited_longer_than_a_window_goes_by_the_policy_and_pays_the_ask() -> None:
    queue = [wants("a", 150, ago_s=9), wants("b", 300, ago_s=5), wants("c", 500)]
    assert prices(queue, site(1)) == {"a": ASK}
    assert started(queue, site(2)) == "a b"


def test_a_policy_that_goes_by_bid_makes_everybody_pay_the_second() -> None:
    queue = [wants("a", 150, ago_s=9), wants("b", 300, ago_s=50)]
    assert prices(queue, site(1), POLICIES["cost"]) == {"b": 150}


def test_other_providers_free_units_take_the_best_losers_away() -> None:
    queue = [wants("a", 150), wants("b", 300), wants("c", 220)]
    assert prices(queue, site(1), elsewhere=1) == {"b": 150}
    assert prices(queue, site(1), elsewhere=2) == {"b": ASK}


def test_units_freed_for_somebody_are_his() -> None:
    queue = [wants("a", 150, ago_s=9), wants("b", 300, ago_s=5)]
    assert started(queue, site(1), first={b"b"}) == "b"


def test_of_equal_bids_the_lower_id_starts_and_pays_it() -> None:
    assert prices([wants("a", 150), wants("b", 150)], site(1)) == {"a": 150}


bids = st.lists(st.integers(ASK, 999), min_size=1, max_size=8)


@given(bids=bids, units=st.integers(1, 4))
def test_for_equal_demands_it_is_the_clearing_price(bids: list[int], units: int) -> None:
    queue = [wants(chr(97 + n), bid, ago_s=n / 10) for n, bid in enumerate(bids)]
    losing = sorted(bids, reverse=True)[units:]
    paid = prices(queue, site(units))
    assert len(paid) == min(units, len(bids))
    for name, amount in paid.items():
        assert amount == clearing_price(ASK, losing, bid=bids[ord(name) - 97])


@given(
    others=bids,
    sizes=st.lists(st.integers(1, 3), min_size=9, max_size=9),
    worth=st.integers(ASK, 999),
    lie=st.integers(ASK, 999),
    units=st.integers(1, 4),
    policy=st.sampled_from(("fcfs", "priority", "cost", "fair")),
)
def test_nobody_gains_by_a_lie(
    others: list[int], sizes: list[int], worth: int, lie: int, units: int, policy: str
) -> None:
    """With equal sizes; where sizes differ, winners still pay between the ask and their bid."""
    where, order = site(units), POLICIES[policy]
    rivals = [wants(chr(98 + n), bid) for n, bid in enumerate(others)]

    def gain(bid: int) -> int:
        paid = prices([wants("a", bid), *rivals], where, order)
        return worth - paid["a"] if "a" in paid else 0

    assert gain(lie) <= gain(worth)
    assert gain(worth) >= 0
    mixed = [
        replace(one, units=size)
        for one, size in zip([wants("a", worth), *rivals], sizes, strict=False)
    ]
    for name, amount in prices(mixed, where, order).items():
        (mine,) = (one.price_per_hour for one in mixed if one.demand_id.decode() == name)
        assert ASK <= amount <= mine


# What policies are told.


spans = st.lists(
    st.tuples(st.integers(1, 8), st.floats(0, 5e5), st.floats(0, 5e5)), min_size=1, max_size=5
)


@given(spans=spans)
def test_past_use_is_the_decay_step_by_step(spans: list[tuple[int, float, float]]) -> None:
    held = [(units, NOW - max(a, b), NOW - min(a, b)) for units, a, b in spans]
    (found,) = past_use([(b"a", *span) for span in held], NOW)
    usage = Usage(b"a", 0.0, UnixTime(min(start for _, start, _ in held)))
    for at in sorted({*(s for _, s, _ in held), *(e for _, _, e in held), NOW}):
        now_held = sum(u for u, s, e in held if s <= usage.at < e)
        usage = decayed(usage, now_held, UnixTime(at))
    assert found.units == pytest.approx(usage.units, rel=1e-6, abs=1e-9)


def test_the_usual_mix_is_what_was_seen_here() -> None:
    assert usual_sizes({}, 8) == pytest.approx(dict(USUAL_SIZES))
    assert set(usual_sizes({}, 2)) == {1, 2}
    seen = usual_sizes({4: 1000.0, 64: 5.0}, 8)
    assert seen[4] > 0.97
    assert sum(seen.values()) == pytest.approx(1.0)


def test_placement_keeps_whole_what_the_mix_asks_for() -> None:
    """Two groups: four units free in one, three in the other, and one unit is wanted.

    Where jobs ask for four, the four are kept together; bestfit does so by luck of the numbers,
    where jobs ask for threes only the mix knows better.
    """
    taken = 0b1111_1000 << 8 | 0b1111_0000
    quartets, triples = usual_sizes({4: 1000.0}, 16), usual_sizes({3: 1000.0}, 16)
    placed = {
        name: choose_units(taken, 16, 1, policy="fgd", sizes=sizes).bit_length() > 8
        for name, sizes in (("quartets", quartets), ("triples", triples))
    }
    assert placed == {"quartets": True, "triples": False}
    assert choose_units(taken, 16, 1, policy="bestfit").bit_length() > 8
