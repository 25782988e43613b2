"""Jobs of a simulation: what a trace says of them, whatever its format. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

from market.fleet import Machine, Shape
from market.simulate.rounds import RoundJob
from market.simulate.training import Throughputs

JOBS_MAX = 1_000_000  # a trace larger than this is cut before it is read
PRICE_MEDIAN = 600_000  # base units per unit-hour (6 decimals): a mid-range GPU of today
REQUESTERS = 12  # drawn where a trace names no users
DEADLINE_SHARE = 0.5
PREEMPTIBLE_SHARE = 0.3
GRACE_S = 60


@dataclass(frozen=True, slots=True)
class Job:
    """One job of a trace. `duration_s` is true, `estimate_s` what its requester declares.

    `deadline_s` is since the start of the trace, 0 for none; price is base units per unit-hour.
    """

    job_id: int
    requester: str
    arrival_s: float
    units: int
    duration_s: float
    estimate_s: float
    price_per_hour: int = 0
    value_of_time_per_hour: int = 0
    priority: int = 0
    deadline_s: float = 0.0
    preemptible: bool = False


@dataclass(frozen=True, slots=True)
class Trace:
    """What was read of one file. `rounds` and `shapes` are empty where the format has none."""

    name: str
    jobs: tuple[Job, ...]
    rounds: tuple[RoundJob, ...] = ()
    throughputs: Throughputs = field(default_factory=dict)
    shapes: tuple[Shape, ...] = ()
    machines: tuple[Machine, ...] = ()


def dressed(jobs: Sequence[Job], dice: Random) -> tuple[Job, ...]:
    """The jobs with what no trace says drawn by `dice`: money, priority, deadline, estimate.

    Bids are log-normal around a mid-range price; half the jobs have a deadline of 2 to 8 times
    their duration; durations are over-declared by up to a half, as users of clusters do.
    """
    weights = [1.0 / rank for rank in range(1, REQUESTERS + 1)]
    names = [f"requester-{rank}" for rank in range(1, REQUESTERS + 1)]
    result = []
    for job in jobs:
        price = int(PRICE_MEDIAN * dice.lognormvariate(0.0, 0.4))
        urgent = dice.random() < DEADLINE_SHARE
        patience = dice.uniform(2.0, 8.0)
        result.append(
            replace(
                job,
                requester=job.requester or dice.choices(names, weights)[0],
                estimate_s=job.duration_s * dice.uniform(1.0, 1.5),
                price_per_hour=price,
                value_of_time_per_hour=int(price * dice.uniform(0.0, 2.0)),
                priority=dice.randrange(4),
                deadline_s=job.arrival_s + patience * job.duration_s if urgent else 0.0,
                preemptible=dice.random() < PREEMPTIBLE_SHARE,
            )
        )
    return tuple(result)


def misdeclared(jobs: Sequence[RoundJob], sigma: float, dice: Random) -> dict[int, float]:
    """What requesters declare of each job's duration: the truth times a log-normal factor."""
    return {job.job_id: job.isolated_s * dice.lognormvariate(0.0, sigma) for job in jobs}


def generated(count: int, units: int, dice: Random, *, load: float = 1.2) -> tuple[Job, ...]:
    """Poisson arrivals, log-normal durations, at `load` of the units' capacity while they come.

    Above 1 on purpose: policies differ only where there is a queue. Sizes are the
    multi-GPU mix of Gavel's traces.
    """
    sizes, shares = (1, 2, 4, 8), (0.6, 0.3, 0.09, 0.01)
    drawn = [
        (
            min(units, dice.choices(sizes, shares)[0]),
            max(60.0, min(48 * 3600.0, dice.lognormvariate(7.6, 1.2))),
        )
        for _ in range(count)
    ]
    work = sum(size * duration for size, duration in drawn)
    gap_s = work / max(1, units) / load / max(1, count)
    now, jobs = 0.0, []
    for number, (size, duration) in enumerate(drawn):
        jobs.append(Job(number, "", now, size, duration, duration))
        now += dice.expovariate(1.0 / gap_s)
    return dressed(jobs, dice)
