"""Images: brings a job's image here, part by part, from whoever has it: a peer or a registry.

Every part is named by its SHA-256, so it is checked before use and kept once however many images
share it. What a registry gave to anybody (or a peer that serves it to anybody) is served on; what
came with credentials, or from a requester alone, is not, and only jobs of those run on it who have
shown that they have it. Credentials stay on the node whose owner gave them: it fetches, and passes
the parts on to the provider of its job.

    stage(image) -> manifest: here? a peer that announced it? the registry? its requester?
                    then each part likewise; what was begun goes on where it stopped
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated

import structlog
import trio

from market.codec import U40, Count, PeerKey, decode, encode
from market.errors import (
    CodecError,
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
    RECORD_BYTES_MAX,
)
from market.terms import Artifact
from market.units import format_bytes
from node.artifacts import Artifacts
from node.ports import Ports, Write
from node.sources import Fetch, Part

log = structlog.get_logger("images")
NESTING_MAX = 3  # an index may name an index, once or twice
PEERS_MAX = 3  # asked for an image before its registry is
_TABLE = "image"

Tell = Callable[[int, int], None]
"""(bytes here, bytes in all), while an image comes."""


HOLDERS_MAX = 64  # requesters of one private image at one provider


@dataclass(frozen=True, slots=True)
class Known:
    """An image whose parts this node knows. Journaled as it stands.

    `open`: anybody may have it. `holders` are the requesters who have shown that they have it.
    """

    image: Artifact
    open: bool
    parts: Annotated[tuple[Part, ...], Count(0, IMAGE_LAYERS_MAX + NESTING_MAX + 2)]
    used_at_s: U40
    holders: Annotated[tuple[PeerKey, ...], Count(0, HOLDERS_MAX)] = ()


class Images:
    """The images of this node."""

    def __init__(
        self, ports: Ports, artifacts: Artifacts, who_has: Callable[[bytes], Iterable[bytes]]
    ) -> None:
        """`who_has(image)` names peers that announce it, the likeliest first."""
        self._blobs = ports.blobs
        self._registry = ports.registry
        self._journal = ports.journal
        self._clock = ports.clock
        self._entropy = ports.entropy
        self._artifacts = artifacts
        self._who_has = who_has
        self._bringing: set[bytes] = set()
        self._locks: dict[bytes, trio.Lock] = {}
        self._here: dict[bytes, None] = {}
        self._open: set[bytes] = set()
        self.known: dict[bytes, Known] = {}

    async def load(self) -> None:
        """Take up what the journal holds, and look what of it is still on the disk."""
        for write in await self._journal.load():
            if write.table == _TABLE and write.data is not None:
                with suppress(CodecError):  # of another version: its parts are found again
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

    def is_private(self, image: Artifact) -> bool:
        """Whether only this node may fetch it: with credentials of its owner's."""
        reference = registry_reference(image)
        return reference is not None and not self._registry.is_open(reference)

    async def bring(self, image: Artifact) -> None:
        """Fetch a private image for a job that this node gives away; its provider waits for it.

        Nothing if it is here. Raises what `stage` does; after UnreachableError it is still coming.
        """
        if not self.is_private(image) or image.hash in self._here:
            return
        self._bringing.add(image.hash)
        try:
            await self.stage(image, None, lambda _done, _total: None)
        except UnreachableError:
            raise
        except MarketError:
            self._bringing.discard(image.hash)
            raise
        self._bringing.discard(image.hash)

    def is_coming(self, image: bytes, part: bytes) -> bool:
        """Whether a blob is on its way as part of a private image, or may be."""
        if image not in self._bringing:
            return False
        return image not in self.known or part in self.parts(image)

    async def _archive(self, image: Artifact, requester: bytes, tell: Tell) -> None:
        part = Part(image.hash, image.size_bytes)
        known = self.known.get(image.hash)
        is_open, holders = (known.open, known.holders) if known else (False, ())
        # Whoever announces it may serve it; an archive of a requester's own is served to nobody.
        await self._remember(Known(image, is_open, (part,), self._now(), holders))
        follow: Callable[[int], None] = lambda done: tell(done, image.size_bytes)  # noqa: E731
        came = await self._artifacts.pull(requester, image, follow)
        if not came and not is_open:
            await self.allow(requester, part)
        await self._remember(Known(image, is_open, (part,), self._now()), requester)
        self._here = {image.hash: None, **self._here}

    async def _layers(
        self, image: Artifact, reference: Reference, requester: bytes | None, tell: Tell
    ) -> None:
        announced = [peer for peer in self._who_has(image.hash) if peer != requester]
        fetch = Fetch(self._blobs, self._registry, self._artifacts, self, reference,
                      announced[:PEERS_MAX], requester)  # fmt: skip
        unfinished = self.known.get(image.hash)
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
        holders = unfinished.holders if unfinished else ()
        await self._remember(Known(image, False, stored, self._now(), holders))
        total = sum(part.size_bytes for part in parts)
        done = 0
        for part in parts:
            await fetch.part(part, lambda here, before=done: tell(before + here, total))  # type: ignore[misc]
            done += part.size_bytes
            tell(done, total)
        await self._remember(Known(image, fetch.open, stored, self._now()), requester)
        self._here = {image.hash: None, **self._here}

    def is_held(self, requester: bytes, hash_: bytes) -> bool:
        """Whether it is part of an image that this requester has shown to have."""
        held = (known for known in self.known.values() if requester in known.holders)
        return any(part.hash == hash_ for known in held for part in known.parts)

    async def allow(self, requester: bytes, part: Part) -> None:
        """Let a requester's job use a blob that came here for somebody else.

        Its hash alone is no key: demands tell everybody an image's. So its node has to show bytes
        of it, from a place that it cannot know before. NotFoundError, UnreachableError.
        """
        if self.is_held(requester, part.hash):
            return
        where = int.from_bytes(self._entropy.token(8), "big") % max(1, part.size_bytes)
        if not await self._artifacts.has(requester, part.hash, part.size_bytes, where):
            hint = "give its registry's credentials to your own node"
            raise NotFoundError("the image here is another requester's", hint=hint)

    async def _remember(self, known: Known, holder: bytes | None = None) -> None:
        before = self.known.get(known.image.hash)
        if holder is not None and not known.open:
            held = (*(before.holders if before else ()), *known.holders, holder)
            known = replace(known, holders=tuple(dict.fromkeys(held))[-HOLDERS_MAX:])
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


def told(done: int, total: int) -> str:
    """How far an image is, for people."""
    return f"image: {format_bytes(done)} of {format_bytes(total)}"


def _architecture() -> str:
    return MACHINES.get(platform.machine(), platform.machine())
