"""Defrag: one job moves so that another fits. What live migration adds to any placement.

A move costs a checkpoint, a pull and a restart, so it is made only for a job that fits nowhere,
and at most one for each: the one with the least to move. Pure; it decides what is possible and
leaves where the moved job goes to the placement policy.
"""

from __future__ import annotations

import numpy as np

from market.fleet import Bools, Ints, Placed, Shape
from market.placement import Placer

_ROWS_FIRST = 1024


class Mover:
    """Remembers who sits where, in columns, and makes room when asked."""

    def __init__(self, placer: Placer) -> None:
        """Begin with nobody placed; every job must be reported with `add`."""
        self.placer = placer
        self.placed: list[Placed] = []
        self.moves = 0
        width = placer.fleet.gpu_left.shape[1]
        self._shapes: dict[Shape, int] = {}
        self._fits: dict[Shape, Bools] = {}
        self._some: Bools = np.zeros(0, np.bool_)
        self._seen = -1
        self._shape: Ints = np.zeros(_ROWS_FIRST, np.int64)
        self._machine: Ints = np.zeros(_ROWS_FIRST, np.int64)
        self._cpu: Ints = np.zeros(_ROWS_FIRST, np.int64)
        self._memory: Ints = np.zeros(_ROWS_FIRST, np.int64)
        self._gpu: Ints = np.zeros((_ROWS_FIRST, width), np.int64)

    def add(self, placed: Placed) -> None:
        """A job was placed."""
        index = len(self.placed)
        if index == len(self._machine):
            self._shape = np.concatenate([self._shape, np.zeros_like(self._shape)])
            self._machine = np.concatenate([self._machine, np.zeros_like(self._machine)])
            self._cpu = np.concatenate([self._cpu, np.zeros_like(self._cpu)])
            self._memory = np.concatenate([self._memory, np.zeros_like(self._memory)])
            self._gpu = np.concatenate([self._gpu, np.zeros_like(self._gpu)])
        self.placed.append(placed)
        self._write(index, placed)

    def make_room(self, shape: Shape) -> Placed | None:
        """Place a job of `shape` by moving one other; None, and nothing changed, if none helps."""
        able = np.flatnonzero(self._movable() & self._would_fit(shape))
        # The least GPU moved first: it is the smallest checkpoint and the easiest to put elsewhere.
        order = np.lexsort((able, self._cpu[able], self._gpu[able].sum(axis=1)))
        for index in able[order]:
            old = self.placed[index]
            fits = self._fits[old.shape]
            if int(fits.sum()) - bool(fits[old.machine]) <= 0:
                continue
            self.placer.free(old)
            new = self.placer.put(shape, old.machine)
            moved = self.placer.place(old.shape)
            assert moved is not None, "another machine had room"
            self.placed[index] = moved
            self._write(int(index), moved)
            self.add(new)
            self.moves += 1
            return new
        return None

    def _movable(self) -> Bools:
        """For each placed job, whether its shape fits on any machine at all."""
        changes = self.placer.changes
        if changes != self._seen:
            self._fits = {shape: self.placer.fleet.fits(shape) for shape in self._shapes}
            self._some = np.array([bool(self._fits[shape].any()) for shape in self._shapes])
            self._seen = changes
        some: Bools = self._some[self._shape[: len(self.placed)]]
        return some

    def _write(self, index: int, placed: Placed) -> None:
        self._machine[index] = placed.machine
        self._shape[index] = self._shapes.setdefault(placed.shape, len(self._shapes))
        self._cpu[index] = placed.shape.cpu_milli
        self._memory[index] = placed.shape.memory_mib
        self._gpu[index] = 0
        self._gpu[index, list(placed.units)] = placed.shape.milli

    def _would_fit(self, shape: Shape) -> Bools:
        """For each placed job, whether `shape` fits on its machine once the job is gone."""
        fleet, count = self.placer.fleet, len(self.placed)
        rows = self._machine[:count]
        fits: Bools = (fleet.cpu_left[rows] + self._cpu[:count] >= shape.cpu_milli) & (
            fleet.memory_left[rows] + self._memory[:count] >= shape.memory_mib
        )
        if shape.models:
            fits &= fleet.allowed(shape)[fleet.model[rows]]
        if shape.units:
            gpu = fleet.gpu_left[rows] + self._gpu[:count]
            fits &= (gpu >= shape.milli).sum(axis=1) >= shape.units
        return fits
