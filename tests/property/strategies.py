"""Strategies: small, crowded markets, where ties, misfits and shared images are common."""

from __future__ import annotations

from random import Random
from typing import TypeVar

from hypothesis import strategies as st

from market.terms import Accelerator, Coordinate, Demand, Offer, Requirements, Workload

T = TypeVar("T")
NOW = 1_800_000_000.0
NAMES = (
    "RTX 4090",
    "NVIDIA GeForce RTX 3080 Ti",
    "NVIDIA H100 80GB HBM3",
    "A100 SXM4 40GB",
    "NVIDIA A100-SXM4-80GB",
    "Mystery 9",
    "CPU",
)
WANTED = ("RTX4090", "RTX 3080 Ti", "H100", "A100", "A100-80GB", "Mystery 9", "CPU", "*")
PLACES = ("California, US", "DE", "Paris, FR", "")
IMAGES = tuple(bytes([n, 1]) + bytes(30) for n in (0, 1, 2, 64))  # the last shares a bit


def peer(number: int) -> bytes:
    """One of few peers."""
    return bytes([number]) * 32


def crowded(seed: int) -> Offer:
    """One offer of a crowded market."""
    random = Random(seed)
    units = random.randint(1, 8)

    def usually(good: T, *others: T) -> T:
        """Mostly `good`: offers that break on something in nine of ten cases prove nothing."""
        return good if random.random() < 0.9 else random.choice(others)

    return Offer(
        offer_id=random.randint(0, 5).to_bytes(16, "big"),
        peer=peer(random.randint(1, 12)),
        provider=bytes(20),
        operator=bytes(20),
        gpu_name=random.choice(NAMES) if random.random() < 0.4 else "RTX 4090",
        num_gpus=usually(units, 0, units // 2),
        num_units=units,
        gpu_ram_mib=usually(81_920, 0, 24_576),
        cuda_vers=usually(1204, 0, 1108),
        driver_version="",
        declared=usually(False, True),
        verified=usually(True, False),
        dlperf_milli=random.choice([0, 300, 900, 5_000, 4_000_000_000]),
        cpu_cores=usually(8, 1),
        cpu_ram_mib=usually(65_536, 1024),
        disk_space_mib=usually(100_000, 0, 50_000, 2**32 - 1),
        inet_up_kbps=random.choice([0, 10_000, 1_000_000]),
        inet_down_kbps=random.choice([0, 10_000, 1_000_000]),
        geolocation=random.choice(PLACES),
        reliability_ppm=usually(random.choice([960_000, 999_000]), 0, 1_000_000, 2**32 - 1),
        price_per_hour=usually(
            random.choice([300_000, 350_000, 400_000]), 0, 1, 400_001, 2**96 - 1
        ),
        collateral_per_unit=0,
        min_duration_s=usually(0, 600),
        max_duration_s=usually(864_000, 3600),
        heartbeat_interval_s=10,
        preemptible=usually(False, True),
        grace_s=0,
        queue_wait_s=usually(random.choice([0, 60, 500, 4_000]), 2**32 - 1),
        start_up_ms=random.choice([100, 9_000]),
        coordinate=Coordinate(
            random.randint(-100_000, 100_000),
            random.randint(-100_000, 100_000),
            random.randint(0, 20_000),
            random.choice([100_000, 1_000_000]),
        ),
        cached_images=tuple(random.sample(IMAGES, random.randint(0, 4))),
        expires_at_s=int(NOW) + usually(3600, 1, 60),
        egress=usually(("data.example.org:443",), ()),
    )


def offers() -> st.SearchStrategy[Offer]:
    """Offers from seeds: a hundred times faster to draw than field by field."""
    return st.integers(0, 2**32 - 1).map(crowded)


def asking(seed: int) -> Demand:
    """One demand that most offers of the crowded market fit."""
    random = Random(seed)

    def usually(good: T, *others: T) -> T:
        return good if random.random() < 0.8 else random.choice(others)

    wanted = [usually("*", "RTX4090"), *random.sample(WANTED, random.choice((0, 0, 1, 3)))]
    random.shuffle(wanted)
    return Demand(
        demand_id=random.randbytes(16),
        job_id=bytes(16),
        round=random.randint(0, 2),
        peer=peer(200),
        requester=bytes(20),
        operator=bytes(20),
        requirements=Requirements(
            accelerators=tuple(Accelerator(name, usually(1, 2, 4, 8)) for name in wanted),
            vram_mib=usually(0, 16_000, 80_000),
            cpus=usually(0, 4),
            memory_mib=usually(0, 32_000),
            disk_mib=usually(0, 90_000),
            cuda_vers=usually(0, 1202),
            regions=usually((), ("EU",), ("US", "Paris")),
            max_rtt_us=usually(0, 100_000),
            min_reliability_ppm=usually(0, 950_000),
            verified=usually(False, True),
            real=usually(False, True),
            egress=usually((), ("data.example.org:443",)),
        ),
        max_price_per_hour=usually(400_000, 0, 350_000, 3_000_000, 2**96 - 1),
        value_of_time_per_hour=random.choice([0, 100_000, 2_000_000, 50_000_000]),
        workload=random.choice(list(Workload)),
        estimate_s=random.choice([0, 600, 7200]),
        max_duration_s=usually(86_400, 300, 3600),
        deadline_at_s=usually(0, int(NOW) + 5_000),
        priority=random.randint(0, 3),
        num_nodes=random.randint(1, 3),
        preemptible=usually(True, False),
        checkpoint_interval_s=random.choice([0, 300]),
        image=random.choice(IMAGES),
        image_bytes=usually(20_000_000_000, 0),
        input_bytes=random.choice([0, 1_000_000_000]),
        output_bytes=random.choice([0, 1_000_000]),
        job=bytes(32),
        token=bytes(20),
        slash_bps=5000,
        exclude=usually((), (peer(1), peer(2))),
        coordinate=Coordinate(
            random.randint(-100_000, 100_000), 0, 1_000, usually(100_000, 1_000_000)
        ),
        quote_by_ms=0,
        expires_at_s=int(NOW) + 60,
    )


demands = st.integers(0, 2**32 - 1).map(asking)

measured = st.one_of(
    st.none(),
    st.dictionaries(st.integers(1, 12).map(peer), st.integers(1, 300_000), max_size=4),
)
