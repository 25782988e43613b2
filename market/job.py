"""Job: what the user wants done, over all the agreements it takes. States in SkyPilot's words.

`apply(job, event, now)` and `duties(job, now)`, as for agreements. A job knows its agreements only
by what it is told of them (`Moved`); it knows no network, clock or chain.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Final, assert_never

from market.agreement import Agreement, Ending, Phase
from market.codec import U8, U16, U32, U40, U63, U96, Count, Hash, Id, PeerKey, Text256, clip
from market.limits import ATTEMPTS_MAX, ENVS_MAX, HISTORY_MAX, NODES_MAX
from market.messages import WorkState
from market.terms import Artifact, Demand, Manifest, Requirements, Sealed
from market.units import UnixTime

ROUND_WAIT_S: Final = 5.0  # a market that had no answer is asked again after so long ...
ROUND_WAIT_MAX_S: Final = 120.0  # ... doubling up to this


class JobState(Enum):
    """What users see."""

    PENDING = "PENDING"
    MATCHING = "MATCHING"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    RECOVERING = "RECOVERING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    FAILED_SETUP = "FAILED_SETUP"
    FAILED_NO_RESOURCE = "FAILED_NO_RESOURCE"
    CANCELLING = "CANCELLING"
    CANCELLED = "CANCELLED"


OVER: Final = frozenset(
    {
        JobState.SUCCEEDED,
        JobState.FAILED,
        JobState.FAILED_SETUP,
        JobState.FAILED_NO_RESOURCE,
        JobState.CANCELLED,
    }
)
"""States a job never leaves."""


@dataclass(frozen=True, slots=True)
class Change:
    """One line of a job's history."""

    at_ms: U63
    state: JobState
    reason: Text256


@dataclass(frozen=True, slots=True)
class Bid:
    """What the user would pay, and for how long it may be looked for."""

    max_price_per_hour: U96  # per unit
    value_of_time_per_hour: U96
    max_duration_s: U32
    deadline_at_s: U40
    priority: U8
    max_wait_s: U32
    max_attempts: U8
    estimate_s: U32


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its requester knows it. Journaled as it stands."""

    id: Id
    manifest: Manifest
    requirements: Requirements
    bid: Bid
    created_at_ms: U63
    secrets: Annotated[tuple[Sealed, ...], Count(0, ENVS_MAX)] = ()  # sealed to ourselves
    state: JobState = JobState.PENDING
    reason: Text256 = ""
    round: U16 = 0
    demand: Demand | None = None
    round_at_ms: U63 = 0
    retry_at_ms: U63 = 0
    waiting_since_ms: U63 = 0
    agreement: Annotated[bytes, Count(0, 32)] = b""  # the current one
    attempts: Annotated[tuple[Hash, ...], Count(0, ATTEMPTS_MAX)] = ()
    excluded: Annotated[tuple[PeerKey, ...], Count(0, NODES_MAX)] = ()
    used_s: U32 = 0  # metered by agreements that are over
    checkpoint: Artifact | None = None
    results: Annotated[tuple[Artifact, ...], Count(0, 256)] = ()
    exit_code: U16 = 0
    cancelling: bool = False
    finished_at_ms: U63 = 0
    history: Annotated[tuple[Change, ...], Count(0, HISTORY_MAX)] = ()

    @property
    def over(self) -> bool:
        """It never changes state again."""
        return self.state in OVER


# Events.


@dataclass(frozen=True, slots=True)
class Demanded:
    """A demand for the next round was made. Journaled before it is published."""

    demand: Demand


@dataclass(frozen=True, slots=True)
class Nothing:
    """The quote window closed without an acceptable quote; `reason` explains it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Chosen:
    """The best quote was countersigned."""

    agreement: bytes


@dataclass(frozen=True, slots=True)
class Moved:
    """The job's current agreement changed."""

    agreement: Agreement


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The user wants no more of it."""


@dataclass(frozen=True, slots=True)
class JobTicked:
    """Time has passed."""


JobEvent = Demanded | Nothing | Chosen | Moved | CancelAsked | JobTicked

# Duties.


@dataclass(frozen=True, slots=True)
class MakeDemand:
    """Draw an id and make the demand of the next round."""

    job: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Broadcast the demand."""

    job: bytes
    demand: Demand


@dataclass(frozen=True, slots=True)
class Choose:
    """The window is over: rank what was quoted and countersign the best."""

    job: bytes
    demand_id: bytes


@dataclass(frozen=True, slots=True)
class EndAgreement:
    """The user cancelled: ask the current agreement to stop."""

    job: bytes
    agreement: bytes


JobDuty = MakeDemand | Publish | Choose | EndAgreement


def duties(job: Job, now: UnixTime, agreement: Agreement | None) -> tuple[JobDuty, ...]:
    """What the job obliges its node to do now; `agreement` is its current one."""
    if job.over:
        return ()
    if agreement is not None and job.cancelling and agreement.ending is Ending.NONE:
        return () if agreement.ended else (EndAgreement(job.id, agreement.id),)
    if job.agreement or job.cancelling or now * 1000 < job.retry_at_ms:
        return ()
    if job.demand is None:
        return (MakeDemand(job.id, job.round + 1),)
    if now * 1000 < job.demand.quote_by_ms:
        return (Publish(job.id, job.demand),)
    return (Choose(job.id, job.demand.demand_id),)


def remaining_s(job: Job) -> int:
    """Seconds of running time the user still pays for."""
    return max(0, job.bid.max_duration_s - job.used_s)


def apply(job: Job, event: JobEvent, now: UnixTime) -> Job:
    """The job after `event`; the same object if the event changes nothing."""
    if job.over:
        return job
    match event:
        case Demanded(demand):
            return _demanded(job, demand, now)
        case Nothing(reason):
            return _again(job, reason, now)
        case Chosen(agreement):
            return _chosen(job, agreement, now)
        case Moved(agreement):
            return _moved(job, agreement, now) if agreement.id == job.agreement else job
        case CancelAsked():
            if job.cancelling:
                return job
            state = JobState.CANCELLING if job.agreement else JobState.CANCELLED
            return _to(replace(job, cancelling=True), state, "asked by the user", now)
        case JobTicked():
            return _on_time(job, now)
        case _:
            assert_never(event)


def _demanded(job: Job, demand: Demand, now: UnixTime) -> Job:
    if job.agreement or demand.round != job.round + 1:
        return job
    job = replace(job, demand=demand, round=demand.round, round_at_ms=_ms(now))
    if job.state is JobState.PENDING:
        return _to(job, JobState.MATCHING, "asking the market", now)
    return job


def _chosen(job: Job, agreement: bytes, now: UnixTime) -> Job:
    if job.agreement:
        return job
    attempts = (*job.attempts, agreement)
    job = replace(job, agreement=agreement, attempts=attempts, demand=None, waiting_since_ms=0)
    if job.state is JobState.RECOVERING:
        return job
    return _to(job, JobState.STARTING, "a provider was chosen", now)


def _on_time(job: Job, now: UnixTime) -> Job:
    if job.agreement:
        return job
    waited_s = now - (job.waiting_since_ms or job.created_at_ms) / 1000
    if waited_s >= job.bid.max_wait_s:
        state = JobState.FAILED if job.attempts else JobState.FAILED_NO_RESOURCE
        return _to(job, state, job.reason or "no provider answered", now)
    return job


def _again(job: Job, reason: str, now: UnixTime) -> Job:
    """Another round, later: the wait doubles so that a full market is not shouted at."""
    wait_s = min(ROUND_WAIT_S * 2 ** min(job.round, 8), ROUND_WAIT_MAX_S)
    if job.attempts:
        wait_s = min(wait_s, 2 * ROUND_WAIT_S)  # a job that ran is worth asking often for
    retry_at_ms = _ms(now) + int(wait_s * 1000)
    # Whoever failed before may be the only one left: the next round asks everybody again.
    return replace(job, demand=None, reason=clip(reason), retry_at_ms=retry_at_ms, excluded=())


def _moved(job: Job, a: Agreement, now: UnixTime) -> Job:
    if a.checkpoint is not None and a.checkpoint != job.checkpoint:
        job = replace(job, checkpoint=a.checkpoint)
    if a.phase is Phase.RUNNING and a.ending is Ending.NONE:
        if job.cancelling:
            return job  # it still runs, but nobody wants it to
        if a.report.work is WorkState.RUNNING:
            return _to(job, JobState.RUNNING, "", now)
        if a.report.work is WorkState.STAGING and a.report.reason:
            # Not a line of the history, which is bounded and would be full of them.
            return job if job.reason == a.report.reason else replace(job, reason=a.report.reason)
        if job.state is JobState.STARTING:
            return _to(job, JobState.STARTING, "funded; the provider prepares it", now)
        return job
    if a.phase is Phase.CONFIRMED or not (a.ended or a.phase is Phase.CLOSING or a.last_said):
        return job
    job = replace(job, used_s=job.used_s + _ran_s(a, now), agreement=b"", demand=None)
    if job.cancelling:
        return _to(job, JobState.CANCELLED, "asked by the user", now)
    match a.ending:
        case Ending.FINISHED if a.delivered:
            return _finished(job, a, now)
        case Ending.EXPIRED:
            return _to(job, JobState.FAILED, "max_duration is used up", now)
        case _:
            return _recover(job, a, now)


def _ran_s(a: Agreement, now: UnixTime) -> int:
    """The seconds it ran: as its provider says, and never more than have passed."""
    return min(a.metered_s, max(0, int(now) - a.opened_at_s)) if a.opened_at_s else 0


def _finished(job: Job, a: Agreement, now: UnixTime) -> Job:
    job = replace(job, results=a.report.results, exit_code=a.report.exit_code)
    if a.report.exit_code == 0:
        return _to(job, JobState.SUCCEEDED, "", now)
    reason = a.report.reason or f"the job exited with code {a.report.exit_code}"
    if a.report.out_of_memory:
        reason = "out of memory: ask for more with resources.memory"
    return _to(job, JobState.FAILED, reason, now)


def _recover(job: Job, a: Agreement, now: UnixTime) -> Job:
    reason = a.reason or f"the agreement ended: {a.ending.value}"
    excluded = job.excluded
    if a.phase is not Phase.VOID:
        excluded = tuple(dict.fromkeys((*excluded, a.peer)))[-NODES_MAX:]
    job = replace(job, excluded=excluded, waiting_since_ms=_ms(now), retry_at_ms=_ms(now))
    if len(job.attempts) >= min(job.bid.max_attempts, ATTEMPTS_MAX):
        broken = a.ending is Ending.BROKEN
        state = JobState.FAILED_SETUP if broken else JobState.FAILED
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
    return replace(
        job,
        state=state,
        reason=reason,
        history=(*job.history, change)[-HISTORY_MAX:],
        finished_at_ms=_ms(now) if over else 0,
        secrets=() if over else job.secrets,
    )


def _ms(now: UnixTime) -> int:
    return int(now * 1000)
