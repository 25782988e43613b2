"""Channel: frames with credit over one libp2p stream, a clean end, and a death that is told apart.

Each side always reads its stream, so flow control of the transport never stalls; what limits the
sender is credit, which the reader gives back frame by frame as the application takes them.

    DATA size payload | ACK size | END | ENDED          (kind: 1 byte, size: 4 bytes big-endian)
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from typing import Any

import structlog
import trio

from market.errors import LimitError, UnreachableError
from market.limits import CHUNK_BYTES
from node.adapters.libp2p.bounds import (
    CREDIT_BYTES,
    FRAMES_IN_FLIGHT_MAX,
    GOODBYE_S,
    SLICE_BYTES,
)
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.wire import Pace, Wire

log = structlog.get_logger(__name__)

_HEADER = struct.Struct(">BI")
_DATA, _ACK, _END, _ENDED = range(4)


class WireChannel:
    """One end of a channel. `run` must be running; `close` or `abort` ends it."""

    def __init__(self, stream: Any, peer: bytes, pace: Pace, counts: Counter[str]) -> None:
        self._wire = Wire(stream, counts)
        self._peer = peer
        self._pace = pace
        self._write_lock = trio.Lock()
        self._send_lock = trio.Lock()  # frames keep their order while they wait for credit
        self._scope = trio.CancelScope()
        self._changed = trio.Event()
        self._frames: deque[bytes] = deque()
        self._frames_bytes = 0
        self._sent_sizes: deque[int] = deque()  # of frames not yet acknowledged
        self._sent_bytes = 0
        self._ended_by_peer = False
        self._end_confirmed = False
        self._died = ""

    @property
    def peer(self) -> bytes:
        """The key of the peer at the other end, proven by the handshake."""
        return self._peer

    async def send(self, frame: bytes) -> None:
        """Queue one frame; waits for credit. Raises UnreachableError, LimitError."""
        if len(frame) > CHUNK_BYTES:
            raise LimitError(f"a frame of {len(frame)} bytes, at most {CHUNK_BYTES} travel")
        async with self._send_lock:
            while self._sent_sizes and (
                self._sent_bytes + len(frame) > CREDIT_BYTES
                or len(self._sent_sizes) >= FRAMES_IN_FLIGHT_MAX
            ):
                self._check_alive()
                await self._changed.wait()
            self._check_alive()
            self._sent_sizes.append(len(frame))
            self._sent_bytes += len(frame)
            await self._write(_HEADER.pack(_DATA, len(frame)) + frame)

    async def receive(self) -> bytes | None:
        """The next frame, or None once the peer has closed. Raises UnreachableError if it died."""
        while not self._frames:
            if self._ended_by_peer:
                return None
            self._check_alive()
            await self._changed.wait()
        frame = self._frames.popleft()
        self._frames_bytes -= len(frame)
        if not self._died:
            try:
                await self._write(_HEADER.pack(_ACK, len(frame)))
            except UnreachableError as problem:
                self._die(str(problem))  # the frame is good; the next call tells
        return frame

    async def run(self) -> None:
        """Read the stream until it ends. Runs beside the user of the channel; never raises."""
        try:
            with self._scope:
                while True:
                    await self._take(*_HEADER.unpack(await self._wire.read(_HEADER.size)))
        except UnreachableError as problem:
            self._die(str(problem))
        finally:
            self._die("the channel is closed")
            await discard(self._wire.stream)

    async def close(self) -> None:
        """Tell the peer that all is said, see that it has it all, and let go."""
        deadline = trio.current_time() + GOODBYE_S
        with trio.CancelScope(shield=True, deadline=deadline):
            try:
                await self._write(_HEADER.pack(_END, 0))
                while not self._end_confirmed:
                    self._check_alive()
                    await self._changed.wait()
            except UnreachableError:
                log.debug("peer gone before the goodbye", peer=self._peer.hex())
        self.abort("the channel is closed")

    def abort(self, reason: str) -> None:
        """Let go at once; the peer sees a death, not an end."""
        self._die(reason)
        self._scope.cancel()

    async def _take(self, kind: int, size: int) -> None:
        if kind == _DATA:
            crowded = len(self._frames) >= FRAMES_IN_FLIGHT_MAX
            over = self._frames_bytes + size > CREDIT_BYTES and self._frames
            if size > CHUNK_BYTES or crowded or over or self._ended_by_peer:
                raise UnreachableError("the peer sends more than it was given credit for")
            frame = await self._wire.read(size)
            self._frames.append(frame)
            self._frames_bytes += size
        elif kind == _ACK:
            if not self._sent_sizes or self._sent_sizes.popleft() != size:
                raise UnreachableError("the peer acknowledges what was not sent")
            self._sent_bytes -= size
        elif kind == _END:
            self._ended_by_peer = True
            await self._write(_HEADER.pack(_ENDED, 0))
        elif kind == _ENDED:
            self._end_confirmed = True
        else:
            raise UnreachableError(f"the peer sends frames of an unknown kind {kind}")
        self._notify()

    async def _write(self, data: bytes) -> None:
        """In slices, each waiting its turn on this node's line."""
        async with self._write_lock:
            try:
                for start in range(0, len(data), SLICE_BYTES):
                    self._check_alive()
                    part = data[start : start + SLICE_BYTES]
                    await self._pace.wait(len(part))
                    await self._wire.write(part)
            except trio.Cancelled:
                self.abort("a frame was cut short")
                raise

    def _check_alive(self) -> None:
        if self._died:
            raise UnreachableError(f"the channel is gone: {self._died}")

    def _die(self, reason: str) -> None:
        if not self._died:
            self._died = reason
            self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
