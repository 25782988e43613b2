"""Verify: what a started container really got, against what was asked for it.

Runtimes silently drop what they do not know or the kernel lacks. So before a stranger's first
command runs, its process is looked at from outside; any difference ends the job.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path

from node.adapters.oci.bundle import CPU_PERIOD_US, Plan
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.settings import Identity

_DEVICES = frozenset(
    {"c 1:3", "c 1:5", "c 1:7", "c 1:8", "c 1:9", "c 5:0"}  # null zero full random urandom tty
)
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
_NAMESPACES = ("pid", "net", "ipc", "uts", "mnt", "user")
_PAGE = 4096  # the kernel rounds a memory limit to pages


@dataclass(frozen=True, slots=True)
class Expected:
    """What the container must be; `devices` are granted on top of the usual ones, as `c 195:0`.

    `address` is what it gets once it is as asked, among the nodes of a gang; until then it has no
    network but its loopback, and most jobs have no other ever.
    """

    identity: Identity
    memory_bytes: int
    pids: int
    cpu_quota_us: int
    cwd: str
    devices: frozenset[str] = frozenset()
    address: str = ""
    volumes: tuple[tuple[str, str], ...] = ()  # (host path, path inside)


def expected_of(plan: Plan, address: str) -> Expected:
    """What a container by that plan must be."""
    return Expected(
        identity=plan.identity,
        memory_bytes=plan.memory_bytes,
        pids=plan.pids,
        cpu_quota_us=plan.cpus * CPU_PERIOD_US,
        cwd=plan.cwd,
        devices=frozenset(f"{n.kind} {n.major}:{n.minor}" for n in plan.edits.nodes),
        address=address,
        volumes=plan.volumes,
    )


def faults(pid: int, expected: Expected, cgroup: Cgroup) -> tuple[str, ...]:
    """Every way the process differs from what was asked; empty if it is as asked.

    Raises ProcessLookupError if it has ended.
    """
    proc = Path(f"/proc/{pid}")
    try:
        return (
            *_identity(proc, expected),
            *_privileges(proc),
            *_namespaces(proc, expected),
            *_network(proc),
            *_files(proc, expected),
            *_volumes(proc, expected),
            *_open_files(proc, expected),
            *_limits(pid, expected, cgroup),
        )
    except FileNotFoundError as problem:
        raise ProcessLookupError(f"process {pid} has ended") from problem


def _status(proc: Path) -> dict[str, str]:
    lines = (proc / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _identity(proc: Path, expected: Expected) -> tuple[str, ...]:
    found = []
    me = expected.identity
    wanted = ["0", str(me.base), str(me.size)]
    for name in ("uid_map", "gid_map"):
        if (proc / name).read_text().split() != wanted:
            found.append(f"{name} is not {' '.join(wanted)}")
    status = _status(proc)
    for name in ("Uid", "Gid"):
        if set(status[name].split()) != {str(me.host)}:
            found.append(f"{name} is {status[name]!r}")
    if status["Groups"].split() not in ([], [str(me.host)]):
        found.append(f"Groups are {status['Groups']!r}")
    return tuple(found)


def _privileges(proc: Path) -> tuple[str, ...]:
    status = _status(proc)
    found = [f"{name} is {status[name]}" for name in _CAPABILITIES if int(status[name], 16)]
    if status["NoNewPrivs"] != "1":
        found.append("no_new_privs is not set")
    if status["Seccomp"] != "2":
        found.append("no seccomp filter is set")
    return tuple(found)


def _namespaces(proc: Path, expected: Expected) -> tuple[str, ...]:
    return tuple(
        f"the {name} namespace is the machine's own"
        for name in _NAMESPACES
        if (name != "user" or expected.identity.mapped)
        and os.readlink(proc / "ns" / name) == os.readlink(f"/proc/self/ns/{name}")
    )


def _network(proc: Path) -> tuple[str, ...]:
    """Nothing leads out: no route (which is IPv4's), no address but those of the loopback."""
    routes = (proc / "net" / "route").read_text().splitlines()[1:]
    found = [f"a route leads to {line.split()[0]}" for line in routes if line.strip()]
    six = proc / "net" / "if_inet6"  # absent where the kernel has no IPv6
    names = {line.split()[-1] for line in six.read_text().splitlines()} if six.exists() else set()
    found += [f"{name} has an IPv6 address" for name in sorted(names - {"lo"})]
    return tuple(found)


def _files(proc: Path, expected: Expected) -> tuple[str, ...]:
    found = []
    for line in (proc / "mountinfo").read_text().splitlines():
        fields = line.split(" ")
        if fields[4] == "/" and "ro" not in fields[5].split(","):
            found.append("the root file system is writable")
    # An engine mounts it whatever it is told; then it must be hidden below an empty folder.
    system = proc / "root" / "sys"
    if system.is_dir() and os.listdir(system):
        found.append("/sys can be seen")
    allowed = _DEVICES | expected.devices
    granted = set()
    for directory, names, files in os.walk(proc / "root" / "dev"):
        names[:] = [name for name in names if name not in ("pts", "shm", "mqueue")]
        for name in files:
            entry = os.lstat(os.path.join(directory, name))
            if stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode):
                kind = "c" if stat.S_ISCHR(entry.st_mode) else "b"
                numbers = f"{kind} {os.major(entry.st_rdev)}:{os.minor(entry.st_rdev)}"
                granted.add(numbers)
                if numbers not in allowed:
                    found.append(f"the device {name} ({numbers}) was not granted")
    found += [f"the device {numbers} is missing" for numbers in sorted(expected.devices - granted)]
    return tuple(found)


def _volumes(proc: Path, expected: Expected) -> tuple[str, ...]:
    """An engine in a mount namespace of its own binds the empty folder below the job's disk."""
    found = []
    for host, inside in expected.volumes:
        try:
            same = os.path.samefile(f"{proc}/root{inside}", host)
        except FileNotFoundError:
            same = False
        if not same:
            found.append(f"{inside} is not the job's disk: does its maker see this node's mounts?")
    return tuple(found)


def _open_files(proc: Path, expected: Expected) -> tuple[str, ...]:
    """It must stand in its own tree, and hold no folder of the machine's open."""
    found = []
    here, wanted = os.stat(proc / "cwd"), os.stat(f"{proc}/root{expected.cwd}")
    if (here.st_dev, here.st_ino) != (wanted.st_dev, wanted.st_ino):
        found.append(f"its working directory is not {expected.cwd}")
    for number in os.listdir(proc / "fd"):
        mode = os.stat(proc / "fd" / number).st_mode
        if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
            found.append(f"its descriptor {number} is a folder or a disk")
    return tuple(found)


def _limits(pid: int, expected: Expected, cgroup: Cgroup) -> tuple[str, ...]:
    found = []
    if pid not in cgroup.pids():
        found.append(f"it is not in the control group {cgroup.path}")
    for name, file, limit in (
        ("memory", cgroup.memory_limit_file, expected.memory_bytes),
        ("pids", cgroup.pids_limit_file, expected.pids),
        ("cpu", cgroup.cpu_limit_file, expected.cpu_quota_us),
    ):
        text = file.read_text().split()[0] if file.exists() else "absent"
        if not text.isdigit() or int(text) > limit + _PAGE * (name == "memory"):
            found.append(f"the {name} limit is {text}, not {limit}")
    return tuple(found)
