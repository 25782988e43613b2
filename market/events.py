"""Events: facts about one agreement, in the past tense. Those of the chain are in market/escrow.

Values only. Whatever a peer said has been verified before it becomes an event.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.agreement import Ending
from market.escrow import ChainFact
from market.messages import Beat, Member, Pay, Report
from market.terms import Artifact, Manifest, Sealed


@dataclass(frozen=True, slots=True)
class Accepted:
    """Provider: the requester countersigned and sent the manifest (both verified)."""

    requester_signature: bytes
    manifest: Manifest
    secrets: tuple[Sealed, ...]
    rank: int = 0  # of a gang
    num_nodes: int = 1
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """Requester: the provider has our acceptance."""


@dataclass(frozen=True, slots=True)
class Released:
    """The quote is not taken, or not honoured."""

    reason: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    """This side or the other wants the work to end."""

    ending: Ending
    reason: str


@dataclass(frozen=True, slots=True)
class Staging:
    """Provider: image and inputs are on their way; how far, in words."""

    progress: str


@dataclass(frozen=True, slots=True)
class Preempted:
    """Provider: the units of a preemptible agreement are wanted for another."""

    reason: str


@dataclass(frozen=True, slots=True)
class UnitLost:
    """Provider: a unit that it runs on is lost, or not well; what it did since does not count.

    `metered_s` are the seconds until the last look that found the unit well.
    """

    reason: str
    metered_s: int


@dataclass(frozen=True, slots=True)
class ExtendWanted:
    """Requester: the agreement should last `extra_s` longer than its terms say, in all."""

    extra_s: int


@dataclass(frozen=True, slots=True)
class ExtensionSigned:
    """Requester: the provider agreed to last `extra_s` longer (its signature is verified)."""

    extra_s: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class ExtensionRefused:
    """Requester: the provider does not want to last longer."""

    reason: str


@dataclass(frozen=True, slots=True)
class Staged:
    """Provider: image, disk and inputs are in place."""


@dataclass(frozen=True, slots=True)
class Broke:
    """Provider: the work could not be staged or started."""

    reason: str


@dataclass(frozen=True, slots=True)
class Looked:
    """Provider: what the sandbox showed; `report` lacks what only the agreement knows."""

    report: Report
    metered_s: int


@dataclass(frozen=True, slots=True)
class Halted:
    """Provider: nothing of the work runs any more."""


@dataclass(frozen=True, slots=True)
class CheckpointTaken:
    """Provider: a checkpoint is in the blob store (None: there was nothing to take)."""

    checkpoint: Artifact | None


@dataclass(frozen=True, slots=True)
class Collected:
    """Provider: the results are in the blob store."""

    results: tuple[Artifact, ...]


@dataclass(frozen=True, slots=True)
class BeatMade:
    """Provider: a heartbeat was signed. Journaled before it is shown to anyone."""

    beat: Beat


@dataclass(frozen=True, slots=True)
class BeatTaken:
    """Provider: the requester has it."""

    sequence: int


@dataclass(frozen=True, slots=True)
class BeatHeard:
    """Requester: a heartbeat of the provider (verified)."""

    beat: Beat


@dataclass(frozen=True, slots=True)
class ContactFailed:
    """Requester: the provider did not answer when asked directly."""


@dataclass(frozen=True, slots=True)
class PayMade:
    """Requester: a voucher was signed. Journaled before it is shown to anyone."""

    pay: Pay


@dataclass(frozen=True, slots=True)
class PayTaken:
    """Requester: the provider has it."""

    amount: int
    last: bool


@dataclass(frozen=True, slots=True)
class PayHeard:
    """Provider: a voucher of the requester (verified)."""

    pay: Pay


@dataclass(frozen=True, slots=True)
class CheckpointPulled:
    """Requester: the checkpoint is here, checked by its hash."""

    checkpoint: Artifact


@dataclass(frozen=True, slots=True)
class LogPulled:
    """Requester: the job's output is here up to this offset."""

    offset: int


@dataclass(frozen=True, slots=True)
class ResultsPulled:
    """Requester: every result is here, checked by its hash."""


@dataclass(frozen=True, slots=True)
class NonceDrawn:
    """Requester: the unpredictable nonce of a challenge."""

    nonce: int


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """The contract refused an order; `order` is its name, `reason` the contract's error."""

    order: str
    reason: str


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """Provider: no trace of the work is left."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """Time has passed."""


Event = (
    Accepted
    | Acknowledged
    | Released
    | StopAsked
    | Staging
    | Preempted
    | UnitLost
    | ExtendWanted
    | ExtensionSigned
    | ExtensionRefused
    | Staged
    | Broke
    | Looked
    | Halted
    | CheckpointTaken
    | Collected
    | BeatMade
    | BeatTaken
    | BeatHeard
    | ContactFailed
    | PayMade
    | PayTaken
    | PayHeard
    | CheckpointPulled
    | LogPulled
    | ResultsPulled
    | NonceDrawn
    | OrderRefused
    | Scrubbed
    | Ticked
    | ChainFact
)
