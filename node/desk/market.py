"""Market's desk: the live offers this node has heard of. No transport, no rendering."""

from __future__ import annotations

from typing import Any

from market.units import format_money
from node.bulletin import Bulletin
from node.desk.rows import offer_row
from node.ports import Ports


class MarketDesk:
    """Asks the bulletin."""

    def __init__(self, ports: Ports, bulletin: Bulletin) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._bulletin = bulletin

    def offers(self) -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        offers = sorted(
            self._bulletin.book.offers(), key=lambda o: (o.price_per_hour, o.peer, o.offer_id)
        )
        believed = map(self._bulletin.book.believed, offers)
        return [offer_row(offer, self._money) for offer in believed]

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)
