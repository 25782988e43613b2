"""Overlay: one job's packets, between its interface and the channels to the other nodes.

    the job --interface--> judged --queue--> channel --> the other node --judged--> its job

Each way between two nodes has a channel of its own, opened by who sends, when there is something to
send. What cannot go is dropped and counted, as on any network: the job's TCP copes. It knows
ranks and packets; who may join is decided in `gang`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import structlog
import trio

from market.errors import LimitError, MarketError, SandboxError, UnreachableError
from market.limits import (
    GANG_FRAME_BYTES_MAX,
    GANG_IDLE_S,
    GANG_PACKETS_PER_S_MAX,
    GANG_QUEUE_BYTES_MAX,
    GANG_QUEUES_BYTES_MAX,
    GANG_RETRY_S,
)
from market.overlay import Drop, admit, destination, split
from node.ports import Channel, Interface

log = structlog.get_logger("gang")
BURST_MAX = 64  # packets, and others have a turn
SAVED_S = 0.05  # of its rate that a job may save up
Opener = Callable[[int], AbstractAsyncContextManager[Channel]]
"""A channel to a rank that has said that it takes packets. Entering raises a MarketError."""


@dataclass
class Lane:
    """What waits for one other node."""

    packets: deque[bytes] = field(default_factory=deque)
    waiting: int = 0  # bytes
    filled: trio.Event = field(default_factory=trio.Event)

    def put(self, packet: bytes) -> None:
        """Last in the line."""
        self.packets.append(packet)
        self.waiting += len(packet)
        self.filled.set()

    def take(self) -> bytes:
        """As many whole packets as make a frame; nothing if none wait."""
        parts: list[bytes] = []
        size = 0
        while self.packets and (not parts or size + len(self.packets[0]) <= GANG_FRAME_BYTES_MAX):
            parts.append(self.packets.popleft())
            size += len(parts[-1])
        self.waiting -= size
        if not self.packets:
            self.filled = trio.Event()
        return b"".join(parts)


class Turn:
    """Lets others have theirs after each burst, and keeps to a rate of packets.

    A flood of small packets would cost this node its core; what does not fit is lost to the job.
    """

    def __init__(self) -> None:
        self._due = 0.0

    async def over(self, packets: int) -> None:
        """So many have been looked at."""
        now = trio.current_time()
        self._due = max(self._due, now - SAVED_S) + packets / GANG_PACKETS_PER_S_MAX
        await trio.sleep(max(0.0, self._due - now))


class Overlay:
    """The network of one node of a gang, as long as its job runs."""

    def __init__(self, rank: int, num_nodes: int, interface: Interface, opener: Opener) -> None:
        """`interface` is the job's, and is held by whoever made this."""
        self._rank = rank
        self._num_nodes = num_nodes
        self._interface = interface
        self._opener = opener
        self._lanes: dict[int, Lane] = {}
        self._waiting = 0  # bytes, in all lanes
        self._inbound: dict[int, trio.CancelScope] = {}
        self.dropped: Counter[Drop] = Counter()
        self.bytes_out = 0
        self.bytes_in = 0

    async def run(self) -> None:
        """Until cancelled, or the job is gone: then raises SandboxError."""
        problems: list[SandboxError] = []
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await self._read(nursery)
                except SandboxError as problem:
                    problems.append(problem)
                    nursery.cancel_scope.cancel()
        finally:
            for scope in self._inbound.values():
                scope.cancel()
        raise problems[0]

    async def take(self, channel: Channel, rank: int) -> None:
        """Carry what another node sends into the job, until it ends. The newest channel counts."""
        if rank in self._inbound:
            self._inbound[rank].cancel()
        with trio.CancelScope() as scope:
            self._inbound[rank] = scope
            try:
                await self._take(channel, rank)
            finally:
                if self._inbound.get(rank) is scope:
                    del self._inbound[rank]

    # From the job.

    async def _read(self, nursery: trio.Nursery) -> None:
        turn = Turn()
        while True:
            packet: bytes | None = await self._interface.receive()
            taken = 0
            while packet is not None:
                self._route(packet, nursery)
                taken += 1
                packet = self._interface.receive_nowait() if taken < BURST_MAX else None
            await turn.over(taken)

    def _route(self, packet: bytes, nursery: trio.Nursery) -> None:
        rank = destination(packet, self._rank, self._num_nodes)
        if isinstance(rank, Drop):
            self.dropped[rank] += 1
            return
        lane = self._lanes.get(rank)
        if lane is None:
            lane = self._lanes[rank] = Lane()
            nursery.start_soon(self._send, rank, lane)
        room = min(GANG_QUEUE_BYTES_MAX - lane.waiting, GANG_QUEUES_BYTES_MAX - self._waiting)
        if len(packet) > room:
            self.dropped[Drop.FULL] += 1
            return
        lane.put(packet)
        self._waiting += len(packet)

    async def _send(self, rank: int, lane: Lane) -> None:
        """For ever: a channel while there is something to send."""
        while True:
            await lane.filled.wait()
            try:
                async with self._opener(rank) as channel:
                    await self._carry(channel, lane)
                continue
            except MarketError as problem:
                log.debug("another node of the gang does not answer", rank=rank,
                          problem=str(problem))  # fmt: skip
            # What waits now would be stale by then; who sent it sends it again.
            self.dropped[Drop.UNREACHABLE] += len(lane.packets)
            while frame := lane.take():
                self._waiting -= len(frame)
            await trio.sleep(GANG_RETRY_S)

    async def _carry(self, channel: Channel, lane: Lane) -> None:
        while True:
            with trio.move_on_after(GANG_IDLE_S) as idle:
                await lane.filled.wait()
            if idle.cancelled_caught:
                return
            frame = lane.take()
            self._waiting -= len(frame)
            await channel.send(frame)
            self.bytes_out += len(frame)

    # To the job.

    async def _take(self, channel: Channel, rank: int) -> None:
        turn = Turn()
        while True:
            with trio.move_on_after(2 * GANG_IDLE_S) as idle:
                frame = await channel.receive()
            if idle.cancelled_caught or frame is None:
                return
            if len(frame) > GANG_FRAME_BYTES_MAX:
                raise LimitError("a frame of packets is too long")
            taken = 0
            for packet in split(frame):
                self._deliver(packet, rank)
                taken += 1
                if taken == BURST_MAX:
                    await turn.over(taken)
                    taken = 0
            await turn.over(taken)

    def _deliver(self, packet: bytes, rank: int) -> None:
        drop = admit(packet, rank, self._rank, self._num_nodes)
        if drop is not None:
            self.dropped[drop] += 1
            return
        self.bytes_in += len(packet)
        self._interface.send(packet)


async def handshake(channel: Channel, asked: bytes, answer_s: float) -> bytes:
    """Say who is wanted, and hear the answer. Raises UnreachableError if there is none."""
    await channel.send(asked)
    with trio.move_on_after(answer_s):
        answer = await channel.receive()
        if answer is not None:
            return answer
    raise UnreachableError("the other node's provider does not answer")
