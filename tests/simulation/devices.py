"""Devices: clock, randomness and declared units of a simulated machine."""

from __future__ import annotations

import random

import trio

from market.units import UnixTime
from node.ports import Unit, UnitHealth

EPOCH = 1_800_000_000.0


class SimClock:
    """Wall-clock time that follows trio's clock."""

    def now(self) -> UnixTime:
        """Seconds since 1970."""
        return UnixTime(EPOCH + trio.current_time())


class SimEntropy:
    """Seeded, so that a run can be run again."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def token(self, size: int) -> bytes:
        """So many bytes."""
        return self._rng.randbytes(size)


class SimDevices:
    """So many declared units."""

    def __init__(self, count: int, name: str = "CPU") -> None:
        self._units = tuple(Unit(index, name, "", 2048, True) for index in range(count))

    def units(self) -> tuple[Unit, ...]:
        """All."""
        return self._units

    def health(self) -> tuple[UnitHealth, ...]:
        """Well."""
        return tuple(UnitHealth(u.index, True, "", None, None, None, None) for u in self._units)
