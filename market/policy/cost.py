"""Cost: the highest revenue per unit-second first. Knows only money, size and time."""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Site, seniority
from market.units import UnixTime


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """Best paid unit first; of equal bids the one that is over sooner, then by arrival."""
    return tuple(
        sorted(
            queue,
            key=lambda one: (-one.price_per_hour, one.units * one.estimate_s, seniority(one)),
        )
    )
