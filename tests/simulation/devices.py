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
    """So many declared units, or so many of each kind: (name, MiB, count).

    `ill` and `slow` say what is wrong with which unit, in words, for as long as they do.
    """

    def __init__(self, count: int, kinds: tuple[tuple[str, int, int], ...] = ()) -> None:
        self.ill: dict[int, str] = {}
        self.slow: dict[int, str] = {}
        equal = [(name, mib) for name, mib, many in kinds for _ in range(many)]
        self._units = tuple(
            Unit(index, name, "", mib, True)
            for index, (name, mib) in enumerate(equal or [("CPU", 2048)] * count)
        )

    def units(self) -> tuple[Unit, ...]:
        """All."""
        return self._units

    def health(self) -> tuple[UnitHealth, ...]:
        """As the test has it: well, unless it says otherwise."""
        return tuple(
            UnitHealth(u.index, u.index not in self.ill, self.ill.get(u.index, ""), None, None,
                       None, None, throttled=self.slow.get(u.index, ""))
            for u in self._units
        )  # fmt: skip
