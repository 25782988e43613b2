"""Blobs: bytes on disk under the SHA-256 of themselves, whole or still arriving.

A complete blob appears in one step, after its hash was checked and its bytes reached the disk. The
store has a size; the least recently used blobs that nobody pins make room. Knows no meaning.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import trio

from market.errors import IntegrityError, LimitError, NotFoundError
from market.limits import ARTIFACT_BYTES_MAX

PARTIALS_MAX = 256  # transfers begun and not ended; the oldest is forgotten for a new one
_CHUNK = 1024 * 1024
_NAME = re.compile(r"[0-9a-f]{64}")


def _never(_hash: bytes) -> bool:
    return False


class DiskBlobs:
    """The `Blobs` port over one directory. One process at a time; any number of tasks."""

    def __init__(
        self, directory: Path, *, bytes_max: int, pinned: Callable[[bytes], bool] = _never
    ) -> None:
        """`bytes_max` bounds complete and arriving blobs; those `pinned` says stay."""
        self._whole = directory / "whole"
        self._arriving = directory / "arriving"
        self._bytes_max = bytes_max
        self._pinned = pinned
        self._lock = threading.Lock()  # held for bookkeeping and appends, never for a long copy
        for made in (self._whole, self._arriving):
            made.mkdir(parents=True, exist_ok=True)
        self._sizes, self._partials = self._scan()

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics."""
        with self._lock:
            return {
                "blobs": len(self._sizes),
                "bytes": sum(self._sizes.values()),
                "partials": len(self._partials),
                "partial_bytes": sum(self._partials.values()),
            }

    async def size(self, hash_: bytes) -> int | None:
        """Bytes of a complete blob, or None."""
        await trio.lowlevel.checkpoint()
        return self._sizes.get(_name(hash_))

    async def partial(self, hash_: bytes) -> int:
        """Bytes received so far of an incomplete blob."""
        await trio.lowlevel.checkpoint()
        return self._partials.get(_name(hash_), 0)

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        """A part of a complete blob. Raises NotFoundError."""
        return await trio.to_thread.run_sync(self._read, _name(hash_), offset, limit)

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        """Add to an incomplete blob at exactly its end. Raises LimitError."""
        await trio.to_thread.run_sync(self._append, _name(hash_), offset, data)

    async def finish(self, hash_: bytes) -> int:
        """Check and keep. Raises IntegrityError, and forgets what did not fit its hash."""
        return await trio.to_thread.run_sync(self._finish, _name(hash_))

    async def put(self, data: bytes) -> bytes:
        """Keep small bytes; returns their hash. Raises LimitError."""
        return await trio.to_thread.run_sync(self._put, data)

    async def put_file(self, path: str) -> tuple[bytes, int]:
        """Keep a file's bytes, as they are while being copied. Raises LimitError."""
        return await trio.to_thread.run_sync(self._put_file, path)

    async def export(self, hash_: bytes, path: str) -> None:
        """Write a complete blob to a file, in one step. Raises NotFoundError."""
        await trio.to_thread.run_sync(self._export, _name(hash_), path)

    async def discard(self, hash_: bytes) -> None:
        """Forget a blob, complete or not."""
        await trio.to_thread.run_sync(partial(self._forget, _name(hash_)))

    # What follows runs in threads.

    def _scan(self) -> tuple[dict[str, int], dict[str, int]]:
        """Both tables, least recently used first. Drafts of a crash are removed."""
        tables = []
        for directory in (self._whole, self._arriving):
            entries = []
            for entry in directory.iterdir():
                if _NAME.fullmatch(entry.name):
                    found = entry.stat()
                    entries.append((found.st_mtime_ns, entry.name, found.st_size))
                else:
                    entry.unlink()
            tables.append({name: size for _, name, size in sorted(entries)})
        return tables[0], tables[1]

    def _read(self, name: str, offset: int, limit: int) -> bytes:
        self._use(name)
        try:
            with (self._whole / name).open("rb") as file:
                file.seek(offset)
                return file.read(limit)
        except FileNotFoundError as problem:
            raise NotFoundError(f"the blob {name[:12]} is not here") from problem

    def _use(self, name: str) -> None:
        """Move it to the young end. Its time on disk makes that last over a restart."""
        with self._lock:
            if name not in self._sizes:
                raise NotFoundError(f"the blob {name[:12]} is not here")
            self._sizes[name] = self._sizes.pop(name)
        os.utime(self._whole / name)

    def _append(self, name: str, offset: int, data: bytes) -> None:
        with self._lock:
            if name in self._sizes:
                raise LimitError(f"the blob {name[:12]} is complete")
            received = self._partials.get(name, 0)
            if offset != received:
                raise LimitError(f"the next byte of {name[:12]} is {received}, not {offset}")
            if received + len(data) > ARTIFACT_BYTES_MAX:
                raise LimitError(f"the blob {name[:12]} is too large")
            if name not in self._partials and len(self._partials) >= PARTIALS_MAX:
                self._drop_partial(next(iter(self._partials)))
            self._make_room(len(data), keep=name)
            with (self._arriving / name).open("ab") as file:
                file.write(data)
            self._partials.pop(name, None)
            self._partials[name] = received + len(data)

    def _finish(self, name: str) -> int:
        with self._lock:
            if name in self._sizes:
                return self._sizes[name]
        path = self._arriving / name
        try:
            digest, size = _digest(path)
        except FileNotFoundError as problem:
            raise NotFoundError(f"nothing of the blob {name[:12]} has arrived") from problem
        with self._lock:
            self._partials.pop(name, None)
            if digest != name:
                path.unlink(missing_ok=True)
                raise IntegrityError(f"what arrived as {name[:12]} has the hash {digest[:12]}")
            path.rename(self._whole / name)
            _sync(self._whole)
            self._sizes[name] = size
        return size

    def _put(self, data: bytes) -> bytes:
        hasher = hashlib.sha256(data)
        name = hasher.hexdigest()
        with self._lock:
            if name in self._sizes:
                self._sizes[name] = self._sizes.pop(name)
                return hasher.digest()
            self._make_room(len(data), keep=name)
        draft, file = self._draft()
        with os.fdopen(file, "wb") as target:
            target.write(data)
        self._keep(draft, name, len(data))
        return hasher.digest()

    def _put_file(self, path: str) -> tuple[bytes, int]:
        hasher, size = hashlib.sha256(), 0
        draft, file = self._draft()
        try:
            with open(path, "rb") as source, os.fdopen(file, "wb") as target:
                expected = os.fstat(source.fileno()).st_size
                with self._lock:
                    self._make_room(min(expected, ARTIFACT_BYTES_MAX + 1), keep="")
                while chunk := source.read(_CHUNK):
                    size += len(chunk)
                    if size > max(expected, _CHUNK):
                        raise LimitError(f"{path} grows while it is read")
                    hasher.update(chunk)
                    target.write(chunk)
        except FileNotFoundError as problem:
            draft.unlink(missing_ok=True)
            raise NotFoundError(f"there is no file {path}") from problem
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        self._keep(draft, hasher.hexdigest(), size)
        return hasher.digest(), size

    def _draft(self) -> tuple[Path, int]:
        file, path = tempfile.mkstemp(dir=self._whole, prefix="draft-")
        return Path(path), file

    def _keep(self, draft: Path, name: str, size: int) -> None:
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        with self._lock:
            draft.rename(self._whole / name)
            _sync(self._whole)
            self._sizes.pop(name, None)
            self._sizes[name] = size
            if name in self._partials:
                self._drop_partial(name)

    def _export(self, name: str, path: str) -> None:
        self._use(name)
        file, draft = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".export-")
        try:
            with (self._whole / name).open("rb") as source, os.fdopen(file, "wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            os.chmod(draft, 0o644)
            os.rename(draft, path)
        except BaseException:
            os.unlink(draft)
            raise

    def _forget(self, name: str) -> None:
        with self._lock:
            if self._sizes.pop(name, None) is not None:
                (self._whole / name).unlink(missing_ok=True)
            if name in self._partials:
                self._drop_partial(name)

    def _drop_partial(self, name: str) -> None:
        del self._partials[name]
        (self._arriving / name).unlink(missing_ok=True)

    def _make_room(self, wanted: int, *, keep: str) -> None:
        """Evict until `wanted` bytes fit. Raises LimitError, evicting nothing, if they cannot."""
        used = sum(self._sizes.values()) + sum(self._partials.values())
        surplus = used + wanted - self._bytes_max
        victims = []
        for name, size in self._sizes.items():
            if surplus <= 0:
                break
            if name != keep and not self._pinned(bytes.fromhex(name)):
                victims.append(name)
                surplus -= size
        if surplus > 0:
            raise LimitError(
                f"the blob store is full: {self._bytes_max} bytes",
                hint="raise the store's size, or wait until running jobs are done",
            )
        for name in victims:
            del self._sizes[name]
            (self._whole / name).unlink(missing_ok=True)


def _name(hash_: bytes) -> str:
    assert len(hash_) == 32, "a blob is named by its SHA-256"
    return hash_.hex()


def _digest(path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
        return digest, file.tell()


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
