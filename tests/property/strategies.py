"""Strategies: small, crowded markets, where ties, misfits and shared images are common."""

from __future__ import annotations

from random import Random

from hypothesis import strategies as st

from market.terms import Accelerator, Coordinate, Demand, Offer, Requirements, Workload

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

coordinates = st.builds(
    Coordinate,
    x_us=st.integers(-100_000, 100_000),
    y_us=st.integers(-100_000, 100_000),
    height_us=st.integers(0, 20_000),
    error_ppm=st.sampled_from([100_000, 1_000_000]),
)


def peer(number: int) -> bytes:
    """One of few peers."""
    return bytes([number]) * 32


def crowded(seed: int) -> Offer:
    """One offer of a crowded market."""
    random = Random(seed)
    units = random.randint(1, 8)
    return Offer(
        offer_id=random.randint(0, 5).to_bytes(16, "big"),
        peer=peer(random.randint(1, 12)),
        provider=bytes(20),
        operator=bytes(20),
        gpu_name=random.choice(NAMES),
        num_gpus=random.randint(0, units),
        num_units=units,
        gpu_ram_mib=random.choice([0, 24_576, 81_920]),
        cuda_vers=random.choice([0, 1108, 1204]),
        driver_version="",
        declared=random.random() < 0.5,
        verified=random.random() < 0.5,
        dlperf_milli=random.choice([0, 300, 900, 5_000, 4_000_000_000]),
        cpu_cores=random.choice([1, 8]),
        cpu_ram_mib=random.choice([1024, 65_536]),
        disk_space_mib=random.choice([0, 50_000, 2**32 - 1]),
        inet_up_kbps=random.choice([0, 10_000, 1_000_000]),
        inet_down_kbps=random.choice([0, 10_000, 1_000_000]),
        geolocation=random.choice(PLACES),
        reliability_ppm=random.choice([0, 900_000, 999_000, 1_000_000, 2**32 - 1]),
        price_per_hour=random.choice([0, 1, 400_000, 400_001, 2_000_000, 2**96 - 1]),
        collateral_per_unit=0,
        min_duration_s=random.choice([0, 600]),
        max_duration_s=random.choice([3600, 864_000]),
        heartbeat_interval_s=10,
        preemptible=random.random() < 0.5,
        grace_s=0,
        queue_wait_s=random.choice([0, 0, 60, 2**32 - 1]),
        start_up_ms=random.choice([100, 9_000]),
        coordinate=Coordinate(
            random.randint(-100_000, 100_000),
            random.randint(-100_000, 100_000),
            random.randint(0, 20_000),
            random.choice([100_000, 1_000_000]),
        ),
        cached_images=tuple(random.sample(IMAGES, random.randint(0, 4))),
        expires_at_s=int(NOW) + random.choice([1, 60, 3600]),
    )


def offers() -> st.SearchStrategy[Offer]:
    """Offers from seeds: a hundred times faster to draw than field by field."""
    return st.integers(0, 2**32 - 1).map(crowded)


requirements = st.builds(
    Requirements,
    accelerators=st.lists(
        st.builds(Accelerator, name=st.sampled_from(WANTED), count=st.sampled_from([1, 2, 4, 8])),
        min_size=1,
        max_size=4,
    ).map(tuple),
    vram_mib=st.sampled_from([0, 0, 16_000, 80_000]),
    cpus=st.sampled_from([0, 0, 4]),
    memory_mib=st.sampled_from([0, 0, 32_000]),
    disk_mib=st.sampled_from([0, 0, 90_000]),
    cuda_vers=st.sampled_from([0, 0, 1202]),
    regions=st.sampled_from([(), (), ("EU",), ("US", "Paris")]),
    max_rtt_us=st.sampled_from([0, 0, 100_000]),
    min_reliability_ppm=st.sampled_from([0, 0, 950_000]),
    verified=st.sampled_from([False, False, True]),
    real=st.sampled_from([False, False, True]),
)

demands = st.builds(
    Demand,
    demand_id=st.integers(0, 2**16).map(lambda n: n.to_bytes(16, "big")),
    job_id=st.just(bytes(16)),
    round=st.integers(0, 2),
    peer=st.just(peer(200)),
    requester=st.just(bytes(20)),
    operator=st.just(bytes(20)),
    requirements=requirements,
    max_price_per_hour=st.sampled_from([0, 400_000, 3_000_000, 2**96 - 1]),
    value_of_time_per_hour=st.sampled_from([0, 100_000, 50_000_000]),
    workload=st.sampled_from(list(Workload)),
    estimate_s=st.sampled_from([0, 600, 7200]),
    max_duration_s=st.sampled_from([300, 3600, 86_400]),
    deadline_at_s=st.sampled_from([0, 0, int(NOW) + 5_000]),
    priority=st.integers(0, 3),
    num_nodes=st.integers(1, 3),
    preemptible=st.booleans(),
    checkpoint_interval_s=st.sampled_from([0, 300]),
    image=st.sampled_from(IMAGES),
    image_bytes=st.sampled_from([0, 5_000_000_000]),
    input_bytes=st.sampled_from([0, 1_000_000_000]),
    output_bytes=st.sampled_from([0, 1_000_000]),
    job=st.just(bytes(32)),
    token=st.just(bytes(20)),
    slash_bps=st.just(5000),
    exclude=st.sampled_from([(), (), (peer(1), peer(2))]),
    coordinate=coordinates,
    quote_by_ms=st.just(0),
    expires_at_s=st.just(int(NOW) + 60),
)

measured = st.one_of(
    st.none(),
    st.dictionaries(st.integers(1, 12).map(peer), st.integers(1, 300_000), max_size=4),
)
