"""Blobs: bytes on disk, named by their SHA-256. Knows hashes and sizes, never what is in them.

A complete blob is `ab/cd/<hash>`, an incomplete one `<hash>.part` beside it. What is complete was
checked, forced to the disk and renamed in one step. All of it together stays under one bound: the
blobs unused for longest go first, except those that the node says it still needs.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable, Container
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from market.errors import IntegrityError, LimitError, NotFoundError
from market.limits import ARTIFACT_BYTES_MAX, CHUNK_BYTES
from node.adapters.disk import files
from node.adapters.disk.files import Kept, Seen

THREADS_MAX: Final = 4  # hashing an image must not keep the journal waiting for a thread

Pinned = Callable[[], Container[bytes]]
"""The hashes the node still needs, asked whenever room is made."""


async def open_blobs(directory: Path, *, bytes_max: int, pinned: Pinned) -> Blobs:
    """The blobs in `directory`, found again by their names. Raises MarketError."""
    found = await trio.to_thread.run_sync(files.scan, directory)
    return Blobs(directory, found, bytes_max=bytes_max, pinned=pinned)


class Blobs:
    """Fills the `Blobs` port. Made by `open_blobs`.

    The index lives in trio's thread alone, ordered by last use; the disk is touched in worker
    threads, one task at a time for each hash. Every method raises MarketError if the disk fails.
    """

    def __init__(
        self, directory: Path, found: dict[bytes, Kept], *, bytes_max: int, pinned: Pinned
    ) -> None:
        """`found` is what lies there, the least recently used first."""
        self._directory = directory
        self._kept = found
        self._used = sum(kept.size for kept in found.values())
        self._bytes_max = bytes_max
        self._pinned = pinned
        self._seen: dict[bytes, Seen] = {}
        self._locks: dict[bytes, trio.Lock] = {}
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._evicted = 0

    def path(self, hash_: bytes) -> Path | None:
        """Where a complete blob lies, for those who mount it; None if it is not here."""
        kept = self._kept.get(hash_)
        return files.place(self._directory, hash_) if kept is not None and kept.complete else None

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics."""
        return {
            "blobs": sum(kept.complete for kept in self._kept.values()),
            "partial": sum(not kept.complete for kept in self._kept.values()),
            "bytes": self._used,
            "bytes_max": self._bytes_max,
            "evicted": self._evicted,
        }

    async def size(self, hash_: bytes) -> int | None:
        """Bytes of a complete blob, or None."""
        await trio.lowlevel.checkpoint()
        kept = self._kept.get(hash_)
        return kept.size if kept is not None and kept.complete else None

    async def partial(self, hash_: bytes) -> int:
        """Bytes received so far of an incomplete blob: where to resume; 0 if there are none."""
        await trio.lowlevel.checkpoint()
        kept = self._kept.get(hash_)
        return kept.size if kept is not None and not kept.complete else 0

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        """At most `limit` (and CHUNK_BYTES) bytes of a complete blob; empty past its end.

        Raises NotFoundError.
        """
        assert offset >= 0, "bytes are counted from 0"
        self._touch(hash_)
        size = max(0, min(limit, CHUNK_BYTES))
        return await self._in_thread(files.read, self._directory, hash_, offset, size)

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        """Add to an incomplete blob; `offset` must be what `partial` says.

        Raises LimitError if it is not, if the blob grows past ARTIFACT_BYTES_MAX, or if there is
        no room beside what the node still needs.
        """
        async with self._alone(hash_):
            kept = self._kept.get(hash_)
            if kept is not None and kept.complete:
                raise LimitError("the blob is complete already")
            have = kept.size if kept is not None else 0
            if offset != have:
                raise LimitError(f"the blob goes on at byte {have}, not at {offset}")
            if have + len(data) > ARTIFACT_BYTES_MAX:
                raise LimitError("a blob of this size is not kept")
            seen = self._seen.setdefault(hash_, Seen())
            async with self._room(hash_, len(data)):
                await self._in_thread(files.extend, self._directory, hash_, offset, data, seen)
                self._keep(hash_, Kept(have + len(data), complete=False))

    async def finish(self, hash_: bytes) -> int:
        """Check the hash and keep it; on a mismatch discard it and raise IntegrityError.

        A blob that is complete already stays as it is; one of no bytes needs no `append`.
        """
        async with self._alone(hash_):
            kept = self._kept.get(hash_)
            if kept is not None and kept.complete:
                return kept.size
            seen = self._seen.pop(hash_, None)
            size = await self._in_thread(files.complete, self._directory, hash_, seen)
            if size is None:
                await self._drop(hash_)
                raise IntegrityError(
                    f"the bytes received for {hash_.hex()[:12]} are not those asked for",
                    hint="they were thrown away; fetch them from another peer",
                )
            self._keep(hash_, Kept(size, complete=True))
            return size

    async def put(self, data: bytes) -> bytes:
        """Keep small bytes; returns their hash. Raises LimitError if there is no room."""
        hash_ = hashlib.sha256(data).digest()
        await self._add(hash_, len(data), partial(files.write_new, self._directory, hash_, data))
        return hash_

    async def put_file(self, path: str) -> tuple[bytes, int]:
        """Keep a file's bytes; returns hash and size.

        Raises NotFoundError if there is no such file, LimitError if there is no room for it, and
        IntegrityError if it changes meanwhile.
        """
        hash_, size = await self._in_thread(files.measure, Path(path), ARTIFACT_BYTES_MAX)
        copy = partial(files.copy_new, self._directory, hash_, Path(path), size)
        await self._add(hash_, size, copy)
        return hash_, size

    async def export(self, hash_: bytes, path: str) -> None:
        """Write a complete blob to a file, replacing it in one step. Raises NotFoundError."""
        async with self._alone(hash_):
            self._touch(hash_)
            await self._in_thread(files.export, self._directory, hash_, Path(path))

    async def lend(self, hash_: bytes, path: str) -> None:
        """Make a complete blob readable at `path`, by a link if it lies on the same disk.

        Raises NotFoundError.
        """
        async with self._alone(hash_):
            self._touch(hash_)
            await self._in_thread(files.lend, self._directory, hash_, Path(path))

    async def discard(self, hash_: bytes) -> None:
        """Forget a blob, complete or not."""
        async with self._alone(hash_):
            await self._drop(hash_)

    def keep(self, needed: Pinned) -> None:
        """Set which blobs must stay when room is made, in place of those named at the start."""
        self._pinned = needed

    async def _add(self, hash_: bytes, size: int, write: Callable[[], None]) -> None:
        async with self._alone(hash_):
            if (kept := self._kept.get(hash_)) is not None and kept.complete:
                self._touch(hash_)
                return
            async with self._room(hash_, size):
                await self._in_thread(write)
                self._keep(hash_, Kept(size, complete=True))
            await self._sweep(hash_)  # of the part that has become needless

    def _touch(self, hash_: bytes) -> None:
        kept = self._kept.get(hash_)
        if kept is None or not kept.complete:
            raise NotFoundError(f"no blob {hash_.hex()[:12]} is kept here")
        self._kept[hash_] = self._kept.pop(hash_)  # last in the dict: used last

    def _keep(self, hash_: bytes, kept: Kept) -> None:
        before = self._kept.pop(hash_, None)
        self._used += kept.size - (before.size if before is not None else 0)
        self._kept[hash_] = kept

    def _forget(self, hash_: bytes) -> None:
        kept = self._kept.pop(hash_, None)
        self._seen.pop(hash_, None)
        self._used -= kept.size if kept is not None else 0

    async def _drop(self, hash_: bytes) -> None:
        self._forget(hash_)
        await self._sweep(hash_)

    async def _sweep(self, hash_: bytes) -> None:
        """Remove the files of this hash that the index does not know; the caller has its lock."""
        with trio.CancelScope(shield=True):  # else bytes stay that nobody counts
            await self._in_thread(files.sweep, self._directory, hash_, self._kept.get(hash_))

    @asynccontextmanager
    async def _room(self, hash_: bytes, extra: int) -> AsyncIterator[None]:
        """Room for `extra` bytes, counted as used inside, so that nobody else takes it."""
        victims = self._victims(hash_, extra)
        for victim in victims:
            self._forget(victim)
        self._evicted += len(victims)
        self._used += extra
        try:
            with trio.CancelScope(shield=True):
                for victim in victims:
                    # Nobody held this lock when the victim was chosen, while we held ours: a
                    # circle of tasks each waiting for the next is impossible.
                    async with self._alone(victim):
                        await self._sweep(victim)
            yield
        finally:
            self._used -= extra

    def _victims(self, hash_: bytes, extra: int) -> list[bytes]:
        missing = self._used + extra - self._bytes_max
        if missing <= 0:
            return []
        victims: list[bytes] = []
        pinned = self._pinned()
        for other, kept in self._kept.items():
            if missing <= 0:
                break
            if other != hash_ and other not in pinned and other not in self._locks:
                victims.append(other)
                missing -= kept.size
        if missing > 0:
            raise LimitError(
                f"no room for {extra} more bytes: {missing} bytes are missing beside the "
                "images, inputs and results still needed",
                hint="give the node more disk, or end jobs",
            )
        return victims

    @asynccontextmanager
    async def _alone(self, hash_: bytes) -> AsyncIterator[None]:
        assert len(hash_) == 32, "a blob is named by its SHA-256"
        lock = self._locks.setdefault(hash_, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():  # else somebody waited, and has it now
                self._locks.pop(hash_, None)

    async def _in_thread(self, work: Callable[..., files.T], *values: object) -> files.T:
        try:
            return await trio.to_thread.run_sync(partial(work, *values), limiter=self._threads)
        except OSError as problem:
            raise files.explain(problem) from problem
