"""First come, first served. Knows nothing but arrival."""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Site, seniority
from market.units import UnixTime


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """Oldest first, ties by id."""
    return tuple(sorted(queue, key=seniority))
