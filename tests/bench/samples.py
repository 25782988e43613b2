"""Samples: offers and demands like those of a real market, drawn from a seed.

Prices per GPU-hour are the asks seen on a large open market in 2026; all else is made up within
plausible bounds. Used by benchmarks and tests; knows no clock.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from random import Random

from market.terms import Accelerator, Coordinate, Demand, Offer, Requirements, Workload
from market.throughput import rating
from market.units import HOUR_S

NOW = 1_800_000_000.0

# name, VRAM in GiB, dollars per GPU-hour, share of the market
MODELS = (
    ("RTX 3090", 24, 0.17, 16),
    ("RTX 4090", 24, 0.37, 24),
    ("RTX 5090", 32, 0.50, 12),
    ("RTX A6000", 48, 0.45, 6),
    ("RTX 3080", 10, 0.12, 6),
    ("RTX 4070 Ti", 12, 0.15, 4),
    ("L40S", 48, 0.80, 5),
    ("A100 SXM4 40GB", 40, 0.76, 6),
    ("A100 SXM4 80GB", 80, 1.10, 6),
    ("H100 SXM", 80, 2.00, 8),
    ("H200", 141, 2.40, 4),
    ("B200", 180, 4.70, 1),
    ("Tesla V100", 16, 0.14, 2),
)
PLACES = (
    "US", "California, US", "Texas, US", "DE", "Bavaria, DE", "FR", "NL", "SE", "FI", "PL", "GB",
    "CA", "JP", "KR", "SG", "IN", "AU", "BR", "ZA", "TW",
)  # fmt: skip
IMAGES = tuple(hashlib.sha256(b"image %d" % n).digest() for n in range(40))


@dataclass(frozen=True, slots=True)
class Tightness:
    """How choosy demands are: the chance of each optional constraint."""

    region: float = 0.2
    verified: float = 0.2
    far: float = 0.1
    several: float = 0.3
    anything: float = 0.1  # any GPU at all: the least selective query there is


def peer(number: int) -> bytes:
    """A peer's key."""
    return hashlib.sha256(b"peer %d" % number).digest()


def offer(number: int, random: Random, *, offers_per_peer: int = 2) -> Offer:
    """One offer; the same number and random state give the same offer."""
    name, vram, dollars, _ = random.choices(MODELS, [m[3] for m in MODELS])[0]
    units = random.choice((1, 1, 2, 4, 4, 8))
    price = int(dollars * random.lognormvariate(0.15, 0.3) * 1_000_000)
    full = rating(Workload.TRAINING, name).certificate
    return Offer(
        offer_id=number.to_bytes(16, "big"),
        peer=peer(number // offers_per_peer),
        provider=bytes(20),
        operator=bytes(20),
        gpu_name=name,
        num_gpus=random.randint(1, units),
        num_units=units,
        gpu_ram_mib=vram * 1024,
        cuda_vers=random.choice((1108, 1202, 1204, 1208)),
        driver_version="570.1",
        declared=False,
        verified=random.random() < 0.6,
        dlperf_milli=int(full * random.uniform(0.75, 1.05)) if random.random() < 0.9 else 0,
        cpu_cores=random.choice((4, 8, 16, 32)),
        cpu_ram_mib=random.choice((16, 32, 64, 128)) * 1024,
        disk_space_mib=random.choice((50, 100, 500, 2000)) * 1024,
        inet_up_kbps=int(random.lognormvariate(12.2, 0.9)),
        inet_down_kbps=int(random.lognormvariate(13.1, 0.9)),
        geolocation=random.choice(PLACES),
        reliability_ppm=1_000_000 - int(random.expovariate(1 / 12_000)) % 300_000,
        price_per_hour=price,
        collateral_per_unit=price,
        min_duration_s=0,
        max_duration_s=random.choice((1, 3, 30)) * 24 * HOUR_S,
        heartbeat_interval_s=10,
        preemptible=random.random() < 0.1,
        grace_s=30,
        queue_wait_s=0 if random.random() < 0.8 else random.randint(1, 1800),
        start_up_ms=random.randint(500, 12_000),
        coordinate=coordinate(random),
        cached_images=tuple(random.sample(IMAGES, random.choice((0, 2, 5, 10)))),
        expires_at_s=int(NOW) + random.randint(60, 3600),
    )


def coordinate(random: Random) -> Coordinate:
    """A place on a map of about 200 ms across, behind an access link of a few."""
    return Coordinate(
        x_us=random.randint(-100_000, 100_000),
        y_us=random.randint(-60_000, 60_000),
        height_us=random.randint(500, 8_000),
        error_ppm=random.randint(20_000, 400_000),
    )


def demand(number: int, random: Random, tightness: Tightness | None = None) -> Demand:
    """One demand: mostly one or a few named models, a cap somewhat above the usual price."""
    chance = tightness or Tightness()
    names = random.choices(MODELS, [m[3] for m in MODELS], k=3)
    count = random.choice((1, 1, 1, 2, 4))
    some = names if random.random() < chance.several else names[:1]
    wanted = tuple(Accelerator(name[0], count) for name in dict.fromkeys(some))
    if random.random() < chance.anything:
        wanted = (Accelerator("*", count),)
    dollars = max(name[2] for name in some)
    hours = random.choice((0.25, 1, 4, 12))
    return Demand(
        demand_id=hashlib.sha256(b"demand %d" % number).digest()[:16],
        job_id=number.to_bytes(16, "big"),
        round=0,
        peer=peer(1_000_000 + number),
        requester=bytes(20),
        operator=bytes(20),
        requirements=Requirements(
            accelerators=wanted,
            vram_mib=random.choice((0, 0, 8, 16)) * 1024,
            cpus=random.choice((0, 4, 8)),
            memory_mib=random.choice((0, 16, 32)) * 1024,
            disk_mib=random.choice((0, 20, 80)) * 1024,
            cuda_vers=random.choice((0, 1108, 1202)),
            regions=("EU",) if random.random() < chance.region else (),
            max_rtt_us=random.choice((30_000, 100_000)) if random.random() < chance.far else 0,
            min_reliability_ppm=random.choice((0, 950_000, 980_000, 990_000)),
            verified=random.random() < chance.verified,
        ),
        max_price_per_hour=int(dollars * random.uniform(1.0, 2.5) * 1_000_000),
        value_of_time_per_hour=int(dollars * random.choice((0.0, 0.3, 1.0, 3.0)) * 1_000_000),
        workload=random.choice(tuple(Workload)),
        estimate_s=random.choice((0, int(hours * HOUR_S))),
        max_duration_s=int(hours * HOUR_S * 4),
        deadline_at_s=0,
        priority=0,
        num_nodes=1,
        preemptible=random.random() < 0.3,
        checkpoint_interval_s=random.choice((0, 300, 1800)),
        image=random.choice(IMAGES),
        image_bytes=random.choice((200, 2_000, 8_000)) * 1_000_000,
        input_bytes=random.choice((0, 100, 20_000)) * 1_000_000,
        output_bytes=random.choice((1, 500)) * 1_000_000,
        job=bytes(32),
        token=bytes(20),
        slash_bps=5000,
        exclude=(),
        coordinate=coordinate(random),
        quote_by_ms=int(NOW * 1000) + 2000,
        expires_at_s=int(NOW) + 3600,
    )
