"""Contest: who of a queue starts now, and what it pays. Knows no node, book or quote.

The policy orders the queue, backfill starts it. Among demands that came within one quote window,
and that the policy would tell apart by their arrival alone, the higher bid goes first. A winner
pays the least bid with which it would still have started (Vickrey 1961, Myerson 1981), never less
than the ask: for equal demands the best losing bid, as in `market.matching.clearing_price`. So
nobody gains by bidding anything but what it is worth to them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from market.backfill import Starts, backfill
from market.site import Policy, Queued, Site
from market.units import UnixTime

_RANK_BYTES = 4


def decide(
    queue: Sequence[Queued],
    site: Site,
    now: UnixTime,
    order: Policy,
    *,
    window_s: float,
    first: Collection[bytes] = (),
    favoured: bytes = b"",
) -> Starts:
    """What of the queue starts now, in order, and the head that has to wait.

    Those that arrived less than `window_s` ago contend by bid. `first` goes before all others
    (units were freed for them); of equal bids `favoured` wins, else the lower demand id.
    """
    named: dict[bytes, Queued] = {}
    levelled = []
    fresh = [one for one in queue if now - one.arrived_at < window_s]
    together = min((one.arrived_at for one in fresh), default=now)
    fresh.sort(key=lambda one: (-one.price_per_hour, one.demand_id != favoured, one.demand_id))
    ranks = {one.demand_id: rank for rank, one in enumerate(fresh)}
    for one in queue:
        rank = ranks.get(one.demand_id)
        name = one.demand_id
        if rank is not None:
            # Policies fall back to arrival and then to the id: here, to the bid.
            name = rank.to_bytes(_RANK_BYTES, "big") + name
        named[name] = one
        at = one.arrived_at if rank is None else together
        levelled.append(replace(one, demand_id=name, arrived_at=at))
    ordered = [named[one.demand_id] for one in order(levelled, site, now)]
    ordered.sort(key=lambda one: one.demand_id not in first)  # stable: else as the policy says
    return backfill(ordered, site, now)


def price(
    winner: Queued,
    ask: int,
    queue: Sequence[Queued],
    site: Site,
    now: UnixTime,
    order: Policy,
    *,
    window_s: float,
    first: Collection[bytes] = (),
    elsewhere: int = 0,
) -> int:
    """What a demand that starts now pays per unit-hour, between `ask` and its own bid.

    `elsewhere` units are free at other providers: the best losing bids, as far as those units
    reach, get theirs there and do not compete for these.
    """
    bid = winner.price_per_hour
    assert ask <= bid, "who bids less than the ask does not fit"

    def starts(offered: int, rivals: Sequence[Queued]) -> tuple[Queued, ...]:
        changed = [
            replace(one, price_per_hour=offered) if one.demand_id == winner.demand_id else one
            for one in rivals
        ]
        return decide(
            changed, site, now, order, window_s=window_s, first=first, favoured=winner.demand_id
        ).start

    rivals = _captive(queue, starts(bid, queue), elsewhere)
    steps = sorted({ask, *(r.price_per_hour for r in rivals if ask < r.price_per_hour < bid), bid})
    low, high = 0, len(steps) - 1
    while low < high:
        middle = (low + high) // 2
        if any(one.demand_id == winner.demand_id for one in starts(steps[middle], rivals)):
            high = middle
        else:
            low = middle + 1
    return steps[high]


def _captive(
    queue: Sequence[Queued], started: Sequence[Queued], elsewhere: int
) -> tuple[Queued, ...]:
    """The queue without those losers that other providers' free units will serve."""
    winners = {one.demand_id for one in started}
    losers = [one for one in queue if one.demand_id not in winners]
    served: set[bytes] = set()
    for one in sorted(losers, key=lambda one: (-one.price_per_hour, one.demand_id)):
        if one.units > elsewhere:
            break
        elsewhere -= one.units
        served.add(one.demand_id)
    return tuple(one for one in queue if one.demand_id not in served)
