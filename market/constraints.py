"""Constraints: what an offer must have for a demand, one name and one sentence each.

Hard constraints only; what is merely better or worse is in `cost`. Knows no book or network.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from market.cost import needed_units, round_trip_us, run_seconds
from market.models import takes, within
from market.terms import Demand, Offer
from market.units import PPM, format_duration


class Constraint(Enum):
    """Each hard constraint, in the order in which they are checked and told."""

    EXPIRED = "expired"
    EXCLUDED = "excluded"
    ACCELERATOR = "accelerator"
    COUNT = "count"
    VRAM = "vram"
    CUDA = "cuda"
    CPUS = "cpus"
    MEMORY = "memory"
    DISK = "disk"
    REGION = "region"
    RTT = "max_rtt"
    RELIABILITY = "reliability"
    VERIFIED = "verified"
    REAL = "real"
    EGRESS = "egress"
    PREEMPTIBLE = "preemptible"
    DURATION = "duration"
    SPEED = "speed"
    DEADLINE = "deadline"
    PRICE = "price"


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why an offer cannot serve a demand: the first constraint it breaks, and a sentence."""

    constraint: Constraint
    sentence: str


def misfit(demand: Demand, offer: Offer, now: float, rtt_us: int | None = None) -> Misfit | None:
    """The first hard constraint that the offer breaks, or None if it can serve the demand.

    Prices are compared in double precision, as the book does: exact below 2^53 base units.
    """
    for constraint, (broken, sentence) in _checks(demand, offer, now, rtt_us).items():
        if broken:
            return Misfit(constraint, sentence)
    return None


def misfits(
    demand: Demand, offer: Offer, now: float, rtt_us: int | None = None
) -> tuple[Misfit, ...]:
    """Every hard constraint that the offer breaks, in order."""
    return tuple(
        Misfit(constraint, sentence)
        for constraint, (broken, sentence) in _checks(demand, offer, now, rtt_us).items()
        if broken
    )


def _checks(
    demand: Demand, offer: Offer, now: float, rtt_us: int | None
) -> dict[Constraint, tuple[bool, str]]:
    want = demand.requirements
    units = needed_units(demand, offer)
    wanted = any(takes(a.name, offer.gpu_name) for a in want.accelerators)
    far = round_trip_us(demand, offer, rtt_us)
    run_s = run_seconds(demand, offer, units)
    disk_mib = offer.disk_space_mib * units
    c = Constraint
    return {
        c.EXPIRED: (offer.expires_at_s <= now, "the offer has expired"),
        c.EXCLUDED: (offer.peer in demand.exclude, "this provider failed the job before"),
        c.ACCELERATOR: (not wanted, f"it is a {offer.gpu_name or 'nameless unit'}"),
        c.COUNT: (offer.num_gpus < units, f"{offer.num_gpus} of {units} units are free"),
        c.VRAM: (
            offer.gpu_ram_mib < want.vram_mib,
            f"{offer.gpu_ram_mib} MiB of VRAM, {want.vram_mib} needed",
        ),
        c.CUDA: (offer.cuda_vers < want.cuda_vers, f"CUDA {offer.cuda_vers / 100:.1f} is too old"),
        c.CPUS: (
            offer.cpu_cores < want.cpus,
            f"{offer.cpu_cores} cores per unit, {want.cpus} needed",
        ),
        c.MEMORY: (
            offer.cpu_ram_mib < want.memory_mib,
            f"{offer.cpu_ram_mib} MiB of memory per unit, {want.memory_mib} needed",
        ),
        c.DISK: (disk_mib < want.disk_mib, f"{disk_mib} MiB of disk, {want.disk_mib} needed"),
        c.REGION: (
            bool(want.regions) and not any(within(r, offer.geolocation) for r in want.regions),
            f"it is in {offer.geolocation or 'an unnamed place'}",
        ),
        c.RTT: (0 < want.max_rtt_us < far, f"a round trip takes {far / 1000:.0f} ms"),
        c.RELIABILITY: (
            min(PPM, offer.reliability_ppm) < want.min_reliability_ppm,
            f"its reliability is {offer.reliability_ppm / 10_000:.2f} %",
        ),
        c.VERIFIED: (want.verified and not offer.verified, "nobody has verified it"),
        c.REAL: (want.real and offer.declared, "its units were declared, not found by a driver"),
        c.EGRESS: (bool(want.egress) and not offer.egress, "it sells no way out of the job"),
        c.PREEMPTIBLE: (
            offer.preemptible and not demand.preemptible,
            "it may take its units back and the job cannot be preempted",
        ),
        c.DURATION: (
            not offer.min_duration_s <= demand.max_duration_s <= offer.max_duration_s,
            f"it sells {format_duration(offer.min_duration_s)} to "
            f"{format_duration(offer.max_duration_s)}",
        ),
        c.SPEED: (
            bool(demand.estimate_s) and run_s > demand.max_duration_s,
            f"it would take {format_duration(run_s)}, longer than max_duration",
        ),
        c.DEADLINE: (
            bool(demand.deadline_at_s)
            and now + offer.queue_wait_s + (run_s if demand.estimate_s else 0.0)
            > demand.deadline_at_s,
            "it would finish after the deadline",
        ),
        c.PRICE: (
            float(offer.price_per_hour) > float(demand.max_price_per_hour),
            "it asks more than the price cap",
        ),
    }


def lacking(demand: Demand, offer: Offer) -> tuple[str, ...]:
    """The targets that the job must reach and the offer does not sell.

    The book knows only whether an offer sells any: providers and requesters ask here as well,
    before they quote and before they accept.
    """
    return tuple(sorted(set(demand.requirements.egress) - set(offer.egress)))
