"""The output of this node's own jobs: one file per job. Knows offsets, never what is written."""

from __future__ import annotations

import os
from pathlib import Path

import trio

from market.errors import LimitError, MarketError
from market.limits import LOG_BYTES_MAX, LOG_READ_BYTES_MAX


class Logs:
    """Fills the `Logs` port with files named by the job's id in hex.

    Nothing is forced to the disk: output can be fetched again, and the end of the file says from
    where. Raises MarketError if the disk fails, LimitError if it is full.
    """

    def __init__(self, directory: Path) -> None:
        """`directory` is made when the first output comes."""
        self._directory = directory
        self._one_at_a_time = trio.Lock()

    async def append(self, job: bytes, offset: int, data: bytes) -> None:
        """Add output; what lies before the end already is skipped, a gap reads as zero bytes.

        What lies past LOG_BYTES_MAX is dropped: the provider keeps no more either.
        """
        assert offset >= 0, "output begins at 0"
        async with self._one_at_a_time:
            await trio.to_thread.run_sync(self._append, self._path(job), offset, data)

    async def read(self, job: bytes, offset: int, limit: int) -> bytes:
        """At most `limit` (and LOG_READ_BYTES_MAX) bytes from `offset`; empty at the end."""
        assert offset >= 0, "output begins at 0"
        size = max(0, min(limit, LOG_READ_BYTES_MAX))
        return await trio.to_thread.run_sync(self._read, self._path(job), offset, size)

    async def size(self, job: bytes) -> int:
        """How many bytes there are."""
        return await trio.to_thread.run_sync(self._size, self._path(job))

    def _path(self, job: bytes) -> Path:
        assert 0 < len(job) <= 32, "a job's id is 16 bytes"
        return self._directory / job.hex()

    def _append(self, path: Path, offset: int, data: bytes) -> None:
        end = self._size(path)
        fresh = memoryview(data)[max(0, end - offset) : max(0, LOG_BYTES_MAX - offset)]
        if not fresh:
            return
        start = max(offset, end)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                while fresh:
                    written = os.pwrite(file, fresh, start)
                    start, fresh = start + written, fresh[written:]
            finally:
                os.close(file)
        except OSError as problem:
            raise LimitError(
                f"the output of job {path.name} cannot be kept: {problem.strerror}",
                hint="free space on the node's disk",
            ) from problem

    def _read(self, path: Path, offset: int, size: int) -> bytes:
        try:
            with path.open("rb") as file:
                return os.pread(file.fileno(), size, offset)
        except FileNotFoundError:
            return b""
        except OSError as problem:
            raise _unreadable(path, problem) from problem

    def _size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return 0
        except OSError as problem:
            raise _unreadable(path, problem) from problem


def _unreadable(path: Path, problem: OSError) -> MarketError:
    return MarketError(
        f"the output of job {path.name} cannot be read: {problem.strerror}",
        hint="check that the node's folder belongs to the user who runs it",
    )
