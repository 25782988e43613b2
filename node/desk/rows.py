"""Rows: agreements, offers and artifacts as plain data, for every desk. Knows the market's values.

Money is decimal text of whole tokens, hashes are hex, times Unix seconds, sizes as each key says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from market.agreement import Agreement, Role
from market.terms import Artifact, Coordinate, Offer

Said = Callable[[int], str]
"""Base units as decimal text of whole tokens."""


def agreement_row(a: Agreement, money: Said) -> dict[str, Any]:
    """One agreement as this side knows it."""
    terms = a.terms.money
    return {
        "id": a.id.hex(),
        "role": a.role.value,
        "peer": a.peer.hex(),
        "job": a.job_id.hex(),
        "phase": a.phase.value,
        "ending": a.ending.value,
        "reason": a.reason,
        "work": a.report.work.value,
        "units": a.terms.unit_count,
        "price_per_hour": money(terms.price_per_hour),
        "deposit": money(a.extended.money.deposit),
        "collateral": money(terms.collateral),
        "metered_s": a.metered_s,
        "beats": a.beat.heartbeat.sequence if a.beat else 0,
        "last_heard": a.heard_at_ms / 1000 or None,
        "promised": money(a.promised),
        "paid": money(a.paid),
        "refunded": money(a.refunded),
        "slashed": money(a.slashed),
        "to_victim": money(a.to_victim),
        "burned": money(a.slashed - a.to_victim),
        "opened": a.opened_at_s or None,
        "ends": a.opened_at_s + a.extended.timing.duration_s if a.opened_at_s else None,
        "duration_s": a.extended.timing.duration_s,
        "interval_s": a.interval_s,
        "answer_by": a.challenge_deadline_s or None,
        "final_after": a.closing_deadline_s or None,
        "transactions": {
            name: "0x" + tx.hex()
            for name, tx in (
                ("open", a.open_tx),
                ("challenge", a.challenge_tx),
                ("slash", a.slash_tx),
                ("close", a.close_tx),
            )
            if tx
        },
        "is_provider": a.role is Role.PROVIDER,
    }


def offer_row(offer: Offer, money: Said) -> dict[str, Any]:
    """One live offer, by Vast's names; sizes in GiB, bandwidth in Mbit/s."""
    return {
        "peer": offer.peer.hex(),
        "offer": offer.offer_id.hex(),
        "provider": address_text(offer.provider),
        "gpu_name": offer.gpu_name,
        "num_gpus": offer.num_gpus,
        "num_units": offer.num_units,
        "gpu_ram": offer.gpu_ram_mib / 1024,
        "cpu_cores": offer.cpu_cores,
        "cpu_ram": offer.cpu_ram_mib / 1024,
        "disk_space": offer.disk_space_mib / 1024,
        "inet_up": offer.inet_up_kbps / 1000,
        "inet_down": offer.inet_down_kbps / 1000,
        "cuda_vers": offer.cuda_vers / 100,
        "driver_version": offer.driver_version,
        "dlperf": offer.dlperf_milli / 1000,
        "reliability": offer.reliability_ppm / 1_000_000,
        "geolocation": offer.geolocation,
        "dph": money(offer.price_per_hour),
        "duration": offer.max_duration_s,
        "verified": offer.verified,
        "declared": offer.declared,
        "expires": offer.expires_at_s,
        "preemptible": offer.preemptible,
        "egress": list(offer.egress),
        "queue_wait_s": offer.queue_wait_s,
        "heartbeat_s": offer.heartbeat_interval_s,
        "coordinate": coordinate_row(offer.coordinate),
    }


def coordinate_row(at: Coordinate) -> dict[str, float] | None:
    """Where a node stands on the map of round trips, in milliseconds; None if it does not know."""
    if at == Coordinate():
        return None
    return {
        "x_ms": at.x_us / 1000,
        "y_ms": at.y_us / 1000,
        "height_ms": at.height_us / 1000,
        "error": at.error_ppm / 1_000_000,
    }


def artifact_row(artifact: Artifact) -> dict[str, Any]:
    """A blob by its hash, and where the job sees it."""
    return {
        "path": artifact.path,
        "sha256": artifact.hash.hex(),
        "size_bytes": artifact.size_bytes,
    }


def address_text(raw: bytes) -> str:
    """A wallet's or contract's address."""
    return "0x" + raw.hex()
