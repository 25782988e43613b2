"""Probe, third part: the network, the filter, what was left open, and the neighbours.

Standard library only. With `neighbour` it plays the job next door instead, and leaves open what a
neighbour may.
"""

import ctypes
import errno
import fcntl
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from functools import partial

from node.adapters.oci.probe_more import Attempt, blocked, call, libc, none, open_one, speak

NAME = "gridsouk-neighbour"
_KEY = 0x6B1D50
_PORT = 45_678
_SIZE = 4096
_UPPER = 1 << 32  # a filter that looked at half of an argument would not see what the kernel does


def attempts() -> Iterator[Attempt]:
    """All of them."""
    for part in (_sockets, _filters, _descriptors, _neighbours, _image):
        yield from part()


def _sockets() -> Iterator[Attempt]:
    yield 10, "every other family", _families
    yield 10, "every netlink but routes", _netlinks
    for name, protocol in (("SCTP", 132), ("MPTCP", 262), ("UDP-Lite", 136), ("DCCP", 33)):
        yield 10, name, partial(_socket, socket.AF_INET, socket.SOCK_STREAM, protocol)
    yield 10, "ping socket", partial(_socket, socket.AF_INET, socket.SOCK_DGRAM, 1)
    yield 10, "raw IPv6", partial(_socket, socket.AF_INET6, socket.SOCK_RAW, 58)
    yield 10, "a pair of another family", partial(_pair, 30)
    yield 10, "switch off its loopback", _loopback
    yield 10, "set a firewall", _firewall
    for host in ("8.8.8.8", "169.254.169.254", "255.255.255.255"):
        yield 11, f"send a datagram to {host}", partial(_datagram, socket.AF_INET, host)
    yield 11, "send to another IPv6 host", partial(_datagram, socket.AF_INET6, "fd00:ec2::254")


def _socket(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _families() -> None:
    known = {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    found = []
    for family in set(range(1, 47)) - known:
        for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            try:
                _socket(family, kind, 0)
            except OSError as problem:
                if problem.errno == errno.EPERM:
                    continue
            found.append(f"{family}/{kind}")
    none(found, "the filter stops them all")


def _netlinks() -> None:
    found = []
    for protocol in range(1, 32):
        try:
            _socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        except OSError as problem:
            if problem.errno == errno.EPERM:
                continue
        found.append(str(protocol))
    none(found, "the filter stops them all")


def _pair(family: int) -> None:
    call("socketpair", family, 1, 0, ctypes.create_string_buffer(8))


def _loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made, 0x8914, b"lo".ljust(16, b"\0") + bytes(24))  # SIOCSIFFLAGS


def _firewall() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as made:
        made.setsockopt(socket.IPPROTO_IP, 64, bytes(128))  # IPT_SO_SET_REPLACE


def _datagram(family: int, host: str) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as made:
        made.sendto(b"probe", (host, 53))


def _filters() -> Iterator[Attempt]:
    """What a filter misses that looks at half of an argument, or that can be taken off again."""
    for name, family in (("AF_VSOCK", 40), ("AF_ALG", 38)):
        wide = ctypes.c_ulonglong(_UPPER | family)
        yield 21, f"{name} with a bit too many", partial(call, "socket", wide, 5, 0)
    wide = ctypes.c_ulonglong(_UPPER | 16)
    yield 21, "netlink with a bit too many", partial(call, "socket", wide, 3, 9)
    yield 22, "become ambient", partial(_prctl, 47, 2, 21)  # PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN
    yield 22, "pretend to be another program", partial(_prctl, 35, 13, 0)  # PR_SET_MM_EXE_FILE
    yield 22, "give a file a capability", _capability
    yield 13, "setfsuid 0", _file_user


def _prctl(*arguments: int) -> None:
    if libc.prctl(*(ctypes.c_ulong(each) for each in arguments), 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _capability() -> None:
    with open("/out/probe-capable", "w"):
        pass
    try:
        os.setxattr("/out/probe-capable", "security.capability", bytes.fromhex("0100000200200000")
                    + bytes(12))  # fmt: skip
    finally:
        os.unlink("/out/probe-capable")


def _file_user() -> None:
    call("setfsuid", 0)
    if call("setfsuid", 0xFFFFFFFF) != 0:
        blocked("it stays who it is")


def _descriptors() -> Iterator[Attempt]:
    yield 23, "its own descriptors", partial(_left_open, "/proc/self/fd")
    yield 23, "the first process's descriptors", partial(_left_open, "/proc/1/fd")
    yield 23, "a folder as its input or output", _standard
    yield 23, "stand outside of its root", _outside


def _left_open(folder: str) -> None:
    """More than the three, of anything but pipes and its own program."""
    found = []
    for number in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{number}")
        except OSError:
            continue
        mine = target.startswith(("pipe:", "/dev/null", "/in/", "/proc/"))
        if int(number) > 2 and not mine:
            found.append(f"{number} -> {target}")
    none(found, "nothing was left open")


def _outside() -> None:
    """A folder that is not below the root has no path there."""
    if os.readlink("/proc/self/cwd").startswith("/") and os.path.samefile(".", os.getcwd()):
        blocked("it stands inside")


def _standard() -> None:
    kinds = [os.fstat(number).st_mode for number in (0, 1, 2)]
    if not any(stat.S_ISDIR(kind) or stat.S_ISBLK(kind) or stat.S_ISREG(kind) for kind in kinds):
        blocked("pipes and /dev/null")


def _neighbours() -> Iterator[Attempt]:
    """The job next door (see `neighbour`) has left all of this open."""
    yield 24, "its shared memory", partial(call, "shmget", _KEY, _SIZE, 0)
    yield 24, "its message queue", partial(call, "mq_open", NAME.encode(), os.O_RDONLY, 0, None)
    yield 24, "its file in /dev/shm", partial(open_one, f"/dev/shm/{NAME}", os.O_RDONLY)
    yield 24, "its file in /tmp", partial(open_one, f"/tmp/{NAME}", os.O_RDONLY)
    yield 24, "its results", partial(open_one, f"/out/{NAME}", os.O_RDONLY)
    yield 24, "its abstract socket", partial(speak, f"\0{NAME}")
    yield 24, "its port", _port
    yield 24, "its processes", _processes


def _port() -> None:
    with socket.socket() as made:
        made.settimeout(1)
        made.connect(("127.0.0.1", _PORT))


def _processes() -> None:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
        except OSError:
            continue
        if b"neighbour" in words:
            found.append(pid)
    none(found, "they are not to be seen")


def _image() -> Iterator[Attempt]:
    yield 25, "overlay's own attributes", _overlay
    yield 25, "the layers below", partial(os.listdir, "/proc/1/root/../../..//var/lib/gridsouk")
    for path in ("/proc/1/root", "/proc/self/root", "/proc/1/cwd", "/proc/self/task/1/root"):
        yield 25, f"climb from {path}", partial(_climb, path)


def _overlay() -> None:
    os.setxattr("/out", "trusted.overlay.redirect", b"/")


def _climb(path: str) -> None:
    above = os.stat(path + "/.." * 24)
    root = os.stat("/")
    if (above.st_dev, above.st_ino) == (root.st_dev, root.st_ino):
        blocked("the root is the root")


def neighbour() -> None:
    """Leave open what a job may, and stay."""
    call("shmget", _KEY, _SIZE, 0o1666)
    call("mq_open", NAME.encode(), os.O_RDWR | os.O_CREAT, 0o666, None)
    for folder in ("/dev/shm", "/tmp", "/out"):
        with open(f"{folder}/{NAME}", "w") as file:
            file.write("next door")
        os.chmod(f"{folder}/{NAME}", 0o666)
    with socket.socket(socket.AF_UNIX) as unix, socket.create_server(("", _PORT)):
        unix.bind(f"\0{NAME}")
        unix.listen()
        sys.stdout.write("next door\n")
        sys.stdout.flush()
        time.sleep(600)
