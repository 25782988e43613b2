"""Disk: a job's own mounts: memory for secrets, a root file system, a volume with a quota.

The volume is an ext4 image of exactly the size that was sold, reserved in full, so that a job can
fill neither the machine nor its neighbour. Everything is safe to repeat. Knows paths, no job.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess
from pathlib import Path

from market.errors import SandboxError
from market.units import MIB

_COMMAND_S = 120.0  # mkfs of a terabyte on a slow disk takes a quarter of this
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_libc = ctypes.CDLL(None, use_errno=True)
_LIVE_BYTES = 32 * MIB  # bundle, secrets and the runtime's state; 128 variables of 8 KiB fit


def command(*arguments: str, cwd: Path | None = None) -> str:
    """Run one of the system's own programs. Raises SandboxError with what it said."""
    try:
        done = subprocess.run(
            arguments,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=cwd,
            timeout=_COMMAND_S,
            check=False,
        )
    except FileNotFoundError as problem:
        raise SandboxError(
            f"{arguments[0]} is not installed",
            hint="install runc, mount and e2fsprogs with the system's package manager",
        ) from problem
    except subprocess.TimeoutExpired as problem:
        raise SandboxError(f"{arguments[0]} did not end in {_COMMAND_S:.0f} s") from problem
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[:2000]
        raise SandboxError(f"{' '.join(arguments[:2])} failed: {said}")
    return done.stdout.decode(errors="replace")


def flush(path: Path) -> None:
    """Everything written to the disk that `path` lies on is on it. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(handle):
            raise OSError(ctypes.get_errno(), "the disk cannot be written to", str(path))
    finally:
        os.close(handle)


def mounts_below(directory: Path) -> tuple[str, ...]:
    """Every mount point at or below `directory`, deepest first."""
    prefix = os.path.realpath(directory)  # the kernel lists no links
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split(" ")[4].replace("\\040", " ")
        if point == prefix or point.startswith(prefix + "/"):
            found.append(point)
    return tuple(sorted(found, key=lambda point: (-len(point), point)))


def is_mounted(point: Path) -> bool:
    """Whether something is mounted exactly there."""
    return os.path.realpath(point) in mounts_below(point)


def mount_memory(point: Path) -> None:
    """A small file system in memory, searchable by all: others mount below it."""
    if is_mounted(point):
        return
    point.mkdir(parents=True, exist_ok=True)
    _searchable(point)
    flags, data = _NOSUID | _NODEV | _NOEXEC, f"mode=0711,size={_LIVE_BYTES}"
    # The call itself: a program that makes it would cost a job's start five milliseconds.
    if _libc.mount(b"gridsouk", os.fsencode(point), b"tmpfs", flags, data.encode()) < 0:
        code = ctypes.get_errno()
        raise SandboxError(f"mount of {point} failed: {os.strerror(code)}")


def _searchable(point: Path) -> None:
    """The container's root is an ordinary user here and walks to its root file system by path."""
    for directory in (point, *point.parents):
        mode = directory.stat().st_mode
        if not mode & 0o001:
            if directory.stat().st_uid != os.geteuid() or directory == Path("/"):
                raise SandboxError(f"{directory} must be searchable by everybody (chmod o+x)")
            directory.chmod(mode | 0o001)


def mount_root(point: Path, base: Path, layers: tuple[Path, ...]) -> None:
    """The layers, topmost first, as one read-only tree.

    They are named from `base`, because the job can read the options of its own root.
    """
    if is_mounted(point):
        return
    point.mkdir(parents=True, exist_ok=True)
    lower = ":".join(str(layer.relative_to(base)) for layer in layers)
    options = f"ro,nosuid,nodev,lowerdir={lower}"
    command("mount", "-t", "overlay", "-o", options, "gridsouk", str(point), cwd=base)


def mount_volume(image: Path, point: Path, size_mib: int) -> None:
    """The volume, made if it is not there yet. `size_mib` is what its files may fill."""
    if is_mounted(point):
        return
    point.mkdir(parents=True, exist_ok=True)
    if not image.exists():
        draft = image.with_suffix(".new")
        draft.unlink(missing_ok=True)
        # Inode tables, bitmaps and descriptors take about 2 % on top of what was sold.
        _reserve(draft, (size_mib + size_mib // 32 + 4) * MIB)
        options = "nodiscard,lazy_itable_init=1"
        features = "^has_journal,^resize_inode"
        arguments = ("-q", "-F", "-m0", "-i", "16384", "-E", options, "-O", features)
        command("mkfs.ext4", *arguments, str(draft))
        draft.rename(image)
    options = "loop,rw,nosuid,nodev,noexec,noatime"
    command("mount", "-t", "ext4", "-o", options, str(image), str(point))


def _reserve(path: Path, size: int) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as problem:
        if problem.errno == errno.ENOSPC:
            os.unlink(path)
            raise SandboxError(
                f"this machine's disk has no {size // MIB} MiB left",
                hint="free some space, or offer less disk_space",
            ) from problem
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def unmount_all(directory: Path) -> None:
    """Unmount everything at and below; loop devices go with their mounts."""
    for point in mounts_below(directory):
        try:
            command("umount", point)
        except SandboxError:
            # Something still holds it for a moment; detached, it goes when that lets go.
            command("umount", "--lazy", point)


def remove_tree(directory: Path) -> None:
    """Delete a directory of ours and all below it, or a file; nothing if it is not there."""
    assert not mounts_below(directory), f"{directory} still has mounts"
    if directory.is_dir() and not directory.is_symlink():
        shutil.rmtree(directory, ignore_errors=False)
    else:
        directory.unlink(missing_ok=True)
