"""Forgetting: which of a node's agreements nothing hangs on any more. Changes nothing itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from market.agreement import Agreement, Phase, Role
from market.duties import duties
from market.units import UnixTime

VOID_KEPT: Final = 512  # quotes that came to nothing, kept for their provider to look at ...
VOID_S: Final = 600  # ... and for so long after their opening could have been mined


def forgettable(agreements: Iterable[Agreement], now: UnixTime) -> tuple[bytes, ...]:
    """The ids of the oldest of our quotes that came to nothing: most do.

    Late openings are over by then. The newest are kept to be shown, and not to quote twice.
    """
    over = [
        a
        for a in agreements
        if a.role is Role.PROVIDER and a.phase is Phase.VOID and not a.opened_at_s
    ]
    if len(over) <= VOID_KEPT:
        return ()
    over.sort(key=lambda a: (-a.created_at_ms, a.id))
    return tuple(
        a.id
        for a in over[VOID_KEPT:]
        if now > a.terms.timing.open_by_s + VOID_S and not duties(a, now)
    )
