"""Gauges: what this node measures of itself, as named numbers for a monitoring system. Knows no
format: `web/routes/metrics.py` writes Prometheus's.

Every number is read when it is asked for; nothing is counted twice or kept here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from market.agreement import Agreement, Role
from market.job import JobState
from node.bulletin import Bulletin
from node.keeper import Keeper
from node.ports import Ports

CHEAP_COUNTS = ("messages", "published", "duplicates", "invalid", "limited", "dropped_out",
                "dropped_in", "blamed", "refused", "requests_in", "requests_out", "channels_in",
                "channels_out", "relay_refused")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """One number. `kind` is gauge or counter, `labels` name and value pairs."""

    name: str
    help: str
    value: float
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = "gauge"


class GaugeDesk:
    """Reads the rooms of the node."""

    def __init__(self, ports: Ports, keeper: Keeper, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._bulletin = bulletin

    def readings(self) -> Iterator[Reading]:
        """All of them, those of one name together."""
        yield from self._jobs()
        yield from self._agreements()
        yield from self._units()
        yield from self._network()
        yield Reading("chain_block", "Last block whose facts were taken", self._keeper.block)
        lag_s = max(0.0, self._ports.clock.now() - self._keeper.chain_time_s)
        if self._keeper.chain_time_s:
            yield Reading("chain_lag_seconds", "Age of the last block that was heard of", lag_s)

    def _jobs(self) -> Iterator[Reading]:
        counts = Counter(job.state for job in self._keeper.jobs.values())
        for state in JobState:
            labels = (("state", state.value),)
            yield Reading("jobs", "Jobs of this node by state", counts[state], labels)

    def _agreements(self) -> Iterator[Reading]:
        agreements = self._keeper.agreements.values()
        counts = Counter((a.role.value, a.phase.value) for a in agreements)
        for (said, phase), count in sorted(counts.items()):
            pair = (("role", said), ("phase", phase))
            yield Reading("agreements", "Agreements by role and phase", count, pair)
        for role in Role:
            mine = [a for a in agreements if a.role is role]
            labels = (("role", role.value),)
            yield from self._money(mine, labels)
        now_ms = self._ports.clock.now() * 1000
        live = [a for a in agreements if a.role is Role.REQUESTER and not a.ended and a.heard_at_ms]
        for a in sorted(live, key=lambda a: a.id):
            yield Reading(
                "heartbeat_age_seconds", "Since a provider of ours was last heard",
                max(0.0, (now_ms - a.heard_at_ms) / 1000), (("agreement", a.id.hex()[:12]),),
            )  # fmt: skip

    def _money(
        self, agreements: list[Agreement], labels: tuple[tuple[str, str], ...]
    ) -> Iterator[Reading]:
        scale = 10**self._ports.chain.info.decimals
        for name, help_, total in (
            ("paid_tokens", "Paid by settled and live agreements", sum(a.paid for a in agreements)),
            ("slashed_tokens", "Collateral taken", sum(a.slashed for a in agreements)),
            ("metered_seconds", "Seconds metered", sum(a.metered_s for a in agreements) * scale),
        ):
            yield Reading(f"{name}_total", help_, total / scale, labels, "counter")

    def _units(self) -> Iterator[Reading]:
        units = self._ports.devices.units()
        taken = self._keeper.taken_units()
        busy = sum(taken >> unit.index & 1 for unit in units)
        yield Reading("units", "Rentable units of this machine", busy, (("state", "busy"),))
        idle = len(units) - busy
        yield Reading("units", "Rentable units of this machine", idle, (("state", "idle"),))
        looks = self._ports.devices.health()
        for name, help_, values in (
            ("unit_healthy", "1 if the unit can be rented", [float(u.healthy) for u in looks]),
            ("unit_utilisation_ratio", "Use of the GPU, 0 to 1",
             [_share(u.utilisation_ppm) for u in looks]),
            ("unit_memory_used_mib", "VRAM in use", [u.memory_used_mib for u in looks]),
            ("unit_temperature_celsius", "Temperature", [u.temperature_c for u in looks]),
            ("unit_power_watts", "Power draw", [u.power_w for u in looks]),
        ):  # fmt: skip
            for unit, value in zip(looks, values, strict=True):
                if value is not None:
                    yield Reading(name, help_, float(value), (("unit", str(unit.index)),))

    def _network(self) -> Iterator[Reading]:
        yield Reading("offers_known", "Live offers heard of", len(self._bulletin.book))
        yield Reading("demands_open", "Open demands heard of", len(self._bulletin.demands))
        counters = self._ports.link.statistics()
        yield Reading("peers", "Connected peers", counters.get("peers", 0))
        reach = self._ports.link.reach()
        if reach.reachable is not None:
            help_ = "1 if others can dial this node"
            yield Reading("reachable", help_, float(reach.reachable))
        for name, help_ in (
            ("peers_relayed", "Peers that are connected through a relay only"),
            ("reservations", "Relays through which this node can be called"),
            ("relay_reservations", "Peers that can be called through this node"),
            ("relay_circuits", "Circuits that this node carries for others"),
        ):
            yield Reading(name, help_, counters.get(name, 0))
        help_ = "Bytes carried for others"
        yield Reading("relay_bytes_total", help_, counters.get("relay_bytes", 0), kind="counter")
        for name in CHEAP_COUNTS:
            labels = (("event", name),)
            help_ = "What came, went and was refused"
            yield Reading("network_events_total", help_, counters.get(name, 0), labels, "counter")
        for way in ("in", "out"):
            help_, value = "Bytes by direction", counters.get(f"bytes_{way}", 0)
            yield Reading("network_bytes_total", help_, value, (("way", way),), "counter")
        for name, size in sorted(counters.items()):
            if name.startswith("mesh "):
                labels = (("topic", name.removeprefix("mesh ")),)
                yield Reading("gossip_mesh_peers", "Peers in a topic's mesh", size, labels)


def _share(ppm: int | None) -> float | None:
    return None if ppm is None else ppm / 1_000_000
