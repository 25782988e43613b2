"""Preemption: which agreements sold as preemptible make way, and whether that pays.

Only what was sold as preemptible is ever a victim, never one of higher priority than the head. A
victim keeps its units for its `grace_s` to write a checkpoint, unpaid: that is the price. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Running, Site
from market.units import HOUR_S, UnixTime


def victims(head: Queued, site: Site, now: UnixTime, reserved_at: UnixTime) -> tuple[Running, ...]:
    """Whom to stop so that `head` starts now rather than at `reserved_at`; empty: nobody.

    The cheapest to stop go first; then those that turned out not to be needed are spared (Kueue's
    undo pass). Worth it only if what the head pays in the time won is more than what is lost.
    """
    needed = head.units - site.free
    if needed <= 0:
        return ()
    able = [one for one in site.running if one.preemptible and one.priority <= head.priority]
    chosen: list[Running] = []
    for one in sorted(able, key=lambda one: (lost(one, now) / one.unit_count, one.agreement)):
        if needed <= 0:
            break
        chosen.append(one)
        needed -= one.unit_count
    if needed > 0:
        return ()
    for one in sorted(chosen, key=lambda one: (-lost(one, now), one.agreement)):
        if needed + one.unit_count <= 0:
            chosen.remove(one)
            needed += one.unit_count
    wins_s = min(head.estimate_s, max(0.0, reserved_at - now - _grace_s(chosen)))
    gain = head.price_per_hour * head.units * wins_s / HOUR_S
    return tuple(chosen) if gain > sum(lost(one, now) for one in chosen) else ()


def lost(one: Running, now: UnixTime) -> float:
    """Money the provider gives up by stopping it: the rest of the agreement, and its grace.

    In base units, not rounded: it is compared, never paid.
    """
    rest_s = max(0.0, one.ends_at - now)
    return one.price_per_hour * one.unit_count * (rest_s + one.grace_s) / HOUR_S


def _grace_s(chosen: Sequence[Running]) -> float:
    return max((one.grace_s for one in chosen), default=0.0)
