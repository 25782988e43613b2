"""Rounds: jobs of a trace replayed in rounds of fixed length, preempted between them.

Pure. It knows jobs, units and time; how a round is chosen is handed in as a `Planner`. The rules
of time are those of the Gavel and Shockwave simulators: a round ends when its last job does, a
job that did not run in the round before pays a restart, steps are whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from itertools import accumulate

from market.errors import LimitError
from market.policy.finish import CAREFUL, Standing, left_s
from market.simulate.training import Throughputs, Training, profile_s, rescaled, wanted_batch

ROUND_S = 120.0
RESTART_S = 20.0  # checkpoint and resume, as the published simulator charges them
NEARLY_A_ROUND_S = 5.0  # a last, shorter round is not charged a restart
OVERTIME = 1.5  # a job is cut off after so many times its profiled duration
ROUNDS_MAX = 200_000  # a planner that runs nothing must not hang its caller


class Knowledge(Enum):
    """What the scheduler knows of durations.

    PROFILE: the seconds of each epoch with its coming batch sizes, as Shockwave is given them.
    PROGRESS: only the steps left at the speed of now, as any job reports them.
    DECLARED: until a job has run, what its requester declared; from then on as PROGRESS.
    BLIND: what was declared and how long it ran; the job reports nothing.
    """

    PROFILE = "profile"
    PROGRESS = "progress"
    DECLARED = "declared"
    BLIND = "blind"


@dataclass(frozen=True, slots=True)
class RoundJob:
    """One job of a trace that is run in rounds. `profile` is seconds per epoch, run alone."""

    job_id: int
    requester: str
    arrival_s: float
    training: Training
    profile: tuple[float, ...]

    @property
    def units(self) -> int:
        """Units it holds while it runs."""
        return self.training.units

    @property
    def isolated_s(self) -> float:
        """Seconds it takes alone, with its batch-size schedule."""
        return sum(self.profile)


Planner = Callable[[Sequence[Standing], int, float], Sequence[int]]
"""(unfinished jobs, units, now) -> ids to run in this round; their units must fit."""


@dataclass(frozen=True, slots=True)
class RoundRun:
    """A finished replay. `finish_s` by job id; `rounds` are (start, length, ids run)."""

    jobs: tuple[RoundJob, ...]
    units: int
    finish_s: Mapping[int, float]
    rounds: tuple[tuple[float, float, tuple[int, ...]], ...]
    busy_unit_s: float
    moves: int
    cut_off: int

    @property
    def makespan_s(self) -> float:
        """From time 0 of the trace to the last completion."""
        return max(self.finish_s.values(), default=0.0)

    def jct_s(self) -> dict[int, float]:
        """Completion time since arrival, by job id."""
        return {job.job_id: self.finish_s[job.job_id] - job.arrival_s for job in self.jobs}

    def fairness(self) -> dict[int, float]:
        """Finish-time fairness by job id, as Shockwave publishes it.

        Completion time over (isolated duration x contention), contention being the jobs of the
        trace over the units, at least 1. Above 1.05 a job was treated unfairly.
        """
        contention = max(1.0, len(self.jobs) / self.units)
        jct = self.jct_s()
        return {
            job.job_id: round(jct[job.job_id] / (job.isolated_s * contention), 5)
            for job in self.jobs
        }


@dataclass(slots=True)
class _Live:
    job: RoundJob
    training: Training
    met: int
    declared_s: float
    longest_s: float
    left: tuple[float, ...]  # seconds of the profile from each epoch on
    run_s: float = 0.0
    finish_s: float | None = None


def round_job(
    job_id: int, requester: str, arrival_s: float, training: Training, throughputs: Throughputs
) -> RoundJob:
    """A job with its profile computed. Raises KeyError for a shape that was never profiled."""
    return RoundJob(job_id, requester, arrival_s, training, profile_s(training, throughputs))


def run_rounds(
    jobs: Sequence[RoundJob],
    throughputs: Throughputs,
    units: int,
    planner: Planner,
    *,
    round_s: float = ROUND_S,
    knowledge: Knowledge = Knowledge.PROFILE,
    declared_s: Mapping[int, float] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> RoundRun:
    """Replay `jobs` under `planner`. Deterministic; `progress` hears (finished, total).

    Raises LimitError where that takes more than ROUNDS_MAX rounds.

    `declared_s` is what requesters say of each job's duration, by id; without it they are right.
    """
    said = declared_s or {}
    coming = sorted(jobs, key=lambda job: (job.arrival_s, job.job_id), reverse=True)
    live: dict[int, _Live] = {}
    finish: dict[int, float] = {}
    rounds: list[tuple[float, float, tuple[int, ...]]] = []
    before: frozenset[int] = frozenset()
    now = coming[-1].arrival_s if coming else 0.0
    busy, moves, cut_off = 0.0, 0, 0
    for index in range(ROUNDS_MAX):
        while coming and coming[-1].arrival_s <= now:
            job = coming.pop()
            for other in live.values():
                other.met += 1
            alone = job.isolated_s
            declared, longest = said.get(job.job_id, alone), int(alone * OVERTIME)
            left = _sums(job.profile) if knowledge is Knowledge.PROFILE else ()
            live[job.job_id] = _Live(job, job.training, len(live) + 1, declared, longest, left)
        if not live:
            if not coming:
                return RoundRun(tuple(jobs), units, finish, tuple(rounds), busy, moves, cut_off)
            now, before = coming[-1].arrival_s, frozenset()
            continue
        seen = [
            _seen(one, knowledge, throughputs, one.job.job_id in before) for one in live.values()
        ]
        chosen = _checked(planner(seen, units, now), live, units)
        length = max((_span(live[one], throughputs, round_s) for one in chosen), default=round_s)
        for one in chosen:
            state = live[one]
            resumed = index > 0 and one not in before
            moves += resumed and state.run_s > 0
            ran = _run(state, throughputs, round_s, now, resumed=resumed)
            busy += ran * state.job.units
            overtime = state.run_s > state.longest_s
            if state.training.steps_left <= 0 or overtime:
                cut_off += state.training.steps_left > 0
                assert state.finish_s is not None
                finish[one] = state.finish_s
                del live[one]
        rounds.append((now, length, tuple(chosen)))
        before = frozenset(chosen)
        now += length
        if progress is not None:
            progress(len(finish), len(jobs))
    raise LimitError(
        f"the trace is not done after {ROUNDS_MAX} rounds of {round_s:g} s",
        hint="look for a job that takes for ever, or give more --units",
    )


def _sums(profile: tuple[float, ...]) -> tuple[float, ...]:
    """What is left before each epoch and after the last; summed once, not in every round."""
    return tuple(accumulate(reversed(profile), initial=0.0))[::-1]


def _span(state: _Live, throughputs: Throughputs, round_s: float) -> float:
    speed = _speed(state.training, throughputs)
    return _steps(state.training, speed, round_s) / speed


def _steps(training: Training, speed: float, round_s: float) -> int:
    """Whole steps in one round; a step longer than a round is run to its end."""
    return min(max(1, int(speed * round_s)), training.steps_left)


def _speed(training: Training, throughputs: Throughputs) -> float:
    return throughputs[training.model, training.batch, training.units]


def _run(
    state: _Live, throughputs: Throughputs, round_s: float, now: float, *, resumed: bool
) -> float:
    """Run one round of a job; returns the seconds it made progress."""
    training = state.training
    speed = _speed(training, throughputs)
    wish = wanted_batch(training)
    steps = _steps(training, speed, round_s)
    ran = steps / speed
    state.finish_s = now + ran
    if resumed and ran > round_s - NEARLY_A_ROUND_S:
        steps = int(steps * ((ran - RESTART_S) / ran))
        ran -= RESTART_S
    state.run_s += ran
    state.training = replace(training, steps_run=training.steps_run + steps)
    # The wish was made at the last round's end and comes into force with this one's.
    if wish != training.batch and state.training.steps_left > 0:
        state.training = rescaled(state.training, wish, throughputs)
    return ran


def _seen(state: _Live, knowledge: Knowledge, throughputs: Throughputs, ran_last: bool) -> Standing:
    job, training = state.job, state.training
    unseen = knowledge is Knowledge.DECLARED and not state.run_s
    if knowledge is Knowledge.PROFILE:
        count = len(job.profile)
        done = min(count, training.steps_run * count // max(1, training.steps))
        alone, left = state.left[0], state.left[done]
    elif knowledge is Knowledge.BLIND:
        low, high = (left_s(state.declared_s, state.run_s, one) for one in CAREFUL)
        alone, left = state.run_s + low, high
    elif unseen:
        alone = left = state.declared_s
    else:
        left = training.steps_left / _speed(training, throughputs)
        alone = state.run_s + left
    return Standing(
        job.job_id,
        job.requester,
        job.arrival_s,
        job.units,
        alone,
        left,
        state.met,
        ran_last,
        measured=not unseen,
    )


def _checked(chosen: Sequence[int], live: Mapping[int, _Live], units: int) -> tuple[int, ...]:
    ids = tuple(dict.fromkeys(chosen))
    assert len(ids) == len(chosen), "a job runs once in a round"
    assert sum(live[one].job.units for one in ids) <= units, "a round never oversells the site"
    return ids
