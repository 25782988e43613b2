"""Wire: exact reads of length-prefixed frames from one libp2p stream, and a pace for bulk writes.

Turns every way a stream can fail into UnreachableError. Knows no request and no channel.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import trio
from libp2p.network.stream.exceptions import StreamEOF

from market.errors import UnreachableError
from node.adapters.libp2p.bounds import SLICE_BYTES
from node.adapters.libp2p.strikes import TokenBucket

_READ_BYTES = 65_536


class EndedError(UnreachableError):
    """The peer has said all it will say on this stream, and may still be listening."""


class Wire:
    """One stream, read exactly and written whole. One reader and one writer at a time."""

    def __init__(self, stream: Any, counts: Counter[str]) -> None:
        self.stream = stream
        self._counts = counts
        self._buffer = bytearray()

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes. Raises UnreachableError (EndedError) if the stream ends before."""
        while len(self._buffer) < size:
            await self._fill()
        return self._take(size)

    async def some(self, limit: int) -> bytes:
        """What there is: at least one byte, at most `limit`. Raises UnreachableError at the end."""
        while not self._buffer:
            await self._fill()
        return self._take(min(limit, len(self._buffer)))

    async def _fill(self) -> None:
        try:
            data = await self.stream.read(_READ_BYTES)
        except StreamEOF as problem:
            raise EndedError("the stream to the peer has ended") from problem
        except Exception as problem:  # the library raises its own, OSError and KeyError
            raise UnreachableError("the stream to the peer has ended") from problem
        self._counts["bytes_in"] += len(data)
        self._buffer += data

    def _take(self, size: int) -> bytes:
        with memoryview(self._buffer) as view:
            data = bytes(view[:size])
        del self._buffer[:size]
        return data

    async def write(self, data: bytes) -> None:
        """All of it. Cancelling may leave half a frame: the stream is of no use after that."""
        try:
            await self.stream.write(data)
        except Exception as problem:
            raise UnreachableError("the stream to the peer is broken") from problem
        self._counts["bytes_out"] += len(data)

    async def finish(self) -> None:
        """Say that nothing follows: what was written still arrives. Raises UnreachableError."""
        try:
            await self.stream.close_write()
        except Exception as problem:
            raise UnreachableError("the stream to the peer is broken") from problem


class Pace:
    """What bulk may use of this node's line, over all channels, so that gossip stays quick."""

    def __init__(self, bytes_per_s: float) -> None:
        self._bucket = TokenBucket(bytes_per_s, SLICE_BYTES * 2, trio.current_time())

    async def wait(self, size: int) -> None:
        """Return when `size` more bytes may go; always lets other tasks run."""
        await trio.sleep(self._bucket.borrow(trio.current_time(), size))
