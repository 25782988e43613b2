"""Placing: the FGD paper's experiment. A stream of shapes onto a fleet until it is over-full.

The procedure of the simulator of Weng et al. (ATC 2023): all tasks of the list in a shuffled order,
then clones drawn from it until demand is 130 % of the GPUs; none ends, each is tried once. The
shuffles are numpy's, not Go's, so seeds do not give the paper's very runs, only its distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from market.defrag import Mover
from market.fleet import Fleet, Machine, Shape
from market.fragmentation import usual_mix
from market.placement import PLACEMENTS, Placer

INFLATION = 1.3


@dataclass(frozen=True, slots=True)
class PlacingRun:
    """Allocated share of all GPUs, in percent, at 100 % and at the end of demand."""

    policy: str
    seed: int
    at_100_pct: float
    final_pct: float
    unallocated_gpus: float
    tasks: int
    failed: int
    moves: int
    curve: tuple[tuple[float, float], ...] = ()  # (demand, allocated), in percent of all GPUs


def stream(
    shapes: Sequence[Shape], capacity_milli: int, generator: np.random.Generator
) -> tuple[Shape, ...]:
    """The shapes shuffled, then clones of them until the next would pass 130 % of capacity."""
    tasks = [shapes[index] for index in generator.permutation(len(shapes))]
    demand = sum(shape.gpu_milli for shape in tasks)
    while tasks:
        clone = shapes[int(generator.integers(len(shapes)))]
        demand += clone.gpu_milli
        if demand > INFLATION * capacity_milli or not any(one.units for one in shapes):
            break
        tasks.append(clone)
    return tuple(tasks)


def run_placing(
    machines: Sequence[Machine],
    shapes: Sequence[Shape],
    policy: str,
    seed: int,
    *,
    migrate: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PlacingRun:
    """One run. With `migrate`, a task that fits nowhere may move one other."""
    generator = np.random.default_rng(seed)
    fleet = Fleet([machines[index] for index in generator.permutation(len(machines))])
    mix = usual_mix(shapes, fleet)
    placer = Placer(fleet, PLACEMENTS[policy], mix, generator if policy == "random" else None)
    tasks = stream(shapes, fleet.capacity_milli, np.random.default_rng([seed, 1]))
    mover = Mover(placer) if migrate else None
    demand, at_100, failed = 0, None, 0
    curve = [(0.0, 0.0)]
    capacity = max(1, fleet.capacity_milli)
    for number, shape in enumerate(tasks):
        demand += shape.gpu_milli
        placed = placer.place(shape)
        if placed is None and mover is not None and shape.units:
            failed += mover.make_room(shape) is None
        elif placed is None:
            failed += 1
        elif mover is not None:
            mover.add(placed)
        if (
            100.0 * demand >= (curve[-1][0] + 1.0) * fleet.capacity_milli
            or number == len(tasks) - 1
        ):
            whole = max(1, fleet.capacity_milli)
            curve.append((100.0 * demand / whole, 100.0 * fleet.allocated_milli / whole))
        if at_100 is None and demand >= fleet.capacity_milli:
            at_100 = fleet.allocated_milli
        if progress is not None and number % 100 == 0:
            progress(number, len(tasks))
    return PlacingRun(
        policy,
        seed,
        100.0 * (fleet.allocated_milli if at_100 is None else at_100) / capacity,
        100.0 * fleet.allocated_milli / capacity,
        (fleet.capacity_milli - fleet.allocated_milli) / 1000,
        len(tasks),
        failed,
        mover.moves if mover else 0,
        tuple(curve),
    )
