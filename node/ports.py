"""Ports: the waist of the house. What the node needs from the world, in the market's own words.

`node/live.py` fills them with the real network, chain, sandbox and disk; `tests/simulation` with
simulated ones. Adapters hold no rules. Every method may be cancelled; those that may fail raise a
`MarketError` child named here, and never anything of the library beneath.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Container
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Protocol

from market.chainlog import EscrowEvent
from market.errands import Errand
from market.escrow import ChainFact, ChainOrder
from market.image import Reference
from market.reach import Target
from market.signing import Domain
from market.terms import Artifact, Manifest
from market.units import UnixTime

# The network.


@dataclass(frozen=True, slots=True)
class Heard:
    """One gossip message, its bytes still unverified.

    `via` is the peer that published it, proven by its signature on the frame, whoever relayed it:
    relaying happens before anybody looks inside, so blaming the relay would punish the honest.
    """

    topic: str
    data: bytes
    via: bytes


class Gossip(Protocol):
    """Broadcast to every peer that carries the topic; at most once, perhaps never."""

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand `data` to the mesh. Returns when queued; raises LimitError if it is too large."""

    def heard(self) -> AsyncIterator[Heard]:
        """Every message of the topics this node carries, until cancelled; never our own.

        A consumer that falls far behind loses the oldest, counted in `statistics()`.
        """

    def blame(self, via: bytes) -> None:
        """The peer published something malformed: a strike; enough and it is cut off."""


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """One connected peer: its key, address, and smoothed round trip (None: not yet measured)."""

    peer: bytes
    address: str
    outbound: bool
    rtt_us: int | None
    connected_at: UnixTime
    strikes: float = 0.0  # misbehaviour counted now; at the network's limit it is cut off
    relayed: bool = False  # every connection to it runs through a relay


@dataclass(frozen=True, slots=True)
class Reach:
    """How others reach this node (`reachable` None: not yet known), and whether it relays."""

    reachable: bool | None
    relays: tuple[bytes, ...] = ()  # through whom, while it is not reachable
    relaying: bool = False


class Channel(Protocol):
    """A framed two-way stream to one authenticated peer, with credit: `send` waits for the reader.

    Frames are at most CHUNK_BYTES. It is closed by leaving the `async with` it came from.
    """

    @property
    def peer(self) -> bytes:
        """The key of the peer at the other end, proven by the handshake."""

    async def send(self, frame: bytes) -> None:
        """Queue one frame. Raises UnreachableError if the peer is gone."""

    async def receive(self) -> bytes | None:
        """The next frame, or None once the peer has closed. Raises UnreachableError if it died."""


Answerer = Callable[[bytes, bytes], Awaitable[bytes]]
"""(peer, request bytes) -> reply bytes. It must not raise for anything a peer may send."""

ChannelHandler = Callable[[Channel], Awaitable[None]]


class Link(Protocol):
    """Direct conversation with one peer, authenticated by its Ed25519 key."""

    def answer(self, answerer: Answerer) -> None:
        """Set, once and before the network runs, who answers requests."""

    def accept(self, protocol: str, handler: ChannelHandler) -> None:
        """Set, once and before the network runs, who serves channels of this protocol."""

    async def request(self, peer: bytes, data: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for the reply (each at most ENVELOPE_BYTES_MAX).

        Raises UnreachableError on no route, no answer in time, or a broken stream.
        """

    def open(self, peer: bytes, protocol: str) -> AbstractAsyncContextManager[Channel]:
        """A channel of `protocol` to `peer`. Entering raises UnreachableError."""

    async def connect(self, address: str) -> bytes:
        """Dial a multiaddress that names its peer; returns the peer's key. UnreachableError."""

    def peers(self) -> tuple[PeerInfo, ...]:
        """Who is connected now, by key."""

    def address(self, peer: bytes) -> str:
        """Where another node might reach a peer that is connected here; empty if that is not known.

        At most 256 bytes, and the address ends in the peer's id.
        """

    def joined(self) -> AsyncIterator[bytes]:
        """The key of each peer as it connects, from now on."""

    def addresses(self) -> tuple[str, ...]:
        """Where others can dial this node, each ending in its peer id."""

    def reach(self) -> Reach:
        """Whether others can dial this node, and through which relays if they cannot."""

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics: messages, duplicates, invalid, bytes, peers."""


# The chain.


@dataclass(frozen=True, slots=True)
class ChainBatch:
    """Confirmed facts, in chain order, up to and including block `block` of time `at_s`."""

    block: int
    at_s: int
    facts: tuple[ChainFact, ...]


@dataclass(frozen=True, slots=True)
class Account:
    """What the escrow holds for one wallet, in base units, and what its operator may use."""

    wallet: bytes
    free: int
    stake: int  # staked and not locked by an agreement
    locked: int  # stake locked by agreements
    thawing: int
    thaws_at_s: int
    operator_allowance: int
    operator_expires_at_s: int
    tokens: int  # in the wallet itself
    gas: int  # native coin of the operator key, wei
    units: int  # bitmap of the wallet's taken units


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Which contract this node trades on, and the rules it was deployed with."""

    domain: Domain
    token: bytes
    symbol: str
    decimals: int
    window_min_s: int
    claim_window_min_s: int
    explorer: str


@dataclass(frozen=True, slots=True)
class ChainHealth:
    """How the chain looks from here; `waiting_for` is empty, and `since` 0, while all is well."""

    head: int  # the newest block seen
    head_at_s: int  # its own time
    waiting_for: str
    since: UnixTime


class Chain(Protocol):
    """The escrow contract, as the market sees it."""

    @property
    def info(self) -> ChainInfo:
        """Fixed after start-up."""

    async def submit(self, order: ChainOrder) -> bytes:
        """Send it, wait until it is mined, return the transaction hash.

        Safe to repeat: an order already carried out raises ChainRefusedError, whose `reason` is
        the contract's error name. Raises ChainError if the chain cannot be reached or is too slow.
        """

    def facts(self, after_block: int) -> AsyncIterator[ChainBatch]:
        """Every confirmed batch after that block, for ever; also empty ones, as time signals.

        Facts come once each, in order, at the network's depth, and are never taken back.
        """

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger of one wallet, as of the newest block. Raises ChainError."""

    async def spendable(self, wallet: bytes, operator: bytes) -> int:
        """What the operator may lock of the wallet's free balance now, in base units. ChainError.

        Cheaper than `account`: a provider asks it of strangers.
        """

    async def history(self, wallet: bytes) -> tuple[EscrowEvent, ...]:
        """All that ever happened to the wallet and its agreements, in chain order, up to now.

        Raises ChainError.
        """

    def health(self) -> ChainHealth:
        """What the node waits for, if the chain keeps it waiting. Asks nobody."""


@dataclass(frozen=True, slots=True)
class Unsigned:
    """A call for a wallet to sign and send: where to, and its calldata."""

    to: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a transaction: `block` 0 means not mined; `problem` is the revert's name."""

    known: bool
    block: int
    problem: str


class Errands(Protocol):
    """What a cold wallet may be asked to do. The node prepares and watches; it never signs."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The chain's RPC endpoints, for a wallet that does not know the chain."""

    def unsigned(self, errand: Errand) -> Unsigned:
        """The call that carries it out. Raises SignatureError for a misshapen permit."""

    async def refusal(self, wallet: bytes, unsigned: Unsigned) -> str:
        """What the chain would refuse it with now, by name; empty if nothing. ChainError."""

    async def permit(self, wallet: bytes, amount: int) -> dict[str, Any] | None:
        """Typed data that lets the escrow take tokens (EIP-2612); None if the token cannot."""

    async def outcome(self, tx: bytes) -> Outcome:
        """What became of a transaction. Raises ChainError."""

    async def vouch(self, wallet: bytes, digest: bytes, signature: bytes) -> None:
        """Ask the contract at `wallet` whether that signature is its own (ERC-1271).

        Raises SignatureError, in words for its owner, unless it says so; ChainError.
        """


# The sandbox.


class RunState(Enum):
    """What the sandbox finds when it looks."""

    ABSENT = "absent"
    PREPARED = "prepared"
    RUNNING = "running"
    EXITED = "exited"


@dataclass(frozen=True, slots=True)
class Observed:
    """One look at one job. `metered_s` counts the seconds its container has run, over restarts.

    The seconds of a pause are not among them. What cannot be read is 0, or None for a sensor.
    """

    state: RunState
    metered_s: float = 0.0
    exit_code: int = 0
    signal: int = 0
    out_of_memory: bool = False
    timed_out: bool = False
    lost: bool = False  # nobody wrote how it ended: its machine or its shim died
    cpu_ms: int = 0
    memory_bytes: int = 0
    gpu_ppm: int = 0  # the mean load of its GPUs
    progress_ppm: int = 0  # of all its work, as the job itself wrote; 0: it wrote nothing
    log_bytes: int = 0
    paused: bool = False
    throttled_ms: int = 0  # how long its programs waited because their CPU quota was used up
    pids: int = 0
    vram_mib: int = 0  # used on its GPUs, in all
    power_w: int | None = None  # of its GPUs, in all
    temperature_c: int | None = None  # of the hottest


@dataclass(frozen=True, slots=True)
class Terminal:
    """The window of somebody who watches a program run."""

    columns: int = 80
    rows: int = 24


class Stream(Enum):
    """Which of a program's outputs. With a terminal there is only OUT."""

    OUT = "stdout"
    ERR = "stderr"


class Pipe(Protocol):
    """A two-way stream of bytes. It is closed by leaving the `async with` it came from."""

    async def send(self, data: bytes) -> None:
        """All of it. Raises SandboxError if the other end is gone."""

    async def receive(self, limit: int) -> bytes:
        """Between 1 and `limit` bytes; none at the end. Raises SandboxError if it broke."""

    async def close_write(self) -> None:
        """No more will be sent; the other end reads an end, and may go on talking."""


class Interface(Protocol):
    """A job's network interface among the nodes of its gang: whole IP packets, unchecked.

    It is let go by leaving the `async with` it came from; the job keeps it.
    """

    async def receive(self) -> bytes:
        """The next packet that the job sends. Raises SandboxError once the job is gone."""

    def receive_nowait(self) -> bytes | None:
        """One that is there already, or None. Raises SandboxError."""

    def send(self, packet: bytes) -> None:
        """Hand the job a packet; its kernel may drop it. Raises SandboxError."""


class Listener(Protocol):
    """Connections that a job makes to one of its own ports, which we hold."""

    async def accept(self) -> AbstractAsyncContextManager[Pipe]:
        """The next one. Raises SandboxError once there will be no more."""


class Outside(Protocol):
    """The network beyond this machine, as far as jobs may reach it."""

    def connect(self, target: Target) -> AbstractAsyncContextManager[Pipe]:
        """A TCP connection. A name is resolved here, and private addresses behind it refused; an
        address written as such is taken as it is, since the owner wrote it.

        Entering raises UnreachableError or RefusedError.
        """


class Execution(Protocol):
    """A program started in a running job, beside its own. Leaving its `async with` kills it."""

    async def send(self, data: bytes) -> None:
        """To its standard input. Raises SandboxError if it reads no more."""

    async def close_write(self) -> None:
        """Its standard input ends here. With a terminal this does nothing: type Ctrl-D."""

    async def receive(self) -> tuple[Stream, bytes] | None:
        """What it said next, at most CHUNK_BYTES; None once it has closed its outputs."""

    async def resize(self, terminal: Terminal) -> None:
        """Its window has another size now; nothing without a terminal."""

    async def wait(self) -> int:
        """Its exit code, once it has ended; 128 + n if signal n ended it."""


GANG_NETWORK: Final = "gang network"
"""The name of the check that a node must pass to be one of several nodes of a job."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing a machine must have or be, in a doctor's words.

    A node does not sell while a critical check is not ok. `sentence` says what was found, `fix`
    what to do about it, empty where nothing need be done.
    """

    name: str
    ok: bool
    critical: bool
    sentence: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Workspace:
    """What to run and where: the job's own name in the sandbox, its manifest and its units.

    `secrets` are opened variables, kept in memory only. Artifacts named by the manifest must be in
    the blob store before `prepare`. `address` is the job's own among the nodes of its gang (see
    market/overlay); without one it has no network but its loopback.
    """

    work_id: str
    manifest: Manifest
    units: tuple[int, ...]
    secrets: tuple[tuple[str, str], ...] = ()
    address: str = ""


class Sandbox(Protocol):
    """Runs strangers' code. Each call is safe to repeat; work outlives the node."""

    async def prepare(self, workspace: Workspace) -> None:
        """Image, quota'd disk, inputs and the checkpoint to resume, in place. SandboxError."""

    async def start(self, work_id: str) -> None:
        """Start what was prepared; nothing if it runs or has run. SandboxError."""

    async def observe(self, work_id: str) -> Observed:
        """Look. Never raises for a work id it does not know: the state is ABSENT."""

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """At most `limit` bytes of the job's output from `offset`; empty if there are none yet."""

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """A consistent tar of the checkpoint directory into the blob store; None if it is empty.

        The same content gives the same hash. Raises SandboxError if it cannot be read safely.
        """

    async def collect(self, work_id: str) -> tuple[Artifact, ...]:
        """The job's outputs into the blob store, links and devices refused. SandboxError."""

    async def stop(self, work_id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when nothing of it runs."""

    async def pause(self, work_id: str) -> None:
        """Stop all its programs in their tracks, and its meter. Safe to repeat. SandboxError."""

    async def resume(self, work_id: str) -> None:
        """Let a paused job go on. Nothing if it is not paused. SandboxError."""

    def connect(self, work_id: str, port: int) -> AbstractAsyncContextManager[Pipe]:
        """A TCP connection to what listens on 127.0.0.1:`port` inside the job.

        Entering raises SandboxError if the job does not run or nothing listens there.
        """

    def listen(self, work_id: str, port: int) -> AbstractAsyncContextManager[Listener]:
        """Take connections that the job makes to 127.0.0.1:`port`, inside it.

        Entering raises SandboxError if the job does not run or the port is taken.
        """

    def interface(self, work_id: str) -> AbstractAsyncContextManager[Interface]:
        """The network interface of a job that was prepared with an address. One holder at a time.

        Entering raises SandboxError if the job does not run or has none.
        """

    def execute(
        self, work_id: str, argv: tuple[str, ...], terminal: Terminal | None = None
    ) -> AbstractAsyncContextManager[Execution]:
        """Start a program in the running job, as confined as the job, with its variables.

        Entering raises SandboxError if the job does not run or is paused. A program that is not
        there is no error here but exit code 127, as a shell would say.
        """

    async def extend(self, work_id: str, max_duration_s: int) -> None:
        """Let it run for so many seconds in all, if that is longer than it may. SandboxError."""

    async def scrub(self, work_id: str) -> None:
        """Remove every trace: disk, mounts, cgroups, logs. Stops it first."""

    async def prune(self) -> int:
        """Remove what is unpacked of images that no work here uses; returns bytes freed."""

    async def works(self) -> tuple[str, ...]:
        """Every work id the sandbox knows, to re-adopt after a restart."""

    async def preflight(self) -> tuple[Check, ...]:
        """Whether this machine can run strangers' code: its parts, its limits, the escape probe.

        Takes seconds. Never raises for what it finds; that is what the checks say.
        """


# The machine.


@dataclass(frozen=True, slots=True)
class Unit:
    """One rentable slot. `index` is its bit in the provider's unit map."""

    index: int
    name: str  # the GPU's model, or CPU
    uuid: str  # of the GPU or MIG slice; empty for a CPU slot
    ram_mib: int
    declared: bool
    cuda_vers: int = 0
    driver_version: str = ""
    pcie_gen: int = 0  # the fastest link of card and slot; 0: not known
    pcie_lanes: int = 0


@dataclass(frozen=True, slots=True)
class UnitHealth:
    """The state of one unit now; None where it cannot be read."""

    index: int
    healthy: bool
    reason: str
    utilisation_ppm: int | None
    memory_used_mib: int | None
    temperature_c: int | None
    power_w: int | None
    processes: int | None = None  # that compute on it now
    throttled: str = ""  # why it runs slower than it could, in words


class Devices(Protocol):
    """The machine's units, found by a driver or declared by their owner."""

    def units(self) -> tuple[Unit, ...]:
        """All rentable slots, by index."""

    def health(self) -> tuple[UnitHealth, ...]:
        """One look at each, by index."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one unit was measured to do; see `market.certificate` for the units of measure."""

    fp32_gflops: int
    fp16_gflops: int
    int8_gops: int
    memory_mbps: int
    pcie_mbps: int
    disk_mbps: int
    vram_mib: int  # taken, written and read back; 0 on a CPU
    library: str


@dataclass(frozen=True, slots=True)
class Commitment:
    """The root of a product's rows, and how long it took, in milliseconds."""

    root: bytes
    compute_ms: int


class Product(Protocol):
    """A challenge's product, computed and committed to."""

    commitment: Commitment

    async def show(self, rows: tuple[int, ...]) -> tuple[tuple[int, tuple[bytes, ...], bytes], ...]:
        """Those rows, once: (index, path to the root, the row's bytes). SandboxError."""


class Bench(Protocol):
    """Measures units, in processes of their own. A unit is named by its GPU's UUID or `cpu-N`."""

    async def measure(self, uuid: str, ram_mib: int) -> Measured:
        """Its rates, and how much of `ram_mib` it gives. Takes seconds and all of the unit.

        Raises SandboxError.
        """

    def product(
        self, uuid: str, seed: bytes, size: int, limit_s: float
    ) -> AbstractAsyncContextManager[Product]:
        """Multiply the matrices of `market.product`. Entering raises SandboxError."""


class Blobs(Protocol):
    """Content-addressed bytes on this machine's disk: images, inputs, checkpoints, results."""

    async def size(self, hash_: bytes) -> int | None:
        """Bytes of a complete blob, or None."""

    async def partial(self, hash_: bytes) -> int:
        """Bytes received so far of an incomplete blob: where to resume; 0 if there are none."""

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        """A part of a complete blob; empty past its end. Raises NotFoundError."""

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        """Add to an incomplete blob; `offset` must be what `partial` says. LimitError."""

    async def finish(self, hash_: bytes) -> int:
        """Check the hash and keep it; on a mismatch discard it and raise IntegrityError."""

    async def put(self, data: bytes) -> bytes:
        """Keep small bytes; returns their hash."""

    async def put_file(self, path: str) -> tuple[bytes, int]:
        """Keep a file's bytes; returns hash and size."""

    async def export(self, hash_: bytes, path: str) -> None:
        """Write a complete blob to a file, replacing it in one step. Raises NotFoundError."""

    async def lend(self, hash_: bytes, path: str) -> None:
        """Make a complete blob readable at `path`, where nothing is yet, without a copy if the
        disk allows. Whoever gets it must not write to it. Raises NotFoundError."""

    async def discard(self, hash_: bytes) -> None:
        """Forget a blob, complete or not."""

    def keep(self, needed: Callable[[], Container[bytes]]) -> None:
        """Set, once: which blobs must stay when room is made, asked each time it is."""


class Registry(Protocol):
    """Where images come from that no peer has: OCI registries, reached under this node's rules."""

    def for_others(self) -> Registry:
        """As it is asked for the jobs of others: without what only its owner may have."""

    def is_open(self, reference: Reference) -> bool:
        """Whether the host is asked without credentials: what it gives is anybody's."""

    async def manifest(self, reference: Reference) -> bytes:
        """The manifest or index behind a digest (checked) or, without one, a tag.

        Raises NotFoundError, RefusedError if this node may not have it or may not go there,
        IntegrityError, UnreachableError.
        """

    def blob(
        self, reference: Reference, digest: bytes, offset: int
    ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """The bytes of one of the image's blobs from `offset` on, unchecked. Raises likewise,
        LimitError if there are none from there on."""


class Logs(Protocol):
    """The output of this node's own jobs, as fetched, kept after they end."""

    async def append(self, job: bytes, offset: int, data: bytes) -> None:
        """Add output; what lies before the end already is skipped, a gap is filled with nothing."""

    async def read(self, job: bytes, offset: int, limit: int) -> bytes:
        """At most `limit` bytes from `offset`; empty at the end."""

    async def size(self, job: bytes) -> int:
        """How many bytes there are."""


# The node itself.


@dataclass(frozen=True, slots=True)
class Write:
    """One change of the journal: the value of (table, key) is now `data`, or is gone (None)."""

    table: str
    key: bytes
    data: bytes | None


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line of a subject's story: what was learnt or done, when."""

    at: UnixTime
    subject: bytes
    kind: str
    text: str


class Journal(Protocol):
    """The node's memory. What `commit` returned from is there after a power cut."""

    async def load(self) -> tuple[Write, ...]:
        """Every live value, in (table, key) order."""

    async def commit(self, writes: tuple[Write, ...], log: tuple[LogLine, ...]) -> None:
        """All or nothing."""

    async def story(self, subject: bytes, limit: int) -> tuple[LogLine, ...]:
        """The newest lines about one agreement or job, oldest first."""


class Signer(Protocol):
    """The node's two keys: Ed25519 among peers, secp256k1 (the operator) towards the chain."""

    @property
    def peer(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""

    @property
    def operator(self) -> bytes:
        """The operator's address, 20 bytes."""

    def sign(self, data: bytes) -> bytes:
        """An Ed25519 signature, 64 bytes."""

    def sign_digest(self, digest: bytes) -> bytes:
        """A chain signature r, s, v of 65 bytes, low s, v 27 or 28."""

    def seal_for(self, peer: bytes, data: bytes) -> bytes:
        """A sealed box (X25519) that only `peer` can open."""

    def unseal(self, box: bytes) -> bytes:
        """Open a sealed box meant for `peer`. Raises SignatureError."""


class Clock(Protocol):
    """Wall-clock time."""

    def now(self) -> UnixTime:
        """Seconds since 1970."""


class Entropy(Protocol):
    """Randomness nobody can guess."""

    def token(self, size: int) -> bytes:
        """So many random bytes."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Everything a node is given."""

    gossip: Gossip
    link: Link
    chain: Chain
    sandbox: Sandbox
    devices: Devices
    bench: Bench
    blobs: Blobs
    registry: Registry
    outside: Outside
    logs: Logs
    journal: Journal
    signer: Signer
    clock: Clock
    entropy: Entropy
    errands: Errands | None = None  # None: this chain takes none from a page
