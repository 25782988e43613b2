"""Policies: in which order a provider's queue should start. One pure function per file."""

from __future__ import annotations

from collections.abc import Mapping

from market.policy import cost, fair, fcfs, latency, load, priority
from market.site import Policy

POLICIES: Mapping[str, Policy] = {
    "fcfs": fcfs.order,
    "priority": priority.order,
    "fair": fair.order,
    "load": load.order,
    "cost": cost.order,
    "latency": latency.order,
}
