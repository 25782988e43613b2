"""Leftovers: what gridsouk left on this machine. Reads /proc and /sys only, and removes nothing.

`./run leftovers` prints one line for each process, mount, cgroup, loop device, network namespace
and network link that is ours, and exits 1 if there is any. Ours is what bears our name (a word
that starts with `souk-` or `gridsouk`) and, for a process, what inherited GRIDSOUK_DEMO. Run it
as root: other users' processes do not show their environment.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PREFIXES = ("souk-", "gridsouk")
DEMO_VARIABLE = b"GRIDSOUK_DEMO="
REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Leftover:
    """One thing that outlived its node."""

    kind: str
    name: str
    detail: str

    def __str__(self) -> str:
        return f"{self.kind:<8} {self.name}  {self.detail}".rstrip()


def find_leftovers(
    root: Path = Path("/"), repository: Path = REPOSITORY, self_pid: int | None = None
) -> list[Leftover]:
    """Everything of ours below `root`, which is the machine itself unless a test says otherwise."""
    return [
        *processes(root / "proc", os.getpid() if self_pid is None else self_pid),
        *mounts(root / "proc", repository),
        *cgroups(root / "sys/fs/cgroup"),
        *loop_devices(root / "sys/block", repository),
        *named_children("netns", root / "run/netns"),
        *named_children("link", root / "sys/class/net", prefixes=("souk", "gridsouk")),
    ]


def processes(proc: Path, self_pid: int) -> Iterator[Leftover]:
    """Processes by name or by environment, except the caller and those who started it."""
    spared = set(ancestors(proc, self_pid))
    for pid in sorted(int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()):
        if pid in spared:
            continue
        words = read_bytes(proc / str(pid) / "cmdline").rstrip(b"\0").split(b"\0")
        command = b" ".join(words).decode(errors="replace")
        comm = read_bytes(proc / str(pid) / "comm").decode(errors="replace").strip()
        # The second word too: an interpreter's first argument is the name of its script.
        names = [comm, *(Path(word.decode(errors="replace")).name for word in words[:2])]
        inherited = read_bytes(proc / str(pid) / "environ").split(b"\0")
        if any(name.startswith(PREFIXES) for name in names):
            yield Leftover("process", str(pid), command or comm)
        elif any(variable.startswith(DEMO_VARIABLE) for variable in inherited):
            yield Leftover("process", str(pid), f"{command or comm} (started by a demo)")


def ancestors(proc: Path, pid: int) -> Iterator[int]:
    """`pid`, its parent, and so on up to the first process."""
    while pid > 0:
        yield pid
        # "pid (name) state parent ...", where the name may hold spaces and brackets
        after_name = read_bytes(proc / str(pid) / "stat").rpartition(b")")[2].split()
        pid = int(after_name[1]) if len(after_name) > 1 else 0


def mounts(proc: Path, repository: Path) -> Iterator[Leftover]:
    """Mounts at or below a directory with our name. Those of dead namespaces died with them."""
    for line in read_bytes(proc / "self/mountinfo").decode(errors="replace").splitlines():
        fields = line.split(" ")
        mount_point = Path(fields[4].replace("\\040", " "))
        if has_our_name(mount_point, repository):
            filesystem = fields[fields.index("-") + 1]
            yield Leftover("mount", str(mount_point), filesystem)


def cgroups(hierarchy: Path) -> Iterator[Leftover]:
    """Cgroups with our name and all below them, in any controller (v1) or in the one tree (v2)."""
    for directory, below, _ in os.walk(hierarchy):
        below.sort()
        group = Path(directory)
        if group.name == "gridsouk.slice":
            continue  # systemd keeps a slice once it was used, as empty as it may be
        if any(part.startswith(PREFIXES) for part in group.relative_to(hierarchy).parts):
            count = len(read_bytes(group / "cgroup.procs").split())
            yield Leftover("cgroup", str(group), f"{count} processes")


def loop_devices(block: Path, repository: Path) -> Iterator[Leftover]:
    """Loop devices whose file lies below a directory with our name, or has it."""
    for entry in sorted(block.glob("loop*/loop/backing_file")):
        backing_file = read_bytes(entry).decode(errors="replace").strip()
        if has_our_name(Path(backing_file), repository):
            yield Leftover("loop", entry.parts[-3], backing_file)


def named_children(
    kind: str, directory: Path, prefixes: tuple[str, ...] = PREFIXES
) -> Iterator[Leftover]:
    """The entries of `directory` that have our name."""
    if directory.is_dir():
        for entry in sorted(directory.iterdir()):
            if entry.name.startswith(prefixes):
                yield Leftover(kind, entry.name, "")


def has_our_name(path: Path, repository: Path) -> bool:
    """True if a part of `path` is named after us, other than by the checkout we run from.

    A container may well have bound the checkout to a directory that is called gridsouk.
    """
    if path == repository or path in repository.parents:
        return False
    if path.is_relative_to(repository):
        path = path.relative_to(repository)
    return any(part.startswith(PREFIXES) for part in path.parts)


def read_bytes(path: Path) -> bytes:
    """The file's content; nothing where a process ended meanwhile or is not ours to look into."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def main() -> int:
    """Print what is left; 1 if anything is."""
    found = find_leftovers()
    for leftover in found:
        print(leftover)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
