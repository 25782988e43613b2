"""Records: what the shim leaves on disk of a job: its output, its clock, how it ended.

The log is one append-only document, so an offset always means the same byte. Output is kept from
its beginning up to the bound; of what follows, the last part is held in memory and is appended,
after a line that counts what was left out, when the job ends. Standard library only.
"""

from __future__ import annotations

import json
import os
import time

TYPE_CHECKING = False  # importing typing would cost a tenth of the shim's start
if TYPE_CHECKING:
    from typing import Any

TAIL_BYTES = 64 * 1024  # the last words of a job that talked too much: a traceback fits
MARKER_BYTES = 256  # room for the line between the two


class Log:
    """The job's output, bounded: `cap` bytes of document in all."""

    def __init__(self, path: str, cap: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._room = max(0, cap - TAIL_BYTES - MARKER_BYTES - os.fstat(self._file).st_size)
        self._tail = bytearray()
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Take some output."""
        head = data[: self._room]
        if head:
            _write_all(self._file, head)
            self._room -= len(head)
        rest = data[len(head) :]
        if rest:
            self._tail += rest
            if len(self._tail) > 4 * TAIL_BYTES:
                self._shorten()

    def close(self) -> None:
        """Append the last words."""
        self._shorten()
        if self._left_out:
            line = f"\n[gridsouk: {self._left_out} bytes of output left out here]\n"
            _write_all(self._file, line.encode())
        _write_all(self._file, bytes(self._tail))
        os.close(self._file)

    def _shorten(self) -> None:
        surplus = len(self._tail) - TAIL_BYTES
        if surplus > 0:
            del self._tail[:surplus]
            self._left_out += surplus


class Clock:
    """Seconds the container has run, on disk: those before the last pause, and since when it runs.

    A reader takes `before_s` and adds what has passed since `since`, on the monotonic clock that
    all processes of one boot share; while it is paused, `seen_s` is all there is.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with open("/proc/sys/kernel/random/boot_id") as file:
            self._boot = file.read().strip()
        self._before_s = 0.0
        self._since = 0.0
        self.paused = True

    def start(self) -> None:
        """From now on it runs."""
        if self.paused:
            self._since = time.monotonic()
            self.paused = False
            self.tick()

    def pause(self) -> None:
        """From now on it does not."""
        if not self.paused:
            self._before_s = self.seconds()
            self.paused = True
            self.tick()

    def seconds(self) -> float:
        """How long so far."""
        return self._before_s + (0.0 if self.paused else time.monotonic() - self._since)

    def tick(self) -> None:
        """Put it on disk, in one step."""
        record = {
            "boot": self._boot,
            "before_s": self._before_s,
            "since": self._since,
            "seen_s": self.seconds(),
            "paused": self.paused,
        }
        replace(self._path, record, durable=False)


def replace(path: str, record: dict[str, Any], *, durable: bool) -> None:
    """Write JSON in one step: readers see the old or the new, never a part."""
    draft = f"{path}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, json.dumps(record).encode())
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(draft, path)
    if durable:
        parent = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
