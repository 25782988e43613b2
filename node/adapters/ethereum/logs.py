"""Logs: the escrow's events in a range of blocks, whatever the endpoint allows at once.

Knows which contract; not who asks, nor what is told to whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from market.chainlog import EscrowEvent
from market.errors import ChainError
from node.adapters.ethereum.answers import AnswerError, Header, Log, header, logs
from node.adapters.ethereum.events import event
from node.adapters.ethereum.rpc import Rpc, RpcError

SPAN_BLOCKS: Final = 5000  # what the stricter public endpoints allow; halved when one says no
TIMES_MAX: Final = 4096

Filter = Sequence[str | Sequence[str] | None]
"""Topics by position: one, any of several, or anything."""


class LogReader:
    """Reads the logs of one contract."""

    def __init__(self, rpc: Rpc, escrow: bytes) -> None:
        """Asks nothing yet."""
        self._rpc = rpc
        self._escrow = escrow
        self._span = SPAN_BLOCKS
        self._times: dict[bytes, int] = {}

    @property
    def span(self) -> int:
        """How many blocks are asked for at once at present."""
        return self._span

    async def of_block(self, block: Header, wanted: Filter) -> tuple[EscrowEvent, ...]:
        """Events of exactly this block (EIP-234), whatever chain the endpoint is on by now."""
        name = "0x" + block.hash.hex()

        def read(value: object) -> tuple[EscrowEvent, ...]:
            found = logs(value)
            if any(log.block_hash != block.hash for log in found):
                raise AnswerError("the RPC endpoint answered logs of other blocks")
            return self._events(found, {block.hash: block.at_s})

        question = {**self._question(wanted), "blockHash": name}
        return await self._rpc.ask("eth_getLogs", question, read=read)

    async def of_range(self, first: int, last: int, wanted: Filter) -> tuple[EscrowEvent, ...]:
        """Events of these blocks, both included; in smaller steps where the endpoint wants it.

        Raises ChainError when not even one block can be had.
        """
        found: list[EscrowEvent] = []
        while first <= last:
            until = min(last, first + self._span - 1)
            try:
                found += await self._step(first, until, wanted)
            except ChainError as problem:
                # Too many blocks, too many logs, too long an answer, too slow: all the same.
                if until == first or not isinstance(problem, RpcError | ChainError):
                    raise
                self._span = max(1, (until - first + 1) // 2)
                continue
            first = until + 1
            self._span = min(SPAN_BLOCKS, self._span * 2)
        return tuple(found)

    async def _step(self, first: int, last: int, wanted: Filter) -> tuple[EscrowEvent, ...]:
        def read(value: object) -> tuple[Log, ...]:
            found = logs(value)
            if any(not first <= log.block <= last for log in found):
                raise AnswerError("the RPC endpoint answered logs of other blocks")
            self._events(found, {log.block_hash: 0 for log in found})  # whole, or ask another
            return found

        question = {**self._question(wanted), "fromBlock": hex(first), "toBlock": hex(last)}
        found = await self._rpc.ask("eth_getLogs", question, read=read)
        times = {log.block_hash: log.at_s or await self._time(log) for log in found}
        return self._events(found, times)

    async def _time(self, log: Log) -> int:
        if log.block_hash not in self._times:
            block = await self._rpc.ask(
                "eth_getBlockByHash", "0x" + log.block_hash.hex(), False, read=header
            )
            if len(self._times) >= TIMES_MAX:
                self._times.clear()
            self._times[log.block_hash] = block.at_s
        return self._times[log.block_hash]

    def _question(self, wanted: Filter) -> dict[str, object]:
        topics = [list(one) if isinstance(one, tuple) else one for one in wanted]
        return {"address": "0x" + self._escrow.hex(), "topics": topics}

    def _events(self, found: Sequence[Log], times: dict[bytes, int]) -> tuple[EscrowEvent, ...]:
        if any(log.address != self._escrow for log in found):
            raise AnswerError("the RPC endpoint answered logs of another contract")
        read = [event(log, times[log.block_hash]) for log in found]
        return tuple(one for one in read if one is not None)
