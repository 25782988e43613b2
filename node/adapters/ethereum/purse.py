"""Purse: one wallet's way to the escrow from a command: what it has, and what a plan would cost.

With the wallet's key it also carries plans out; without, it only shows them. The node's own key and
its outbox have no part in this.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from market.errors import ChainError
from node.adapters.ethereum.history import History
from node.adapters.ethereum.logs import LogReader
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.plans import Plans
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.settings import ChainConfig
from node.adapters.ethereum.views import Views
from node.adapters.ethereum.wallet import Wallet
from node.ports import Account, ChainInfo

LONG_CHAIN_BLOCKS: Final = 10_000  # reading less than that from the start takes a moment


@dataclass(frozen=True, slots=True)
class Cost:
    """Gas of a plan, and what it costs at most, in wei. `known`: of how many calls it is so far."""

    gas: int
    most_wei: int
    known: int


@dataclass(frozen=True, slots=True)
class Done:
    """A plan carried out: its transactions in order, the gas they took, and what it cost in wei."""

    transactions: tuple[bytes, ...]
    gas: int
    wei: int


class Purse:
    """Made by `open_purse`, which has checked that the escrow is there."""

    def __init__(
        self, rpc: Rpc, views: Views, info: ChainInfo, plans: Plans, wallet: Wallet | None
    ) -> None:
        """`wallet` None: nothing can be signed here."""
        self._rpc = rpc
        self._views = views
        self.info = info
        self.plans = plans
        self.wallet = wallet

    async def account(self, owner: bytes, operator: bytes) -> Account:
        """What the escrow holds for a wallet."""
        return await self._views.account(owner, operator)

    async def cost(self, plan: tuple[Call, ...]) -> Cost:
        """What the plan would take now. Raises ChainRefusedError if its first call would revert.

        A later call can be estimated only once those before it are mined.
        """
        if self.wallet is None:
            return Cost(0, 0, 0)
        gas = known = 0
        for step in plan:
            try:
                gas += await self.wallet.sender.estimate(step)
            except ChainError:
                if not known:
                    raise
                break
            known += 1
        fees = await self.wallet.sender.fees()
        return Cost(gas, gas * fees.most, known)

    async def perform(self, plan: tuple[Call, ...]) -> Done:
        """Carry it out, one call after the other. Raises ChainError."""
        assert self.wallet is not None, "there is a key"
        done = []
        for step in plan:
            done.append(await self.wallet.sender.send(step))
        return Done(
            tuple(receipt.tx for receipt in done),
            sum(receipt.gas_used for receipt in done),
            sum(receipt.gas_used * receipt.gas_price_wei for receipt in done),
        )


@asynccontextmanager
async def open_purse(config: ChainConfig, key: bytes | None) -> AsyncIterator[Purse]:
    """A purse on this escrow; `key` None: it can only look. Raises ChainError."""
    async with Rpc(config.urls, config.chain_id) as rpc:
        history = History(LogReader(rpc, config.escrow), config.first_block)
        views = Views(config, rpc, history)
        info = await views.check()
        if not config.first_block and (await rpc.head()).number >= LONG_CHAIN_BLOCKS:
            history.first_block = await views.deployed_at()
        wallet = None
        if key is not None:
            wallet = Wallet(
                rpc, key, config.chain_id, config.escrow, config.token, config.fee_cap_wei
            )
        plans = Plans(rpc, config.chain_id, config.escrow, config.token)
        yield Purse(rpc, views, info, plans, wallet)
