"""Load: spread over the least loaded. First the demand that leaves its group of units least full.

A group is units that share a machine's cores, memory, power and interconnect; a site whose groups
are evenly loaded throttles nobody. Knows no money and no requester.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Site, seniority
from market.slots import free_of_groups
from market.units import UnixTime


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """By the load that the emptiest group would have afterwards; ties by arrival.

    Each demand counts as placed once ordered. One that no single group can hold comes last, by
    arrival: it loads several.
    """
    free = free_of_groups(site.taken, site.units, site.group_units)
    left = sorted(queue, key=lambda one: (one.units, seniority(one)))
    heads = list(reversed(left))
    ordered: list[Queued] = []
    # The smallest demand always leaves the least load, so one pass over sizes is progressive.
    while heads and free and heads[-1].units <= max(free):
        one = heads.pop()
        free[free.index(max(free))] -= one.units
        ordered.append(one)
    return (*ordered, *sorted(heads, key=seniority))
