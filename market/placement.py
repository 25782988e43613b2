"""Placement: which machine, and which of its units, a job gets.

Policies are scores over machines; the best score wins and ties fall to the machine of lowest rank,
so that every node that sees the same fleet decides the same. Pure; the one policy that is random
by definition is handed its generator. Sources: `pack`, `bestfit`, `dotprod`, `clustering` and
`fgd` are the score plugins of the FGD simulator (Weng et al., USENIX ATC 2023); `balanced` is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from market.fleet import MILLI, Fleet, Floats, Ints, Placed, Shape
from market.fragmentation import Mix, gradient, quantised, starved_milli

CPU_SPEC_MILLI = 128_000  # the largest machine of the paper, to which scores are normalised
GPU_SPEC_MILLI = 8_000
LOG_MAX = 65_536  # changes remembered; then every score is worked out anew, once
SHAPES_CACHED_MAX = 4096  # distinct shapes a site remembers scores for; the oldest goes first

Scorer = Callable[[Fleet, Mix, Shape, Ints], tuple[Floats, Ints]]
"""(fleet, usual mix, shape, rows that fit) -> (score, unit for a share or -1) for each row."""


@dataclass(frozen=True, slots=True)
class Placement:
    """One placement policy. `rescale` maps the feasible scores to whole numbers 0..100 first."""

    name: str
    scorer: Scorer
    rescale: bool = False


@dataclass(slots=True)
class _Cached:
    score: Floats
    unit: Ints
    seen: int  # how much of the log of changed machines these scores know


@dataclass(slots=True)
class Placer:
    """Places jobs on a fleet by one policy. Scores are cached by shape and refreshed only for the
    machines that changed since that shape was asked for last.
    """

    fleet: Fleet
    policy: Placement
    mix: Mix
    generator: np.random.Generator | None = None
    changes: int = 0  # how often the fleet was changed through this placer
    _cache: dict[Shape, _Cached] = field(default_factory=dict)
    _log: list[int] = field(default_factory=list)

    def best(self, shape: Shape) -> tuple[int, int] | None:
        """The machine and unit (-1: any) for a job of that shape, or None where none fits."""
        cached = self._fresh(shape)
        if self.generator is not None:
            return self._random(cached, shape)
        score = cached.score
        if self.policy.rescale:
            score = _rescaled(score)
        row = int(score.argmax())
        return (row, int(cached.unit[row])) if score[row] > -np.inf else None

    def place(self, shape: Shape) -> Placed | None:
        """Place a job of that shape, or None where none fits."""
        found = self.best(shape)
        if found is None:
            return None
        placed = self.fleet.take(shape, *found)
        self._changed(placed.machine)
        return placed

    def put(self, shape: Shape, machine: int) -> Placed:
        """Place a job on that machine, where it must fit."""
        unit = int(_tightest_unit(self.fleet, shape, np.array([machine]))[0])
        self._changed(machine)
        return self.fleet.take(shape, machine, unit)

    def free(self, placed: Placed) -> None:
        """A job ended, or moves away."""
        self.fleet.free(placed)
        self._changed(placed.machine)

    def _changed(self, machine: int) -> None:
        self.changes += 1
        if len(self._log) >= LOG_MAX:
            self._cache.clear()
            self._log.clear()
        self._log.append(machine)

    def _fresh(self, shape: Shape) -> _Cached:
        cached = self._cache.get(shape)
        if cached is None:
            if len(self._cache) >= SHAPES_CACHED_MAX:
                del self._cache[next(iter(self._cache))]
            count = len(self.fleet)
            cached = _Cached(np.full(count, -np.inf), np.full(count, -1, np.int64), 0)
            self._cache[shape] = cached
            rows = np.arange(count)
        else:
            rows = np.array(sorted(set(self._log[cached.seen :])), np.int64)
        cached.seen = len(self._log)
        if len(rows):
            fits = self.fleet.fits(shape, rows)
            cached.score[rows] = -np.inf
            able = rows[fits]
            if len(able):
                cached.score[able], cached.unit[able] = self.policy.scorer(
                    self.fleet, self.mix, shape, able
                )
        return cached

    def _random(self, cached: _Cached, shape: Shape) -> tuple[int, int] | None:
        assert self.generator is not None
        rows = np.flatnonzero(cached.score > -np.inf)
        if not len(rows):
            return None
        row = int(self.generator.choice(rows))
        if not shape.shared:
            return row, -1
        able = np.flatnonzero(self.fleet.gpu_left[row] >= shape.milli)
        return row, int(self.generator.choice(able))


def _rescaled(score: Floats) -> Floats:
    """Whole scores 0..100 between the worst and the best feasible machine."""
    feasible = score > -np.inf
    if not feasible.any():
        return score
    low, high = score[feasible].min(), score[feasible].max()
    if high == low:
        return np.where(feasible, 100.0, -np.inf)
    return np.where(feasible, np.floor((score - low) * 100.0 / (high - low)), -np.inf)


def _tightest_unit(fleet: Fleet, shape: Shape, rows: Ints) -> Ints:
    """For a share the unit with the least left that still suffices; -1 for anything else."""
    if not shape.shared:
        return np.full(len(rows), -1, np.int64)
    gpu = fleet.gpu_left[rows]
    tightest: Ints = np.where(gpu >= shape.milli, gpu, MILLI + 1).argmin(axis=1)
    return tightest.astype(np.int64)


def _bestfit(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Least left over, cores and GPUs weighing the same."""
    cpu = (fleet.cpu_left[rows] - shape.cpu_milli) / CPU_SPEC_MILLI
    gpu = (fleet.gpu_left[rows].sum(axis=1) - shape.gpu_milli) / GPU_SPEC_MILLI
    return np.floor(100.0 * (1.0 - 0.5 * cpu - 0.5 * gpu)), _tightest_unit(fleet, shape, rows)


def _dotprod(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Smallest product of what is left and what is asked (Grandl et al., SIGCOMM 2014)."""
    cpu = fleet.cpu_left[rows] * (shape.cpu_milli / CPU_SPEC_MILLI**2)
    gpu = fleet.gpu_left[rows].sum(axis=1) * (shape.gpu_milli / GPU_SPEC_MILLI**2)
    return np.floor(100.0 * (1.0 - (cpu + gpu) / 2.0)), _tightest_unit(fleet, shape, rows)


def _pack(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Used units first, then free units of used machines, free machines last."""
    unit = _tightest_unit(fleet, shape, rows)
    if not shape.units:
        return np.zeros(len(rows)), unit
    gpu = fleet.gpu_left[rows]
    free = (gpu == MILLI).sum(axis=1)
    fitting = np.sort(np.where(gpu >= shape.milli, gpu, 2 * MILLI), axis=1)[:, : shape.units]
    opened = (fitting == MILLI).sum(axis=1)
    left = (fitting * 100 // MILLI).sum(axis=1)
    score = np.where(opened > 0, np.maximum(50 - opened, 33), np.maximum(100 - left // 10, 50))
    return np.where(free == fleet.units[rows], np.maximum(33 - free, free), score) * 1.0, unit


def _spread(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """The machine with the largest share of its GPUs left, for the least contention."""
    gpu = fleet.gpu_left[rows]
    unit = _tightest_unit(fleet, shape, rows)
    if shape.shared:
        unit = gpu.argmax(axis=1).astype(np.int64)
    gpu_share = gpu.sum(axis=1) / np.maximum(1, fleet.units[rows] * MILLI)
    cpu_share = fleet.cpu_left[rows] / np.maximum(1, fleet.cpu_total[rows])
    return (gpu_share if shape.units else cpu_share), unit


def _clustering(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Jobs of one width together: bands for same only, same among others, idle, others."""
    unit = _tightest_unit(fleet, shape, rows)
    if not shape.units:
        return np.zeros(len(rows)), unit
    kind = 0 if shape.shared else shape.units
    used = 25 * (GPU_SPEC_MILLI - fleet.gpu_left[rows].sum(axis=1)) // GPU_SPEC_MILLI
    band = np.empty(len(rows))
    for index, row in enumerate(rows):
        kinds = fleet.kinds[row]
        if kind in kinds:
            band[index] = 75 if len(kinds) == 1 else 50
        else:
            band[index] = 0 if kinds else 25
    return band + used, unit


def _random(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Any machine that fits."""
    return np.zeros(len(rows)), np.full(len(rows), -1, np.int64)


def _fgd(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Steepest descent of fragmentation."""
    gain, unit = gradient(mix, fleet, shape, rows)
    return quantised(gain), unit


def _balanced(fleet: Fleet, mix: Mix, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """Steepest descent of fragmentation and of the GPU that will be left without cores.

    FGD sees a lack of cores only once the next job no longer fits; by then it is too late to send
    jobs that want cores only to the machines that have them to spare. `starved_milli` sees it from
    the first job on. Both are thousandths of a GPU lost, so they add up without a weight.
    """
    gain, unit = gradient(mix, fleet, shape, rows)
    cpu, gpu = fleet.cpu_left[rows], fleet.gpu_left[rows].sum(axis=1)
    after = starved_milli(mix, cpu - shape.cpu_milli, gpu - shape.gpu_milli)
    return quantised(gain + starved_milli(mix, cpu, gpu) - after), unit


PLACEMENTS: Mapping[str, Placement] = {
    policy.name: policy
    for policy in (
        Placement("pack", _pack),
        Placement("spread", _spread),
        Placement("bestfit", _bestfit, rescale=True),
        Placement("fgd", _fgd),
        Placement("balanced", _balanced),
        Placement("random", _random),
        Placement("dotprod", _dotprod),
        Placement("clustering", _clustering),
    )
}
