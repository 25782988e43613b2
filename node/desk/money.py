"""Money's desk: what the escrow holds for this node, and every agreement. No transport."""

from __future__ import annotations

from typing import Any

from market.units import format_money
from node.config import Config
from node.desk.rows import address_text, agreement_row
from node.keeper import Keeper
from node.ports import Ports


class MoneyDesk:
    """Asks the chain and the keeper."""

    def __init__(self, config: Config, ports: Ports, keeper: Keeper) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._keeper = keeper

    async def wallet(self) -> dict[str, Any]:
        """What the escrow holds for this node's wallet. Raises ChainError."""
        info = self._ports.chain.info
        account = await self._ports.chain.account(self._config.wallet, self._ports.signer.operator)
        return {
            "wallet": address_text(self._config.wallet),
            "operator": address_text(self._ports.signer.operator),
            "chain_id": info.domain.chain_id,
            "escrow": address_text(info.domain.contract),
            "token": info.symbol,
            "in_wallet": self._money(account.tokens),
            "deposited": self._money(account.free),
            "stake": self._money(account.stake),
            "locked": self._money(account.locked),
            "thawing": self._money(account.thawing),
            "allowance": self._money(account.operator_allowance),
            "thaws_at": account.thaws_at_s or None,
            "allowance_expires": account.operator_expires_at_s,
            "gas_wei": str(account.gas),
        }

    def agreements(self) -> list[dict[str, Any]]:
        """Every agreement of this node, newest first."""
        ordered = sorted(self._keeper.agreements.values(), key=lambda a: -a.created_at_ms)
        return [agreement_row(agreement, self._money) for agreement in ordered]

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)
