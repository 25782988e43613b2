"""Agreement: what one side knows of one agreement, and which phase may follow which.

A value, journaled as it stands. It changes in `market/apply` only; what is owed in a state is
said in `market/duties`. It knows no clock, network, chain or sandbox.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Final

from market.codec import (
    U8,
    U16,
    U32,
    U40,
    U48,
    U63,
    U96,
    ChainSignature,
    Count,
    Hash,
    Id,
    PeerKey,
    Text256,
)
from market.limits import ENVS_MAX, NODES_MAX
from market.messages import Beat, Member, Pay, Report, WorkState
from market.terms import Artifact, Manifest, Sealed, Terms


class Role(Enum):
    """Which side of the agreement this node is on."""

    PROVIDER = "provider"
    REQUESTER = "requester"


class Phase(Enum):
    """How far it is. The last three are ends."""

    QUOTED = "quoted"
    CONFIRMED = "confirmed"
    RUNNING = "running"
    CLOSING = "closing"
    SETTLED = "settled"
    SLASHED = "slashed"
    VOID = "void"


class Ending(Enum):
    """Why the work ends, as this side sees it."""

    NONE = "none"
    FINISHED = "finished"  # the job exited by itself
    CANCELLED = "cancelled"  # the requester wants no more of it
    BROKEN = "broken"  # it could not be staged or started, or a unit was lost under it
    LOST = "lost"  # the provider went silent
    UNPAID = "unpaid"  # the requester stopped paying
    EXPIRED = "expired"  # the agreed duration is over
    WITHDRAWN = "withdrawn"  # the provider stops, though nothing allows it to
    PREEMPTED = "preempted"  # the provider stops, as was agreed: the units are wanted for another


TRANSITIONS: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.QUOTED: frozenset({Phase.CONFIRMED, Phase.RUNNING, Phase.VOID}),
    Phase.CONFIRMED: frozenset({Phase.RUNNING, Phase.VOID}),
    Phase.RUNNING: frozenset({Phase.CLOSING, Phase.SETTLED, Phase.SLASHED}),
    Phase.CLOSING: frozenset({Phase.SETTLED, Phase.SLASHED}),
    Phase.SETTLED: frozenset(),
    Phase.SLASHED: frozenset(),
    Phase.VOID: frozenset({Phase.CLOSING}),  # an opening mined after we gave it up
}
ENDS: Final = frozenset({Phase.SETTLED, Phase.SLASHED, Phase.VOID})
"""Phases in which no money and no unit is bound."""

CUT_SHORT: Final = frozenset({Ending.PREEMPTED, Ending.BROKEN})
"""Endings after which the job goes on elsewhere, from a last checkpoint if there is one."""

NOTHING_YET: Final = Report(
    work=WorkState.WAITING,
    exit_code=0,
    out_of_memory=False,
    reason="",
    cpu_ms=0,
    memory_bytes=0,
    gpu_ppm=0,
    log_bytes=0,
    checkpoint=None,
    checkpoint_step=0,
    results=(),
)


@dataclass(frozen=True, slots=True)
class Agreement:
    """One agreement as one side knows it. Journaled as it stands; times in Unix milliseconds."""

    id: Hash
    role: Role
    peer: PeerKey  # the other side
    demand_id: Id
    job_id: Id
    terms: Terms
    provider_signature: ChainSignature
    interval_s: U16
    hold_until_s: U40
    created_at_ms: U63
    preemptible: bool = False  # the demand allowed it, and the offer was sold so
    grace_s: U16 = 0  # preempted: from SIGTERM to SIGKILL, as the offer said
    rank: U8 = 0  # which node of a gang of num_nodes it is
    num_nodes: U8 = 1
    members: Annotated[tuple[Member, ...], Count(0, NODES_MAX)] = ()  # of the gang, by rank
    bid_per_hour: U96 = 0  # provider: the demand's price cap, to see later why a quote was lost
    phase: Phase = Phase.QUOTED
    ending: Ending = Ending.NONE
    reason: Text256 = ""
    requester_signature: ChainSignature = b""
    manifest: Manifest | None = None
    secrets: Annotated[tuple[Sealed, ...], Count(0, ENVS_MAX)] = ()
    acknowledged: bool = False  # requester: the provider has our acceptance
    opened_at_s: U40 = 0
    # What an extension adds to deposit and duration: on chain, and asked for by the requester.
    extra_deposit: U96 = 0
    extra_duration_s: U32 = 0
    asked_extra_s: U32 = 0
    extension_signature: ChainSignature = b""  # the provider's, for what is asked
    extension_refused: bool = False
    # The work: the provider's own findings, or what the requester was told.
    report: Report = NOTHING_YET
    metered_s: U32 = 0
    staged: bool = False
    halted: bool = False  # provider: nothing of it runs any more
    collected: bool = False
    scrubbed: bool = False
    ended_at_ms: U63 = 0
    checkpointed_at_ms: U63 = 0
    # Heartbeats.
    beat: Beat | None = None
    beat_taken: U63 = 0
    heard_at_ms: U63 = 0
    missed: U8 = 0
    # Money.
    pay: Pay | None = None
    pay_taken: U96 = 0
    last_taken: bool = False
    paid: U96 = 0
    # What the requester has fetched.
    checkpoint: Artifact | None = None
    log_have: U63 = 0
    delivered: bool = False
    # The chain.
    nonce: U48 = 0  # drawn by the requester for a challenge
    challenge_nonce: U48 = 0
    challenge_deadline_s: U40 = 0
    answered: bool = False
    closing_deadline_s: U40 = 0
    closing_by_provider: bool = False
    refusals: U8 = 0
    refunded: U96 = 0
    slashed: U96 = 0
    to_victim: U96 = 0
    open_tx: Annotated[bytes, Count(0, 32)] = b""
    challenge_tx: Annotated[bytes, Count(0, 32)] = b""
    slash_tx: Annotated[bytes, Count(0, 32)] = b""
    close_tx: Annotated[bytes, Count(0, 32)] = b""

    @property
    def extended(self) -> Terms:
        """The terms as the money is counted by: with what extensions added. Never signed."""
        if not (self.extra_deposit or self.extra_duration_s):
            return self.terms
        money, timing = self.terms.money, self.terms.timing
        return replace(
            self.terms,
            money=replace(money, deposit=money.deposit + self.extra_deposit),
            timing=replace(timing, duration_s=timing.duration_s + self.extra_duration_s),
        )

    @property
    def ended(self) -> bool:
        """No money and no unit is bound by it any more."""
        return self.phase in ENDS

    @property
    def promised(self) -> int:
        """The amount of the best voucher."""
        return self.pay.voucher.amount if self.pay else 0

    @property
    def has_checkpoint(self) -> bool:
        """Requester: the newest checkpoint that the provider states is here, or there is none."""
        return self.report.checkpoint in (None, self.checkpoint)

    @property
    def last_said(self) -> bool:
        """The requester has agreed that it may end."""
        return self.pay is not None and self.pay.voucher.last
