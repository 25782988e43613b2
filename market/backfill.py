"""Backfill: start what fits without delaying the head of the queue.

EASY (Lifka, JSSPP 1995; Mu'alem and Feitelson, TPDS 2001): the head alone gets a reservation at the
earliest time that declared end times allow; a later demand starts now only if it is over by then,
or takes only units that the head will not need. Pure; it is handed an order and makes none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from market.site import Queued, Site
from market.units import UnixTime


@dataclass(frozen=True, slots=True)
class Starts:
    """What starts now, in order; and the head that has to wait, with its reservation."""

    start: tuple[Queued, ...]
    head: Queued | None = None
    reserved_at: float = 0.0


def backfill(ordered: Sequence[Queued], site: Site, now: UnixTime, *, deep: bool = True) -> Starts:
    """What to start of an ordered queue. Without `deep` nothing passes the head.

    A demand wider than the site is skipped: it can never start here and must not block others.
    """
    free, start = site.free, []
    ends = [(max(one.ends_at, now), one.unit_count) for one in site.running]
    waiting = [one for one in ordered if one.units <= site.units]
    index = 0
    while index < len(waiting) and waiting[index].units <= free:
        one = waiting[index]
        start.append(one)
        free -= one.units
        ends.append((UnixTime(now + one.estimate_s), one.units))
        index += 1
    if index == len(waiting):
        return Starts(tuple(start))
    head = waiting[index]
    reserved_at, spare = _reservation(head, free, ends)
    for one in waiting[index + 1 :] if deep else ():
        if one.units > free:
            continue
        if now + one.estimate_s > reserved_at:
            if one.units > spare:
                continue
            spare -= one.units
        free -= one.units
        start.append(one)
    return Starts(tuple(start), head, reserved_at)


def _reservation(
    head: Queued, free: int, ends: Sequence[tuple[UnixTime, int]]
) -> tuple[UnixTime, int]:
    """When the head can start at the latest, and how many units it leaves over then."""
    for at in sorted({at for at, _ in ends}):
        reached = free + sum(units for end, units in ends if end <= at)
        if reached >= head.units:
            return at, reached - head.units
    raise AssertionError("a head no wider than the site fits once all has ended")
