"""Metrics: one row of figures for one policy over one trace. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from market.simulate.jobs import Job
from market.simulate.queueing import QueueRun, Sample, Span
from market.simulate.rounds import RoundRun
from market.units import HOUR_S, PPM

UNFAIR = 1.05  # finish-time fairness above which a job was treated unfairly (Shockwave)


@dataclass(frozen=True, slots=True)
class Figures:
    """What a policy did to a trace.

    Waits and completion times (JCT) are seconds. `cost` is what all requesters paid, in base
    units. `utilisation` is busy over all unit-seconds until the last completion; `unallocated_gpus`
    the mean number of idle units while demands waited. `jain` is Jain's index over requesters of
    their mean (duration alone / completion time). Finish-time fairness is JCT / (duration alone x
    contention), contention being jobs over units and at least 1. `slo_pct` is of jobs with a
    deadline, None where there are none. `moves` are pauses, preemptions and changes of place;
    `lost_gpu_h` is work done in vain, in GPU-hours, and `failed` counts jobs given up: both only
    where units come and go.
    """

    policy: str
    jobs: int
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    jct_mean_s: float
    jct_p95_s: float
    makespan_s: float
    cost: int
    utilisation: float
    unallocated_gpus: float
    jain: float
    worst_ftf: float
    unfair_pct: float
    slo_pct: float | None
    moves: int
    lost_gpu_h: float = 0.0
    failed: int = 0


def of_queue(policy: str, run: QueueRun) -> Figures:
    """The figures of a run-to-completion simulation."""
    found = _figures(
        policy,
        run.jobs,
        run.units,
        {job.job_id: run.first_start_s[job.job_id] - job.arrival_s for job in run.jobs},
        {job.job_id: run.finish_s[job.job_id] - job.arrival_s for job in run.jobs},
        run.samples,
        sum((span.end_s - span.start_s) * span.units.bit_count() for span in run.spans),
        run.preemptions,
        _paid((*run.jobs, *run.failed), run.spans),
    )
    slo = found.slo_pct
    missed = sum(1 for job in run.failed if job.deadline_s)
    if missed:
        due = sum(1 for job in run.jobs if job.deadline_s)
        slo = (slo or 0.0) * due / (due + missed)
    return replace(found, slo_pct=slo, lost_gpu_h=run.lost_unit_s / HOUR_S, failed=len(run.failed))


def of_rounds(policy: str, run: RoundRun, jobs: Sequence[Job]) -> Figures:
    """The figures of a replay in rounds; `jobs` says what the rounds do not know of them."""
    first: dict[int, float] = {}
    held: dict[int, float] = {}
    for start, length, ids in run.rounds:
        for one in ids:
            first.setdefault(one, start)
            held[one] = held.get(one, 0.0) + length
    arrival = {job.job_id: job.arrival_s for job in jobs}
    by_id = {job.job_id: job for job in jobs}
    paid = sum(
        int(by_id[one].price_per_hour * by_id[one].units * seconds // HOUR_S)
        for one, seconds in held.items()
    )
    return _figures(
        policy,
        jobs,
        run.units,
        {one: first[one] - arrival[one] for one in first},
        run.jct_s(),
        round_samples(run),
        run.busy_unit_s,
        run.moves,
        paid,
    )


def round_samples(run: RoundRun) -> tuple[Sample, ...]:
    """The queue and the busy units of each round."""
    units = {job.job_id: job.units for job in run.jobs}
    samples = []
    for start, _, ids in run.rounds:
        present = sum(1 for job in run.jobs if job.arrival_s <= start < run.finish_s[job.job_id])
        busy = sum(units[one] for one in ids)
        waiting = present - len(ids)
        samples.append(Sample(start, waiting, busy))
    samples.append(Sample(run.makespan_s, 0, 0))
    return tuple(samples)


def jain_index(values: Sequence[float]) -> float:
    """(sum x)^2 / (n sum x^2): 1 where all are equal, 1/n where one has everything (Jain 1984)."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else 1.0


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed; 0 of none."""
    if not values:
        return 0.0
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, max(0, -int(-share * len(ranked) // 1) - 1))]


def unallocated(samples: Sequence[Sample], units: int) -> float:
    """Mean idle units over the time in which at least one demand waited."""
    idle, waited = 0.0, 0.0
    for now, then in pairwise(samples):
        if now.queued:
            idle += (units - now.busy_units) * (then.at_s - now.at_s)
            waited += then.at_s - now.at_s
    return idle / waited if waited else 0.0


def _figures(
    policy: str,
    jobs: Sequence[Job],
    units: int,
    wait: dict[int, float],
    jct: dict[int, float],
    samples: Sequence[Sample],
    busy_unit_s: float,
    moves: int,
    cost: int,
) -> Figures:
    contention = max(1.0, len(jobs) / units)
    ftf = [jct[job.job_id] / (job.duration_s * contention) for job in jobs]
    makespan = max((job.arrival_s + jct[job.job_id] for job in jobs), default=0.0)
    speed: dict[str, list[float]] = {}
    for job in jobs:
        speed.setdefault(job.requester, []).append(job.duration_s / jct[job.job_id])
    due = [job for job in jobs if job.deadline_s]
    met = sum(1 for job in due if job.arrival_s + jct[job.job_id] <= job.deadline_s)
    begin = min((job.arrival_s for job in jobs), default=0.0)
    times = list(jct.values())
    return Figures(
        policy,
        len(jobs),
        percentile(list(wait.values()), 0.5),
        percentile(list(wait.values()), 0.95),
        percentile(list(wait.values()), 0.99),
        sum(times) / len(times) if times else 0.0,
        percentile(times, 0.95),
        makespan,
        cost,
        busy_unit_s / (units * (makespan - begin)) if makespan > begin else 0.0,
        unallocated(samples, units),
        jain_index([sum(values) / len(values) for values in speed.values()]),
        max(ftf, default=0.0),
        100.0 * sum(1 for one in ftf if one > UNFAIR) / len(ftf) if ftf else 0.0,
        100.0 * met / len(due) if due else None,
        moves,
    )


def _paid(jobs: Sequence[Job], spans: Sequence[Span]) -> int:
    price = {job.job_id: job.price_per_hour for job in jobs}
    return sum(
        int(
            price[span.job_id]
            * span.price_ppm
            * span.units.bit_count()
            * (span.end_s - span.start_s)
            // (HOUR_S * PPM)
        )
        for span in spans
    )
