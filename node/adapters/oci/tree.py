"""Tree: a root file system as it grows, layer over layer, from tars that nobody trusts.

Each path is resolved by the kernel inside the new tree, links and all; devices, FIFOs and climbing
paths are refused, setuid bits dropped, and bytes, entries and depth bounded.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from market.errors import SandboxError
from node.adapters.oci import beneath, tars
from node.adapters.oci.shared import SharedFiles

_DEPTH_MAX: Final = 64
_CHUNK: Final = 1024 * 1024
_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


class Tree:
    """The root file system as it grows, layer by layer."""

    def __init__(self, root: Path, files: SharedFiles, bytes_left: int, entries_left: int) -> None:
        """`files` has what other trees hold alike."""
        self._files = files
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.bytes_left = bytes_left
        self._entries_left = entries_left

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._root)

    def apply(self, stream: IO[bytes]) -> None:
        """Lay one layer over what is there."""
        with tars.stream(stream) as tar:
            for entry in tars.entries(tar):
                self._entries_left -= 1
                self.bytes_left -= entry.size if entry.isreg() else 0
                if self._entries_left < 0 or self.bytes_left < 0:
                    raise SandboxError("the image unpacks to more than this provider takes")
                parts = _parts(entry.name)
                if parts:
                    with self._directory(parts[:-1]) as parent:
                        self._place(tar, entry, parent, parts[-1])

    def _place(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        if name == _OPAQUE:
            for child in os.listdir(parent):
                _remove(parent, child)
            return
        if name.startswith(_WHITEOUT):
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise SandboxError(f"the image hides {hidden!r}")
            _remove(parent, hidden)
            return
        mode = entry.mode & 0o777  # setuid and setgid are no use in a job, nor to anyone
        if entry.isdir():
            _make_directory(parent, name, mode | 0o555)
            return
        _remove(parent, name)
        if entry.isreg():
            self._write(tar, entry, parent, name, mode | 0o444)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif entry.islnk():
            self._link(entry, parent, name)
        else:
            raise SandboxError(f"the image holds a device or FIFO: {entry.name[:200]!r}")

    @contextlib.contextmanager
    def _directory(self, parts: tuple[str, ...]) -> Iterator[int]:
        path = "/".join(parts) or "."
        flags = os.O_RDONLY | os.O_DIRECTORY
        resolve = beneath.IN_ROOT | beneath.NO_MAGICLINKS
        try:
            opened = beneath.open_at(self._root, path, flags, resolve)
        except FileNotFoundError:
            # Some tools leave parents out; they are made as an unpacker running inside would.
            with self._directory(parts[:-1]) as above:
                _make_directory(above, parts[-1], 0o755)
            opened = beneath.open_at(self._root, path, flags, resolve)
        try:
            yield opened
        finally:
            os.close(opened)

    def _write(
        self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str, mode: int
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = tar.extractfile(entry)
        assert source is not None, "a regular entry has bytes"
        hasher = hashlib.sha256()
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as target:
            while data := source.read(_CHUNK):
                hasher.update(data)
                target.write(data)
            os.fchmod(target.fileno(), mode)
        self._files.share(parent, name, hasher.hexdigest(), mode, entry.size)

    def _link(self, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        parts = _parts(entry.linkname)
        if not parts:
            raise SandboxError("the image links to its own root")
        with self._directory(parts[:-1]) as source:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _make_directory(parent: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _remove(parent, name)
            os.mkdir(name, 0o755, dir_fd=parent)
    os.chmod(name, mode, dir_fd=parent)


def _parts(name: str) -> tuple[str, ...]:
    if name.startswith("/") or "\0" in name:
        raise SandboxError(f"the image holds a path outside its root: {name[:200]!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or len(parts) > _DEPTH_MAX:
        raise SandboxError(f"the image holds a path outside its root: {name[:200]!r}")
    return parts


def _remove(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as problem:
        if problem.errno not in (errno.EISDIR, errno.EPERM):
            raise
        shutil.rmtree(name, dir_fd=parent)
