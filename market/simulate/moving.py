"""Moving: a trace's jobs on cheap units that come and go, beside dear ones that stay.

What a reallocation rule does to cost, deadlines and work lost: the rules are `reallocation`'s own,
the queue for cheap units is the provider's policy with backfill. Pure and deterministic.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

from market.backfill import backfill
from market.limits import JOB_DURATION_MAX_S
from market.reallocation import (
    MOVES_MAX,
    Kind,
    Move,
    Moves,
    Progress,
    Reason,
    may_recover,
    moved,
    should_move,
    uniform_progress,
)
from market.simulate.churn import Change, Supply
from market.simulate.jobs import Job
from market.simulate.queueing import QueueRun, Sample, Span
from market.site import Policy, Queued, Running, Site
from market.units import HOUR_S, PPM, UnixTime

TICK_S = 60.0  # how often a running job looks around
NOTICED_S = 30.0  # three heartbeats of ten seconds until a provider counts as lost
RESTART_S = 20.0  # checkpoint and resume, as in rounds
CHECKPOINT_S = 600.0  # work between checkpoints
CHEAP_PPM = (
    400_000  # of the price of a unit that stays: what is asked on open markets and in clouds
)
LOOK_MAX = 512  # demands a policy looks at


class Reallocation(Enum):
    """What a job does when its cheap units go, or when others are there.

    RESTART: waits for cheap units and begins anew. RECOVER: goes on from its last checkpoint.
    BETTER: goes on at once on units that stay, and moves back where that pays (`should_move`).
    UNIFORM: with a deadline, by Uniform Progress; without one, as RECOVER.
    RELIABLE: only units that stay.
    """

    RESTART = "restart"
    RECOVER = "recover"
    BETTER = "better"
    UNIFORM = "uniform"
    RELIABLE = "reliable"


@dataclass(slots=True)
class _Live:
    """An unfinished job. `done_s` is work kept when its present stretch began."""

    job: Job
    since_s: float
    done_s: float = 0.0
    kind: Kind = Kind.NOTHING
    units: int = 0
    restart_s: float = 0.0
    ready_at_s: float = 0.0
    turn: int = 0
    attempts: int = 0
    moves: Moves = field(default_factory=Moves)

    def worked_s(self, now: float) -> float:
        """Work done in this stretch."""
        if self.kind is Kind.NOTHING:
            return 0.0
        left_s = self.job.duration_s - self.done_s
        return min(left_s, max(0.0, now - self.since_s - self.restart_s))


@dataclass(slots=True)
class _State:
    cheap: int
    dear: int
    rule: Reallocation
    now: float = 0.0
    there: int = 0  # bitmap of cheap units that are there
    taken: int = 0  # bitmap of all units held; the dear ones come after the cheap ones
    live: dict[int, _Live] = field(default_factory=dict)
    ends: list[tuple[float, int, int]] = field(default_factory=list)
    wakes: list[float] = field(default_factory=list)
    first: dict[int, float] = field(default_factory=dict)
    finish: dict[int, float] = field(default_factory=dict)
    failed: list[Job] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    gone: list[tuple[int, float, float]] = field(default_factory=list)
    gone_since: dict[int, float] = field(default_factory=dict)
    moves: int = 0
    lost_unit_s: float = 0.0

    @property
    def cheap_free(self) -> int:
        """How many cheap units are there and free."""
        return (self.there & ~self.taken).bit_count()

    @property
    def dear_free(self) -> int:
        """How many units that stay are free."""
        return self.dear - (self.taken >> self.cheap).bit_count()


def run_moving(
    jobs: Sequence[Job],
    supply: Supply,
    order: Policy,
    rule: Reallocation,
    *,
    units: int,
    dear: int,
    progress: Callable[[int, int], None] | None = None,
) -> QueueRun:
    """Run `jobs` on at most `units` of the supply's cheap units and `dear` units that stay.

    A job wider than what its rule may use is refused. One that lost its units ATTEMPTS_MAX times,
    or is not done a month after it came, has failed, as on the market itself.
    """
    cheap = 0 if rule is Reallocation.RELIABLE else min(units, supply.units)
    dear = 0 if rule in (Reallocation.RESTART, Reallocation.RECOVER) else dear
    state = _State(cheap, dear, rule)
    widest = cheap if rule is Reallocation.UNIFORM else max(cheap, dear)
    fitting = [job for job in jobs if job.units <= widest]
    coming = sorted(fitting, key=lambda job: (job.arrival_s, job.job_id), reverse=True)
    state.gone_since = dict.fromkeys(range(cheap), 0.0)
    log = supply.endless()
    change = next(log, None)
    while coming or state.live:
        state.now = _next_time(state, coming, change)
        _complete(state)
        while change is not None and change.at_s <= state.now:
            if change.unit < cheap:
                _changed(state, change)
            change = next(log, None)
        while coming and coming[-1].arrival_s <= state.now:
            job = coming.pop()
            state.live[job.job_id] = _Live(job, state.now, ready_at_s=state.now)
        _give_up(state)
        _decide(state, order)
        waiting = sum(1 for one in state.live.values() if one.kind is Kind.NOTHING)
        state.samples.append(Sample(state.now, waiting, state.taken.bit_count()))
        if progress is not None:
            progress(len(state.finish) + len(state.failed), len(fitting))
    state.gone += [(unit, since, state.now) for unit, since in sorted(state.gone_since.items())]
    failed = {job.job_id for job in state.failed}
    return QueueRun(
        tuple(job for job in fitting if job.job_id not in failed),
        cheap + dear,
        state.first,
        state.finish,
        tuple(state.spans),
        tuple(state.samples),
        state.moves,
        len(jobs) - len(fitting),
        tuple(state.failed),
        state.lost_unit_s,
        tuple(state.gone),
    )


def _next_time(state: _State, coming: Sequence[Job], change: Change | None) -> float:
    while state.wakes and state.wakes[0] <= state.now:
        heapq.heappop(state.wakes)
    times = [coming[-1].arrival_s] if coming else []
    times += [state.ends[0][0]] if state.ends else []
    times += [state.wakes[0]] if state.wakes else []
    if state.live:
        times += [change.at_s] if change is not None else []
        # Only these two rules look around between events; the last tick is for what waits for ever.
        looks = state.rule in (Reallocation.BETTER, Reallocation.UNIFORM)
        times.append(state.now + (TICK_S if looks else HOUR_S))
    return max(state.now, min(times))


def _complete(state: _State) -> None:
    while state.ends and state.ends[0][0] <= state.now:
        _, job_id, turn = heapq.heappop(state.ends)
        one = state.live.get(job_id)
        if one is not None and one.turn == turn and one.kind is not Kind.NOTHING:
            _leave(state, one)
            state.finish[job_id] = state.now
            del state.live[job_id]


def _changed(state: _State, change: Change) -> None:
    bit = 1 << change.unit
    if change.up:
        state.there |= bit
        since = state.gone_since.pop(change.unit, change.at_s)
        if since < change.at_s:
            state.gone.append((change.unit, since, change.at_s))
        return
    state.there &= ~bit
    state.gone_since[change.unit] = change.at_s
    for one in list(state.live.values()):
        if one.units & bit:
            _lose(state, one)


def _lose(state: _State, one: _Live) -> None:
    """The units vanish: what was not checkpointed is lost, and it takes a while to notice."""
    worked_s = one.worked_s(state.now)
    kept_s = one.done_s + worked_s // CHECKPOINT_S * CHECKPOINT_S
    if state.rule is Reallocation.RESTART:
        kept_s = 0.0
    lost_s = one.done_s + worked_s - kept_s
    state.lost_unit_s += lost_s * one.job.units
    _leave(state, one)
    one.done_s = kept_s
    one.attempts += 1
    one.moves = moved(one.moves, state.now, Reason.LOST)
    one.ready_at_s = state.now + NOTICED_S
    heapq.heappush(state.wakes, one.ready_at_s)
    state.moves += 1


def _leave(state: _State, one: _Live) -> None:
    """End the present stretch, keeping all of its work."""
    share = CHEAP_PPM if one.kind is Kind.CHEAP else PPM
    span = Span(one.job.job_id, one.job.requester, one.units, one.since_s, state.now, share)
    state.spans.append(span)
    one.done_s += one.worked_s(state.now)
    state.taken &= ~one.units
    one.units, one.kind = 0, Kind.NOTHING
    one.turn += 1


def _enter(state: _State, one: _Live, kind: Kind) -> None:
    start, free = 0, state.there & ~state.taken
    if kind is Kind.RELIABLE:
        start = state.cheap
        free = ~state.taken & (((1 << state.dear) - 1) << state.cheap)
    chosen, unit = 0, start
    while chosen.bit_count() < one.job.units:
        chosen |= free & (1 << unit)
        unit += 1
        assert unit <= state.cheap + state.dear, "a job enters only where it fits"
    state.taken |= chosen
    # Who has run before resumes from a checkpoint, which takes a while.
    one.restart_s = RESTART_S if one.job.job_id in state.first else 0.0
    one.units, one.kind, one.since_s = chosen, kind, state.now
    state.first.setdefault(one.job.job_id, state.now)
    end = state.now + one.restart_s + one.job.duration_s - one.done_s
    heapq.heappush(state.ends, (end, one.job.job_id, one.turn))


def _give_up(state: _State) -> None:
    for one in list(state.live.values()):
        waits = one.kind is Kind.NOTHING
        late = state.now - one.job.arrival_s > JOB_DURATION_MAX_S + one.job.duration_s
        if waits and (not may_recover(one.attempts) or late):
            state.failed.append(one.job)
            state.finish.pop(one.job.job_id, None)
            del state.live[one.job.job_id]


def _decide(state: _State, order: Policy) -> None:
    """Who moves, who starts on units that stay, and who of the others gets the cheap ones."""
    for one in _ready(state):
        wish = _wish(state, one)
        if one.kind in (wish, Kind.NOTHING):
            continue
        free = state.dear_free if wish is Kind.RELIABLE else state.cheap_free
        if wish is Kind.NOTHING or free >= one.job.units:
            reason = Reason.BEHIND if wish is Kind.RELIABLE else Reason.BETTER_OFFER
            _leave(state, one)
            one.moves = moved(one.moves, state.now, reason)
            state.moves += 1
            if wish is not Kind.NOTHING:
                _enter(state, one, wish)
    queue = [one for one in _ready(state) if one.kind is Kind.NOTHING]
    cheap = [one for one in queue if _wish(state, one) is not Kind.RELIABLE]
    _start_cheap(state, cheap, order)
    for one in queue:
        waits = one.kind is Kind.NOTHING and _wish(state, one) is Kind.RELIABLE
        if waits and state.dear_free >= one.job.units:
            _enter(state, one, Kind.RELIABLE)


def _ready(state: _State) -> Iterator[_Live]:
    return (one for one in list(state.live.values()) if one.ready_at_s <= state.now)


def _wish(state: _State, one: _Live) -> Kind:
    """Where the rule wants the job now."""
    job, now = one.job, state.now
    there = one.kind is Kind.CHEAP or state.cheap_free >= job.units
    last = not may_recover(one.attempts + 1) and job.units <= state.dear
    match state.rule:
        case Reallocation.RELIABLE:
            return Kind.RELIABLE
        case Reallocation.BETTER | Reallocation.UNIFORM if last:
            return Kind.RELIABLE  # the last attempt is made where nothing goes away
        case Reallocation.BETTER:
            if one.kind is not Kind.RELIABLE:
                fits_dear = job.units <= state.dear
                return Kind.CHEAP if there or not fits_dear else Kind.RELIABLE
            if there and should_move(one.moves, now, better=_move(one, now)):
                return Kind.CHEAP
            return Kind.RELIABLE
        case Reallocation.UNIFORM if job.deadline_s and job.units <= state.dear:
            if one.kind is Kind.RELIABLE and one.moves.count >= MOVES_MAX:
                return Kind.RELIABLE
            return uniform_progress(_standing(one, now), one.kind, cheap_is_there=there)
    return Kind.CHEAP


def _standing(one: _Live, now: float) -> Progress:
    """On cheap units only what is checkpointed counts as done: the rest may be gone in a second."""
    job, worked_s = one.job, one.worked_s(now)
    if one.kind is Kind.CHEAP:
        worked_s = worked_s // CHECKPOINT_S * CHECKPOINT_S
    return Progress(
        done_s=one.done_s + worked_s,
        work_s=job.duration_s,
        gone_s=now - job.arrival_s,
        total_s=job.deadline_s - job.arrival_s,
        restart_s=RESTART_S + NOTICED_S,
    )


def _move(one: _Live, now: float) -> Move:
    """From units that stay to cheap ones; a checkpoint is written first, so no work is lost."""
    job = one.job
    left_s = max(0.0, job.duration_s - one.done_s - one.worked_s(now))
    dear = (job.price_per_hour * job.units + job.value_of_time_per_hour) / HOUR_S
    cheap = (job.price_per_hour * job.units * CHEAP_PPM / PPM + job.value_of_time_per_hour) / HOUR_S
    return Move(dear, cheap, left_s, left_s, 0.0, RESTART_S)


def _start_cheap(state: _State, waiting: Sequence[_Live], order: Policy) -> None:
    if not waiting or not state.cheap_free:
        return
    by_id = {one.job.job_id: one for one in waiting[:LOOK_MAX]}
    running = tuple(
        Running(
            one.job.job_id.to_bytes(16, "big"),
            one.job.requester.encode(),
            one.units,
            UnixTime(one.since_s),
            UnixTime(one.since_s + one.restart_s + one.job.estimate_s - one.done_s),
        )
        for one in state.live.values()
        if one.kind is Kind.CHEAP
    )
    # A site of those units only that are there; which ones they are matters to no policy but load.
    site = Site(state.there.bit_count(), running, group_units=max(1, state.cheap))
    now = UnixTime(state.now)
    starts = backfill(order([_queued(one) for one in by_id.values()], site, now), site, now)
    for queued in starts.start:
        _enter(state, by_id[int.from_bytes(queued.demand_id, "big")], Kind.CHEAP)


def _queued(one: _Live) -> Queued:
    job = one.job
    return Queued(
        job.job_id.to_bytes(16, "big"),
        job.requester.encode(),
        UnixTime(job.arrival_s),
        job.units,
        max(1.0, job.estimate_s - one.done_s),
        job.price_per_hour,
        job.value_of_time_per_hour,
        job.priority,
        job.deadline_s,
        job.preemptible,
    )
