"""Priority with ageing: more important first, but waiting makes everybody important.

Nobody starves: a demand that has waited `AGE_S` for each level it lacks outranks any newcomer.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Site, seniority
from market.units import UnixTime

AGE_S = 600.0  # one level per ten minutes: the lowest of 256 outranks the highest within two days


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """Highest priority plus age first; ties by arrival."""
    return tuple(sorted(queue, key=lambda one: (-effective(one, now), seniority(one))))


def effective(one: Queued, now: UnixTime) -> float:
    """The priority of a demand with its age, in levels."""
    return one.priority + max(0.0, now - one.arrived_at) / AGE_S
