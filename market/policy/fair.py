"""Fair: the requester with the least dominant share goes first, past use counting and fading.

Dominant-resource fairness (Ghodsi et al., NSDI 2011) by progressive filling over units, cores and
memory, with HTCondor's decayed usage beside what is held now. Where jobs may be preempted between
rounds, fairness is measured by when they finish: that is `market/policy/finish.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from market.site import Queued, Site, decayed, seniority
from market.units import UnixTime

_Resources = tuple[float, float, float]


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """Progressive filling: give the next turn to the least dominant share, ties by seniority.

    Each demand counts as granted once ordered, so a requester's later demands come after other
    requesters' earlier ones. Within a requester the oldest goes first.
    """
    waiting: dict[bytes, list[Queued]] = {}
    for one in sorted(queue, key=seniority, reverse=True):
        waiting.setdefault(one.requester, []).append(one)
    held = _held(site)
    past = {
        usage.requester: decayed(usage, 0, now).units / max(1, site.units) for usage in site.usage
    }
    turns = [
        (
            dominant_share(held.get(who, (0.0, 0.0, 0.0)), site) + past.get(who, 0.0),
            seniority(q[-1]),
        )
        for who, q in waiting.items()
    ]
    by_head = {seniority(q[-1]): who for who, q in waiting.items()}
    heapq.heapify(turns)
    ordered: list[Queued] = []
    while turns:
        _, head = heapq.heappop(turns)
        who = by_head[head]
        one = waiting[who].pop()
        ordered.append(one)
        held[who] = _plus(held.get(who, (0.0, 0.0, 0.0)), one)
        if waiting[who]:
            head = seniority(waiting[who][-1])
            by_head[head] = who
            share = dominant_share(held[who], site) + past.get(who, 0.0)
            heapq.heappush(turns, (share, head))
    return tuple(ordered)


def dominant_share(held: _Resources, site: Site) -> float:
    """The largest share of any scarce resource: units, cores, memory."""
    totals = (site.units, site.cpu_milli, site.memory_mib)
    return max(
        (amount / total for amount, total in zip(held, totals, strict=True) if total), default=0.0
    )


def _held(site: Site) -> dict[bytes, _Resources]:
    held: dict[bytes, _Resources] = {}
    for one in site.running:
        units, cpu, memory = held.get(one.requester, (0.0, 0.0, 0.0))
        held[one.requester] = (
            units + one.unit_count,
            cpu + one.cpu_milli,
            memory + one.memory_mib,
        )
    return held


def _plus(held: _Resources, one: Queued) -> _Resources:
    return (held[0] + one.units, held[1] + one.cpu_milli, held[2] + one.memory_mib)
