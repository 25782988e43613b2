"""Preflight: whether this machine can run strangers' code, and if not, what to do about it.

Looks at the machine's parts, then lets the escape probe loose in a job of the very sandbox that is
to be sold. Uses the port for that, so any driver is examined alike. Knows no market.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from functools import partial
from pathlib import Path

import trio

from market.errors import MarketError
from market.terms import Artifact
from market.units import MIB
from node.adapters.oci import cdi, cgroups, doctor, scopes, tun
from node.adapters.oci.base_image import build_base_image
from node.adapters.oci.settings import OciSettings
from node.ports import Blobs, Check, Sandbox

_CONTROLLERS = ("memory", "pids", "cpu", "freezer", "devices")
_PROGRAMS = {"mkfs.ext4": "e2fsprogs", "mount": "mount", "umount": "mount", "losetup": "mount"}
_NAMESPACES = ("user", "pid", "net", "ipc", "uts", "mnt", "cgroup")
_FREE_MIB = 1024  # for an image and one small job
_IMAGE = "doctor.tar"

CLASSES = {
    1: "mount file systems",
    2: "write the root file system",
    3: "write kernel settings",
    4: "read kernel memory and logs",
    5: "read the machine's files",
    6: "write /sys",
    7: "write control groups",
    8: "reach into processes",
    9: "enter or make namespaces",
    10: "open sockets past the network namespace",
    11: "reach the network",
    12: "open or make devices",
    13: "become another user",
    14: "use dangerous system calls",
    15: "change the machine's state",
    16: "raise its own limits",
    17: "execute what it wrote",
    18: "type on a terminal",
    19: "use up the machine",
    20: "leave traps for whoever collects",
    21: "enter the kernel by another table",
    22: "gain privileges by execve",
    23: "use descriptors that were left open",
    24: "meet the neighbours",
    25: "climb out of the image",
}


def machine(settings: OciSettings) -> tuple[Check, ...]:
    """The parts that every driver needs. Blocking."""
    return (
        _root(),
        _groups(),
        _namespaces(),
        _filter(),
        _programs(),
        _loop(),
        tun.check(),
        _room(settings.state_dir),
        _kernel_settings(),
    )


def gpus(uuids: tuple[str, ...], settings: OciSettings) -> tuple[Check, ...]:
    """Whether each GPU that is for sale can be given to a job. Blocking."""
    name = "GPUs"
    if not uuids:
        return (Check(name, True, False, "none found: declare CPU units to sell"),)
    try:
        cdi.edits_for(uuids, settings.cdi_dirs)
    except MarketError as problem:
        return (Check(name, False, True, str(problem), problem.hint),)
    return (Check(name, True, True, f"{len(uuids)}, each with a CDI specification by UUID"),)


async def probe(sandbox: Sandbox, blobs: Blobs, settings: OciSettings) -> tuple[Check, ...]:
    """One check for each class of attempts that the escape probe makes from inside."""
    try:
        image = await _image(blobs, settings)
        gang = (await trio.to_thread.run_sync(tun.check)).ok
        attempts = await doctor.examine(sandbox, blobs, image, gang=gang)
    except MarketError as problem:
        fix = problem.hint or "look at the node's log"
        return (Check("escape probe", False, True, str(problem), fix),)
    return by_class(attempts)


def by_class(attempts: tuple[doctor.Attempt, ...]) -> tuple[Check, ...]:
    """The attempts, summed up; pure."""
    found: defaultdict[int, list[doctor.Attempt]] = defaultdict(list)
    for attempt in attempts:
        found[attempt.kind].append(attempt)
    checks = []
    for kind, tried in sorted(found.items()):
        open_ = [attempt.name for attempt in tried if not attempt.blocked]
        name = f"escape {kind}: {CLASSES.get(kind, 'other')}"
        if open_:
            listed = ", ".join(open_[:5]) + (", ..." if len(open_) > 5 else "")
            sentence = f"{len(open_)} of {len(tried)} got through: {listed}"
            fix = "update the runtime and the kernel; do not sell before this is closed"
            checks.append(Check(name, False, True, sentence, fix))
        else:
            checks.append(Check(name, True, True, f"{len(tried)} tried, all blocked"))
    missing = sorted(set(doctor.CLASSES) - set(found) - {19})
    if missing:
        listed = ", ".join(str(kind) for kind in missing)
        sentence = f"the probe did not try the classes {listed}"
        checks.append(Check("escape probe", False, True, sentence, "report it: it is our fault"))
    return tuple(checks)


async def _image(blobs: Blobs, settings: OciSettings) -> Artifact:
    """This machine's own Python as an image, built once and kept among the blobs."""
    record = settings.state_dir / "doctor.sha256"
    with_size = (await trio.to_thread.run_sync(_read, record)).split()
    if len(with_size) == 2 and await blobs.size(bytes.fromhex(with_size[0])) is not None:
        return Artifact("doctor", bytes.fromhex(with_size[0]), int(with_size[1]))
    file = settings.state_dir / _IMAGE
    try:
        build = partial(build_base_image, file, (), compiled=False)
        hash_, size = await trio.to_thread.run_sync(build)
        await blobs.put_file(str(file))
        await trio.to_thread.run_sync(record.write_text, f"{hash_.hex()} {size}")
    finally:
        file.unlink(missing_ok=True)
    return Artifact("doctor", hash_, size)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _root() -> Check:
    if os.geteuid() == 0:
        return Check("root", True, True, "the node runs as root")
    return Check(
        "root",
        False,
        True,
        "the node does not run as root: it can mount no disks and set no limits",
        "run it as a system service, as root; jobs never run as root",
    )


def _groups(root: Path = cgroups.ROOT) -> Check:
    name = "control groups"
    version2 = cgroups.is_v2(root)
    if version2:
        found = set(_read(root / "cgroup.controllers").split())
        missing = [one for one in ("memory", "pids", "cpu") if one not in found]
        version = "version 2"
    else:
        missing = [one for one in _CONTROLLERS if not (root / one).is_dir()]
        version = "version 1"
    if missing:
        sentence = f"{version} lacks {', '.join(missing)}: limits would not hold"
        return Check(name, False, True, sentence, "boot with these controllers enabled")
    here = root if version2 else root / "memory"
    if not os.access(here, os.W_OK):
        sentence = f"{version}, but this user may not make groups: limits would not hold"
        return Check(name, False, True, sentence, "run the node as root")
    if version2 and _is_crowded(root):
        sentence = f"{version}, of a container whose own processes keep it from handing limits down"
        fix = f"run the node on the machine itself, or move them below {root}/init before it starts"
        return Check(name, False, True, sentence, fix)
    where = "; each job in a scope of systemd's" if scopes.are_used(root) else ""
    return Check(name, True, True, f"{version}, with all controllers that limits need{where}")


def _is_crowded(root: Path) -> bool:
    """Only the root of all, which has no type, may hold processes and hand controllers down."""
    handed_down = set(_read(root / "cgroup.subtree_control").split())
    inner = (root / "cgroup.type").exists() and bool(_read(root / "cgroup.procs").split())
    return inner and not handed_down >= {"memory", "pids", "cpu"}


def _namespaces() -> Check:
    missing = [name for name in _NAMESPACES if not Path(f"/proc/self/ns/{name}").exists()]
    if missing:
        sentence = f"this kernel lacks the namespaces {', '.join(missing)}"
        return Check("namespaces", False, True, sentence, "use a distribution's own kernel")
    text = _read(Path("/proc/sys/user/max_user_namespaces")).strip()
    if text == "0":
        fix = "sysctl -w user.max_user_namespaces=15000"
        return Check("namespaces", False, True, "user namespaces are switched off", fix)
    return Check("namespaces", True, True, "all seven kinds")


def _filter() -> Check:
    if "errno" in _read(Path("/proc/sys/kernel/seccomp/actions_avail")):
        return Check("seccomp", True, True, "filters that answer with an error")
    return Check(
        "seccomp", False, True, "this kernel has no seccomp filters", "use a distribution's kernel"
    )


def _programs() -> Check:
    missing = sorted({package for name, package in _PROGRAMS.items() if shutil.which(name) is None})
    if missing:
        listed = ", ".join(missing)
        return Check("programs", False, True, f"{listed} missing", f"install {listed}")
    return Check("programs", True, True, ", ".join(sorted(_PROGRAMS)))


def _loop() -> Check:
    if Path("/dev/loop-control").exists():
        return Check("disk quota", True, True, "loop devices: each job has a disk of its own")
    return Check(
        "disk quota", False, True, "there are no loop devices: quotas would not hold",
        "modprobe loop",
    )  # fmt: skip


def _room(state_dir: Path) -> Check:
    there = next(one for one in (state_dir, *state_dir.parents) if one.is_dir())
    found = os.statvfs(there)
    free_mib = found.f_bavail * found.f_frsize // MIB
    sentence = f"{free_mib} MiB free in {state_dir}"
    return Check("disk space", free_mib >= _FREE_MIB, True, sentence,
                 "" if free_mib >= _FREE_MIB else "free some, or set [sandbox] state")  # fmt: skip


def _kernel_settings() -> Check:
    """Not the sandbox's doing, but one bug less to fear."""
    wanted: dict[str, str | tuple[str, ...]] = {
        "kernel/dmesg_restrict": "1",
        "kernel/kptr_restrict": ("1", "2"),
        "kernel/unprivileged_bpf_disabled": ("1", "2"),
        "kernel/perf_event_paranoid": ("2", "3", "4"),
        "vm/unprivileged_userfaultfd": "0",
        "dev/tty/ldisc_autoload": "0",
    }
    loose = [
        name.replace("/", ".")
        for name, good in wanted.items()
        if (found := _read(Path("/proc/sys") / name).strip()) and found not in good
    ]
    if loose:
        best = {name.replace("/", "."): good[0] for name, good in wanted.items()}
        fix = "sysctl -w " + " ".join(f"{name}={best[name]}" for name in loose)
        return Check("kernel settings", False, False, f"{', '.join(loose)} could be stricter", fix)
    return Check("kernel settings", True, False, "strict")
