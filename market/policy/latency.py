"""Latency: least slack to the deadline first, then the dearest waiting.

A deadline that can no longer be met is no reason to hurry past one that can.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.site import Queued, Site, seniority
from market.units import UnixTime


def order(queue: Sequence[Queued], site: Site, now: UnixTime) -> tuple[Queued, ...]:
    """Demands that can still make it by slack, then the others by what an hour costs them."""

    def urgency(one: Queued) -> tuple[int, float, tuple[float, bytes]]:
        slack = slack_s(one, now)
        if slack is not None and slack >= 0:
            return (0, slack, seniority(one))
        return (1, -float(one.value_of_time_per_hour), seniority(one))

    return tuple(sorted(queue, key=urgency))


def slack_s(one: Queued, now: UnixTime) -> float | None:
    """Seconds the demand can still wait and finish in time; None without a deadline."""
    return one.deadline_at - now - one.estimate_s if one.deadline_at else None
