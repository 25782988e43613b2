"""Probe, second part: ways out that need a look around first. Loaded by probe.py, beside it.

Standard library only. Like the first part it opens and asks, and never harms what it finds.
"""

import ctypes
import errno
import fcntl
import os
import platform
import resource
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from functools import partial

Attempt = tuple[int, str, Callable[[], object]]
Call = Callable[..., int]

# Numbers of system calls that are the same on x86_64 and aarch64: all that came after both.
_NEWER = {
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "io_uring_enter": 426,
    "io_uring_register": 427, "mount_setattr": 442, "quotactl_fd": 443, "memfd_secret": 447,
    "statmount": 457, "listmount": 458, "lsm_get_self_attr": 459, "pidfd_send_signal": 424,
}  # fmt: skip
_X86 = {
    "shmget": 29, "ioprio_set": 251, "migrate_pages": 256, "move_pages": 279,
    "kexec_file_load": 320, "swapoff": 168, "vhangup": 153, "clock_adjtime": 305, "ustat": 136,
    "sysfs": 139, "uselib": 134, "fanotify_mark": 301, "sched_setattr": 314, "socket": 41,
    "socketpair": 53, "mq_open": 240, "setfsuid": 122,
}  # fmt: skip
_ARM = {
    "shmget": 194, "ioprio_set": 30, "migrate_pages": 238, "move_pages": 239,
    "kexec_file_load": 294, "swapoff": 225, "vhangup": 58, "clock_adjtime": 266,
    "fanotify_mark": 263, "sched_setattr": 274, "socket": 198, "socketpair": 199, "mq_open": 180,
    "setfsuid": 151,
}  # fmt: skip
_NUMBERS = {**_NEWER, **(_X86 if platform.machine() == "x86_64" else _ARM)}
libc = ctypes.CDLL(None, use_errno=True)

_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}  # null ... tty, ptmx
_PTS = 136
_SOCKETS = ("docker.sock", "podman/podman.sock", "containerd/containerd.sock", "crio/crio.sock",
            "systemd/private", "dbus/system_bus_socket", "gridsouk")  # fmt: skip
_ENGINES = ("/var/lib/docker", "/var/lib/containers", "/var/lib/gridsouk", "/run/gridsouk")


def call(name: str, *arguments: object) -> int:
    """A system call by name. Raises OSError, also where this machine has no such call."""
    if name not in _NUMBERS:
        raise OSError(errno.ENOSYS, name)
    result = int(libc.syscall(_NUMBERS[name], *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def attempts() -> Iterator[Attempt]:
    """All of them."""
    for part in (_settings, _secrets, _groups, _terminals, _calls, _disk):
        yield from part()


def blocked(sentence: str) -> None:
    raise OSError(errno.EPERM, sentence)


def none(found: list[str], sentence: str) -> None:
    """Blocked if nothing was found."""
    if not found:
        blocked(sentence)
    sys.stderr.write(f"{sentence}, but: {found[:5]}\n")


def _writable(top: str, most: int = 4000) -> list[str]:
    """The files below `top` that open for writing."""
    found = []
    for folder, _, names in os.walk(top):
        for name in names[:most]:
            path = os.path.join(folder, name)
            try:
                os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW))
            except OSError:
                continue
            found.append(path)
    return found


def _settings() -> Iterator[Attempt]:
    yield 3, "any kernel setting", lambda: none(_writable("/proc/sys"), "all are read-only")
    yield 3, "any setting of a driver", lambda: none(_writable("/proc/fs"), "all are read-only")
    yield 6, "anything below /sys", lambda: none(_writable("/sys"), "there is nothing")
    yield 6, "see the machine's devices", lambda: none(os.listdir("/sys"), "it is empty")
    for name in ("uid_map", "gid_map"):
        yield 9, f"write {name}", partial(_write, f"/proc/self/{name}", "0 0 1")
    yield 9, "write timens_offsets", partial(_write, "/proc/self/timens_offsets", "monotonic 1 0")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _secrets() -> Iterator[Attempt]:
    for path in ("kmsg", "kpagecount", "kpageflags", "vmallocinfo", "slabinfo", "bus/pci/devices",
                 "scsi/scsi", "pressure/cpu", "sysvipc/shm.none"):  # fmt: skip
        yield 4, f"learn from /proc/{path}", partial(_learn, f"/proc/{path}")
    for path in ("iomem", "ioports", "modules"):
        yield 4, f"addresses in /proc/{path}", partial(_addresses, f"/proc/{path}")
    yield 4, "physical addresses of its own pages", _pagemap
    for name in _SOCKETS:
        for folder in ("/run", "/var/run"):
            yield 5, f"reach {folder}/{name}", partial(speak, f"{folder}/{name}")
    for path in _ENGINES:
        yield 5, f"list {path}", partial(os.listdir, path)
    yield 5, "a socket left in the image", lambda: none(_left_sockets(), "there is none")


def _learn(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not os.read(handle, 64):
            raise OSError(errno.ENODATA, "masked")
    finally:
        os.close(handle)


def _addresses(path: str) -> None:
    """Readable by all, but with zeros for who may not know."""
    with open(path) as file:
        lines = file.read().splitlines()
    words = [line.split()[-1] if "modules" in path else line.split("-")[0] for line in lines]
    if all(int(word, 16) == 0 for word in words if word.strip().startswith(("0", "1", "f"))):
        blocked("only zeros")


def _pagemap() -> None:
    page = ctypes.create_string_buffer(b"here", 4096)
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(ctypes.addressof(page) // 4096 * 8)
        if int.from_bytes(file.read(8), "little") & (1 << 55) - 1 == 0:
            blocked("only zeros")


def speak(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)


def _left_sockets() -> list[str]:
    found = []
    for top in ("/run", "/var", "/tmp", "/dev"):
        for folder, _, names in os.walk(top):
            found += [f"{folder}/{name}" for name in names
                      if stat.S_ISSOCK(os.lstat(f"{folder}/{name}").st_mode)]  # fmt: skip
    return found


def _groups() -> Iterator[Attempt]:
    yield 7, "any file of a control group", lambda: none(_group_files(), "none can be written")
    yield 7, "see a group but its own", _other_groups


def _group_files() -> list[str]:
    with open("/proc/self/mounts") as file:
        places = [line.split()[1] for line in file if line.split()[2].startswith("cgroup")]
    return [path for place in places for path in _writable(place)]


def _other_groups() -> None:
    """Its own group is its root: a path that climbs shows the machine's names."""
    with open("/proc/self/cgroup") as file:
        shown = [line.rstrip().split(":", 2)[2] for line in file]
    if all(path == "/" for path in shown):
        blocked("only its own")


def _terminals() -> Iterator[Attempt]:
    for name in ("console", "tty0", "tty1", "ttyS0", "hvc0", "vcs", "vcsa"):
        yield 18, f"open /dev/{name}", partial(open_one, f"/dev/{name}", os.O_RDWR | os.O_NOCTTY)
    for number in (0, 1, 2):
        for name, order in (("TIOCSTI", 0x5412), ("TIOCLINUX", 0x541C)):
            yield 18, f"{name} on {number}", partial(fcntl.ioctl, number, order, b"\x0b" + bytes(7))
    yield 18, "take the console over", _console
    yield 12, "a device beyond the usual", lambda: none(_devices(), "only the usual ones")


def open_one(path: str, flags: int) -> None:
    os.close(os.open(path, flags))


def _console() -> None:
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, 0x541D)  # TIOCCONS: what the kernel says would come to us
    finally:
        os.close(ours)
        os.close(theirs)


def _devices() -> list[str]:
    found = []
    for folder, _, names in os.walk("/dev"):
        for name in names:
            entry = os.lstat(f"{folder}/{name}")
            numbers = os.major(entry.st_rdev), os.minor(entry.st_rdev)
            special = stat.S_ISCHR(entry.st_mode) or stat.S_ISBLK(entry.st_mode)
            usual = stat.S_ISCHR(entry.st_mode) and (numbers in _HARMLESS or numbers[0] == _PTS)
            if special and not usual:
                found.append(f"{folder}/{name}")
    return found


def _calls() -> Iterator[Attempt]:
    nothing = None
    mounting: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("fsconfig", (-1, 0, nothing, nothing, 0)),
        ("fsmount", (-1, 0, 0)),
        ("fspick", (-100, b"/", 0)),
        ("mount_setattr", (-100, b"/", 0, bytes(32), 32)),
        ("statmount", (bytes(24), nothing, 0, 0)),
        ("listmount", (bytes(24), nothing, 0, 0)),
    )
    for name, arguments in mounting:
        yield 1, name, partial(call, name, *arguments)
    others: tuple[tuple[str, tuple[object, ...]], ...] = (
        ("io_uring_enter", (-1, 1, 0, 0, nothing, 0)),
        ("io_uring_register", (-1, 0, nothing, 0)),
        ("quotactl_fd", (-1, 0, 0, nothing)),
        ("memfd_secret", (0,)),
        ("kexec_file_load", (-1, -1, 0, b"", 0)),
        ("swapoff", (b"/out/swap",)),
        ("fanotify_mark", (-1, 1, 0, -100, b"/")),
        ("ustat", (0, nothing)),
        ("sysfs", (3,)),
        ("uselib", (b"/bin/sh",)),
        ("lsm_get_self_attr", (100, nothing, nothing, 0)),
    )
    for name, arguments in others:
        yield 14, name, partial(call, name, *arguments)
    yield 14, "hang up the machine's terminal", partial(call, "vhangup")
    yield 15, "clock_adjtime", partial(call, "clock_adjtime", 0, b"\x01" + bytes(255))
    for name in ("migrate_pages", "move_pages"):
        yield 8, name, partial(call, name, 1, 1, nothing, nothing, nothing, 0)
    for target in (2, 1000, 30_000):
        yield 8, f"signal process {target} of the machine", partial(_signal, target)
    yield 16, "real-time input and output", partial(call, "ioprio_set", 1, 0, 1 << 13)
    yield 16, "a deadline of its own", partial(call, "sched_setattr", 0, _deadline(), 0)
    for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_MEMLOCK, resource.RLIMIT_MSGQUEUE):
        yield 16, f"raise limit {kind}", partial(_raise, kind)


def _signal(target: int) -> None:
    """Signal 0 asks only. Its own processes are not the machine's."""
    if os.path.exists(f"/proc/{target}"):
        blocked("that one is its own")
    os.kill(target, 0)


def _deadline() -> bytes:
    times = [int(each).to_bytes(8, "little") for each in (1_000_000, 9_000_000, 10_000_000)]
    head = (48).to_bytes(4, "little") + (6).to_bytes(4, "little") + bytes(16)  # SCHED_DEADLINE
    return head + b"".join(times)


def _raise(kind: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard == resource.RLIM_INFINITY:
        blocked("its group has a limit instead")
    resource.setrlimit(kind, (hard + 1, hard + 1))


def _disk() -> Iterator[Attempt]:
    """The job's own file system is the machine's kernel's too."""
    for name, order, argument in (
        ("freeze its disk", 0xC0045877, bytes(4)),
        ("shut its disk down", 0x8004587D, bytes(4)),
        ("make a file immutable", 0x40086602, (0x10).to_bytes(8, "little")),
        ("resize its disk", 0x40086610, bytes(8)),
    ):
        yield 20, name, partial(_ioctl, order, argument)
    yield 20, "link to a program by its descriptor", _link
    yield 2, "change what others see of the image", _touch


def _ioctl(order: int, argument: bytes) -> None:
    handle = os.open("/out", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(handle, order, argument)
    finally:
        os.close(handle)


def _link() -> None:
    handle = os.open("/bin/sh", os.O_RDONLY)
    try:
        os.link(f"/proc/self/fd/{handle}", "/out/probe-sh", follow_symlinks=True)
        os.unlink("/out/probe-sh")
    finally:
        os.close(handle)


def _touch() -> None:
    os.utime("/bin/sh")
