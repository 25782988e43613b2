"""Follower: the chain's blocks as they come, and go. Facts are told at depth, once, in order.

    far behind:   ranges of logs up to 64 blocks below the head
    near:         header by header; the last 64 blocks are kept with their hashes and events
                  the head's parents differ from those kept: their events are withdrawn, others come
    told:         what lies `confirmations` deep

An endpoint whose head is lower than what was seen is waited for, never followed back. If a chain
reorganises below what was told, the new branch's events are told as well, and it is logged: no
depth can be certain, and the operator chose it.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import structlog
import trio

from market.chainlog import EscrowEvent, Place
from market.errors import ChainError
from node.adapters.ethereum.answers import Header, header
from node.adapters.ethereum.events import FACTS, topics
from node.adapters.ethereum.logs import LogReader
from node.adapters.ethereum.rpc import Rpc, RpcError

log = structlog.get_logger("chain")

KEPT_BLOCKS: Final = 64  # two epochs: what finality takes on Ethereum
STILL_S: Final = 15.0  # no new block for so long: perhaps only this endpoint stands still
PAUSE_MAX_S: Final = 10.0


class MovedError(ChainError):
    """The chain moved on while it was read."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A block near the head, with what the escrow said in it."""

    block: Header
    events: tuple[EscrowEvent, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of blocks that are deep enough, up to and including `block` of time `at_s`."""

    block: int
    at_s: int
    events: tuple[EscrowEvent, ...]


@dataclass(slots=True)
class _State:
    """How far one reader is. `late`: of a branch that replaced what was told, not told yet."""

    told: int
    moved_at: float
    kept: dict[int, Kept] = field(default_factory=dict)
    late: list[EscrowEvent] = field(default_factory=list)

    @property
    def top(self) -> int:
        return max(self.kept, default=self.told)


class Follower:
    """One reader of the chain. `batches` may be entered again; each starts where it is told to."""

    def __init__(
        self, rpc: Rpc, reader: LogReader, *, confirmations: int, poll_s: float,
        first_block: int = 0, still_s: float = STILL_S,
    ) -> None:  # fmt: skip
        """`confirmations` 1: the newest block is told."""
        self._rpc = rpc
        self._reader = reader
        self._confirmations = confirmations
        self._poll_s = poll_s
        self.first_block = first_block
        self._still_s = still_s
        self.head: Header | None = None  # the newest block ever seen
        self.seen_at = 0.0  # Unix time of when it was
        self.trouble = ""
        self.trouble_since = 0.0  # Unix time
        self.counts = dict.fromkeys(("reorganisations", "withdrawn", "too_deep", "lagging"), 0)

    async def batches(self, after_block: int) -> AsyncIterator[Batch]:
        """For ever, over any outage; `trouble` says what it waits for meanwhile."""
        told = max(after_block, self.first_block - 1, 0)
        state = _State(told, trio.current_time())
        pause_s = self._poll_s
        while True:
            try:
                ready = await self._step(state)
                self._has_trouble("")
                pause_s = self._poll_s
            except MovedError:  # look again; it is the chain's way, and no trouble
                ready = []
            except ChainError as problem:
                self._has_trouble(str(problem))
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
                ready = []
            for batch in ready:
                yield batch
            if not ready:
                await trio.sleep(pause_s)

    def _has_trouble(self, trouble: str) -> None:
        if trouble and not self.trouble:
            self.trouble_since = time.time()
            log.warning("the chain cannot be followed", problem=trouble)
        if self.trouble and not trouble:
            log.info("the chain is followed again")
        self.trouble = trouble

    async def _step(self, state: _State) -> list[Batch]:
        """What became deep enough since the last look; nothing if there is no new block."""
        head = await self._rpc.head()
        same = state.kept.get(head.number)
        if head.number < state.top or (same is not None and same.block == head):
            self.counts["lagging"] += head.number < state.top
            if trio.current_time() - state.moved_at > self._still_s:
                state.moved_at = trio.current_time()
                await self._rpc.compare_heads()
            if head.number < state.top - KEPT_BLOCKS:
                raise ChainError(
                    f"the newest block is {head.number}, and {state.top} was seen before: "
                    "the endpoint lags, or it is another chain"
                )
            return []
        state.moved_at = trio.current_time()
        self.head, self.seen_at = head, time.time()
        deep = head.number - KEPT_BLOCKS - self._confirmations
        if deep > state.told:
            until = min(deep, state.told + self._reader.span)
            batch = await self._far(state.told + 1, until)
            state.kept, state.told = {}, until
            return [batch]
        state.late += await self._take(head, state.kept, state.told)
        ready = []
        for number in range(state.told + 1, head.number - self._confirmations + 2):
            one = state.kept[number]
            late = tuple(replace(event, place=_at(one, event)) for event in state.late)
            state.late, state.told = [], number
            ready.append(Batch(number, one.block.at_s, late + one.events))
        for number in [n for n in state.kept if n <= state.told - KEPT_BLOCKS]:
            del state.kept[number]
        return ready

    async def _far(self, first: int, last: int) -> Batch:
        events = await self._reader.of_range(first, last, (topics(*FACTS),))
        end = await self._rpc.ask("eth_getBlockByNumber", hex(last), False, read=header)
        return Batch(last, end.at_s, events)

    async def _take(self, head: Header, kept: dict[int, Kept], told: int) -> list[EscrowEvent]:
        """Put the head and its ancestors into `kept`; what they add below `told` comes back."""
        new = [head]
        base = min(kept, default=told + 1)
        while new[-1].number > base:
            below = kept.get(new[-1].number - 1)
            if below is not None and below.block.hash == new[-1].parent:
                break
            name = "0x" + new[-1].parent.hex()
            parent = await self._rpc.ask("eth_getBlockByHash", name, False, read=_header)
            if parent is None:
                raise MovedError("a block was reorganised away while its children were read")
            if parent.number != new[-1].number - 1:
                raise ChainError("the RPC endpoint answered a block that is not the parent")
            new.append(parent)
        # Everything is read before anything is changed: a failure half way leaves `kept` whole.
        read = []
        for block in reversed(new):
            try:
                read.append(Kept(block, await self._reader.of_block(block, (topics(*FACTS),))))
            except RpcError as problem:  # reorganised away, or not at this endpoint yet
                raise MovedError(f"block {block.number} cannot be read: {problem}") from problem
        replaced = [kept[one.block.number] for one in read if one.block.number in kept]
        for one in read:
            kept[one.block.number] = one
        for number in [n for n in kept if n > head.number]:
            del kept[number]
        return self._withdraw(replaced, read, told)

    def _withdraw(self, replaced: list[Kept], read: list[Kept], told: int) -> list[EscrowEvent]:
        if not replaced:
            return []
        gone = sum(len(one.events) for one in replaced)
        self.counts["reorganisations"] += 1
        self.counts["withdrawn"] += gone
        first = replaced[0].block.number
        log.warning("the chain was reorganised", blocks=len(replaced), first=first, events=gone)
        if first > told:
            return []
        self.counts["too_deep"] += 1
        was = {_what(event) for one in replaced for event in one.events}
        after = [event for one in read if one.block.number <= told for event in one.events]
        log.error("a reorganisation went deeper than the confirmations that this node waits for",
                  confirmations=self._confirmations, depth=told - first + 1)  # fmt: skip
        return [event for event in after if _what(event) not in was]


def _at(one: Kept, event: EscrowEvent) -> Place:
    return replace(event.place, block=one.block.number)


def _what(event: EscrowEvent) -> Any:
    """An event without its place: what it says."""
    return replace(event, place=Place(0, 0, 0, b""))


def _header(value: object) -> Header | None:
    return None if value is None else header(value)
