"""Bandwidth: how fast this node's line is, measured with peers that lend theirs for a moment.

    asker                                             peer
    Flow(down=True, size)   ->                     <- Flowing("")      else "busy", and no more
                                                   <- frames, together of `size` bytes
    Flow(down=False, size)  ->                     <- Flowing("")
    frames, together of `size` bytes ->               taken and thrown away

What one peer lends is what its own line has to spare, so several are asked at once and the sum
counts: a lower bound of our line, and what staging will really get. Knows no certificate.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import structlog
import trio

from market.codec import decode, encode
from market.errors import CodecError, MarketError, UnreachableError
from market.limits import (
    CHUNK_BYTES,
    CREDIT_CHUNKS,
    FLOW_BYTES,
    FLOW_PEERS,
    FLOW_S,
    FLOWS_PER_HOUR,
)
from market.messages import Flow, Flowing
from node.ports import Channel, Entropy, Link

log = structlog.get_logger("bandwidth")
PROTOCOL = "bandwidth"
PIECE_BYTES = CHUNK_BYTES // 4
KBPS_MAX = 2**32 - 1


class Bandwidth:
    """Measures our line, and lends it to others who measure theirs: one at a time, now and then."""

    def __init__(self, link: Link, entropy: Entropy) -> None:
        """Nothing is measured before `measure`."""
        self._link = link
        self._entropy = entropy
        self._random = b""
        self._lending = False
        self._lent: deque[float] = deque()

    # To others.

    async def serve(self, channel: Channel) -> None:
        """Lend our line to one peer. Anything malformed ends the channel."""
        try:
            asked = decode(Flow, await channel.receive() or b"", size_max=64)
        except CodecError:
            return
        if not self._may_lend() or not 0 < asked.size_bytes <= FLOW_BYTES:
            await channel.send(encode(Flowing("busy")))
            return
        with self._lend(), trio.move_on_after(2 * FLOW_S):
            await channel.send(encode(Flowing("")))
            if asked.down:
                for size in _pieces(asked.size_bytes):
                    await channel.send(self._piece[:size])
                return
            left = asked.size_bytes
            while left > 0 and (frame := await channel.receive()):
                left -= len(frame)

    def _may_lend(self) -> bool:
        now = trio.current_time()
        while self._lent and self._lent[0] <= now - 3600:
            self._lent.popleft()
        return not self._lending and len(self._lent) < FLOWS_PER_HOUR

    @property
    def _piece(self) -> bytes:
        """What flows: random, so that no line compresses it."""
        self._random = self._random or self._entropy.token(PIECE_BYTES)
        return self._random

    @contextmanager
    def _lend(self) -> Iterator[None]:
        self._lending = True
        self._lent.append(trio.current_time())
        try:
            yield
        finally:
            self._lending = False

    # Ours.

    async def measure(self) -> tuple[int, int]:
        """kbit/s down and up, each 0 if no peer lent its line. Takes a few seconds."""
        known = [info for info in self._link.peers() if info.rtt_us]
        known.sort(key=lambda info: (info.rtt_us, info.peer))  # the nearest slow us down least
        peers = [info.peer for info in known[:FLOW_PEERS]]
        return await self._together(peers, down=True), await self._together(peers, down=False)

    async def _together(self, peers: list[bytes], *, down: bool) -> int:
        """All at once, until the first is through: from then on the line is no longer full."""
        moved = dict.fromkeys(peers, 0)
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = began + FLOW_S

            async def flow(peer: bytes) -> None:
                try:
                    await self._flow(peer, down, moved)
                except MarketError as problem:
                    moved[peer] = 0
                    log.info("a peer lent no bandwidth", peer=peer.hex()[:12], problem=str(problem))
                else:
                    nursery.cancel_scope.cancel()

            for peer in peers:
                nursery.start_soon(flow, peer)
        elapsed_s = max(1e-6, trio.current_time() - began)
        return min(KBPS_MAX, int(sum(moved.values()) * 8 / 1000 / elapsed_s))

    async def _flow(self, peer: bytes, down: bool, moved: dict[bytes, int]) -> None:
        async with self._link.open(peer, PROTOCOL) as channel:
            await channel.send(encode(Flow(down, FLOW_BYTES)))
            try:
                answer = decode(Flowing, await channel.receive() or b"", size_max=256)
            except CodecError as problem:
                raise UnreachableError("the peer does not measure bandwidth") from problem
            if answer.code:
                raise UnreachableError(f"the peer says: {answer.code}")
            if down:
                while moved[peer] < FLOW_BYTES:
                    frame = await channel.receive()
                    if not frame:
                        raise UnreachableError("the flow ended early")
                    moved[peer] += len(frame)
                return
            sent = 0
            for size in _pieces(FLOW_BYTES):
                await channel.send(self._piece[:size])
                sent += size
                moved[peer] = max(0, sent - CHUNK_BYTES * CREDIT_CHUNKS)  # the rest is under way
        moved[peer] = FLOW_BYTES  # the channel is closed once the peer has taken all of it


def _pieces(size_bytes: int) -> Iterator[int]:
    while size_bytes > 0:
        yield min(PIECE_BYTES, size_bytes)
        size_bytes -= PIECE_BYTES
