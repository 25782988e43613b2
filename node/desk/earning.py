"""Earning's desk: how this provider's machine is, what it brought in, what was taken for failure.

Money is read from the chain's own events, so it is there after the journal was lost, too. No
transport, no rendering.
"""

from __future__ import annotations

from typing import Any

from market.agreement import Role
from market.models import takes
from market.statement import Cause, Movement, Side, statement
from market.units import format_money
from node.bulletin import Bulletin
from node.config import Config
from node.desk.rows import address_text
from node.keeper import Keeper
from node.ports import Ports


class EarningDesk:
    """Asks devices, chain and keeper."""

    def __init__(self, config: Config, ports: Ports, keeper: Keeper, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._bulletin = bulletin

    def units(self) -> list[dict[str, Any]]:
        """Every unit, idle ones too: what it is, how it is, what works on it. None: not known."""
        health = {one.index: one for one in self._ports.devices.health()}
        rows = []
        for unit in self._ports.devices.units():
            now = health.get(unit.index)
            work = next(
                (a for a in self._keeper.agreements.values() if a.role is Role.PROVIDER
                 and not a.ended and a.terms.units >> unit.index & 1), None,
            )  # fmt: skip
            rows.append(
                {
                    "index": unit.index,
                    "name": unit.name,
                    "uuid": unit.uuid,
                    "ram_mib": unit.ram_mib,
                    "declared": unit.declared,
                    "driver_version": unit.driver_version,
                    "healthy": now.healthy if now else None,
                    "reason": now.reason if now else "its state cannot be read",
                    "utilisation": _share(now.utilisation_ppm if now else None),
                    "memory_used_mib": now.memory_used_mib if now else None,
                    "processes": now.processes if now else None,
                    "throttled": now.throttled if now else "",
                    "pcie": f"{unit.pcie_gen}.0 x{unit.pcie_lanes}" if unit.pcie_gen else None,
                    "temperature_c": now.temperature_c if now else None,
                    "power_w": now.power_w if now else None,
                    "agreement": work.id.hex() if work else None,
                    "phase": work.phase.value if work else None,
                }
            )
        return rows

    async def earnings(self) -> dict[str, Any]:
        """By UTC day and in all: payments, bonds, slashes; what runs and is not settled yet.

        Raises ChainError.
        """
        wallet, token = self._config.wallet, self._ports.chain.info.token
        events = await self._ports.chain.history(wallet)
        found = statement(events, wallet, token, Side.PROVIDER)
        running = [
            a for a in self._keeper.agreements.values()
            if a.role is Role.PROVIDER and not a.ended and a.opened_at_s
        ]  # fmt: skip
        return {
            "days": [
                {
                    "day": day,
                    "payments": self._money(sums.payments),
                    "bonds": self._money(sums.bonds),
                    "slashes": self._money(sums.slashes),
                    "net": self._money(sums.net),
                }
                for day, sums in found.days
            ],
            "payments": self._money(found.total.payments),
            "slashed": self._money(-found.total.slashes),
            "net": self._money(found.total.net),
            "pending": self._money(sum(max(0, a.promised - a.paid) for a in running)),
            "agreements": len(found.lines),
            "slashes": [
                self._slash(one) for one in found.movements if one.cause is Cause.SLASH
            ],
        }  # fmt: skip

    def others_prices(self, name: str) -> list[str]:
        """What others ask for units of that model, cheapest first."""
        prices = sorted(
            offer.price_per_hour
            for offer in self._bulletin.book.offers()
            if offer.provider != self._config.wallet and takes(name, offer.gpu_name)
        )
        return [self._money(price) for price in prices]

    def _slash(self, one: Movement) -> dict[str, Any]:
        known = self._keeper.agreements.get(one.agreement)
        challenge = known.challenge_tx if known else b""
        return {
            "agreement": one.agreement.hex(),
            "at": one.place.at_s,
            "block": one.place.block,
            "amount": self._money(-one.amount),
            "slash_tx": "0x" + one.place.tx.hex(),
            "challenge_tx": "0x" + challenge.hex() if challenge else None,
            "last_heartbeat": known.beat.heartbeat.sequence if known and known.beat else None,
            "requester": address_text(known.terms.parties.requester) if known else None,
        }

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def _share(ppm: int | None) -> float | None:
    return None if ppm is None else ppm / 1_000_000
