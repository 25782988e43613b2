"""Chain: blocks over the simulated escrow, and one node's port to them. Time is trio's.

Orders wait in a pool until the next block, as transactions do: a node that crashes after sending
does not take its order back. On the way there an order may be lost, and on the way back its answer.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import trio

from market.chainlog import EscrowEvent
from market.errors import ChainError, ChainRefusedError
from market.escrow import ChainFact, ChainOrder
from market.units import UnixTime
from node.ports import Account, ChainBatch, ChainHealth, ChainInfo
from tests.simulation.escrow import DOMAIN, Ledger

TOKEN = b"\x70" * 20
GAS_WEI = 10**18


@dataclass
class Sent:
    """One order in the pool, and what became of it."""

    order: ChainOrder
    sender: bytes
    mined: trio.Event = field(default_factory=trio.Event)
    tx: bytes = b""
    refusal: str = ""


@dataclass
class Blocks:
    """One chain that all nodes of a world share. `confirmations` 1: the newest block is told."""

    ledger: Ledger
    now: Callable[[], UnixTime]
    block_s: float = 1.0
    confirmations: int = 1
    told: list[tuple[int, tuple[ChainFact, ...]]] = field(default_factory=list)
    pool: list[Sent] = field(default_factory=list)

    async def mine(self) -> None:
        """A block every `block_s`, for ever."""
        while True:
            await trio.sleep(self.block_s)
            self.add_block()

    def add_block(self) -> None:
        """Carry out what waits, in the order it came."""
        at_s = int(self.now())
        facts: list[ChainFact] = []
        pool, self.pool = self.pool, []
        for sent in pool:
            try:
                sent.tx, said = self.ledger.execute(sent.order, sent.sender, at_s)
                facts += said
            except ChainRefusedError as problem:
                sent.refusal = problem.reason
            sent.mined.set()
        self.told.append((at_s, tuple(facts)))


class SimChain:
    """Implements the port `Chain` for one operator key. `loss` is the chance to lose each way."""

    def __init__(
        self, blocks: Blocks, operator: bytes, rng: random.Random, loss: float = 0.0
    ) -> None:
        """All chance comes from `rng`."""
        self._blocks = blocks
        self._operator = operator
        self._rng = rng
        self.loss = loss

    @property
    def info(self) -> ChainInfo:
        """Fixed."""
        limits = self._blocks.ledger.limits
        return ChainInfo(DOMAIN, TOKEN, "TEST", 6, limits.window_min, limits.claim_window_min, "")

    async def submit(self, order: ChainOrder) -> bytes:
        """On its way for up to a block, then in the pool until the next one."""
        await trio.sleep(self._blocks.block_s * self._rng.random())
        if self._rng.random() < self.loss:
            raise ChainError("the transaction was lost")
        sent = Sent(order, self._operator)
        self._blocks.pool.append(sent)
        await sent.mined.wait()
        if self._rng.random() < self.loss:
            raise ChainError("the receipt was lost")
        if sent.refusal:
            raise ChainRefusedError(reason=sent.refusal)
        return sent.tx

    async def facts(self, after_block: int) -> AsyncIterator[ChainBatch]:
        """Block by block, at the depth."""
        block, blocks = after_block, self._blocks
        while True:
            while block <= len(blocks.told) - blocks.confirmations:
                at_s, facts = blocks.told[block]
                block += 1
                yield ChainBatch(block, at_s, facts)
            await trio.sleep(blocks.block_s / 2)
            if self._rng.random() < self.loss / 4:
                raise ChainError("the connection was lost")

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger's rows."""
        await trio.lowlevel.checkpoint()
        ledger = self._blocks.ledger
        allowance, expiry = ledger.allowances.get((wallet, operator), (0, 0))
        return Account(
            wallet=wallet, free=ledger.free.get(wallet, 0), stake=ledger.stake.get(wallet, 0),
            locked=ledger.locked(wallet), thawing=0, thaws_at_s=0, operator_allowance=allowance,
            operator_expires_at_s=expiry, tokens=0, gas=GAS_WEI, units=ledger.units.get(wallet, 0),
        )  # fmt: skip

    async def spendable(self, wallet: bytes, operator: bytes) -> int:
        """The ledger's rows."""
        await trio.lowlevel.checkpoint()
        ledger = self._blocks.ledger
        allowance, expiry = ledger.allowances.get((wallet, operator), (0, 0))
        free = ledger.free.get(wallet, 0)
        if wallet == operator:
            return free
        return min(allowance, free) if expiry >= self._blocks.now() else 0

    async def history(self, wallet: bytes) -> tuple[EscrowEvent, ...]:
        """The model keeps no log: books are kept against the real contract only."""
        await trio.lowlevel.checkpoint()
        raise ChainError("the simulated chain keeps no history")

    def health(self) -> ChainHealth:
        """All is well, always."""
        blocks = self._blocks
        at_s = blocks.told[-1][0] if blocks.told else 0
        return ChainHealth(len(blocks.told), at_s, "", UnixTime(0))
