"""Artifacts: bytes named by their hash, fetched from a peer with resume and served to those it
concerns. Knows blobs and channels; no agreement's rules beyond who may have what.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from market.codec import decode, encode
from market.errors import CodecError, LimitError, NotFoundError, UnreachableError
from market.limits import ARTIFACT_BYTES_MAX, CHUNK_BYTES
from market.messages import Fetch, Fetched
from market.terms import Artifact
from node.ports import Blobs, Channel, Link

PROTOCOL = "blob"
STALL_S = 60.0  # a peer that sends nothing for a minute is asked again later


class Artifacts:
    """Pulls and serves blobs."""

    def __init__(self, link: Link, blobs: Blobs, may_fetch: Callable[[bytes, bytes], bool]) -> None:
        """`may_fetch(peer, hash)` says who may have what."""
        self._link = link
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._pulling: dict[bytes, trio.Event] = {}
        self.progress: dict[bytes, tuple[int, int]] = {}

    async def serve(self, channel: Channel) -> None:
        """Answer one fetch. Anything malformed ends the channel."""
        frame = await channel.receive()
        if frame is None:
            return
        try:
            wanted = decode(Fetch, frame, size_max=128)
        except CodecError:
            return
        size = await self._blobs.size(wanted.hash)
        if size is None or not self._may_fetch(channel.peer, wanted.hash):
            await channel.send(encode(Fetched(0)))
            return
        await channel.send(encode(Fetched(size)))
        offset = wanted.offset
        while offset < size:
            data = await self._blobs.read(wanted.hash, offset, CHUNK_BYTES // 2)
            if not data:
                return
            await channel.send(data)
            offset += len(data)

    async def pull(self, peer: bytes, artifact: Artifact) -> None:
        """Have the artifact here, complete and checked; resumes what was begun.

        Raises UnreachableError, NotFoundError if the peer does not have it for us, LimitError if
        it is not of the size it was announced with, IntegrityError if its bytes are wrong.
        """
        while artifact.hash in self._pulling:
            await self._pulling[artifact.hash].wait()
        self._pulling[artifact.hash] = trio.Event()  # before any await: only one gets here
        try:
            if await self._blobs.size(artifact.hash) is None:
                await self._pull(peer, artifact)
        finally:
            self._pulling.pop(artifact.hash).set()
            self.progress.pop(artifact.hash, None)

    async def _pull(self, peer: bytes, artifact: Artifact) -> None:
        if artifact.size_bytes > ARTIFACT_BYTES_MAX:
            raise LimitError(f"{artifact.path}: too large to fetch")
        offset = await self._blobs.partial(artifact.hash)
        if artifact.size_bytes > offset or offset == 0:
            async with self._link.open(peer, PROTOCOL) as channel:
                await channel.send(encode(Fetch(artifact.hash, offset)))
                await self._check_size(channel, artifact)
                while offset < artifact.size_bytes:
                    data = await _next(channel)
                    if not data or offset + len(data) > artifact.size_bytes:
                        raise LimitError(f"{artifact.path}: not of the announced size")
                    await self._blobs.append(artifact.hash, offset, data)
                    offset += len(data)
                    self.progress[artifact.hash] = (offset, artifact.size_bytes)
        await self._blobs.finish(artifact.hash)

    async def _check_size(self, channel: Channel, artifact: Artifact) -> None:
        frame = await _next(channel)
        try:
            size = decode(Fetched, frame, size_max=64).size_bytes
        except CodecError as problem:
            raise UnreachableError("the peer does not speak the blob protocol") from problem
        if size == 0 and artifact.size_bytes:
            raise NotFoundError(f"{artifact.path}: the peer does not have it for us")
        if size != artifact.size_bytes:
            await self._blobs.discard(artifact.hash)
            raise LimitError(f"{artifact.path}: not of the announced size")


async def _next(channel: Channel) -> bytes:
    with trio.move_on_after(STALL_S):
        frame = await channel.receive()
        if frame is None:
            raise UnreachableError("the transfer ended early")
        return frame
    raise UnreachableError("the transfer stalled")


async def pull_all(artifacts: Artifacts, peer: bytes, wanted: tuple[Artifact, ...]) -> None:
    """Pull one after the other, the small ones first, so that a broken line costs little."""
    for artifact in sorted(wanted, key=lambda item: (item.size_bytes, item.path)):
        await artifacts.pull(peer, artifact)
