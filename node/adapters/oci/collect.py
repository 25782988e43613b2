"""Collect: read what a job wrote, which may be anything at all, without being led astray.

A file is opened beneath its volume with no link followed and must be a regular one; its apparent
size is what counts, so a sparse terabyte is refused. Links, FIFOs, sockets and devices inside a
directory are left out; an output that names one itself is an error, so that nobody wonders.
"""

from __future__ import annotations

import errno
import fnmatch
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from market.errors import SandboxError
from node.adapters.oci import beneath, tars

ENTRIES_MAX = 100_000  # looked at in one tree; a hostile one could be deeper than patience
DEPTH_MAX = 32
_UNFINISHED = (".tmp", ".partial", ".part")
_SNAPSHOT = ".gridsouk-snapshot"


@dataclass(frozen=True, slots=True)
class Found:
    """One regular file in a tree, by its path from the tree's root."""

    path: str
    size: int
    identity: tuple[int, int, int, int]  # inode, size and times: the same while unchanged


def files_below(root: int, path: str) -> Iterator[Found]:
    """The regular files at or below `path`, by name. Raises SandboxError past a bound."""
    seen = 0
    stack = [path]
    while stack:
        current = stack.pop()
        try:
            handle = beneath.open_strict(root, current, os.O_PATH | os.O_NOFOLLOW)
        except OSError as problem:
            if problem.errno in (errno.ENOENT, errno.ELOOP, errno.ENOTDIR, errno.EXDEV):
                continue
            raise SandboxError(f"{current} cannot be read: {problem}") from problem
        try:
            entry = os.fstat(handle)
            if stat.S_ISREG(entry.st_mode):
                yield _found(current, entry)
            elif stat.S_ISDIR(entry.st_mode) and current.count("/") < DEPTH_MAX:
                names = _names(root, current)
                seen += len(names)
                if seen > ENTRIES_MAX:
                    raise SandboxError(
                        f"the job left more than {ENTRIES_MAX} files", hint="pack them into a tar"
                    )
                stack += [f"{current}/{name}" for name in sorted(names, reverse=True)]
        finally:
            os.close(handle)


def _names(root: int, path: str) -> list[str]:
    handle = beneath.open_strict(root, path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with os.scandir(handle) as entries:
            names = []
            for entry in entries:
                names.append(entry.name)
                if len(names) > ENTRIES_MAX:
                    break
            return names
    finally:
        os.close(handle)


def _found(path: str, entry: os.stat_result) -> Found:
    identity = (entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_ctime_ns)
    return Found(path, entry.st_size, identity)


def open_regular(root: int, path: str) -> IO[bytes]:
    """Open a regular file of the tree for reading. Raises SandboxError for anything else."""
    try:
        handle = beneath.open_strict(root, path, os.O_RDONLY)
    except OSError as problem:
        raise SandboxError(
            f"{path} is a link, a device or gone: it cannot be collected",
            hint="let the job write a regular file there",
        ) from problem
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise SandboxError(f"{path} is not a regular file", hint="let the job write one there")
    return os.fdopen(handle, "rb")


def matching(root: int, pattern: str) -> Iterator[Found]:
    """The files of one output, `pattern` relative to the root: a file, a directory or a glob."""
    literal = pattern.split("/")
    for index, part in enumerate(literal):
        if any(sign in part for sign in "*?["):
            base = "/".join(literal[:index]) or "."
            for found in files_below(root, base):
                name = found.path.removeprefix("./")
                if _matches(name.split("/"), literal):
                    yield Found(name, found.size, found.identity)
            return
    path = pattern or "."
    if path != ".":
        _refuse_special(root, path)
    for found in files_below(root, path):
        yield Found(found.path.removeprefix("./"), found.size, found.identity)


def _matches(parts: list[str], pattern: list[str]) -> bool:
    """A glob matches a file, or a directory that the file is in."""
    if len(parts) < len(pattern):
        return False
    pairs = zip(parts, pattern, strict=False)
    return all(fnmatch.fnmatchcase(part, wanted) for part, wanted in pairs)


def _refuse_special(root: int, path: str) -> None:
    try:
        handle = beneath.open_strict(root, path, os.O_PATH | os.O_NOFOLLOW)
    except OSError as problem:
        if problem.errno == errno.ENOENT:
            return
        raise SandboxError(f"the output {path} leads through a link") from problem
    mode = os.fstat(handle).st_mode
    os.close(handle)
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise SandboxError(
            f"the output {path} is a link or special file", hint="let the job write a regular file"
        )


def complete(files: Iterator[Found], written: frozenset[int]) -> tuple[Found, ...]:
    """The files a checkpoint may hold: none that is hidden, named as unfinished, or being written.

    `written` are the inodes that some process of the job has open for writing.
    """
    return tuple(
        found
        for found in files
        if found.identity[0] not in written
        and not any(
            part.startswith(".") or part.endswith(_UNFINISHED)
            for part in found.path.removeprefix("./").split("/")
        )
    )


def being_written(pids: tuple[int, ...]) -> frozenset[int]:
    """Inodes that these processes have open for writing; meaningful while they are frozen."""
    inodes: set[int] = set()
    for pid in pids:
        try:
            numbers = os.listdir(f"/proc/{pid}/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
                flags = int(info.split("flags:")[1].split()[0], 8)
                if flags & os.O_ACCMODE:
                    inodes.add(os.stat(f"/proc/{pid}/fd/{number}").st_ino)
            except (OSError, IndexError, ValueError):
                continue
    return frozenset(inodes)


def hold(volume: int, root: int, files: tuple[Found, ...]) -> None:
    """Link the files into a place of the volume the job cannot reach: renames no longer matter."""
    release(volume)
    os.mkdir(_SNAPSHOT, 0o700, dir_fd=volume)
    snapshot = beneath.open_strict(volume, _SNAPSHOT, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for number, found in enumerate(files):
            with open_regular(root, found.path) as source:
                os.link(
                    f"/proc/self/fd/{source.fileno()}",
                    str(number),
                    dst_dir_fd=snapshot,
                    follow_symlinks=True,
                )
    except OSError as problem:
        raise SandboxError(f"the checkpoint cannot be held: {problem}") from problem
    finally:
        os.close(snapshot)


def release(volume: int) -> None:
    """Undo `hold`."""
    try:
        names = _names(volume, _SNAPSHOT)
    except OSError:
        return
    for name in names:
        os.unlink(f"{_SNAPSHOT}/{name}", dir_fd=volume)
    os.rmdir(_SNAPSHOT, dir_fd=volume)


def pack_held(volume: int, files: tuple[Found, ...], target: IO[bytes]) -> None:
    """A tar of the held files: the same content gives the same bytes.

    Raises SandboxError if one changed while it was read.
    """
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, found in enumerate(files):
            with open_regular(volume, f"{_SNAPSHOT}/{number}") as source:
                name = found.path.removeprefix("./")
                entry = tarfile.TarInfo(name)
                entry.size = found.size
                try:
                    tar.addfile(entry, source)
                except OSError as problem:
                    raise SandboxError(f"{name} cannot be read whole: {problem}") from problem
                now = os.fstat(source.fileno())
                if (now.st_size, now.st_mtime_ns) != found.identity[1:3]:
                    raise SandboxError(
                        f"{name} changed while it was read",
                        hint="write checkpoints to NAME.tmp and rename them",
                    )


def unpack_files(source: IO[bytes], root: int, uid: int, bytes_max: int) -> None:
    """Unpack a checkpoint, which comes from a stranger, into an empty directory of ours.

    Regular files and directories only. Raises SandboxError for anything else.
    """
    left = bytes_max
    try:
        with tars.stream(source) as tar:
            for count, entry in enumerate(tars.entries(tar)):
                parts = [part for part in entry.name.split("/") if part not in ("", ".")]
                if ".." in parts or entry.name.startswith("/") or "\0" in entry.name:
                    raise SandboxError(f"the archive holds the path {entry.name[:200]!r}")
                if count >= ENTRIES_MAX or len(parts) > DEPTH_MAX:
                    raise SandboxError("the archive holds too many or too deep files")
                if not entry.isreg() and not entry.isdir():
                    raise SandboxError(f"the archive holds a link or device: {entry.name[:200]!r}")
                left -= entry.size
                if left < 0:
                    raise SandboxError("the archive does not fit on the job's disk")
                _place(tar, entry, root, parts, uid)
    except (tarfile.TarError, EOFError, OSError) as problem:
        raise SandboxError(f"the archive cannot be unpacked: {problem}") from problem


def _place(
    tar: tarfile.TarFile, entry: tarfile.TarInfo, root: int, parts: list[str], uid: int
) -> None:
    depth = len(parts) if entry.isdir() else len(parts) - 1
    for index in range(1, depth + 1):
        path = "/".join(parts[:index])
        try:
            os.mkdir(path, 0o755, dir_fd=root)
            os.chown(path, uid, uid, dir_fd=root, follow_symlinks=False)
        except FileExistsError:
            continue
    if entry.isdir() or not parts:
        return
    path = "/".join(parts)
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    handle = beneath.open_at(root, path, flags, beneath.BENEATH | beneath.NO_SYMLINKS, 0o644)
    stream = tar.extractfile(entry) or io.BytesIO()
    with os.fdopen(handle, "wb") as target:
        while chunk := stream.read(1024 * 1024):
            target.write(chunk)
        os.fchown(target.fileno(), uid, uid)
