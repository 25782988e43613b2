"""What the blob store does to files, blocking: name, scan, extend, complete, copy, sweep.

Plain functions for worker threads. They know one folder and hashes; no bound, no order of use.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import IO, Final, TypeVar

from market.errors import IntegrityError, LimitError, MarketError, NotFoundError

T = TypeVar("T")
COPY_BYTES: Final = 1024 * 1024  # one read of a copy

_NAME = re.compile(r"([0-9a-f]{64})(\.part|\.new)?")
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Kept:
    """One blob on the disk: its bytes so far, and whether that is all and was checked."""

    size: int
    complete: bool


def explain(problem: OSError) -> MarketError:
    """The disk's refusal in the market's words."""
    what = f"{problem.filename or 'the blob store'}: {problem.strerror or problem}"
    if problem.errno in _FULL:
        return LimitError(what, hint="free space on the node's disk")
    if problem.errno == errno.ENOENT:
        return NotFoundError(what)
    return MarketError(what, hint="check the disk, and who owns the file")


def place(directory: Path, hash_: bytes, suffix: str = "") -> Path:
    """Two levels of folders keep each short, whatever the number of blobs."""
    name = hash_.hex()
    return directory / name[:2] / name[2:4] / f"{name}{suffix}"


def scan(directory: Path) -> dict[bytes, Kept]:
    """What lies in the store, the least recently used first. Removes what a crash left half done.

    Raises MarketError if the folder cannot be used. Files of other names are not ours to touch.
    """
    found: dict[bytes, tuple[int, Kept]] = {}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(directory.glob("[0-9a-f][0-9a-f]/[0-9a-f][0-9a-f]/*")):
            match = _NAME.fullmatch(path.name)
            if match is None or not path.is_file() or path.is_symlink():
                continue
            hash_ = bytes.fromhex(match[1])
            if match[2] == ".new" or (match[2] == ".part" and hash_ in found):
                path.unlink()  # sorted: the complete blob comes before its own part
                continue
            status = path.stat()
            kept = Kept(status.st_size, complete=match[2] is None)
            found[hash_] = (status.st_mtime_ns, kept)
    except OSError as problem:
        raise explain(problem) from problem
    by_use = sorted(found.items(), key=lambda item: (item[1][0], item[0]))
    return {hash_: kept for hash_, (_, kept) in by_use}


class Seen:
    """What was hashed of a blob as it came, from its first byte on, in this process."""

    def __init__(self) -> None:
        self._hasher = hashlib.sha256()
        self.size = 0

    def add(self, offset: int, data: bytes) -> None:
        """The next bytes; out of turn they are not counted, and the file is read at the end."""
        if offset == 0:
            self._hasher, self.size = hashlib.sha256(), 0
        if offset == self.size:
            self._hasher.update(data)
            self.size += len(data)

    @property
    def digest(self) -> bytes:
        """Of all that was added."""
        return self._hasher.digest()


def _begin_writing(file: int, offset: int, size: int) -> None:
    if _sync_file_range is not None:
        _sync_file_range(file, offset, size, _WRITE)


_WRITE: Final = 2  # SYNC_FILE_RANGE_WRITE: start, do not wait
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None)
if _sync_file_range is not None:
    _sync_file_range.argtypes = (
        ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint,
    )  # fmt: skip


def read(directory: Path, hash_: bytes, offset: int, size: int) -> bytes:
    """A part of a complete blob. Its first byte marks it as used, for the next start's order."""
    path = place(directory, hash_)
    with path.open("rb") as file:
        if offset == 0:
            os.utime(file.fileno())
        return os.pread(file.fileno(), size, offset)


def extend(
    directory: Path, hash_: bytes, offset: int, data: bytes, seen: Seen | None = None
) -> None:
    """Add bytes to an incomplete blob, and to what was hashed of it so far.

    Not forced to the disk, but on their way: the last of a large blob need not wait for the first.
    """
    path = place(directory, hash_, ".part")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = os.O_TRUNC if offset == 0 else 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | fresh, 0o600)
    try:
        at, rest = offset, memoryview(data)
        while rest:
            written = os.pwrite(file, rest, at)
            at, rest = at + written, rest[written:]
        if seen is not None:
            seen.add(offset, data)
        _begin_writing(file, offset, len(data))
    except OSError:
        os.ftruncate(file, offset)  # so that a restart finds what the index says
        raise
    finally:
        os.close(file)


def complete(directory: Path, hash_: bytes, seen: Seen | None = None) -> int | None:
    """Make the part the blob, and say its size; None if its bytes have another hash.

    The bytes are read again unless all of them were hashed as they came (`seen`).
    """
    path = place(directory, hash_, ".part")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with open(file, "rb") as part:
        size = os.fstat(file).st_size
        if seen is not None and seen.size == size:
            found = seen.digest
        else:
            found = hashlib.file_digest(part, "sha256").digest()
        if found != hash_:
            return None
        os.fsync(part.fileno())
    _settle(path, place(directory, hash_))
    return size


def write_new(directory: Path, hash_: bytes, data: bytes) -> None:
    """Keep bytes whose hash is known."""
    with _new(directory, hash_) as file:
        file.write(data)


def measure(path: Path, bytes_max: int) -> tuple[bytes, int]:
    """Hash and size of a regular file. Raises LimitError for a larger one, or for what is none."""
    with _regular(path) as file:
        if os.fstat(file.fileno()).st_size > bytes_max:
            raise LimitError(f"{path} is too large: at most {bytes_max} bytes are kept as one")
        hash_ = hashlib.file_digest(file, "sha256").digest()
        return hash_, file.tell()


def copy_new(directory: Path, hash_: bytes, source: Path, size: int) -> None:
    """Keep a file's bytes; IntegrityError if they are no longer those measured."""
    with _regular(source) as file, _new(directory, hash_) as new:
        digest = hashlib.sha256()
        left = size + 1  # one more than measured shows that it grew
        while left and (piece := file.read(min(left, COPY_BYTES))):
            digest.update(piece)
            new.write(piece)
            left -= len(piece)
        if digest.digest() != hash_:
            raise IntegrityError(f"{source} changed while it was read", hint="try again")


def export(directory: Path, hash_: bytes, target: Path) -> None:
    """Copy a complete blob to `target`, whole or not at all, with the user's own file mode."""
    beside = target.with_name(f".{hash_.hex()[:16]}.part")
    with place(directory, hash_).open("rb") as blob:
        os.utime(blob.fileno())
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with open(os.open(beside, flags, 0o666), "wb") as file:
                while piece := blob.read(COPY_BYTES):
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            _settle(beside, target)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise


def lend(directory: Path, hash_: bytes, target: Path) -> None:
    """The blob's file under another name, or a copy where that cannot be."""
    source = place(directory, hash_)
    try:
        os.utime(source)
        os.link(source, target)
    except OSError as problem:
        if problem.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            raise
        with source.open("rb") as blob, target.open("xb") as file:
            while piece := blob.read(COPY_BYTES):
                file.write(piece)


def sweep(directory: Path, hash_: bytes, kept: Kept | None) -> None:
    """Remove the files of this hash that are not what `kept` says there is."""
    if kept is None or not kept.complete:
        place(directory, hash_).unlink(missing_ok=True)
    if kept is None or kept.complete:
        place(directory, hash_, ".part").unlink(missing_ok=True)


@contextmanager
def _new(directory: Path, hash_: bytes) -> Iterator[IO[bytes]]:
    path = place(directory, hash_, ".new")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
        with open(os.open(path, flags, 0o600), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        _settle(path, place(directory, hash_))
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _regular(path: Path) -> Iterator[BufferedReader]:
    # Not blocking: opening somebody's FIFO would wait for its writer for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LimitError(f"{path} is not a regular file", hint="pack folders with tar")
    with open(descriptor, "rb") as file:
        yield file


def _settle(source: Path, target: Path) -> None:
    """Rename in one step, and have the folder remember it after a power cut."""
    os.replace(source, target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
