"""Fragmentation: how much GPU a machine cannot sell to the usual mix of jobs.

The measure and its gradient are those of "Beware of Fragmentation" (Weng et al., USENIX ATC 2023,
section 3), restated in numpy from its simulator. Pure arithmetic over columns; no policy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from market.fleet import MILLI, Bools, Fleet, Floats, Ints, Shape

POPULARITY = 0.95  # the mix is the most frequent shapes that make up this share of all jobs


@dataclass(frozen=True, slots=True)
class Mix:
    """The usual jobs: column m is one shape, asked for with probability `weight[m]`.

    `allowed` is (models of the fleet, shapes).
    """

    cpu_milli: Ints
    milli: Ints
    units: Ints
    allowed: Bools
    weight: Floats
    cpu_per_gpu: float  # milli-cores that go with one GPU in this mix


def usual_mix(shapes: Iterable[Shape], fleet: Fleet, popularity: float = POPULARITY) -> Mix:
    """The mix of a stream of shapes; memory is not part of what tells shapes apart."""
    counted = Counter(
        Shape(one.cpu_milli, 0, one.units, one.milli if one.units else 0, one.models)
        for one in shapes
    )
    ranked = sorted(
        counted.items(),
        key=lambda item: (
            -item[1],
            item[0].cpu_milli,
            item[0].units,
            item[0].milli,
            item[0].models,
        ),
    )
    total, reached, kept = sum(counted.values()), 0, []
    for shape, count in ranked:
        if reached >= popularity * total:
            break
        kept.append((shape, count))
        reached += count
    cpu = sum(shape.cpu_milli * count for shape, count in kept if shape.units)
    gpu = sum(shape.gpu_milli * count for shape, count in kept)
    return Mix(
        np.array([shape.cpu_milli for shape, _ in kept], np.int64),
        np.array([shape.milli for shape, _ in kept], np.int64),
        np.array([shape.units for shape, _ in kept], np.int64),
        np.array([fleet.allowed(shape) for shape, _ in kept]).reshape(len(kept), -1).T,
        np.array([count for _, count in kept], np.float64) / max(1, reached),
        cpu * MILLI / gpu if gpu else 0.0,
    )


def stranded_milli(mix: Mix, cpu_left: Ints, gpu_left: Ints, model: Ints) -> Floats:
    """Expected thousandths of GPU that the mix cannot use; F_n of the paper, one per row.

    For a shape that the machine cannot host, or that wants no GPU, all that is left is stranded;
    for another, what lies on units with less left than it asks for. `cpu_left` and `model` have
    shape (rows,), `gpu_left` (rows, units).
    """
    total = gpu_left.sum(axis=1)
    able = gpu_left[:, :, None] >= np.maximum(1, mix.milli)
    hosted = (
        (cpu_left[:, None] >= mix.cpu_milli)
        & mix.allowed[model]
        & (able.sum(axis=1) >= mix.units)
        & (mix.units > 0)
    )
    usable = np.einsum("ru,rum->rm", gpu_left, able)
    stranded: Floats = total - (np.where(hosted, usable, 0) @ mix.weight)
    return stranded


def starved_milli(mix: Mix, cpu_left: Ints, gpu_left: Ints) -> Floats:
    """Thousandths of GPU that the cores left on a machine will not serve, one per row.

    By the mix's average of cores per GPU; `gpu_left` is summed over units. A machine with cores to
    spare starves nothing.
    """
    if not mix.cpu_per_gpu:
        return np.zeros(len(cpu_left))
    return np.maximum(0.0, gpu_left - cpu_left * (MILLI / mix.cpu_per_gpu))


def gradient(mix: Mix, fleet: Fleet, shape: Shape, rows: Ints) -> tuple[Floats, Ints]:
    """How much less is stranded on each row once a job of the shape sits there, and where.

    The second column is the unit for a share (-1 for whole units and for jobs without a GPU).
    Positive: the job uses up what few others could. Every row must fit.
    """
    cpu, gpu, model = fleet.cpu_left[rows], fleet.gpu_left[rows], fleet.model[rows]
    before = stranded_milli(mix, cpu, gpu, model)
    count, width = gpu.shape
    if not shape.shared:
        able = gpu >= max(1, shape.milli)
        taken = able & (np.cumsum(able, axis=1) <= shape.units)
        after = stranded_milli(mix, cpu - shape.cpu_milli, gpu - taken * shape.milli, model)
        return before - after, np.full(count, -1, np.int64)
    tried = gpu[:, None, :] - np.eye(width, dtype=np.int64) * shape.milli
    after = stranded_milli(
        mix,
        np.repeat(cpu - shape.cpu_milli, width),
        tried.reshape(count * width, width),
        np.repeat(model, width),
    ).reshape(count, width)
    gain = np.where(gpu >= shape.milli, before[:, None] - after, -np.inf)
    # Quantised before the best unit is chosen, so that near-ties go to the first unit.
    unit = quantised(gain).argmax(axis=1)
    return gain[np.arange(count), unit], unit.astype(np.int64)


def quantised(gain: Floats) -> Floats:
    """A gain as a whole score from 0 to 100, by the paper's sigmoid over one GPU.

    The coarse scale matters: near-ties fall to the fixed rank of the machines, which keeps whole
    machines free. Without it the same policy allocates a point less on the paper's own trace.
    """
    with np.errstate(over="ignore"):
        return np.floor(100.0 / (1.0 + np.exp(-gain / MILLI)))
