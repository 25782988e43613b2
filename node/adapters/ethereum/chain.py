"""Chain: the escrow on an EVM chain, as the port `Chain` wants it. Wires the parts; no rule here.

rpc       endpoints with failover, every answer checked      answers, endpoints, rpc
sender    nonces, fees, resending, the outbox on disk         sender, fees, outbox
follower  blocks, reorganisations, facts at depth             follower, logs, events
history   one wallet's events, for its books                  history
contracts views of the contract, by web3.py                   provider, contract
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import structlog
import trio

from market.chainlog import EscrowEvent
from market.errors import ChainError
from market.escrow import ChainOrder
from market.limits import CLOCK_SKEW_S
from market.signing import Domain
from market.units import UnixTime
from node.adapters.ethereum.answers import raw
from node.adapters.ethereum.contract import calldata
from node.adapters.ethereum.errands import Errands
from node.adapters.ethereum.events import fact
from node.adapters.ethereum.follower import Follower
from node.adapters.ethereum.history import History
from node.adapters.ethereum.logs import LogReader
from node.adapters.ethereum.outbox import Outbox, open_outbox
from node.adapters.ethereum.pending import Call, Pace
from node.adapters.ethereum.rpc import Rpc, WrongChainError
from node.adapters.ethereum.sender import Sender
from node.adapters.ethereum.settings import ChainConfig
from node.adapters.ethereum.views import Views
from node.ports import Account, ChainBatch, ChainHealth, ChainInfo

log = structlog.get_logger("chain")

NO_BLOCK_S: Final = 120.0  # ten slots of Ethereum without a block: something is wrong
UNMINED_S: Final = 60.0
LONG_CHAIN_BLOCKS: Final = 10_000  # reading less than that from the start takes a moment


class EthereumChain:
    """Implements the port `Chain` for one operator key."""

    def __init__(
        self, config: ChainConfig, rpc: Rpc, sender: Sender, outbox: Outbox, info: ChainInfo
    ) -> None:
        """Made by `open_chain`."""
        self._config = config
        self._rpc = rpc
        self._sender = sender
        self._outbox = outbox
        self._info = info
        reader = LogReader(rpc, config.escrow)
        self._history = History(reader, config.first_block)
        self._views = Views(config, rpc, self._history)
        self._follower = Follower(
            rpc, reader, confirmations=config.confirmations, poll_s=config.poll_s,
            first_block=config.first_block,
        )  # fmt: skip

    @property
    def info(self) -> ChainInfo:
        """As found at the start."""
        return self._info

    @property
    def errands(self) -> Errands:
        """What this chain's wallets may be asked to do."""
        return Errands(self._rpc, self._config.chain_id, self._config.escrow, self._config.token)

    async def submit(self, order: ChainOrder) -> bytes:
        """Send it and wait until it is mined; the same order already on its way is waited for."""
        call = Call(self._config.escrow, calldata(order))
        return (await self._sender.send(call, once=True)).tx

    async def facts(self, after_block: int) -> AsyncIterator[ChainBatch]:
        """Confirmed facts for ever; a batch per block that became deep, also empty."""
        async with contextlib.aclosing(self._follower.batches(after_block)) as batches:  # type: ignore[type-var]  # it is a generator
            async for batch in batches:
                facts = tuple(one for one in map(fact, batch.events) if one is not None)
                yield ChainBatch(batch.block, batch.at_s, facts)

    async def history(self, wallet: bytes) -> tuple[EscrowEvent, ...]:
        """From the contract's first block to the newest."""
        return await self._history.of(wallet, (await self._rpc.head()).number)

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger of one wallet: the contract's views at one block, and the logs up to it."""
        return await self._views.account(wallet, operator)

    async def spendable(self, wallet: bytes, operator: bytes) -> int:
        """Two views at the newest block."""
        return await self._views.spendable(wallet, operator)

    def health(self) -> ChainHealth:
        """The first of what keeps this node waiting, the worst first."""
        follower, head = self._follower, self._follower.head
        words, since = "", 0.0
        unmined = self._sender.unmined()
        if self._rpc.down_since:
            words = self._rpc.endpoints.troubles() or "no endpoint answers"
            since = self._rpc.down_since
        elif follower.trouble:
            words, since = follower.trouble, follower.trouble_since
        elif head is not None and time.time() - follower.seen_at > NO_BLOCK_S:
            words, since = f"no block after {head.number}", follower.seen_at
        elif unmined and time.time() - unmined[0].since > UNMINED_S:
            words = self._sender.trouble or f"{len(unmined)} transactions are not mined yet"
            since = unmined[0].since
        elif head is not None and head.at_s - follower.seen_at > CLOCK_SKEW_S:
            ahead = round(head.at_s - follower.seen_at)
            words = f"its clock is {ahead} s ahead of this machine's: set the clock"
            since = follower.seen_at
        return ChainHealth(
            head.number if head else 0, head.at_s if head else 0, words, UnixTime(since)
        )

    def statistics(self) -> dict[str, int]:
        """Counters: transactions, reorganisations, and requests by endpoint."""
        asked = {f"asked {one.name}": one.asked for one in self._rpc.endpoints.all}
        failed = {f"failed {one.name}": one.failed for one in self._rpc.endpoints.all}
        return {**self._sender.statistics(), **self._follower.counts, **asked, **failed}

    async def burned(self) -> int:
        """What was slashed and given to nobody."""
        return await self._views.burned()

    async def check(self) -> None:
        """Ask the chain whether it is what the configuration says; keep what it answers.

        Raises ChainError, WrongChainError among them.
        """
        self._info = await self._views.check()
        await self._check_genesis()
        await self._find_first_block()
        info = self._info
        known = [info.symbol, info.decimals, info.window_min_s, info.claim_window_min_s]
        await self._outbox.remember(_name(self._config), json.dumps(known).encode())

    async def _find_first_block(self) -> None:
        """Where to begin to read, if nobody said so."""
        if self._config.first_block or (await self._rpc.head()).number < LONG_CHAIN_BLOCKS:
            return
        name = f"first {self._config.chain_id} {self._config.escrow.hex()}"
        known = await self._outbox.recall(name)
        first = int(known) if known else await self._views.deployed_at()
        await self._outbox.remember(name, str(first).encode())
        self._history.first_block = self._follower.first_block = first

    async def _check_genesis(self) -> None:
        """A local chain may be started anew under its old id: what was signed for it is void."""
        first = await self._rpc.ask("eth_getBlockByNumber", "0x0", False, read=_hash)
        known = await self._outbox.recall("genesis")
        if known and first and known != first:
            log.warning("another chain with the same id: transactions of the old one are dropped")
            await self._outbox.clear()
        if first:
            await self._outbox.remember("genesis", first)

    async def recall(self) -> bool:
        """Take over what `check` found in a former run; False if it never did."""
        known = await self._outbox.recall(_name(self._config))
        if not known:
            return False
        symbol, decimals, window, claim_window = json.loads(known)
        self._info = ChainInfo(
            Domain(self._config.chain_id, self._config.escrow), self._config.token, symbol,
            decimals, window, claim_window, self._config.explorer,
        )  # fmt: skip
        return True


@asynccontextmanager
async def open_chain(config: ChainConfig, operator_key: bytes) -> AsyncIterator[EthereumChain]:
    """The chain, once its id and the contract's presence are checked. Raises ChainError.

    A node that has seen this contract before starts without the chain too, and waits for it.
    """
    async with AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(Rpc(config.urls, config.chain_id, config.patience_s))
        outbox = await stack.enter_async_context(open_outbox(config.outbox))
        pace = Pace(
            look_s=config.poll_s, resend_s=config.resend_s, stuck_s=config.stuck_s,
            give_up_s=config.give_up_s,
        )  # fmt: skip
        sender = Sender(rpc, operator_key, config.chain_id, config.fee_cap_wei, outbox, pace)
        chain = EthereumChain(config, rpc, sender, outbox, _nothing(config))
        try:
            await chain.check()
        except WrongChainError:
            raise
        except ChainError as problem:
            if not rpc.down_since or not await chain.recall():
                raise
            log.warning("the node starts without the chain, and waits for it", problem=str(problem))
        await sender.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.run)
            yield chain
            nursery.cancel_scope.cancel()


def _nothing(config: ChainConfig) -> ChainInfo:
    domain = Domain(config.chain_id, config.escrow)
    return ChainInfo(domain, config.token, "", 0, 0, 0, config.explorer)


def _name(config: ChainConfig) -> str:
    return f"info {config.chain_id} {config.escrow.hex()} {config.token.hex()}"


def _hash(value: object) -> bytes:
    """A block's hash; nothing where old blocks are not served."""
    return raw(value["hash"]) if isinstance(value, dict) and "hash" in value else b""
