"""Artifacts: bytes named by their hash, fetched from a peer with resume and served to those it
concerns. Knows blobs and channels; no agreement's rules beyond who may have what.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import trio

from market.codec import decode, encode
from market.errors import CodecError, LimitError, MarketError, NotFoundError, UnreachableError
from market.limits import ARTIFACT_BYTES_MAX, CHUNK_BYTES
from market.messages import Fetch, Fetched
from market.terms import Artifact
from node.ports import Blobs, Channel, Link

PROTOCOL = "blob"
Follow = Callable[[int], None]
"""Called with the number of bytes that are here, as they come."""
MayFetch = Callable[[bytes, bytes], bool]
COMING_S = 0.5  # between two looks for what is on its way
WAITING_PARTS = 3  # received and not yet on the disk
STALL_S = 60.0  # a peer that sends nothing for a minute is asked again later


def _never(_peer: bytes, _hash: bytes) -> bool:
    return False


class Artifacts:
    """Pulls and serves blobs."""

    def __init__(
        self, link: Link, blobs: Blobs, may_fetch: MayFetch, is_coming: MayFetch = _never
    ) -> None:
        """`may_fetch(peer, hash)` says who may have what, `is_coming` what they should wait for."""
        self._link = link
        self._blobs = blobs
        self._may_fetch = may_fetch
        self._is_coming = is_coming
        self._pulling: dict[bytes, trio.Event] = {}

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
        while size is None and self._is_coming(channel.peer, wanted.hash):
            # Who asks waits for STALL_S, and asks again.
            await trio.sleep(COMING_S)
            size = await self._blobs.size(wanted.hash)
        if size is None or not self._may_fetch(channel.peer, wanted.hash):
            await channel.send(encode(Fetched(0)))
            return
        await channel.send(encode(Fetched(size)))
        ahead_in, ahead = trio.open_memory_channel[bytes](1)

        async def read() -> None:
            """The next part is read while the one before is on its way."""
            async with ahead_in:
                offset = wanted.offset
                while offset < size:
                    data = await self._blobs.read(wanted.hash, offset, CHUNK_BYTES // 2)
                    if not data:
                        return
                    await ahead_in.send(data)
                    offset += len(data)

        problem: MarketError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_broken, read)
            try:
                async for data in ahead:
                    await channel.send(data)
            except MarketError as failed:
                problem = failed
            nursery.cancel_scope.cancel()
        if problem is not None:
            raise problem

    @asynccontextmanager
    async def alone(self, hash_: bytes) -> AsyncIterator[None]:
        """While inside, nobody else here fetches this blob."""
        while hash_ in self._pulling:
            await self._pulling[hash_].wait()
        self._pulling[hash_] = trio.Event()  # before any await: only one gets here
        try:
            yield
        finally:
            self._pulling.pop(hash_).set()

    async def pull(self, peer: bytes, artifact: Artifact, tell: Follow | None = None) -> bool:
        """Have the artifact here, complete and checked; resumes what was begun.

        Whether it came from the peer now: it may be here already. `tell` is called with the number
        of bytes here. Raises UnreachableError, NotFoundError if the peer does not have it for us,
        LimitError if it is not of the size it was announced with, IntegrityError if its bytes are
        wrong.
        """
        if artifact.size_bytes > ARTIFACT_BYTES_MAX:
            raise LimitError(f"{artifact.path}: too large to fetch")
        async with self.alone(artifact.hash):
            if await self._blobs.size(artifact.hash) is not None:
                return False
            await self._pull(peer, artifact, tell)
            return True

    async def has(self, peer: bytes, hash_: bytes, size: int, offset: int) -> bool:
        """Whether the peer shows that it has a blob that is here, too: its bytes from `offset` on.

        Who knows only its hash cannot. Raises UnreachableError.
        """
        async with self._link.open(peer, PROTOCOL) as channel:
            await channel.send(encode(Fetch(hash_, offset)))
            if await self._size(channel) != size:
                return False
            shown = await _next(channel) if size else b""
        return bool(shown or not size) and shown == await self._blobs.read(
            hash_, offset, len(shown)
        )

    async def pull_small(self, peer: bytes, hash_: bytes, size_max: int) -> bool:
        """Likewise for a blob whose size nobody has said; it is at most `size_max`."""
        async with self.alone(hash_):
            if await self._blobs.size(hash_) is not None:
                return False
            await self._blobs.discard(hash_)
            async with self._link.open(peer, PROTOCOL) as channel:
                await channel.send(encode(Fetch(hash_, 0)))
                size = await self._size(channel)
                if not 0 < size <= size_max:
                    raise NotFoundError("the peer does not have it for us")
                await self._receive(channel, Artifact(hash_.hex()[:12], hash_, size), 0, None)
            await self._blobs.finish(hash_)
            return True

    async def _pull(self, peer: bytes, artifact: Artifact, tell: Follow | None) -> None:
        offset = await self._blobs.partial(artifact.hash)
        if artifact.size_bytes > offset or offset == 0:
            async with self._link.open(peer, PROTOCOL) as channel:
                await channel.send(encode(Fetch(artifact.hash, offset)))
                await self._check_size(channel, artifact)
                await self._receive(channel, artifact, offset, tell)
        await self._blobs.finish(artifact.hash)

    async def _receive(
        self, channel: Channel, artifact: Artifact, offset: int, tell: Follow | None
    ) -> None:
        problems: list[MarketError] = []
        taken_in, taken = trio.open_memory_channel[bytes](WAITING_PARTS)

        async def take() -> None:
            """The line is read on while the disk takes what came before."""
            at = offset
            async with taken_in:
                try:
                    while at < artifact.size_bytes:
                        data = await _next(channel)
                        if not data or at + len(data) > artifact.size_bytes:
                            raise LimitError(f"{artifact.path}: not of the announced size")
                        at += len(data)
                        await taken_in.send(data)
                except MarketError as problem:
                    problems.append(problem)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            try:
                async for data in taken:
                    await self._blobs.append(artifact.hash, offset, data)
                    offset += len(data)
                    if tell is not None:
                        tell(offset)
            except MarketError as problem:
                problems.append(problem)
                nursery.cancel_scope.cancel()
        if problems:
            raise problems[0]

    async def _check_size(self, channel: Channel, artifact: Artifact) -> None:
        size = await self._size(channel)
        if size == 0 and artifact.size_bytes:
            raise NotFoundError(f"{artifact.path}: the peer does not have it for us")
        if size != artifact.size_bytes:
            await self._blobs.discard(artifact.hash)
            raise LimitError(f"{artifact.path}: not of the announced size")

    async def _size(self, channel: Channel) -> int:
        try:
            return decode(Fetched, await _next(channel), size_max=64).size_bytes
        except CodecError as problem:
            raise UnreachableError("the peer does not speak the blob protocol") from problem


async def _until_broken(read: Callable[[], Awaitable[None]]) -> None:
    """A blob that goes away while it is served ends the channel early, which the reader sees."""
    with suppress(MarketError, trio.BrokenResourceError):
        await read()


async def _next(channel: Channel) -> bytes:
    with trio.move_on_after(STALL_S):
        frame = await channel.receive()
        if frame is None:
            raise UnreachableError("the transfer ended early")
        return frame
    raise UnreachableError("the transfer stalled")


async def pull_all(
    artifacts: Artifacts, peer: bytes, wanted: tuple[Artifact, ...], tell: Follow | None = None
) -> None:
    """Pull one after the other, the small ones first, so that a broken line costs little."""
    before = 0
    for artifact in sorted(wanted, key=lambda item: (item.size_bytes, item.path)):
        follow = None if tell is None else _after(before, tell)
        await artifacts.pull(peer, artifact, follow)
        before += artifact.size_bytes


def _after(before: int, tell: Follow) -> Follow:
    return lambda here: tell(before + here)
