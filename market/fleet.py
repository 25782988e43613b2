"""Fleet: the machines of a site, what is left on each of them, and what fits where.

Columns of numpy, one row per machine in a fixed order. Knows no policy and no time: it says what
is possible, `placement` says what is best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from market.errors import LimitError

MILLI = 1000
UNITS_PER_MACHINE_MAX = 16  # the largest GPU server sold has 16; every scan is over this width
MACHINES_MAX = 100_000

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Machine:
    """One machine: `units` equal GPUs of one model, and what they share."""

    name: str
    cpu_milli: int
    memory_mib: int
    units: int
    model: str


@dataclass(frozen=True, slots=True)
class Shape:
    """What a job needs on one machine: `milli` thousandths of each of `units` GPUs.

    Shares (`milli` < 1000) are of a single GPU. No models: any will do. Jobs of one shape are
    alike to every placement policy, so scores are cached by it.
    """

    cpu_milli: int
    memory_mib: int
    units: int
    milli: int = MILLI
    models: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """True where it takes a part of one GPU."""
        return self.units == 1 and self.milli < MILLI

    @property
    def gpu_milli(self) -> int:
        """Thousandths of a GPU in total."""
        return self.units * self.milli


@dataclass(frozen=True, slots=True)
class Placed:
    """A job of `shape` sits on the units `units` of machine number `machine`."""

    shape: Shape
    machine: int
    units: tuple[int, ...]


class Fleet:
    """The machines and what is left on them. Changed only by `take` and `free`.

    `gpu_left` is (machines, widest machine); units that a machine does not have count 0 left, so
    that nothing ever fits on them.
    """

    def __init__(self, machines: Sequence[Machine]) -> None:
        """Raises LimitError for more machines, or wider ones, than are planned for."""
        if len(machines) > MACHINES_MAX:
            raise LimitError(f"{len(machines)} machines, at most {MACHINES_MAX} are planned for")
        width = max((machine.units for machine in machines), default=0)
        if width > UNITS_PER_MACHINE_MAX:
            raise LimitError(f"a machine of {width} units, at most {UNITS_PER_MACHINE_MAX}")
        self.machines = tuple(machines)
        self.models = tuple(sorted({machine.model for machine in machines}))
        self.model: Ints = np.array([self.models.index(m.model) for m in machines], np.int64)
        self.units: Ints = np.array([machine.units for machine in machines], np.int64)
        self.cpu_left: Ints = np.array([machine.cpu_milli for machine in machines], np.int64)
        self.memory_left: Ints = np.array([machine.memory_mib for machine in machines], np.int64)
        self.gpu_left: Ints = np.where(
            np.arange(max(1, width)) < self.units[:, None], MILLI, 0
        ).astype(np.int64)
        self.cpu_total: Ints = self.cpu_left.copy()
        self.kinds: list[dict[int, int]] = [{} for _ in machines]
        self.capacity_milli = int(self.gpu_left.sum())
        self.allocated_milli = 0

    def __len__(self) -> int:
        """How many machines."""
        return len(self.machines)

    def allowed(self, shape: Shape) -> Bools:
        """For each model of `models`, whether the shape may run on it."""
        return np.array([not shape.models or name in shape.models for name in self.models])

    def fits(self, shape: Shape, rows: Ints | slice = slice(None)) -> Bools:
        """For each of the rows, whether a job of that shape fits there now."""
        enough = (self.cpu_left[rows] >= shape.cpu_milli) & (
            self.memory_left[rows] >= shape.memory_mib
        )
        if shape.models:
            enough &= self.allowed(shape)[self.model[rows]]
        if shape.units:
            enough &= (self.gpu_left[rows] >= shape.milli).sum(axis=1) >= shape.units
        return enough

    def take(self, shape: Shape, machine: int, unit: int = -1) -> Placed:
        """Put a job there: on `unit` if it is a share, else on the first units that fit."""
        if shape.shared and unit >= 0:
            units: tuple[int, ...] = (unit,)
        else:
            able = np.flatnonzero(self.gpu_left[machine] >= max(1, shape.milli))
            units = tuple(int(one) for one in able[: shape.units])
        assert len(units) == shape.units, "the shape does not fit on that machine"
        placed = Placed(shape, machine, units)
        self._change(placed, -1)
        return placed

    def free(self, placed: Placed) -> None:
        """Take a job away again."""
        self._change(placed, 1)

    def _change(self, placed: Placed, sign: int) -> None:
        shape, machine = placed.shape, placed.machine
        self.cpu_left[machine] += sign * shape.cpu_milli
        self.memory_left[machine] += sign * shape.memory_mib
        for unit in placed.units:
            self.gpu_left[machine, unit] += sign * shape.milli
            assert 0 <= self.gpu_left[machine, unit] <= MILLI, "a unit is never sold twice"
        assert self.cpu_left[machine] >= 0, "cores are never sold twice"
        assert self.memory_left[machine] >= 0, "memory is never sold twice"
        self.allocated_milli -= sign * shape.gpu_milli
        if shape.units:
            kind = 0 if shape.shared else shape.units
            kinds = self.kinds[machine]
            kinds[kind] = kinds.get(kind, 0) - sign
            if not kinds[kind]:
                del kinds[kind]
