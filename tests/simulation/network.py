"""Network: gossip and direct links between simulated nodes, with delay, loss and death.

Implements the ports `Gossip` and `Link`. Everything random comes from the one seeded generator
that the world hands in; time is trio's own, which the tests drive.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from market.errors import LimitError, UnreachableError
from market.limits import CHUNK_BYTES, CREDIT_CHUNKS, ENVELOPE_BYTES_MAX, GOSSIP_BYTES_MAX
from market.units import UnixTime
from node.ports import Answerer, Channel, ChannelHandler, Heard, PeerInfo, Reach


@dataclass
class Wire:
    """What connects all nodes of one world."""

    rng: random.Random
    loss: float = 0.0
    delay_s: float = 0.02
    delays_s: dict[frozenset[bytes], float] = field(default_factory=dict)  # one way, by pair
    acquainted: int = 0  # how many peers each node is connected to and measures; 0: all
    nodes: dict[bytes, SimLink] = field(default_factory=dict)

    def lost(self) -> bool:
        """Whether this message goes missing."""
        return self.rng.random() < self.loss

    def one_way_s(self, one: bytes, other: bytes) -> float:
        """The mean delay between two nodes."""
        return self.delays_s.get(frozenset((one, other)), self.delay_s)

    async def travel(self, one: bytes, other: bytes) -> None:
        """One way over the network."""
        await trio.sleep(self.one_way_s(one, other) * (0.5 + self.rng.random()))


class SimChannel:
    """One end of a channel between two living nodes."""

    def __init__(
        self,
        peer: bytes,
        out: trio.MemorySendChannel[bytes],
        into: trio.MemoryReceiveChannel[bytes],
        wire: Wire,
        mine: bytes = b"",
    ) -> None:
        self.peer = peer
        self._mine = mine
        self._out = out
        self._into = into
        self._wire = wire

    async def send(self, frame: bytes) -> None:
        """Queue one frame; waits for the reader once the credit is used up."""
        assert len(frame) <= CHUNK_BYTES, "a frame has a bound"
        try:
            await self._out.send(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise UnreachableError("the peer is gone") from None

    async def receive(self) -> bytes | None:
        """The next frame, or None once the other end has closed."""
        await self._wire.travel(self.peer, self._mine)
        try:
            return await self._into.receive()
        except trio.EndOfChannel:
            return None
        except trio.ClosedResourceError:
            raise UnreachableError("the channel is closed") from None

    async def aclose(self) -> None:
        """Close this end."""
        await self._out.aclose()
        await self._into.aclose()


class SimLink:
    """Gossip and Link of one node. `up` while its process lives."""

    def __init__(self, peer: bytes, wire: Wire) -> None:
        self.peer = peer
        self.wire = wire
        self.up = False
        self._answerer: Answerer | None = None
        self._handlers: dict[str, ChannelHandler] = {}
        self._heard_in, self._heard_out = trio.open_memory_channel[Heard](4096)
        self._joined_in, self._joined_out = trio.open_memory_channel[bytes](256)
        self._nursery: trio.Nursery | None = None
        self._strikes: dict[bytes, int] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be on the network until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self.wire.nodes[self.peer] = self
            self.up = True
            task_status.started()
            for other in self.wire.nodes.values():
                if other.up and other is not self:
                    other.meet(self.peer)
                    self.meet(other.peer)
            try:
                await trio.sleep_forever()
            finally:
                self.up = False
                del self.wire.nodes[self.peer]

    def meet(self, peer: bytes) -> None:
        """A connection came up."""
        self._joined_in.send_nowait(peer)

    # Gossip.

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand it to every living node, each copy with its own luck."""
        if len(data) > GOSSIP_BYTES_MAX:
            raise LimitError("too large for gossip")
        assert self._nursery is not None, "published by a running node"
        if not self.up:
            return  # a dying node's last word reaches nobody
        for other in list(self.wire.nodes.values()):
            if other is not self and not self.wire.lost():
                self._nursery.start_soon(self._deliver, other, Heard(topic, data, self.peer))

    async def _deliver(self, other: SimLink, heard: Heard) -> None:
        await self.wire.travel(self.peer, other.peer)
        if other.up:
            other.take(heard)

    def take(self, heard: Heard) -> None:
        """It arrived."""
        try:
            self._heard_in.send_nowait(heard)
        except trio.WouldBlock:
            self._heard_out.receive_nowait()
            self._heard_in.send_nowait(heard)

    async def heard(self) -> AsyncIterator[Heard]:
        """Everything that arrives."""
        while True:
            yield await self._heard_out.receive()

    def blame(self, via: bytes) -> None:
        """Count a strike."""
        self._strikes[via] = self._strikes.get(via, 0) + 1

    # Link.

    def answer(self, answerer: Answerer) -> None:
        """Who answers requests."""
        self._answerer = answerer

    def accept(self, protocol: str, handler: ChannelHandler) -> None:
        """Who serves channels."""
        self._handlers[protocol] = handler

    async def request(self, peer: bytes, data: bytes, *, timeout_s: float) -> bytes:
        """Ask; both ways may be lost, and then it takes the whole timeout to notice."""
        if len(data) > ENVELOPE_BYTES_MAX:
            raise LimitError("too large for a request")
        with trio.move_on_after(timeout_s):
            await self.wire.travel(self.peer, peer)
            other = self.wire.nodes.get(peer)
            if other is None or other._nursery is None:
                raise UnreachableError("the peer is not connected")
            if self.wire.lost() or other._answerer is None:
                await trio.sleep_forever()
            reply_in, reply_out = trio.open_memory_channel[bytes](1)

            async def serve() -> None:
                assert other._answerer is not None
                reply_in.send_nowait(await other._answerer(self.peer, data))

            # The other node's own nursery: its death kills the answer half way.
            other._nursery.start_soon(serve)
            reply = await reply_out.receive()
            await self.wire.travel(self.peer, peer)
            if self.wire.lost():
                await trio.sleep_forever()
            return reply
        raise UnreachableError("no answer in time")

    @asynccontextmanager
    async def open(self, peer: bytes, protocol: str) -> AsyncIterator[Channel]:
        """A channel, if the peer is there and serves the protocol."""
        await self.wire.travel(self.peer, peer)
        other = self.wire.nodes.get(peer)
        if other is None or other._nursery is None or protocol not in other._handlers:
            raise UnreachableError("the peer is not connected")
        there_in, here_out = trio.open_memory_channel[bytes](CREDIT_CHUNKS)
        here_in, there_out = trio.open_memory_channel[bytes](CREDIT_CHUNKS)
        mine = SimChannel(peer, here_in, here_out, self.wire, self.peer)
        theirs = SimChannel(self.peer, there_in, there_out, self.wire, peer)

        async def serve() -> None:
            try:
                await other._handlers[protocol](theirs)
            except UnreachableError:
                pass
            finally:
                with trio.CancelScope(shield=True):
                    await theirs.aclose()

        other._nursery.start_soon(serve)
        try:
            yield mine
        finally:
            with trio.CancelScope(shield=True):
                await mine.aclose()

    async def connect(self, address: str) -> bytes:
        """The address of a simulated node is its key in hex."""
        peer = bytes.fromhex(address)
        if peer not in self.wire.nodes:
            raise UnreachableError("nobody is there")
        return peer

    def peers(self) -> tuple[PeerInfo, ...]:
        """All living nodes, or the next `acquainted` ones on the ring of keys."""
        ring = sorted(self.wire.nodes)
        at = ring.index(self.peer) if self.peer in ring else 0
        others = (ring[at:] + ring[:at])[1:] if self.peer in ring else ring
        return tuple(
            PeerInfo(key, key.hex(), True, self._rtt_us(key), UnixTime(0.0))
            for key in sorted(others[: self.wire.acquainted or None])
        )

    def _rtt_us(self, peer: bytes) -> int:
        return int(self.wire.one_way_s(self.peer, peer) * 2e6)

    def address(self, peer: bytes) -> str:
        """Its key in hex, if it is there."""
        return peer.hex() if peer in self.wire.nodes else ""

    async def joined(self) -> AsyncIterator[bytes]:
        """Each peer that comes up."""
        while True:
            yield await self._joined_out.receive()

    def reach(self) -> Reach:
        """Everybody can."""
        return Reach(reachable=True)

    def addresses(self) -> tuple[str, ...]:
        """Where it can be dialled."""
        return (self.peer.hex(),)

    def statistics(self) -> dict[str, int]:
        """Strikes only."""
        return {"strikes": sum(self._strikes.values()), "peers": math.floor(len(self.peers()))}
