"""Certificate: what a unit was measured to do, signed by its provider, for a while.

The values, and what follows from them: the speed in an offer, how large a challenge may be, how
long its answer may take. Whether a claim is true is found out by challenging it (`product`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Final, TypeVar

from market.codec import U16, U32, U40, Count, PeerKey, Text64, encode

Rates = TypeVar("Rates", bound=Any)
PREFIX: Final = b"gridsouk/certificate/1\n"
LIFETIME_S: Final = 7 * 24 * 3600  # drivers, cooling and neighbours change within weeks
REFERENCE_GFLOPS: Final = 142_000  # dense FP16 tensor of the reference GPU, as in `throughput`
REFERENCE_MBPS: Final = 936_000  # its memory bandwidth, MB/s
DISCOUNT: Final = 0.9  # of the median measured is claimed: an honest unit has room to be slower

SIZE_MIN: Final = 512
SIZE_MAX: Final = 131_072  # a row of the product is then one frame of a channel
GPU_TARGET_S: Final = 8.0  # what a challenge costs the challenged, at the claimed speed
CPU_TARGET_S: Final = 1.0
MEMORY_SHARE: Final = 0.8  # of the claimed memory that a GPU's challenge fills, time permitting
BYTES_PER_ENTRY: Final = 12  # three matrices of 32-bit numbers
SLACK: Final = 2.0  # an answer may take so many times what was claimed
OVERHEAD_S: Final = 3.0  # a process is started, the matrices made, the rows hashed
MAKING_NS: Final = 60.0  # to make one entry of both matrices on a slow host

HISTORY: Final = 5  # the latest timed challenges that count
LATE_MAX: Final = 2  # so many of them may have been late


class Standing(Enum):
    """What this node has found out about a claim."""

    UNKNOWN = "unknown"  # never challenged, or too long ago
    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One unit's measured speed. Rates are whole, 0 where there is none.

    GFLOP/s (int8: GOP/s) of dense matrix products, MB/s of memory, PCIe and disk, kbit/s of the
    network. `uuid` is the GPU's own, or `cpu-N` for a CPU slot.
    """

    peer: PeerKey
    unit: U16
    uuid: Text64
    name: Text64
    ram_mib: U32
    fp32_gflops: U32
    fp16_gflops: U32
    int8_gops: U32
    memory_mbps: U32
    pcie_mbps: U32
    disk_mbps: U32
    inet_up_kbps: U32
    inet_down_kbps: U32
    library: Text64
    measured_at_s: U40
    expires_at_s: U40


@dataclass(frozen=True, slots=True)
class Certified:
    """A certificate and its provider's Ed25519 signature.

    The signature is over `b"gridsouk/certificate/1\\n"` and the certificate's canonical bytes.
    """

    certificate: Certificate
    signature: Annotated[bytes, Count(64, 64)]


@dataclass(frozen=True, slots=True)
class Tried:
    """One challenge that was answered, or should have been. `right`: every revealed row was."""

    at_s: U40
    right: bool
    in_time: bool


@dataclass(frozen=True, slots=True)
class History:
    """The latest challenges of one unit, the newest last. Journaled as it stands."""

    tries: Annotated[tuple[Tried, ...], Count(0, 5)]


def signed_bytes(certificate: Certificate) -> bytes:
    """What the signature is over."""
    return PREFIX + encode(certificate)


def discounted(measured: Rates) -> Rates:
    """What is claimed of what was measured: less, so that an honest unit can be a little slower."""
    speeds = ("fp32_gflops", "fp16_gflops", "int8_gops", "memory_mbps", "pcie_mbps")
    return replace(measured, **{name: int(getattr(measured, name) * DISCOUNT) for name in speeds})


def dlperf_milli(certificate: Certificate) -> int:
    """Thousandths of the reference GPU: the geometric mean of arithmetic and memory bandwidth."""
    gflops = max(certificate.fp32_gflops, certificate.fp16_gflops)
    share = gflops / REFERENCE_GFLOPS * certificate.memory_mbps / REFERENCE_MBPS
    return max(1, round(1000 * math.sqrt(share)))


def size_of(certificate: Certificate) -> int:
    """Rows of the square matrices a challenge multiplies: what memory holds and time allows."""
    on_gpu = not certificate.uuid.startswith("cpu-")
    target_s = GPU_TARGET_S if on_gpu else CPU_TARGET_S
    by_time = (max(1, certificate.fp32_gflops) * 1e9 * target_s / 2) ** (1 / 3)
    by_memory = math.sqrt(certificate.ram_mib * 2**20 * MEMORY_SHARE / BYTES_PER_ENTRY)
    size = min(by_time, by_memory) if certificate.ram_mib else by_time
    return int(max(SIZE_MIN, min(SIZE_MAX, size))) // 64 * 64


def allowed_s(certificate: Certificate, size: int, rtt_s: float) -> float:
    """How long an answer may take: what was claimed, with slack, and what is not arithmetic."""
    product_s = 2 * size**3 / (max(1, certificate.fp32_gflops) * 1e9)
    making_s = size * size * MAKING_NS * 1e-9
    return SLACK * (product_s + making_s) + OVERHEAD_S + 2 * rtt_s


def standing(history: tuple[Tried, ...], now: float) -> Standing:
    """What the latest challenges say.

    A wrong answer fails at once, since an honest unit gives none: the arithmetic is exact. Late
    ones fail from the third of the last five on. If an honest unit is late by chance with
    probability e, independently, that is 10 e^3 at most: 1e-5 for one in a hundred.
    """
    live = [tried for tried in history if tried.at_s + LIFETIME_S > now][-HISTORY:]
    if not live:
        return Standing.UNKNOWN
    late = sum(not tried.in_time for tried in live)
    if late > LATE_MAX or not all(tried.right for tried in live):
        return Standing.FAILED
    return Standing.PASSED if live[-1].in_time else Standing.UNKNOWN


def false_alarm(late: float) -> float:
    """The chance that `standing` fails an honest unit that is late with probability `late`."""
    return sum(
        math.comb(HISTORY, k) * late**k * (1 - late) ** (HISTORY - k)
        for k in range(LATE_MAX + 1, HISTORY + 1)
    )
