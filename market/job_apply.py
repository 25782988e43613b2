"""Job apply: what an event makes of a job. The only place where its state changes.

Knows no clock, network or chain. A stale or repeated event returns the same object.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, assert_never

from market.agreement import Agreement, Ending, Phase
from market.codec import clip
from market.job import (
    EXPLANATION_LINES_MAX,
    OVER,
    CancelAsked,
    Change,
    Chosen,
    Demanded,
    ExtendAsked,
    Job,
    JobEvent,
    JobState,
    JobTicked,
    Moved,
    MoveWanted,
    Nothing,
    Waited,
    Withdrawn,
    is_off,
    ran_s,
    remaining_s,
)
from market.limits import (
    ATTEMPTS_KEPT_MAX,
    ATTEMPTS_MAX,
    HISTORY_MAX,
    JOB_DURATION_MAX_S,
    NODES_MAX,
)
from market.messages import SLOWED, WorkState
from market.progress import sample
from market.reallocation import MOVES_MAX, Reason
from market.terms import Artifact
from market.units import UnixTime

RETRY_ROUND_S: Final = 1.0  # between a demand that found nobody and the next


def apply(job: Job, event: JobEvent, now: UnixTime) -> Job:
    """The job after `event`; the same object if the event changes nothing."""
    if isinstance(event, Withdrawn):
        return replace(job, unwanted=b"") if event.demand_id == job.unwanted else job
    if job.over:
        return job
    match event:
        case Demanded() | Waited() | Nothing() | Chosen():
            return _on_round(job, event, now)
        case Moved(agreements):
            return _moved(job, {a.id: a for a in agreements}, now)
        case MoveWanted(reason):
            return _move_wanted(job, reason, now)
        case ExtendAsked(more_s):
            longest_s = min(JOB_DURATION_MAX_S, job.bid.max_duration_s + more_s)
            added_s = longest_s - job.bid.max_duration_s
            if job.cancelling or added_s <= 0:
                return job
            bid = replace(job.bid, max_duration_s=longest_s)
            return replace(job, bid=bid, extended_s=job.extended_s + added_s)
        case CancelAsked():
            if job.cancelling:
                return job
            held = job.gang or job.next_gang
            state = JobState.CANCELLING if held else JobState.CANCELLED
            return _to(_unasked(replace(job, cancelling=True)), state, "asked by the user", now)
        case JobTicked():
            return _on_time(job, now)
        case _:
            assert_never(event)


# The round.


def _on_round(job: Job, event: Demanded | Waited | Nothing | Chosen, now: UnixTime) -> Job:
    match event:
        case Demanded(demand, resume):
            busy = job.next_gang or (job.gang and job.move is None)
            if busy or job.cancelling or job.demand is not None or demand.round != job.round + 1:
                return job
            job = replace(job, demand=demand, resume=resume, round=demand.round)
            if job.state is JobState.PENDING:
                return _to(job, JobState.MATCHING, "asking the market", now)
            return job
        case Waited(reason, lines):
            if job.demand is None or job.gang:
                return job
            return replace(job, reason=clip(reason), explanation=_clipped(lines))
        case Nothing(reason, lines):
            return _again(job, reason, lines, now)
        case Chosen():
            return _chosen(job, event, now)
        case _:
            assert_never(event)


def _chosen(job: Job, event: Chosen, now: UnixTime) -> Job:
    met = job.demand is not None and job.demand.demand_id == event.demand_id
    if not met or job.next_gang or job.cancelling or len(job.attempts) >= ATTEMPTS_KEPT_MAX:
        return job
    members = event.attempt.members
    job = replace(_unasked(job), attempts=(*job.attempts, event.attempt), explanation=())
    if job.gang:
        return replace(job, next_gang=members)
    job = replace(job, gang=members, waiting_since_ms=0)
    if job.state is JobState.RECOVERING:
        return job
    chosen = "a provider was" if len(members) == 1 else f"{len(members)} providers were"
    return _to(job, JobState.STARTING, f"{chosen} chosen", now)


def _again(job: Job, reason: str, lines: tuple[str, ...], now: UnixTime) -> Job:
    """Nobody for now. A move is given up; a job without a place asks again."""
    if job.gang:
        return replace(job, demand=None, move=None, move_at_ms=_ms(now))
    retry_at_ms = _ms(now + RETRY_ROUND_S)
    # Whoever failed before may be the only one left: the next round asks everybody again.
    return replace(job, demand=None, reason=clip(reason), explanation=_clipped(lines),
                   retry_at_ms=retry_at_ms, excluded=())  # fmt: skip


def _clipped(lines: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(clip(line) for line in lines[:EXPLANATION_LINES_MAX])


def _unasked(job: Job) -> Job:
    """Without its demand, of which others are to be told that it is over."""
    if job.demand is None:
        return job
    return replace(job, demand=None, unwanted=job.demand.demand_id)


def _on_time(job: Job, now: UnixTime) -> Job:
    if job.gang or job.cancelling:
        return job
    waited_s = now - (job.waiting_since_ms or job.created_at_ms) / 1000
    if waited_s >= job.bid.max_wait_s:
        state = JobState.FAILED if job.attempts else JobState.FAILED_NO_RESOURCE
        return _to(job, state, job.reason or "no provider answered", now)
    return job


def _move_wanted(job: Job, reason: Reason, now: UnixTime) -> Job:
    settled = job.state is JobState.RUNNING and not job.next_gang and job.move is None
    if not settled or job.cancelling or job.moves >= MOVES_MAX:
        return job
    return replace(job, move=reason, move_at_ms=_ms(now), retry_at_ms=0)


# Its agreements.


def _moved(job: Job, known: dict[bytes, Agreement], now: UnixTime) -> Job:
    if job.next_gang:
        job = _watch_next(job, known, now)
    members = tuple(known[key] for key in job.gang if key in known)
    if not members:
        return job
    job = _checkpointed(job, members[0], now)
    if job.cancelling:
        gone = all(map(_is_gone, known.values()))
        cancelled = _to(_left(job, members, now), JobState.CANCELLED, "asked by the user", now)
        return cancelled if gone else job
    failed = next((a for a in members if _is_gone(a) and not _is_done(a)), None)
    if failed is not None:
        return _leave(job, members, failed, now)
    done = [a for a in members if _is_done(a)]
    broken = next((a for a in done if a.report.exit_code), None)
    if broken is not None and job.extended_s and _ran_out(broken):
        late = replace(broken, ending=Ending.EXPIRED, reason="the agreed duration is over")
        return _leave(job, members, late, now)
    if broken is not None or len(done) == len(members):
        return _finished(job, members, broken or members[0], now)
    if any(a.ending not in (Ending.NONE, Ending.FINISHED) for a in members):
        return job
    return _going(job, members, now)


def _going(job: Job, members: tuple[Agreement, ...], now: UnixTime) -> Job:
    """All of them are fine so far."""
    if all(a.report.work in (WorkState.RUNNING, WorkState.EXITED) for a in members):
        first, attempt = members[0], job.attempt
        estimated = attempt.run_s if attempt and job.bid.estimate_s else 0
        meter = sample(job.meter, first.id, _ms(now), first.report.progress_ppm, estimated)
        job = job if meter is job.meter else replace(job, meter=meter)
        return _slowed(_to(job, JobState.RUNNING, "", now), members)
    coming = [a.report.reason for a in members if a.report.work is WorkState.STAGING]
    if any(coming):
        # Not a line of the history, which is bounded and would be full of them.
        reason = clip(next(filter(None, coming)))
        return job if job.reason == reason else replace(job, reason=reason)
    if job.state is JobState.STARTING and all(a.phase is Phase.RUNNING for a in members):
        return _to(job, JobState.STARTING, "funded; the provider prepares it", now)
    return job


def _slowed(job: Job, members: tuple[Agreement, ...]) -> Job:
    """What brakes it, as its providers say; whether that is worth a move is measured, not said."""
    told = [a.report.reason for a in members if a.report.reason.startswith(SLOWED)]
    reason = told[0] if told else "" if job.reason.startswith(SLOWED) else job.reason
    return job if reason == job.reason else replace(job, reason=reason)


def _watch_next(job: Job, known: dict[bytes, Agreement], now: UnixTime) -> Job:
    """The gang it moves to: taken once all of it works, given up once one of it does not."""
    coming = tuple(known[key] for key in job.next_gang if key in known)
    if any(map(is_off, coming)):
        return replace(job, next_gang=(), move=None, move_at_ms=_ms(now))
    works = all(a.report.work is WorkState.RUNNING for a in coming)
    if not coming or not works or job.cancelling:
        return job
    left = tuple(known[key] for key in job.gang if key in known)
    why = job.move.value if job.move else "moved"
    job = replace(
        _left(job, left, now), gang=job.next_gang, next_gang=(), move=None, move_at_ms=_ms(now),
        moves=job.moves + 1,
    )  # fmt: skip
    return _to(job, JobState.RUNNING, f"moved to another provider: {why}", now)


def _checkpointed(job: Job, first: Agreement, now: UnixTime) -> Job:
    if first.checkpoint is None or first.checkpoint == job.checkpoint:
        return job
    return replace(job, checkpoint=first.checkpoint, checkpointed_at_ms=_ms(now))


def _is_done(a: Agreement) -> bool:
    return a.ending is Ending.FINISHED and a.delivered and _is_gone(a)


def _is_gone(a: Agreement) -> bool:
    """It has come to an end, or only the chain has to say so yet."""
    if a.phase is Phase.CONFIRMED:
        return False
    return a.ended or a.phase is Phase.CLOSING or a.last_said


def _ran_out(a: Agreement) -> bool:
    """It was stopped because its time was over: the exit is not the job's own."""
    end_s = a.opened_at_s + a.extended.timing.duration_s
    return a.ended_at_ms / 1000 >= end_s - 2 * a.interval_s


def _left(job: Job, members: tuple[Agreement, ...], now: UnixTime) -> Job:
    return replace(job, used_s=job.used_s + ran_s(members, now), gang=())


def _finished(job: Job, members: tuple[Agreement, ...], told: Agreement, now: UnixTime) -> Job:
    code = told.report.exit_code
    results = tuple(
        _of_rank(result, rank, len(members))
        for rank, a in enumerate(members)
        for result in (a.report.results if _is_done(a) else ())
    )
    job = replace(_left(job, members, now), results=results[:256], exit_code=code)
    if code == 0:
        return _to(job, JobState.SUCCEEDED, "", now)
    reason = told.report.reason or f"the job exited with code {code}"
    if told.report.out_of_memory:
        reason = "out of memory: ask for more with resources.memory"
    if len(members) > 1:
        reason = f"rank {told.rank}: {reason}"
    return _to(job, JobState.FAILED, reason, now)


def _of_rank(result: Artifact, rank: int, nodes: int) -> Artifact:
    """A gang's results lie apart: every rank may write the same names."""
    if nodes == 1:
        return result
    return replace(result, path=clip(f"/rank-{rank}/{result.path.lstrip('/')}"))


def _leave(job: Job, members: tuple[Agreement, ...], a: Agreement, now: UnixTime) -> Job:
    """One member is off, and with it the gang."""
    job = _left(job, members, now)
    reason = a.reason or f"the agreement ended: {a.ending.value}"
    if len(members) > 1:
        reason = f"rank {a.rank}: {reason}"
    if job.next_gang:  # the move had begun: it goes on there
        job = replace(job, gang=job.next_gang, next_gang=(), move=None, move_at_ms=_ms(now))
        return _to(job, JobState.RECOVERING, reason, now)
    job = replace(_unasked(job), move=None, move_at_ms=_ms(now))
    if a.ending is Ending.EXPIRED and not (job.extended_s and remaining_s(job)):
        return _to(job, JobState.FAILED, "max_duration is used up", now)
    return _recover(job, a, reason, now)


def _recover(job: Job, a: Agreement, reason: str, now: UnixTime) -> Job:
    preempted = a.ending is Ending.PREEMPTED
    excluded = job.excluded
    if a.phase is not Phase.VOID and not preempted and a.ending is not Ending.EXPIRED:
        excluded = tuple(dict.fromkeys((*excluded, a.peer)))[-NODES_MAX:]
    # Making way is what a preemptible job was sold for: it says nothing against its provider.
    failures = job.failures if preempted and job.bid.preemptible else job.failures + 1
    job = replace(job, excluded=excluded, failures=failures, waiting_since_ms=_ms(now),
                  retry_at_ms=_ms(now))  # fmt: skip
    worn_out = failures >= min(job.bid.max_attempts, ATTEMPTS_MAX)
    if worn_out or len(job.attempts) >= ATTEMPTS_KEPT_MAX:
        never_ran = a.ending is Ending.BROKEN and not a.metered_s
        state = JobState.FAILED_SETUP if never_ran else JobState.FAILED
        return _to(job, state, f"{len(job.attempts)} attempts; the last: {reason}", now)
    if remaining_s(job) == 0:
        return _to(job, JobState.FAILED, "max_duration is used up", now)
    started = job.used_s > 0 or job.checkpoint is not None
    state = JobState.RECOVERING if started else JobState.MATCHING
    return _to(job, state, reason, now)


def _to(job: Job, state: JobState, reason: str, now: UnixTime) -> Job:
    reason = clip(reason)
    if job.state is state and (job.reason == reason or not reason):
        return job
    change = Change(_ms(now), state, reason)
    over = state in OVER
    job = _unasked(job) if over else job
    return replace(
        job,
        state=state,
        reason=reason,
        history=(*job.history, change)[-HISTORY_MAX:],
        finished_at_ms=_ms(now) if over else 0,
        secrets=() if over else job.secrets,
    )


def _ms(now: float) -> int:
    return int(now * 1000)
