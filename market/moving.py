"""Moving: what the rules of reallocation say of one job: its numbers put into their words.

Pure: a job, its agreement, what another place would cost. Who looks for other places is elsewhere.
"""

from __future__ import annotations

from typing import Final

from market.agreement import Agreement
from market.cost import Cost
from market.job import Job, remaining_s
from market.progress import left_s, slowdown
from market.reallocation import (
    Kind,
    Move,
    Moves,
    Progress,
    Reason,
    move_between,
    should_move,
    uniform_progress,
)
from market.terms import Demand
from market.units import PPM, UnixTime

RESTART_S: Final = 30.0  # quote, funding and start-up, before a checkpoint's transfer


def work_s(job: Job) -> float:
    """How long all of the work takes on the reference: as the user says, else half of the most."""
    return float(job.bid.estimate_s or job.bid.max_duration_s / 2)


def done_s(job: Job, running_s: int) -> float:
    """How much of that is done: as the job says, else as long as it ran."""
    if job.meter.done_ppm:
        return work_s(job) * job.meter.done_ppm / PPM
    return min(work_s(job), float(job.used_s + running_s))


def whole_s(job: Job, demand: Demand, run_s: float) -> float:
    """The time all of the work takes where the part that `demand` is for should take `run_s`."""
    if job.bid.estimate_s and demand.estimate_s:
        return run_s * job.bid.estimate_s / demand.estimate_s
    asked_s = job.bid.max_duration_s - job.extended_s
    return run_s * asked_s / max(1, demand.max_duration_s)


def kind_wanted(job: Job, running_s: int, now: UnixTime, *, cheap_is_there: bool) -> Kind:
    """What the job should run on now: by its bid alone, and with a deadline by Uniform Progress."""
    if not job.bid.preemptible:
        return Kind.RELIABLE
    if not job.bid.deadline_at_s:
        return Kind.CHEAP
    begun_at = job.created_at_ms / 1000
    progress = Progress(
        done_s=done_s(job, running_s),
        work_s=work_s(job),
        gone_s=max(0.0, now - begun_at),
        total_s=max(1.0, job.bid.deadline_at_s - begun_at),
        restart_s=RESTART_S,
    )
    return uniform_progress(progress, current(job), cheap_is_there=cheap_is_there)


def current(job: Job) -> Kind:
    """What it runs on."""
    attempt = job.attempt
    if attempt is None:
        return Kind.NOTHING
    return Kind.CHEAP if attempt.preemptible else Kind.RELIABLE


def why_leave(
    job: Job, a: Agreement, now: UnixTime, demand: Demand, there: Cost, price_there: int
) -> Reason | None:
    """Why the job should leave `a` for a place of that cost and price per unit-hour; None: stay.

    `demand` is what the cost was reckoned for: the part of the work that is left. How much that is
    must be known, from the user's estimate or from the job's progress: nobody moves on a guess.
    """
    if not job.bid.estimate_s and left_s(job.meter, a.id) is None:
        return None
    moves = Moves(job.moves, job.move_at_ms / 1000 if job.move_at_ms and not job.move else -1e18)
    throughput = job.meter.throughput if job.meter.agreement == a.id else None
    better = move_to(job, a, demand, there, price_there)
    return should_move(moves, now, throughput=throughput, better=better)


def move_to(job: Job, a: Agreement, demand: Demand, there: Cost, price_there: int) -> Move:
    """The move in numbers. While it is prepared the job runs on: what it does then is lost."""
    attempt, measured_s = job.attempt, left_s(job.meter, a.id)
    # Like with like: both as estimated, and what was measured only where it is too slow.
    here_s = float(attempt.run_s if attempt and attempt.run_s else work_s(job))
    there_s = whole_s(job, demand, there.run_s)
    here_s *= slowdown(job.meter, a.id)
    # A guess is not trusted beyond what is paid for.
    guessed_s = min(here_s - a.metered_s, float(remaining_s(job, a.metered_s)))
    left = max(0.0, guessed_s) if measured_s is None else measured_s
    setup_s = max(0.0, there.ready_s - there.run_s)
    units = max(1, a.terms.unit_count)
    return move_between(
        price_here=a.terms.money.price_per_hour,
        price_there=price_there * there.units // units,
        units=units,
        value_of_time_per_hour=job.bid.value_of_time_per_hour,
        remaining_s=left,
        speed_ratio_ppm=round(here_s / max(1.0, there_s) * PPM),
        lost_s=setup_s if job.checkpoint else float(a.metered_s),
        transfer_s=setup_s,
    )
