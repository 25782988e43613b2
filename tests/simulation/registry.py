"""Registry: images in memory, for simulated nodes. Keeps the contract of the real client."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from market.errors import LimitError, NotFoundError, RefusedError
from market.image import Reference


class SimRegistry:
    """The port Registry. `put` fills it; `closed` hosts want credentials, which it has."""

    def __init__(self, *closed: str) -> None:
        """Empty."""
        self._closed = closed
        self._trusted = True
        self._tags: dict[tuple[str, str], bytes] = {}
        self._blobs: dict[bytes, bytes] = {}
        self.asked: list[str] = []

    def put(self, name: str, tag: str, manifest: bytes, *blobs: bytes) -> bytes:
        """Keep an image; returns its digest."""
        digest = hashlib.sha256(manifest).digest()
        self._tags[name, tag] = digest
        for data in (manifest, *blobs):
            self._blobs[hashlib.sha256(data).digest()] = data
        return digest

    def for_others(self) -> SimRegistry:
        """The same without its credentials."""
        others = object.__new__(type(self))
        others.__dict__.update(self.__dict__, _trusted=False)
        return others

    def is_open(self, reference: Reference) -> bool:
        return reference.host not in self._closed or not self._trusted

    def _admit(self, reference: Reference) -> None:
        if reference.host in self._closed and not self._trusted:
            raise RefusedError(f"{reference.host} wants a name and a password")

    async def manifest(self, reference: Reference) -> bytes:
        await trio.lowlevel.checkpoint()
        self._admit(reference)
        self.asked.append(str(reference))
        digest = reference.digest or self._tags.get((reference.name, reference.tag), b"")
        if digest not in self._blobs:
            raise NotFoundError(f"there is no {reference}")
        return self._blobs[digest]

    @asynccontextmanager
    async def blob(
        self, reference: Reference, digest: bytes, offset: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        await trio.lowlevel.checkpoint()
        self._admit(reference)
        self.asked.append(digest.hex())
        if digest not in self._blobs:
            raise NotFoundError(f"there is no {digest.hex()}")
        if offset and offset >= len(self._blobs[digest]):
            raise LimitError("no bytes from there on")
        yield _Parts(self._blobs[digest][offset:])


class _Parts:
    """An iterator that may be left half way."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __aiter__(self) -> _Parts:
        return self

    async def __anext__(self) -> bytes:
        await trio.lowlevel.checkpoint()
        if not self._data:
            raise StopAsyncIteration
        part, self._data = self._data[:100_000], self._data[100_000:]
        return part
