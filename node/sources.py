"""Sources: where the parts of one image come from: peers that announce it, its registry, and the
requester of the job it is for. Each is asked as long as it keeps its word.

A part that is here already is looked at too: it may have come for somebody else.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from market.codec import U63, Hash
from market.errors import (
    IntegrityError,
    LimitError,
    MarketError,
    NotFoundError,
    RefusedError,
    SandboxError,
    UnreachableError,
)
from market.image import Descriptor, Reference
from market.limits import MANIFEST_BYTES_MAX
from market.terms import Artifact
from node.artifacts import Artifacts
from node.ports import Blobs, Registry

log = structlog.get_logger("images")


@dataclass(frozen=True, slots=True)
class Part:
    """One blob of an image."""

    hash: Hash
    size_bytes: U63


class Rights(Protocol):
    """Who may use what is here."""

    def is_open(self, hash_: bytes) -> bool:
        """Whether anybody may have it."""

    def is_held(self, requester: bytes, hash_: bytes) -> bool:
        """Whether this requester has shown to have it."""

    async def allow(self, requester: bytes, part: Part) -> None:
        """Have it shown. Raises NotFoundError, UnreachableError."""


_Follow = Callable[[int], None]
_FromPeer = Callable[[bytes, Descriptor, _Follow], Awaitable[bool]]
_FromRegistry = Callable[[Descriptor, _Follow], Awaitable[bool]]


class Fetch:
    """One image on its way: which sources are left, and whether all of it was open to anybody."""

    def __init__(
        self, blobs: Blobs, registry: Registry, artifacts: Artifacts, rights: Rights,
        reference: Reference, peers: list[bytes], requester: bytes | None,
    ) -> None:  # fmt: skip
        """`peers` announce the image; `requester` is whose job it is for, None for our own."""
        self._blobs = blobs
        self._artifacts = artifacts
        self._rights = rights
        # A stranger's job gets what anybody may have, and what its requester gives.
        self._registry = registry if requester is None else registry.for_others()
        self._reference = reference
        self._peers = peers
        self._requester = requester
        self._seen: set[bytes] = set()
        self.open = True

    async def small(self, part: Descriptor) -> bytes:
        """A manifest, whose size nobody has said."""
        here = await self._blobs.size(part.digest) is not None
        if not here and await self._get(
            part, self._small_from_peer, self._small_from_registry, _ignore
        ):
            self._seen.add(part.digest)
        else:
            await self._use(part, small=True)
        size = await self._blobs.size(part.digest)
        if size is None or size > MANIFEST_BYTES_MAX:
            raise SandboxError("the image's manifest is too large")
        data = bytearray()
        while piece := await self._blobs.read(part.digest, len(data), size):
            data += piece
        return bytes(data)

    async def part(self, part: Descriptor, tell: _Follow) -> None:
        """A blob of known size."""
        size = await self._blobs.size(part.digest)
        if size is not None and size != part.size_bytes:
            raise LimitError("a part of the image is not of the size that its manifest says")
        # While it was waited for, somebody else may have brought it.
        if size is not None or not await self._get(
            part, self._part_from_peer, self._part_from_registry, tell
        ):
            await self._use(part, small=False)

    async def _use(self, part: Descriptor, *, small: bool) -> None:
        """A blob that is here already: whoever it came for, is it for this job, too?"""
        if part.digest in self._seen or self._rights.is_open(part.digest):
            return
        if self._requester is not None and self._rights.is_held(self._requester, part.digest):
            self.open = False
        elif await self._registry_has(part, small=small):
            self.open = self.open and self._registry.is_open(self._reference)
        else:
            self.open = False
            if self._requester is not None:
                size = await self._blobs.size(part.digest) or 0
                await self._rights.allow(self._requester, Part(part.digest, size))

    async def _registry_has(self, part: Descriptor, *, small: bool) -> bool:
        """Whether the registry gives it to those for whom this job asks."""
        named = replace(self._reference, tag="", digest=part.digest)
        try:
            if small:
                await self._registry.manifest(named)
                return True
            async with self._registry.blob(self._reference, part.digest, 0) as body:
                async for data in body:
                    return data == await self._blobs.read(part.digest, 0, len(data))
        except (UnreachableError, NotFoundError, RefusedError, IntegrityError, LimitError):
            return False
        return part.size_bytes == 0

    async def _get(self, part: Descriptor, from_peer: _FromPeer, from_registry: _FromRegistry,
                   tell: _Follow) -> bool:  # fmt: skip
        """Whether it came from one of them; if not, it has come for another job meanwhile."""
        problems: list[MarketError] = []
        for peer in tuple(self._peers):
            try:
                return await from_peer(peer, part, tell)
            except (UnreachableError, NotFoundError, IntegrityError, LimitError) as problem:
                self._peers.remove(peer)
                log.info("a peer did not have what it announced", peer=peer.hex()[:12],
                         part=part.digest.hex()[:12], problem=str(problem))  # fmt: skip
        try:
            came = await from_registry(part, tell)
            self.open = self.open and self._registry.is_open(self._reference)
            return came
        except (UnreachableError, NotFoundError, RefusedError, IntegrityError) as problem:
            problems.append(problem)
        if self._requester is not None:
            try:
                came = await from_peer(self._requester, part, tell)
                self.open = False  # it gave it to us for its job
                return came
            except NotFoundError as problem:
                if not problems:
                    problems.append(problem)
            except (UnreachableError, IntegrityError) as problem:
                problems.append(problem)
        # One that may pass is the one to tell: staging is then tried again.
        passing = [one for one in problems if isinstance(one, UnreachableError)]
        raise (passing or problems)[0]

    async def _small_from_peer(self, peer: bytes, part: Descriptor, tell: _Follow) -> bool:
        return await self._artifacts.pull_small(peer, part.digest, MANIFEST_BYTES_MAX)

    async def _part_from_peer(self, peer: bytes, part: Descriptor, tell: _Follow) -> bool:
        artifact = Artifact(f"part {part.digest.hex()[:12]}", part.digest, part.size_bytes)
        return await self._artifacts.pull(peer, artifact, tell)

    async def _small_from_registry(self, part: Descriptor, tell: _Follow) -> bool:
        named = replace(self._reference, tag="", digest=part.digest)
        await self._blobs.put(await self._registry.manifest(named))
        return True

    async def _part_from_registry(self, part: Descriptor, tell: _Follow) -> bool:
        async with self._artifacts.alone(part.digest):
            if await self._blobs.size(part.digest) is not None:
                return False
            offset = await self._blobs.partial(part.digest)
            if offset > part.size_bytes:
                await self._blobs.discard(part.digest)
                offset = 0
            if offset < part.size_bytes:
                await self._stream(part, offset, tell)
            await self._blobs.finish(part.digest)
            return True

    async def _stream(self, part: Descriptor, offset: int, tell: _Follow) -> None:
        async with self._registry.blob(self._reference, part.digest, offset) as body:
            async for data in body:
                if offset + len(data) > part.size_bytes:
                    await self._blobs.discard(part.digest)
                    raise IntegrityError("the registry sends more bytes than the manifest says")
                await self._blobs.append(part.digest, offset, data)
                offset += len(data)
                tell(offset)
        if offset < part.size_bytes:
            raise UnreachableError("the transfer ended early")


def _ignore(_: int) -> None:
    """Nobody follows a manifest's bytes."""
