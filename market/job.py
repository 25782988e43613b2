"""Job: what the user wants done, over all the agreements it takes. States in SkyPilot's words.

The values: the job itself, its events and its duties. What an event makes of it is said in
`market/job_apply`, what is owed in `market/job_duties`. It knows its agreements only by what it is
told of them (`Moved`); it knows no network, clock or chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Final

from market.agreement import Agreement, Ending
from market.codec import U8, U16, U32, U40, U63, U96, Count, Hash, Id, PeerKey, Text64, Text256
from market.limits import ATTEMPTS_KEPT_MAX, ENVS_MAX, HISTORY_MAX, NODES_MAX
from market.progress import Meter
from market.reallocation import Reason
from market.terms import Artifact, Demand, Manifest, Requirements, Sealed
from market.units import UnixTime

EXPLANATION_LINES_MAX: Final = 24  # a screen


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
    """What the user would pay, for how long it may be looked for, and how freely it may move."""

    max_price_per_hour: U96  # per unit
    value_of_time_per_hour: U96
    max_duration_s: U32
    deadline_at_s: U40
    priority: U8
    max_wait_s: U32
    max_attempts: U8
    estimate_s: U32
    preemptible: bool = False  # cheaper units may be taken back, with their grace
    max_moves: U8 = 0  # of its own will: from a degraded provider, or to a better offer


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at running the job: one agreement per node, by rank, and what was expected of it."""

    members: Annotated[tuple[Hash, ...], Count(1, NODES_MAX)]
    run_s: U32 = 0  # how long all of the work should take there
    preemptible: bool = False  # a member may take its units back


@dataclass(frozen=True, slots=True)
class Job:
    """One job as its requester knows it. Journaled as it stands.

    `gang` are the agreements it runs under now, one per node by rank (one for most jobs);
    `next_gang` those it moves to while it still runs.
    """

    id: Id
    manifest: Manifest
    requirements: Requirements
    bid: Bid
    created_at_ms: U63
    secrets: Annotated[tuple[Sealed, ...], Count(0, ENVS_MAX)] = ()  # sealed to ourselves
    nodes: U8 = 1
    key: Text64 = ""  # the submitter's: one key, one job
    state: JobState = JobState.PENDING
    reason: Text256 = ""
    explanation: Annotated[tuple[Text256, ...], Count(0, EXPLANATION_LINES_MAX)] = ()
    # The round.
    round: U16 = 0
    demand: Demand | None = None
    resume: Artifact | None = None  # the checkpoint that the demand's manifest names
    unwanted: Annotated[bytes, Count(0, 16)] = b""  # a demand that others still believe in
    retry_at_ms: U63 = 0
    waiting_since_ms: U63 = 0
    excluded: Annotated[tuple[PeerKey, ...], Count(0, NODES_MAX)] = ()
    # Its agreements.
    gang: Annotated[tuple[Hash, ...], Count(0, NODES_MAX)] = ()
    next_gang: Annotated[tuple[Hash, ...], Count(0, NODES_MAX)] = ()
    attempts: Annotated[tuple[Attempt, ...], Count(0, ATTEMPTS_KEPT_MAX)] = ()
    failures: U8 = 0  # attempts that count against max_attempts
    used_s: U32 = 0  # metered by gangs that are left
    extended_s: U32 = 0  # what the user added to max_duration
    # Moving of its own will.
    move: Reason | None = None  # why another place is looked for
    move_at_ms: U63 = 0  # when that began, or when the last move came to its end
    moves: U8 = 0
    meter: Meter = field(default_factory=Meter)
    # What it left.
    checkpoint: Artifact | None = None
    checkpointed_at_ms: U63 = 0
    results: Annotated[tuple[Artifact, ...], Count(0, 256)] = ()
    exit_code: U16 = 0
    cancelling: bool = False
    finished_at_ms: U63 = 0
    history: Annotated[tuple[Change, ...], Count(0, HISTORY_MAX)] = ()

    @property
    def over(self) -> bool:
        """It never changes state again."""
        return self.state in OVER

    @property
    def agreement(self) -> bytes:
        """The agreement of rank 0 that it runs under; empty if it runs nowhere."""
        return self.gang[0] if self.gang else b""

    @property
    def agreements(self) -> Iterator[bytes]:
        """Every agreement it ever had, in order."""
        return (member for attempt in self.attempts for member in attempt.members)

    @property
    def attempt(self) -> Attempt | None:
        """The attempt that runs now."""
        return next((one for one in self.attempts if one.members == self.gang), None)


def ran_s(agreements: Iterator[Agreement] | tuple[Agreement, ...], now: UnixTime) -> int:
    """The seconds a gang ran: as its slowest member says, and never more than have passed."""
    return max(
        (
            min(a.metered_s, max(0, int(now) - a.opened_at_s)) if a.opened_at_s else 0
            for a in agreements
        ),
        default=0,
    )


def remaining_s(job: Job, running_s: int = 0) -> int:
    """Seconds of running time the user still pays for; `running_s` are those of its gang so far."""
    return max(0, job.bid.max_duration_s - job.used_s - running_s)


def is_off(a: Agreement) -> bool:
    """Whether nothing more is to be expected of it."""
    return a.ended or a.ending is not Ending.NONE


# Events.


@dataclass(frozen=True, slots=True)
class Demanded:
    """A demand for the next round was made. Journaled before it is published."""

    demand: Demand
    resume: Artifact | None = None


@dataclass(frozen=True, slots=True)
class Waited:
    """No acceptable quote yet; `reason` says what is waited for, `lines` explain it."""

    reason: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nothing:
    """The round ended without an acceptable quote; `reason` and `lines` explain it."""

    reason: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Chosen:
    """Quotes for the demand were countersigned: one per node."""

    demand_id: bytes
    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Everybody was told that the demand is not wanted any more."""

    demand_id: bytes


@dataclass(frozen=True, slots=True)
class Moved:
    """How its present agreements stand: those of `gang` and `next_gang` that are known."""

    agreements: tuple[Agreement, ...]


@dataclass(frozen=True, slots=True)
class MoveWanted:
    """Another place would be better."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class ExtendAsked:
    """The user pays for so many more seconds."""

    more_s: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """The user wants no more of it."""


@dataclass(frozen=True, slots=True)
class JobTicked:
    """Time has passed."""


JobEvent = (
    Demanded
    | Waited
    | Nothing
    | Chosen
    | Withdrawn
    | Moved
    | MoveWanted
    | ExtendAsked
    | CancelAsked
    | JobTicked
)

# Duties.


@dataclass(frozen=True, slots=True)
class MakeDemand:
    """Draw an id and make the demand of the next round."""

    job: bytes
    round: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Broadcast the demand; again now and then, for those who were not there."""

    job: bytes
    demand: Demand


@dataclass(frozen=True, slots=True)
class Choose:
    """The first window is over: countersign the best quotes as soon as there are enough."""

    job: bytes
    demand_id: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Broadcast that the demand is met or given up."""

    job: bytes
    demand_id: bytes


@dataclass(frozen=True, slots=True)
class OpenGang:
    """Every member has confirmed: open all their agreements in one transaction."""

    job: bytes
    members: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Weigh:
    """It runs: see whether it should run somewhere else."""

    job: bytes
    agreement: bytes


@dataclass(frozen=True, slots=True)
class Lengthen:
    """The user pays for longer than this agreement lasts: ask for `extra_s` in all."""

    job: bytes
    agreement: bytes
    extra_s: int


@dataclass(frozen=True, slots=True)
class EndAgreement:
    """The job does not need this agreement any more: ask for its end."""

    job: bytes
    agreement: bytes


JobDuty = MakeDemand | Publish | Choose | Withdraw | OpenGang | Weigh | Lengthen | EndAgreement
