"""Terms: what is offered, demanded and agreed. The waist of the house: everything speaks of these.

Values only; they know no signature, clock, book or network. One unit per field, named last.
Money is base units of the settlement token; a price is base units per unit-hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Annotated

from market.certificate import Certified
from market.codec import (
    I32,
    U8,
    U16,
    U32,
    U40,
    U48,
    U63,
    U96,
    U256,
    Address,
    Count,
    Hash,
    Id,
    PeerKey,
    Text64,
    Text256,
)
from market.limits import (
    ACCELERATOR_CHOICES_MAX,
    CACHED_IMAGES_MAX,
    COMMAND_BYTES_MAX,
    EGRESS_MAX,
    ENV_BYTES_MAX,
    ENVS_MAX,
    FILES_MAX,
    NODES_MAX,
    REGIONS_MAX,
)

NOBODY: bytes = bytes(20)


class Workload(Enum):
    """What kind of work a job is; it chooses the row of the throughput table."""

    TRAINING = "training"
    INFERENCE = "inference"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class Coordinate:
    """A Vivaldi network coordinate with height; all lengths are microseconds of round trip.

    Source: Dabek et al., SIGCOMM 2004; two dimensions and a height, as in the paper's section 5.4.
    """

    x_us: I32 = 0
    y_us: I32 = 0
    height_us: U32 = 0
    error_ppm: U32 = 1_000_000


@dataclass(frozen=True, slots=True)
class Offer:
    """What a provider sells: `units` equal rentable slots on one machine, at one price.

    `gpu_ram_mib`, `cpu_cores`, `cpu_ram_mib` and `disk_space_mib` are per unit. `dlperf_milli` is
    the certified throughput in thousandths of the reference GPU (0: never measured). A `declared`
    unit was typed by its owner, not found by a driver, and is never sold as a real GPU.
    """

    offer_id: Id
    peer: PeerKey
    provider: Address
    operator: Address
    gpu_name: Text64
    num_gpus: U16  # units free now, out of num_units
    num_units: U16
    gpu_ram_mib: U32
    cuda_vers: U16  # 1204 is CUDA 12.4, 0 none
    driver_version: Text64
    declared: bool
    verified: bool
    dlperf_milli: U32
    cpu_cores: U16
    cpu_ram_mib: U32
    disk_space_mib: U32
    inet_up_kbps: U32
    inet_down_kbps: U32
    geolocation: Text64
    reliability_ppm: U32
    price_per_hour: U96  # per unit
    collateral_per_unit: U96
    min_duration_s: U32
    max_duration_s: U32
    heartbeat_interval_s: U16
    preemptible: bool
    grace_s: U16
    queue_wait_s: U32
    start_up_ms: U32
    coordinate: Coordinate
    cached_images: Annotated[tuple[Hash, ...], Count(0, CACHED_IMAGES_MAX)]
    expires_at_s: U40
    egress: Annotated[tuple[Text256, ...], Count(0, EGRESS_MAX)] = ()  # host:port a job may reach
    certificate: Certified | None = None  # of its slowest unit


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`count` units of the model `name`; `*` takes any GPU, `CPU` a unit without one."""

    name: Text64
    count: U16


@dataclass(frozen=True, slots=True)
class Requirements:
    """What an offer must have: hard constraints, each removing offers. Zero or empty: no demand.

    `accelerators` is an any-of list; sizes are per unit, but `disk_mib` is for the whole job.
    """

    accelerators: Annotated[tuple[Accelerator, ...], Count(1, ACCELERATOR_CHOICES_MAX)]
    vram_mib: U32 = 0
    cpus: U16 = 0
    memory_mib: U32 = 0
    disk_mib: U32 = 0
    cuda_vers: U16 = 0
    regions: Annotated[tuple[Text64, ...], Count(0, REGIONS_MAX)] = ()
    max_rtt_us: U32 = 0
    min_reliability_ppm: U32 = 0
    verified: bool = False
    real: bool = False  # refuse declared units
    egress: Annotated[tuple[Text256, ...], Count(0, EGRESS_MAX)] = ()  # host:port it must reach


@dataclass(frozen=True, slots=True)
class Demand:
    """A job's broadcast form: requirements plus a bid.

    The bid is `max_price_per_hour` (per unit) and `value_of_time_per_hour`, the price of an hour of
    waiting for the whole job. `estimate_s` is the requester's own guess of the running time on the
    reference GPU (0: unknown). `job` is the hash of the manifest to be run.
    """

    demand_id: Id
    job_id: Id
    round: U16
    peer: PeerKey
    requester: Address
    operator: Address
    requirements: Requirements
    max_price_per_hour: U96
    value_of_time_per_hour: U96
    workload: Workload
    estimate_s: U32
    max_duration_s: U32
    deadline_at_s: U40
    priority: U8
    num_nodes: U8
    preemptible: bool
    checkpoint_interval_s: U32
    image: Hash
    image_bytes: U40
    input_bytes: U40
    output_bytes: U40
    job: Hash
    token: Address
    slash_bps: U16
    exclude: Annotated[tuple[PeerKey, ...], Count(0, NODES_MAX)]  # providers that failed this job
    coordinate: Coordinate
    quote_by_ms: U63  # Unix milliseconds: answers after it are wasted
    expires_at_s: U40


@dataclass(frozen=True, slots=True)
class Parties:
    """Who agrees: cold wallets, the hot keys that sign for them, the token, an optional arbiter."""

    requester: Address
    provider: Address
    requester_signer: Address
    provider_signer: Address
    token: Address
    arbiter: Address


@dataclass(frozen=True, slots=True)
class Money:
    """The amounts of an agreement, in base units, and the shares of a slash, in basis points."""

    deposit: U96
    collateral: U96
    price_per_hour: U96  # per unit
    bond: U96
    slash_bps: U16
    victim_share_bps: U16
    equivocation_bps: U16


@dataclass(frozen=True, slots=True)
class Timing:
    """The clocks of an agreement: `open_by_s` is Unix seconds, all others are spans in seconds."""

    open_by_s: U40
    duration_s: U32
    start_grace_s: U32
    window_s: U32
    claim_window_s: U32
    offline_allowance_s: U32
    arbiter_window_s: U32


@dataclass(frozen=True, slots=True)
class Terms:
    """What both sign (EIP-712). `units` is a bitmap of the provider's 256 slots, `job` a hash.

    Made once, by the provider when it quotes, and carried from then on; never rebuilt.
    """

    parties: Parties
    money: Money
    timing: Timing
    units: U256
    job: Hash
    salt: Hash

    @property
    def unit_count(self) -> int:
        """How many units the bitmap names."""
        return self.units.bit_count()


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file or a tar named by the SHA-256 of its bytes; `path` is where the job sees it."""

    path: Text256
    hash: Hash
    size_bytes: U40


@dataclass(frozen=True, slots=True)
class Env:
    """One environment variable of a job."""

    name: Text256
    value: Annotated[str, Count(0, ENV_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A secret variable, sealed (X25519 sealed box) to the provider's peer key."""

    name: Text256
    box: Annotated[bytes, Count(48, ENV_BYTES_MAX)]


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a provider needs to run the job once. Its hash is `Demand.job` and `Terms.job`.

    `image`: a path like `host/name@sha256:HASH` is an image in registries, with that hash; any
    other is an archive that the requester serves, one tar that is an OCI image layout. Sizes that
    are 0 are those of the units. `outputs` are files or directories, whole paths in the job; what
    is there at the end is named in the last report, a directory's files one by one, or as one tar
    with a path that ends in `/` if they are many. `resume` is the checkpoint to start from. Secrets
    are not part of it: they are sealed to the winner only and travel beside it.
    """

    job_id: Id
    name: Text64
    workload: Workload
    image: Artifact
    command: Annotated[str, Count(1, COMMAND_BYTES_MAX)]  # run by /bin/sh -c
    envs: Annotated[tuple[Env, ...], Count(0, ENVS_MAX)]
    inputs: Annotated[tuple[Artifact, ...], Count(0, FILES_MAX)]
    outputs: Annotated[tuple[Text256, ...], Count(0, FILES_MAX)]
    checkpoint_path: Text256  # a directory in the job; empty: the job keeps none
    checkpoint_interval_s: U32
    resume: Artifact | None
    cpus: U16
    memory_mib: U32
    disk_mib: U32
    max_duration_s: U32
    grace_s: U16  # between SIGTERM and SIGKILL
    ports: Annotated[tuple[U16, ...], Count(0, 16)]
    egress: Annotated[tuple[Text256, ...], Count(0, EGRESS_MAX)] = ()  # host:port, sold beside it


@dataclass(frozen=True, slots=True)
class Voucher:
    """The requester's cumulative promise (EIP-712). `last`: the agreement may end at this amount.

    `ack` is the hash of the newest heartbeat it answers.
    """

    agreement: Hash
    amount: U96
    ack: Hash
    last: bool


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The provider's statement of progress (EIP-712). `state` is the hash of its `Report`.

    `challenge` is 0, or the nonce of the chain's challenge that it answers.
    """

    agreement: Hash
    sequence: U63
    at_s: U40
    metered_s: U32
    challenge: U48
    state: Hash


@dataclass(frozen=True, slots=True)
class Extension:
    """What is added to an agreement's deposit and duration, in all so far (EIP-712)."""

    agreement: Hash
    deposit: U96
    duration_s: U32


@dataclass(frozen=True, slots=True)
class Settlement:
    """A cooperative end both sign (EIP-712): what is paid and what is slashed."""

    agreement: Hash
    paid: U96
    slashed: U96
