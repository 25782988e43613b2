"""Offers: one plain offer, demand and quote, to be changed by each test with `replace`."""

from __future__ import annotations

from market.messages import Quote
from market.terms import (
    NOBODY,
    Accelerator,
    Coordinate,
    Demand,
    Money,
    Offer,
    Parties,
    Requirements,
    Terms,
    Timing,
    Workload,
)

NOW = 1_800_000_000.0
GIB = 1024
IMAGE = bytes([7]) * 32


def key(number: int) -> bytes:
    """A peer's key."""
    return bytes([number]) * 32


def offer_of(number: int = 1, price: int = 600_000, **changes: object) -> Offer:
    """One RTX 4090 machine with four free units, at 0.60 per unit-hour."""
    plain: dict[str, object] = {
        "offer_id": number.to_bytes(16, "big"),
        "peer": key(number),
        "provider": bytes([1]) * 20,
        "operator": bytes([2]) * 20,
        "gpu_name": "RTX 4090",
        "num_gpus": 4,
        "num_units": 4,
        "gpu_ram_mib": 24 * GIB,
        "cuda_vers": 1204,
        "driver_version": "570",
        "declared": False,
        "verified": True,
        "dlperf_milli": 0,
        "cpu_cores": 8,
        "cpu_ram_mib": 32 * GIB,
        "disk_space_mib": 100 * GIB,
        "inet_up_kbps": 100_000,
        "inet_down_kbps": 1_000_000,
        "geolocation": "Bavaria, DE",
        "reliability_ppm": 990_000,
        "price_per_hour": price,
        "collateral_per_unit": 100_000,
        "min_duration_s": 60,
        "max_duration_s": 86_400,
        "heartbeat_interval_s": 10,
        "preemptible": False,
        "grace_s": 30,
        "queue_wait_s": 0,
        "start_up_ms": 2_000,
        "coordinate": Coordinate(10_000, 0, 1_000, 100_000),
        "cached_images": (),
        "expires_at_s": int(NOW) + 600,
    }
    return Offer(**(plain | changes))  # type: ignore[arg-type]


def demand_of(number: int = 1, **changes: object) -> Demand:
    """One RTX 4090 for an hour of training on the reference, at 1.00 per unit-hour at most."""
    plain: dict[str, object] = {
        "demand_id": number.to_bytes(16, "big"),
        "job_id": bytes(16),
        "round": 0,
        "peer": key(100),
        "requester": bytes([3]) * 20,
        "operator": bytes([4]) * 20,
        "requirements": Requirements((Accelerator("RTX4090", 1),)),
        "max_price_per_hour": 1_000_000,
        "value_of_time_per_hour": 500_000,
        "workload": Workload.TRAINING,
        "estimate_s": 3600,
        "max_duration_s": 7200,
        "deadline_at_s": 0,
        "priority": 0,
        "num_nodes": 1,
        "preemptible": False,
        "checkpoint_interval_s": 300,
        "image": IMAGE,
        "image_bytes": 1_000_000_000,
        "input_bytes": 0,
        "output_bytes": 0,
        "job": bytes([5]) * 32,
        "token": bytes([6]) * 20,
        "slash_bps": 5000,
        "exclude": (),
        "coordinate": Coordinate(0, 0, 1_000, 100_000),
        "quote_by_ms": 0,
        "expires_at_s": int(NOW) + 600,
    }
    return Demand(**(plain | changes))  # type: ignore[arg-type]


def needing(accelerators: dict[str, int] | None = None, **changes: object) -> Demand:
    """A demand with other requirements."""
    choices = accelerators or {"RTX4090": 1}
    wanted = tuple(Accelerator(name, count) for name, count in choices.items())
    return demand_of(requirements=Requirements(wanted, **changes))  # type: ignore[arg-type]


def terms_of(demand: Demand, offer: Offer, units: int = 1) -> Terms:
    """The terms a correct provider makes."""
    duration_s = demand.max_duration_s + 60
    price = offer.price_per_hour
    return Terms(
        parties=Parties(
            demand.requester, offer.provider, demand.operator, offer.operator, demand.token, NOBODY
        ),
        money=Money(
            deposit=price * units * duration_s // 3600,
            collateral=offer.collateral_per_unit * units,
            price_per_hour=price,
            bond=0,
            slash_bps=demand.slash_bps,
            victim_share_bps=8000,
            equivocation_bps=10_000,
        ),
        timing=Timing(int(NOW) + 60, duration_s, 60, 60, 60, 0, 0),
        units=2**units - 1,
        job=demand.job,
        salt=bytes(32),
    )


def quote_of(demand: Demand, offer: Offer, units: int = 1, **changes: object) -> Quote:
    """The quote a correct provider gives."""
    plain: dict[str, object] = {
        "demand_id": demand.demand_id,
        "offer": offer,
        "terms": terms_of(demand, offer, units),
        "provider_signature": b"",
        "image_cached": False,
        "ready_in_ms": 2_000,
        "hold_until_s": int(NOW) + 30,
    }
    return Quote(**(plain | changes))  # type: ignore[arg-type]
