"""Site: what a scheduling policy may look at: the queue, the units, who runs and who ran.

Values only. A provider's node fills them from its journal, the simulator from a trace; policies
cannot tell which. Money is base units of the token, times are Unix seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from market.units import HOUR_S, UnixTime

USAGE_HALF_LIFE_S = 24 * HOUR_S  # HTCondor's default: yesterday counts half
GROUP_UNITS = 8  # units that share a fast interconnect, as sold in one server


@dataclass(frozen=True, slots=True)
class Queued:
    """A demand that fits this site and waits. `estimate_s` is what the requester declares.

    `price_per_hour` is the bid per unit; `deadline_at` 0 means none.
    """

    demand_id: bytes
    requester: bytes
    arrived_at: UnixTime
    units: int
    estimate_s: float
    price_per_hour: int = 0
    value_of_time_per_hour: int = 0
    priority: int = 0
    deadline_at: float = 0.0
    preemptible: bool = False
    cpu_milli: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Running:
    """An agreement that holds units now. `ends_at` is when it has to be over."""

    agreement: bytes
    requester: bytes
    units: int  # a bitmap of the provider's slots
    started_at: UnixTime
    ends_at: UnixTime
    price_per_hour: int = 0
    priority: int = 0
    preemptible: bool = False
    grace_s: int = 0
    cpu_milli: int = 0
    memory_mib: int = 0

    @property
    def unit_count(self) -> int:
        """How many units it holds."""
        return self.units.bit_count()


@dataclass(frozen=True, slots=True)
class Usage:
    """Units a requester held on average in the past, weighted towards the present, as of `at`."""

    requester: bytes
    units: float
    at: UnixTime


@dataclass(frozen=True, slots=True)
class Site:
    """The units of one provider, and what its policies need to know about their use.

    Zero `cpu_milli` or `memory_mib`: that resource is not scarce here.
    """

    units: int
    running: tuple[Running, ...] = ()
    usage: tuple[Usage, ...] = ()
    group_units: int = GROUP_UNITS
    cpu_milli: int = 0
    memory_mib: int = 0

    @property
    def taken(self) -> int:
        """The bitmap of units held now."""
        taken = 0
        for one in self.running:
            assert not taken & one.units, "a unit is never sold twice"
            taken |= one.units
        return taken

    @property
    def free(self) -> int:
        """How many units nobody holds."""
        return self.units - sum(one.unit_count for one in self.running)


Policy = Callable[[Sequence[Queued], Site, UnixTime], tuple[Queued, ...]]
"""`order(queue, site, now)`: the queue in the order in which it should start. Pure."""


def decayed(
    usage: Usage, held: int, now: UnixTime, half_life_s: float = USAGE_HALF_LIFE_S
) -> Usage:
    """The usage carried forward to `now` by a requester that held `held` units since `usage.at`.

    u(t) = b u(t - dt) + (1 - b) held with b = 0.5 ** (dt / half-life): HTCondor's real user
    priority. A clock that went backwards changes nothing.
    """
    weight = math.pow(0.5, max(0.0, now - usage.at) / half_life_s)
    return Usage(usage.requester, weight * usage.units + (1 - weight) * held, max(now, usage.at))


def past_use(
    spans: Iterable[tuple[bytes, int, float, float]],
    now: UnixTime,
    half_life_s: float = USAGE_HALF_LIFE_S,
) -> tuple[Usage, ...]:
    """Every requester's decayed usage at `now`, from what it held: (requester, units, from, to).

    The closed form of `decayed` applied from the first second on, by requester. What ends later
    than `now` counts until now.
    """
    found: dict[bytes, float] = {}
    for requester, units, start, end in spans:
        begun_s, ended_s = max(0.0, now - start), max(0.0, now - end)
        weight = math.pow(0.5, ended_s / half_life_s) - math.pow(0.5, begun_s / half_life_s)
        found[requester] = found.get(requester, 0.0) + units * max(0.0, weight)
    return tuple(Usage(who, units, now) for who, units in sorted(found.items()))


def seniority(one: Queued) -> tuple[float, bytes]:
    """Arrival, ties by id: the order that every policy falls back to."""
    return (one.arrived_at, one.demand_id)
