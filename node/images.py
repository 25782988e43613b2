"""Images: brings a job's image here, part by part, from whoever has it: a peer or a registry.

Every part is named by its SHA-256, so it is checked before use and kept once however many images
share it. What a registry gave to anybody (or a peer that serves it to anybody) is served on; what
came with credentials, or from a requester alone, is not.

    stage(image) -> manifest: here? a peer that announced it? the registry? its requester?
                    then each part likewise; what was begun goes on where it stopped
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Annotated

import structlog
import trio

from market.codec import U40, U63, Count, Hash, decode, encode
from market.errors import (
    IntegrityError,
    LimitError,
    MarketError,
    NotFoundError,
    RefusedError,
    SandboxError,
    SpecError,
    UnreachableError,
)
from market.image import (
    MACHINES,
    Descriptor,
    ImageManifest,
    Index,
    Reference,
    parse_manifest,
    parse_reference,
    registry_reference,
)
from market.limits import (
    CACHED_IMAGES_MAX,
    IMAGE_LAYERS_MAX,
    IMAGES_MAX,
    MANIFEST_BYTES_MAX,
    RECORD_BYTES_MAX,
)
from market.terms import Artifact
from market.units import format_bytes
from node.artifacts import Artifacts
from node.ports import Blobs, Clock, Journal, Registry, Write

log = structlog.get_logger("images")
NESTING_MAX = 3  # an index may name an index, once or twice
PEERS_MAX = 3  # asked for an image before its registry is
_TABLE = "image"

Tell = Callable[[int, int], None]
"""(bytes here, bytes in all), while an image comes."""


@dataclass(frozen=True, slots=True)
class Part:
    """One blob of an image."""

    hash: Hash
    size_bytes: U63


@dataclass(frozen=True, slots=True)
class Known:
    """An image whose parts this node knows. Journaled as it stands; `open`: anybody may have it."""

    image: Artifact
    open: bool
    parts: Annotated[tuple[Part, ...], Count(0, IMAGE_LAYERS_MAX + NESTING_MAX + 2)]
    used_at_s: U40


class Images:
    """The images of this node."""

    def __init__(
        self, blobs: Blobs, registry: Registry, journal: Journal, clock: Clock,
        artifacts: Artifacts, who_has: Callable[[bytes], Iterable[bytes]],
    ) -> None:  # fmt: skip
        """`who_has(image)` names peers that announce it, the likeliest first."""
        self._blobs = blobs
        self._registry = registry
        self._journal = journal
        self._clock = clock
        self._artifacts = artifacts
        self._who_has = who_has
        self._locks: dict[bytes, trio.Lock] = {}
        self._here: dict[bytes, None] = {}
        self._open: set[bytes] = set()
        self.known: dict[bytes, Known] = {}

    async def load(self) -> None:
        """Take up what the journal holds, and look what of it is still on the disk."""
        for write in await self._journal.load():
            if write.table == _TABLE and write.data is not None:
                self.known[write.key] = decode(Known, write.data, size_max=RECORD_BYTES_MAX)
        await self.look()

    async def look(self) -> None:
        """Find out which images are complete here; parts may have been evicted meanwhile."""
        here: dict[bytes, None] = {}
        for key, known in sorted(self.known.items(), key=lambda item: -item[1].used_at_s):
            sizes = [await self._blobs.size(part.hash) for part in known.parts]
            if sizes and None not in sizes:
                here[key] = None
        self._here = here
        self._open = {part.hash for known in self.known.values() if known.open
                      for part in known.parts}  # fmt: skip

    def cached(self) -> tuple[bytes, ...]:
        """The images complete here, the latest used first, as many as an offer names."""
        return tuple(self._here)[:CACHED_IMAGES_MAX]

    def is_open(self, hash_: bytes) -> bool:
        """Whether a blob belongs to an image that anybody may have."""
        return hash_ in self._open

    def parts(self, image: bytes) -> tuple[bytes, ...]:
        """Every blob that a job with this image needs."""
        known = self.known.get(image)
        return (image, *(part.hash for part in known.parts)) if known else (image,)

    async def resolve(self, text: str) -> Artifact:
        """What a job file calls its image, pinned to a digest, and how much there is to fetch.

        Raises SpecError, and what the registry says.
        """
        reference = parse_reference(text)
        try:
            data = await self._registry.manifest(reference)
        except (UnreachableError, RefusedError) as problem:
            if not reference.digest:
                problem.hint = problem.hint or "name it by digest if only providers can reach it"
                raise
            log.info("an image is taken on trust", image=str(reference), problem=str(problem))
            return Artifact(str(reference), reference.digest, 0)
        digest = hashlib.sha256(data).digest()
        pinned = reference.pinned(digest)
        manifest = parse_manifest(data)
        for _ in range(NESTING_MAX):
            if isinstance(manifest, ImageManifest):
                break
            entry = manifest.likeliest(_architecture())
            manifest = parse_manifest(await self._registry.manifest(replace(
                reference, tag="", digest=entry.digest)))  # fmt: skip
        if isinstance(manifest, Index):
            raise SpecError("the image's index nests too deep")
        size = len(data) + sum(part.size_bytes for part in manifest.parts)
        return Artifact(str(pinned), digest, size)

    async def stage(self, image: Artifact, requester: bytes | None, tell: Tell) -> None:
        """Have the image here, complete and checked. Safe to repeat; goes on where it stopped.

        Raises UnreachableError if nobody has it now; RefusedError, NotFoundError, LimitError,
        IntegrityError, SandboxError or SpecError if that will not change.
        """
        async with self._alone(image.hash):
            reference = registry_reference(image)
            if reference is None:
                if requester is None:
                    raise SpecError("an archive comes from the requester of a job only")
                await self._archive(image, requester, tell)
            else:
                await self._layers(image, reference, requester, tell)

    async def _archive(self, image: Artifact, requester: bytes, tell: Tell) -> None:
        part = Part(image.hash, image.size_bytes)
        known = self.known.get(image.hash)
        # Whoever announces it may serve it; an archive of a requester's own is served to nobody.
        await self._remember(Known(image, bool(known and known.open), (part,), self._now()))
        await self._artifacts.pull(requester, image, lambda done: tell(done, image.size_bytes))
        self._here = {image.hash: None, **self._here}

    async def _layers(
        self, image: Artifact, reference: Reference, requester: bytes | None, tell: Tell
    ) -> None:
        fetch = _Fetch(self, reference, image, requester)
        parts: list[Descriptor] = []
        named = Descriptor("", image.hash, 0)
        for _ in range(NESTING_MAX):
            data = await fetch.small(named)
            parts.append(replace(named, size_bytes=len(data)))
            manifest = parse_manifest(data)
            if isinstance(manifest, ImageManifest):
                break
            named = manifest.choose(_architecture())
        else:
            raise SandboxError("the image's index nests too deep")
        parts += manifest.parts
        stored = tuple(Part(part.digest, part.size_bytes) for part in parts)
        await self._remember(Known(image, False, stored, self._now()))
        total = sum(part.size_bytes for part in parts)
        done = 0
        for part in parts:
            await fetch.part(part, lambda here, before=done: tell(before + here, total))  # type: ignore[misc]
            done += part.size_bytes
            tell(done, total)
        await self._remember(Known(image, fetch.open, stored, self._now()))
        self._here = {image.hash: None, **self._here}

    async def _remember(self, known: Known) -> None:
        writes = [Write(_TABLE, known.image.hash, encode(known))]
        self.known.pop(known.image.hash, None)
        self.known[known.image.hash] = known  # last in the dict: used last
        while len(self.known) > IMAGES_MAX:
            oldest = next(iter(self.known))
            del self.known[oldest]
            writes.append(Write(_TABLE, oldest, None))
        if known.open:
            self._open.update(part.hash for part in known.parts)
        await self._journal.commit(tuple(writes), ())

    async def forget(self, image: bytes, needed: Callable[[bytes], bool]) -> int:
        """Drop an image, and those of its parts that nothing else needs; returns bytes freed."""
        known = self.known.pop(image, None)
        self._here.pop(image, None)
        if known is None:
            raise NotFoundError("no such image here", hint="see: souk image list")
        await self._journal.commit((Write(_TABLE, image, None),), ())
        shared = {part.hash for other in self.known.values() for part in other.parts}
        freed = 0
        for part in known.parts:
            if part.hash not in shared and not needed(part.hash):
                size = await self._blobs.size(part.hash)
                await self._blobs.discard(part.hash)
                freed += size or 0
        self._open = {part.hash for other in self.known.values() if other.open
                      for part in other.parts}  # fmt: skip
        return freed

    def _now(self) -> int:
        return int(self._clock.now())

    def _alone(self, hash_: bytes) -> trio.Lock:
        for key in [key for key, lock in self._locks.items() if not lock.locked()][:64]:
            del self._locks[key]
        return self._locks.setdefault(hash_, trio.Lock())


_Follow = Callable[[int], None]
_FromPeer = Callable[[bytes, Descriptor, _Follow], Awaitable[None]]
_FromRegistry = Callable[[Descriptor, _Follow], Awaitable[None]]


class _Fetch:
    """One image on its way: which sources are left, and whether all of it was open to anybody."""

    def __init__(
        self, images: Images, reference: Reference, image: Artifact, requester: bytes | None
    ) -> None:
        self._blobs = images._blobs
        self._registry = images._registry
        self._artifacts = images._artifacts
        self._reference = reference
        announced = [peer for peer in images._who_has(image.hash) if peer != requester]
        self._peers = announced[:PEERS_MAX]
        self._requester = requester
        self._asks_registry = True
        self._was_open = images.is_open
        self._seen: set[bytes] = set()
        self.open = True

    async def small(self, part: Descriptor) -> bytes:
        """A manifest, whose size nobody has said."""
        if await self._blobs.size(part.digest) is None:
            await self._get(part, self._small_from_peer, self._small_from_registry, _ignore)
            self._seen.add(part.digest)
        elif not self._was_open(part.digest):
            self.open = False
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
        if size is None:
            await self._get(part, self._part_from_peer, self._part_from_registry, tell)
        elif part.digest not in self._seen and not self._was_open(part.digest):
            self.open = False  # nobody knows any more who gave it to us

    async def _get(self, part: Descriptor, from_peer: _FromPeer, from_registry: _FromRegistry,
                   tell: _Follow) -> None:  # fmt: skip
        problems: list[MarketError] = []
        for peer in tuple(self._peers):
            try:
                return await from_peer(peer, part, tell)
            except (UnreachableError, NotFoundError, IntegrityError, LimitError) as problem:
                self._peers.remove(peer)
                log.info("a peer did not have what it announced", peer=peer.hex()[:12],
                         part=part.digest.hex()[:12], problem=str(problem))  # fmt: skip
        if self._asks_registry:
            try:
                await from_registry(part, tell)
                self.open = self.open and self._registry.is_open(self._reference)
                return None
            except (UnreachableError, NotFoundError, RefusedError, IntegrityError) as problem:
                problems.append(problem)
        if self._requester is not None:
            try:
                await from_peer(self._requester, part, tell)
                self.open = False  # it gave it to us for its job
                return None
            except NotFoundError as problem:
                if not problems:
                    problems.append(problem)
            except (UnreachableError, IntegrityError) as problem:
                problems.append(problem)
        # One that may pass is the one to tell: staging is then tried again.
        passing = [one for one in problems if isinstance(one, UnreachableError)]
        raise (passing or problems)[0]

    async def _small_from_peer(self, peer: bytes, part: Descriptor, tell: _Follow) -> None:
        await self._artifacts.pull_small(peer, part.digest, MANIFEST_BYTES_MAX)

    async def _part_from_peer(self, peer: bytes, part: Descriptor, tell: _Follow) -> None:
        artifact = Artifact(f"part {part.digest.hex()[:12]}", part.digest, part.size_bytes)
        await self._artifacts.pull(peer, artifact, tell)

    async def _small_from_registry(self, part: Descriptor, tell: _Follow) -> None:
        named = replace(self._reference, tag="", digest=part.digest)
        await self._blobs.put(await self._registry.manifest(named))

    async def _part_from_registry(self, part: Descriptor, tell: _Follow) -> None:
        async with self._artifacts.alone(part.digest):
            if await self._blobs.size(part.digest) is not None:
                return
            offset = await self._blobs.partial(part.digest)
            if offset > part.size_bytes:
                await self._blobs.discard(part.digest)
                offset = 0
            if offset < part.size_bytes:
                await self._stream(part, offset, tell)
            await self._blobs.finish(part.digest)

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


def told(done: int, total: int) -> str:
    """How far an image is, for people."""
    return f"image: {format_bytes(done)} of {format_bytes(total)}"


def _architecture() -> str:
    return MACHINES.get(platform.machine(), platform.machine())
