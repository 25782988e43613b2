"""Market's desk: the live offers this node has heard of. No transport, no rendering."""

from __future__ import annotations

from typing import Any

from market.agreement import Phase, Role
from market.errors import NotFoundError
from market.terms import Offer
from market.units import PPM, format_money
from node.bulletin import Bulletin
from node.desk.rows import offer_row
from node.keeper import Keeper
from node.ports import Ports

_Key = tuple[bytes, bytes]
GONE_MAX = 4096  # a page that was away for longer asks for everything


class MarketDesk:
    """Asks the bulletin. Keeps each offer's row until the offer is said anew."""

    def __init__(self, ports: Ports, keeper: Keeper, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._bulletin = bulletin
        self._rows: dict[_Key, tuple[Offer, dict[str, Any], int]] = {}
        self._gone: dict[_Key, int] = {}
        self._seen = -1
        self._forgotten = 0  # what was gone by this version is not remembered

    def version(self) -> int:
        """Another number whenever the live offers are others than before; never a smaller one."""
        counts = self._bulletin.book.statistics()
        return sum(counts[name] for name in ("accepted", "evicted", "expired", "withdrawn"))

    def offers(self) -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        self._refresh()
        ordered = sorted(
            self._rows.values(), key=lambda r: (r[0].price_per_hour, r[0].peer, r[0].offer_id)
        )
        return [row for _, row, _ in ordered]

    def since(self, version: int) -> dict[str, Any]:
        """What changed after `version` (-1: everything), in no order, and what is gone."""
        self._refresh()
        full = version < 0 or version > self._seen or version < self._forgotten
        return {
            "version": self._seen,
            "now": self._ports.clock.now(),
            "full": full,
            "offers": [row for _, row, at in self._rows.values() if full or at > version],
            "gone": [] if full else [_name(key) for key, at in self._gone.items() if at > version],
        }

    async def detail(self, name: str) -> dict[str, Any]:
        """One offer (`peer-offer` in hex) with what this node knows of its provider.

        Raises NotFoundError; ChainError if the provider's stake cannot be read.
        """
        try:
            peer, _, offer_id = name.partition("-")
            offer = self._bulletin.book.get(bytes.fromhex(peer), bytes.fromhex(offer_id))
        except ValueError:
            offer = None
        if offer is None:
            raise NotFoundError("this offer is not live any more", hint="look at the market again")
        account = await self._ports.chain.account(offer.provider, offer.operator)
        believed = self._bulletin.book.believed(offer)
        return {
            **offer_row(offer, self._money),
            "signature": "verified",  # nothing else enters the book
            "operator": f"0x{offer.operator.hex()}",
            "authorised": account.operator_expires_at_s > self._ports.clock.now(),
            "collateral_per_unit": self._money(offer.collateral_per_unit),
            "stake_free": self._money(account.stake),
            "stake_locked": self._money(account.locked),
            "stake_thawing": self._money(account.thawing),
            "stake_covers_units": (
                account.stake // offer.collateral_per_unit if offer.collateral_per_unit else None
            ),
            "units_taken_on_chain": account.units.bit_count(),
            "believed_reliability": believed.reliability_ppm / PPM,
            "record": self._record(offer),
        }

    def _record(self, offer: Offer) -> dict[str, int]:
        """How this node's own agreements with that provider went."""
        mine = [
            a for a in self._keeper.agreements.values()
            if a.role is Role.REQUESTER and a.peer == offer.peer and a.opened_at_s
        ]  # fmt: skip
        return {
            "opened": len(mine),
            "settled": sum(a.phase is Phase.SETTLED for a in mine),
            "slashed": sum(a.phase is Phase.SLASHED for a in mine),
            "running": sum(not a.ended for a in mine),
            "metered_s": sum(a.metered_s for a in mine),
        }

    def _refresh(self) -> None:
        version = self.version()
        if version == self._seen:
            return
        live: dict[_Key, tuple[Offer, dict[str, Any], int]] = {}
        for offer in self._bulletin.book.offers():
            key = (offer.peer, offer.offer_id)
            known = self._rows.get(key)
            if known is not None and known[0] is offer:
                live[key] = known
            else:
                shown = self._bulletin.book.believed(offer)
                live[key] = (offer, offer_row(shown, self._money), version)
        for key in self._rows:
            if key not in live:
                self._gone[key] = version
        for key in live:
            self._gone.pop(key, None)
        while len(self._gone) > GONE_MAX:
            self._forgotten = self._gone.pop(next(iter(self._gone)))
        self._rows, self._seen = live, version

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def _name(key: _Key) -> str:
    return f"{key[0].hex()}-{key[1].hex()}"
