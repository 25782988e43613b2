"""Network's desk: who is connected, and one screen about the node. No transport, no rendering."""

from __future__ import annotations

from typing import Any

from market.units import format_duration
from node.bulletin import Bulletin
from node.config import Config
from node.desk.rows import address_text, coordinate_row
from node.keeper import Keeper
from node.ports import Ports


class NetworkDesk:
    """Asks link, bulletin and keeper."""

    def __init__(self, config: Config, ports: Ports, keeper: Keeper, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._bulletin = bulletin

    def waiting_for(self) -> str:
        """What keeps this node from its work, in words, and for how long; empty when nothing."""
        health = self._ports.chain.health()
        waits = [self._bulletin.waiting_for()]
        if health.waiting_for:
            so_long = format_duration(self._ports.clock.now() - health.since)
            waits.insert(0, f"chain: {health.waiting_for} (for {so_long})")
        return "; ".join(filter(None, waits))

    def peers(self) -> list[dict[str, Any]]:
        """Who is connected."""
        return [
            {
                "peer": info.peer.hex(),
                "address": info.address,
                "outbound": info.outbound,
                "relayed": info.relayed,
                "rtt_ms": None if info.rtt_us is None else info.rtt_us / 1000,
                "since": info.connected_at,
                "strikes": round(info.strikes, 1),
                "offers": len(self._bulletin.book.offers_of(info.peer)),
                "coordinate": self._place(info.peer),
            }
            for info in self._ports.link.peers()
        ]

    def network(self) -> dict[str, Any]:
        """Peers, what gossip carries, and how fresh the table of offers is."""
        counters = self._ports.link.statistics()
        return {
            "peer": self._ports.signer.peer.hex(),
            "addresses": list(self._ports.link.addresses()),
            "reach": self._reach(),
            "coordinate": self._place(self._ports.signer.peer),
            "peers": self.peers(),
            "mesh": {
                name.removeprefix("mesh "): size
                for name, size in counters.items()
                if name.startswith("mesh ")
            },
            "counters": {
                name: value for name, value in counters.items() if not name.startswith("mesh ")
            },
            "book": self._bulletin.book.statistics(),
            "demands": len(self._bulletin.demands),
            "heard_at": self._bulletin.offers_at or None,
            "block": self._keeper.block,
            "block_at": self._keeper.chain_time_s or None,
            "now": self._ports.clock.now(),
        }

    def _reach(self) -> dict[str, Any]:
        """Whether others can dial this node (None: not yet known), and who carries for whom."""
        reach = self._ports.link.reach()
        return {
            "reachable": reach.reachable,
            "relays": [relay.hex() for relay in reach.relays],
            "relaying": reach.relaying,
        }

    def _place(self, peer: bytes) -> dict[str, float] | None:
        """Where a peer's offers say that it stands on the map of round trips."""
        offers = self._bulletin.book.offers_of(peer)
        return coordinate_row(offers[0].coordinate) if offers else None

    def status(self) -> dict[str, Any]:
        """One screen about this node."""
        agreements = self._keeper.agreements.values()
        info = self._ports.chain.info
        return {
            "peer": self._ports.signer.peer.hex(),
            "network": self._config.network,
            "chain_id": info.domain.chain_id,
            "escrow": address_text(info.domain.contract),
            "token": info.symbol,
            "decimals": info.decimals,
            "explorer": info.explorer,
            "wallet": address_text(self._config.wallet),
            "operator": address_text(self._ports.signer.operator),
            "addresses": list(self._ports.link.addresses()),
            "reach": self._reach(),
            "peers": len(self._ports.link.peers()),
            "offers_known": len(self._bulletin.book),
            "selling": self._config.selling is not None,
            "units": [
                {
                    "index": unit.index,
                    "name": unit.name,
                    "ram_mib": unit.ram_mib,
                    "declared": unit.declared,
                    "busy": bool(self._keeper.taken_units() >> unit.index & 1),
                }
                for unit in self._ports.devices.units()
            ],
            "jobs": sum(not job.over for job in self._keeper.jobs.values()),
            "agreements": sum(not agreement.ended for agreement in agreements),
            "block": self._keeper.block,
            "waiting_for": self.waiting_for(),
            "counters": self._ports.link.statistics(),
            "now": self._ports.clock.now(),
        }
