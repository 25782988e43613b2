"""Books' desk: what this node's wallet spent and earned, from the chain's log.

Every amount is rebuilt from the escrow's events (`market/statement.py`) and held against what the
contract says now: `agrees` is whether both are the same to the base unit. The journal adds names.
"""

from __future__ import annotations

from typing import Any

from market.chainlog import EscrowEvent
from market.ledger import CLOSED, SLASHED, ledger_of
from market.statement import Line, Position, Side, Statement, Sums, position, reconcile, statement
from market.units import format_money
from node.config import Config
from node.desk.rows import address_text
from node.keeper import Keeper
from node.ports import Account, Ports

LOOKS = 3  # a block may come between the log and the contract's answer


class BooksDesk:
    """Asks the chain for the wallet's log, and the keeper for what things are called."""

    def __init__(self, config: Config, ports: Ports, keeper: Keeper) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._keeper = keeper

    async def spent(self, since_s: int) -> dict[str, Any]:
        """What agreements cost this wallet as requester. Raises ChainError."""
        return await self._statement(Side.REQUESTER, since_s)

    async def earned(self, since_s: int) -> dict[str, Any]:
        """What agreements brought this wallet as provider. Raises ChainError."""
        return await self._statement(Side.PROVIDER, since_s)

    async def _statement(self, side: Side, since_s: int) -> dict[str, Any]:
        wallet, info = self._config.wallet, self._ports.chain.info
        events: tuple[EscrowEvent, ...] = ()
        agrees = False
        for _ in range(LOOKS):
            events = await self._ports.chain.history(wallet)
            account = await self._ports.chain.account(wallet, self._ports.signer.operator)
            books = position(ledger_of(events), wallet, info.token)
            expected, booked = reconcile(events, wallet, info.token)
            agrees = expected == booked and _same(books, account)
            if agrees:
                break
        made = statement(events, wallet, info.token, side, since_s)
        return {
            "side": side.value,
            "wallet": address_text(wallet),
            "token": info.symbol,
            "decimals": info.decimals,
            "since": since_s,
            "agreements": [self._line(line, side) for line in made.lines],
            "days": [{"day": day, **self._sums(sums, side)} for day, sums in made.days],
            "total": self._sums(made.total, side),
            "escrow": {
                "free": self._money(books.free),
                "stake": self._money(books.stake),
                "thawing": self._money(books.thawing),
                "locked": self._money(books.locked),
                "held": self._money(books.held),
                "total": self._money(books.total),
            },
            "transactions": self._transactions(made),
            "agrees": agrees,
        }

    def _line(self, line: Line, side: Side) -> dict[str, Any]:
        opened = line.row.opened
        own = self._keeper.agreements.get(opened.id)
        job = None if own is None else self._keeper.jobs.get(own.job_id)
        over = {CLOSED: "settled", SLASHED: "slashed"}
        name = job.manifest.name if job is not None else ""
        if not name and own is not None and own.manifest is not None:
            name = own.manifest.name
        return {
            "agreement": opened.id.hex(),
            "job": own.job_id.hex() if own is not None else None,
            "job_name": name or None,
            "peer": own.peer.hex() if own is not None else None,
            "other": address_text(line.other),
            "opened": opened.place.at_s,
            "closed": line.closed_at_s or None,
            "state": over.get(line.row.status, "running"),
            **self._sums(line.sums, side),
            "held": self._money(line.held),
        }

    def _sums(self, sums: Sums, side: Side) -> dict[str, str]:
        if side is Side.REQUESTER:
            return {
                "paid": self._money(-sums.payments),
                "bonds_lost": self._money(-sums.bonds),
                "compensated": self._money(sums.slashes),
                "spent": self._money(-sums.net),
            }
        return {
            "paid": self._money(sums.payments),
            "bonds_won": self._money(sums.bonds),
            "slashed": self._money(-sums.slashes),
            "earned": self._money(sums.net),
        }

    def _transactions(self, made: Statement) -> list[dict[str, Any]]:
        return [
            {
                "at": movement.place.at_s,
                "block": movement.place.block,
                "tx": "0x" + movement.place.tx.hex(),
                "agreement": movement.agreement.hex(),
                "cause": movement.cause.value,
                "amount": self._money(movement.amount),
            }
            for movement in made.movements
        ]

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def _same(books: Position, account: Account) -> bool:
    found = (account.free, account.stake, account.thawing, account.locked)
    return (books.free, books.stake, books.thawing, books.locked) == found
