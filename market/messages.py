"""Messages: the closed union of what peers say to one another, and the envelope it travels in.

Knows fields and bounds; signing, transport and meaning are elsewhere. `docs/PROTOCOL.md` is
generated from this file: each docstring is the protocol's text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Final

from market.codec import (
    U8,
    U16,
    U32,
    U40,
    U63,
    ChainSignature,
    Count,
    Hash,
    Id,
    PeerKey,
    Text64,
    Text256,
)
from market.limits import (
    ARGUMENT_BYTES_MAX,
    ARGUMENTS_MAX,
    ENVELOPE_BYTES_MAX,
    ENVS_MAX,
    FILES_MAX,
    LOG_READ_BYTES_MAX,
    NODES_MAX,
)
from market.terms import (
    Artifact,
    Demand,
    Extension,
    Heartbeat,
    Manifest,
    Offer,
    Sealed,
    Terms,
    Voucher,
)


class WorkState(Enum):
    """Where the provider's sandbox is with the job."""

    WAITING = "waiting"
    STAGING = "staging"
    RUNNING = "running"
    EXITED = "exited"
    BROKEN = "broken"  # not staged, not started, or its unit was lost; the report says why
    PREEMPTED = "preempted"  # its provider took the units back, as agreed; resume elsewhere


NO_MORE_WORK: Final = frozenset({WorkState.EXITED, WorkState.BROKEN, WorkState.PREEMPTED})
"""Nothing of the work runs any more, and nothing of it will."""
SLOWED: Final = "a GPU of it is slowed down"
"""How the reason of a running job's report begins while the driver throttles its GPU."""


@dataclass(frozen=True, slots=True)
class Offers:
    """Gossip, provider: its live offers, all of them; what is missing is withdrawn."""

    offers: Annotated[tuple[Offer, ...], Count(0, 16)]
    page: U16
    pages: U16


@dataclass(frozen=True, slots=True)
class Wanted:
    """Gossip, requester: a demand. It stands open, and is said again, until it expires."""

    demand: Demand


@dataclass(frozen=True, slots=True)
class Unwanted:
    """Gossip, requester: the demand is met or withdrawn; stop answering it."""

    demand_id: Id


@dataclass(frozen=True, slots=True)
class Quote:
    """Direct, provider to requester: a binding answer to a demand, backed by a hold on its units.

    `terms` are signed by the provider's operator key. The hold is kept until `hold_until_s`.
    """

    demand_id: Id
    offer: Offer
    terms: Terms
    provider_signature: ChainSignature
    image_cached: bool
    ready_in_ms: U32
    hold_until_s: U40


@dataclass(frozen=True, slots=True)
class Member:
    """One node of a gang, to the others: its agreement, its provider's key, and where the requester
    reaches it (a multiaddress that ends in the peer id; empty if it does not know)."""

    agreement: Hash
    peer: PeerKey
    address: Text256


@dataclass(frozen=True, slots=True)
class Accept:
    """Direct, requester to provider: the countersigned terms and what is to be run. `members` are
    the nodes of a gang by rank, all of them; empty without a gang."""

    agreement: Hash
    requester_signature: ChainSignature
    manifest: Manifest
    secrets: Annotated[tuple[Sealed, ...], Count(0, ENVS_MAX)]
    rank: U8 = 0  # of a gang: which node this is
    num_nodes: U8 = 1
    members: Annotated[tuple[Member, ...], Count(0, NODES_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Extend:
    """Direct, requester to provider: may the agreement last longer, for a larger deposit?

    Answered with `Extended`, or refused. What counts is the transaction that follows.
    """

    extension: Extension


@dataclass(frozen=True, slots=True)
class Extended:
    """Reply: the provider's signature over the same extension."""

    signature: ChainSignature


@dataclass(frozen=True, slots=True)
class Release:
    """Direct, requester to provider: the quote is not taken; free the hold now."""

    agreement: Hash


@dataclass(frozen=True, slots=True)
class Stop:
    """Direct, requester to provider: end the job; the grace of its manifest applies."""

    agreement: Hash
    reason: Text256


@dataclass(frozen=True, slots=True)
class Report:
    """What the provider says of the work. Its hash is signed in the heartbeat beside it."""

    work: WorkState
    exit_code: U16  # 0..255; meaningful when exited
    out_of_memory: bool
    reason: Text256
    cpu_ms: U63
    memory_bytes: U63
    gpu_ppm: U32
    log_bytes: U63
    checkpoint: Artifact | None
    checkpoint_step: U32  # how many checkpoints there were before this one
    results: Annotated[tuple[Artifact, ...], Count(0, FILES_MAX)]
    progress_ppm: U32 = 0  # the share of all its work that the job says is done; 0: it says nothing
    vram_mib: U32 = 0  # in use on its GPUs, in all
    power_w: U16 = 0  # drawn by its GPUs, in all; 0: not known


@dataclass(frozen=True, slots=True)
class Beat:
    """Direct, provider to requester: one heartbeat, signed for the chain, and its report."""

    heartbeat: Heartbeat
    signature: ChainSignature
    report: Report


@dataclass(frozen=True, slots=True)
class Pay:
    """Direct, requester to provider: a voucher, signed for the chain."""

    voucher: Voucher
    signature: ChainSignature


@dataclass(frozen=True, slots=True)
class Status:
    """Direct, requester to provider: are you there? Answered by the newest `Beat`, or `Done`."""

    agreement: Hash


@dataclass(frozen=True, slots=True)
class ReadLog:
    """Direct, requester to provider: the job's output from `offset` on. Answered with `LogPart`."""

    agreement: Hash
    offset: U63


@dataclass(frozen=True, slots=True)
class LogPart:
    """Reply: log bytes from `offset`; `more` says that there are further ones already."""

    offset: U63
    data: Annotated[bytes, Count(0, LOG_READ_BYTES_MAX)]
    more: bool


@dataclass(frozen=True, slots=True)
class Fetch:
    """First frame on a `blob` channel: send me this blob from `offset` on. Not enveloped: the
    channel itself is authenticated."""

    hash: Hash
    offset: U63


@dataclass(frozen=True, slots=True)
class Fetched:
    """Answer on a `blob` channel: the whole size; the bytes follow in frames. 0: not for you."""

    size_bytes: U63


@dataclass(frozen=True, slots=True)
class Dial:
    """First frame on a `tunnel` channel, requester to provider: connect me to this port of the
    job. Not enveloped: the channel itself is authenticated."""

    agreement: Hash
    port: U16


@dataclass(frozen=True, slots=True)
class Dialled:
    """Answer on a `tunnel` channel: an empty code, and the bytes follow in frames both ways, an
    empty frame being the end of one way; or why not: `not-running`, `not-listening`, `refused`."""

    code: Text64
    message: Text256


@dataclass(frozen=True, slots=True)
class Challenge:
    """First frame on a `challenge` channel, to a provider: multiply the matrices of this seed on
    that unit. Not enveloped: the channel itself is authenticated."""

    unit: U16
    uuid: Text64
    seed: Hash
    size: U32


@dataclass(frozen=True, slots=True)
class Committed:
    """Answer on a `challenge` channel: the Merkle root of the product's rows; or a code why not:
    `busy` (the unit is rented, or challenged already), `stale` (it was measured anew), `unknown`,
    `failed`."""

    code: Text64
    root: Hash
    compute_ms: U32


@dataclass(frozen=True, slots=True)
class Show:
    """Next frame on a `challenge` channel: show these rows."""

    rows: Annotated[tuple[U32, ...], Count(1, 64)]


@dataclass(frozen=True, slots=True)
class Shown:
    """For each row asked for, in order: its path to the root. A frame with the row itself follows,
    little-endian 32-bit numbers."""

    row: U32
    path: Annotated[tuple[Hash, ...], Count(0, 32)]


@dataclass(frozen=True, slots=True)
class Flow:
    """First frame on a `bandwidth` channel: send me so many bytes (`down`), or take them from me,
    in frames of any size. Not enveloped: the channel itself is authenticated."""

    down: bool
    size_bytes: U32


@dataclass(frozen=True, slots=True)
class Flowing:
    """Answer on a `bandwidth` channel: an empty code, and the bytes follow; or `busy`."""

    code: Text64


@dataclass(frozen=True, slots=True)
class Execute:
    """First frame on an `exec` channel, requester to provider: start this program in the job, with
    a terminal of so many columns and rows, or without (0). Not enveloped, as `Dial`."""

    agreement: Hash
    argv: Annotated[
        tuple[Annotated[str, Count(0, ARGUMENT_BYTES_MAX)], ...], Count(1, ARGUMENTS_MAX)
    ]
    columns: U16
    rows: U16


@dataclass(frozen=True, slots=True)
class Executing:
    """Answer on an `exec` channel: an empty code, and it runs; or why not: `not-running`,
    `refused`, `busy`. Each frame that follows begins with a letter. From the requester: `i` input,
    `e` its end, `r` a new window (columns and rows, two bytes each); from the provider: `o` output,
    `s` error output, and last `x` with the exit code in four bytes."""

    code: Text64
    message: Text256


@dataclass(frozen=True, slots=True)
class Join:
    """First frame on a `gang` channel, from the provider of one node of a gang to that of another,
    which knows it from `Accept.members`: packets for the job of this agreement follow. Rank r has
    the address 10.77.0.(r+1). A packet goes in if it is IPv4 without options, no fragment, TCP, UDP
    or ICMP "destination unreachable", from the sender's address to the receiver's. Not enveloped.
    """

    agreement: Hash  # the receiver's


@dataclass(frozen=True, slots=True)
class Joined:
    """Answer on a `gang` channel: an empty code, and frames follow from the one who asked, each of
    whole packets one after the other; nothing is sent back. Or why not: `not-running`, `refused`.
    """

    code: Text64
    message: Text256


@dataclass(frozen=True, slots=True)
class Sync:
    """Direct, on connect: the digests of live offers held here, for the other to fill gaps.

    Answered with `Synced`.
    """

    known: Annotated[tuple[Hash, ...], Count(0, 4096)]  # SHA-256 of sealings


@dataclass(frozen=True, slots=True)
class Synced:
    """Reply: sealings of live offers and demands that the asker did not name."""

    envelopes: Annotated[tuple[Annotated[bytes, Count(1, ENVELOPE_BYTES_MAX)], ...], Count(0, 512)]


@dataclass(frozen=True, slots=True)
class Done:
    """Reply: accepted."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Reply: not accepted, with a code a program reads and a sentence a person reads."""

    code: Text64
    message: Text256


Gossiped = Offers | Wanted | Unwanted
Request = Quote | Accept | Release | Extend | Stop | Beat | Pay | Status | ReadLog | Sync
Reply = Done | Refused | Extended | Beat | LogPart | Synced
Message = Gossiped | Request | Reply

KINDS: dict[str, type[Message]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Offers, Wanted, Unwanted),
        *(Quote, Accept, Release, Extend, Stop, Beat, Pay, Status, ReadLog, Sync),
        *(Done, Refused, Extended, LogPart, Synced),
    )
}
"""Every message by the word that names it in the envelope."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The signed part of every message: who says what, on which network, when and until when.

    `sequence` grows with each envelope of one author (Unix nanoseconds will do). `to` is the peer
    it is meant for, or 32 zero bytes when gossiped: a direct message cannot be shown to another.
    """

    version: U16
    network: Text64
    kind: Text64
    author: PeerKey
    to: PeerKey
    sequence: U63
    issued_at_ms: U63
    expires_at_ms: U63
    body: Annotated[bytes, Count(1, ENVELOPE_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Sealing:
    """What goes over the wire: the envelope's canonical bytes and an Ed25519 signature of them.

    The signature is over `b"gridsouk/envelope/1\\n"` followed by the envelope's bytes.
    """

    envelope: Annotated[bytes, Count(1, ENVELOPE_BYTES_MAX)]
    signature: Annotated[bytes, Count(64, 64)]
