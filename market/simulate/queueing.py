"""Queueing: a trace's jobs through one site, event by event, as its provider would run them.

Pure and deterministic. Jobs run to their end on whole units unless sold as preemptible; the policy
orders, backfill starts, slots are chosen as on a real node.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from market.backfill import backfill
from market.preemption import victims
from market.simulate.jobs import GRACE_S, Job
from market.site import GROUP_UNITS, Policy, Queued, Running, Site, Usage, decayed
from market.slots import choose_units
from market.units import PPM, UnixTime

LOOK_MAX = 512  # demands a policy looks at: the oldest; a longer queue only costs time
MOVES_PER_JOB_MAX = 3  # a job that was preempted so often is left alone


@dataclass(frozen=True, slots=True)
class Span:
    """A job on its units from `start_s` to `end_s`, paid at `price_ppm` of what it bids."""

    job_id: int
    requester: str
    units: int  # bitmap
    start_s: float
    end_s: float
    price_ppm: int = PPM


@dataclass(frozen=True, slots=True)
class Sample:
    """The site just after an event."""

    at_s: float
    queued: int
    busy_units: int


@dataclass(frozen=True, slots=True)
class QueueRun:
    """A finished simulation. `first_start_s` and `finish_s` are by job id.

    Where units come and go: `failed` are jobs that lost their units too often, `lost_unit_s` is
    work done in vain, in unit-seconds, and `gone` says when which unit was not there.
    """

    jobs: tuple[Job, ...]
    units: int
    first_start_s: Mapping[int, float]
    finish_s: Mapping[int, float]
    spans: tuple[Span, ...]
    samples: tuple[Sample, ...]
    preemptions: int
    refused: int
    failed: tuple[Job, ...] = ()
    lost_unit_s: float = 0.0
    gone: tuple[tuple[int, float, float], ...] = ()


@dataclass(slots=True)
class _State:
    site_units: int
    group: int
    placement: str
    now: float = 0.0
    queue: dict[int, Job] = field(default_factory=dict)
    left_s: dict[int, float] = field(default_factory=dict)
    running: dict[int, Running] = field(default_factory=dict)
    began: dict[int, float] = field(default_factory=dict)
    usage: dict[bytes, Usage] = field(default_factory=dict)
    held: dict[bytes, int] = field(default_factory=dict)  # units by requester
    first: dict[int, float] = field(default_factory=dict)
    finish: dict[int, float] = field(default_factory=dict)
    moves: dict[int, int] = field(default_factory=dict)
    ends: list[tuple[float, int, int]] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    by_id: dict[int, Job] = field(default_factory=dict)
    taken: int = 0


def run_queue(
    jobs: Sequence[Job],
    units: int,
    order: Policy,
    *,
    placement: str = "bestfit",
    group: int = GROUP_UNITS,
    deep: bool = True,
    preempt: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> QueueRun:
    """Run `jobs` through a site of `units` under `order`. Jobs wider than the site are refused."""
    state = _State(units, group, placement)
    fitting = [job for job in jobs if job.units <= units]
    coming = sorted(fitting, key=lambda job: (job.arrival_s, job.job_id), reverse=True)
    state.by_id = {job.job_id: job for job in fitting}
    while coming or state.ends:
        state.now = min(
            coming[-1].arrival_s if coming else float("inf"),
            state.ends[0][0] if state.ends else float("inf"),
        )
        _account(state)
        while state.ends and state.ends[0][0] <= state.now:
            _, job_id, turn = heapq.heappop(state.ends)
            if job_id in state.running and state.moves.get(job_id, 0) == turn:
                _stop(state, job_id)
                state.finish[job_id] = state.now
        while coming and coming[-1].arrival_s <= state.now:
            job = coming.pop()
            state.queue[job.job_id] = job
            state.left_s[job.job_id] = job.duration_s
        if state.queue:
            _schedule(state, order, deep=deep, preempt=preempt)
        state.samples.append(_sample(state))
        if progress is not None:
            progress(len(state.finish), len(fitting))
    assert not state.queue, "every job that fits the site runs in the end"
    return QueueRun(
        tuple(fitting),
        units,
        state.first,
        state.finish,
        tuple(state.spans),
        tuple(state.samples),
        sum(state.moves.values()),
        len(jobs) - len(fitting),
    )


def _schedule(state: _State, order: Policy, *, deep: bool, preempt: bool) -> None:
    free = state.site_units - state.taken.bit_count()
    if not preempt and free < min(job.units for job in state.queue.values()):
        return
    now = UnixTime(state.now)
    oldest = list(state.queue.values())[:LOOK_MAX]
    site = _site(state)
    starts = backfill(
        order([_queued(state, job) for job in oldest], site, now), site, now, deep=deep
    )
    for one in starts.start:
        _start(state, _number(one.demand_id))
    if preempt and starts.head is not None:
        _make_way(state, starts.head, UnixTime(starts.reserved_at))


def _make_way(state: _State, head: Queued, reserved_at: UnixTime) -> None:
    able = _site(state)
    chosen = victims(head, able, UnixTime(state.now), reserved_at)
    if not chosen:
        return
    for one in chosen:
        job_id = _number(one.agreement)
        job = state.by_id[job_id]
        ran = state.now - state.began[job_id]
        # The units change hands at once; the grace is paid in full when the victim resumes.
        state.left_s[job_id] = max(0.0, state.left_s[job_id] - ran) + one.grace_s
        state.moves[job_id] = state.moves.get(job_id, 0) + 1
        _stop(state, job_id)
        state.queue[job_id] = job
    # The queue is kept oldest first; a victim keeps the place its arrival gives it.
    state.queue = dict(sorted(state.queue.items(), key=lambda item: (item[1].arrival_s, item[0])))
    _start(state, _number(head.demand_id))


def _start(state: _State, job_id: int) -> None:
    job = state.queue.pop(job_id)
    units = choose_units(
        state.taken, state.site_units, job.units, group=state.group, policy=state.placement
    )
    assert units.bit_count() == job.units, "backfill starts only what fits"
    ratio = job.estimate_s / job.duration_s
    left = state.left_s[job_id]
    state.taken |= units
    who = job.requester.encode()
    state.held[who] = state.held.get(who, 0) + job.units
    state.began[job_id] = state.now
    state.first.setdefault(job_id, state.now)
    state.running[job_id] = Running(
        _id(job_id),
        job.requester.encode(),
        units,
        UnixTime(state.now),
        UnixTime(state.now + left * ratio),
        job.price_per_hour,
        job.priority,
        job.preemptible and state.moves.get(job_id, 0) < MOVES_PER_JOB_MAX,
        GRACE_S,
    )
    heapq.heappush(state.ends, (state.now + left, job_id, state.moves.get(job_id, 0)))


def _stop(state: _State, job_id: int) -> None:
    one = state.running.pop(job_id)
    state.taken &= ~one.units
    state.held[one.requester] -= one.unit_count
    requester = state.by_id[job_id].requester
    state.spans.append(Span(job_id, requester, one.units, state.began.pop(job_id), state.now))


def _account(state: _State) -> None:
    """Carry every requester's decayed usage forward to now."""
    held = state.held
    for who in held:
        state.usage.setdefault(who, Usage(who, 0.0, UnixTime(state.now)))
    for who, usage in state.usage.items():
        state.usage[who] = decayed(usage, held.get(who, 0), UnixTime(state.now))


def _site(state: _State) -> Site:
    return Site(
        state.site_units,
        tuple(state.running.values()),
        tuple(state.usage.values()),
        state.group,
    )


def _queued(state: _State, job: Job) -> Queued:
    return Queued(
        _id(job.job_id),
        job.requester.encode(),
        UnixTime(job.arrival_s),
        job.units,
        state.left_s[job.job_id] * job.estimate_s / job.duration_s,
        job.price_per_hour,
        job.value_of_time_per_hour,
        job.priority,
        job.deadline_s,
        job.preemptible,
    )


def _sample(state: _State) -> Sample:
    return Sample(state.now, len(state.queue), state.taken.bit_count())


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def _number(demand_id: bytes) -> int:
    return int.from_bytes(demand_id, "big")
