"""TUN: a network interface of a job whose other end is this node, and nothing else of the machine.

It is made in the job's network namespace before the job begins, and stays as long as that does: a
node that comes back takes hold of it again, and connections of the job live on. The job itself has
no capability and no /dev/net/tun: it can neither change it nor read what others send.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from market.errors import SandboxError
from market.overlay import DEVICE, MTU, PREFIX_LENGTH, address
from node.adapters.oci.connect import inside
from node.ports import GANG_NETWORK, Check

CONTROL: Final = "/dev/net/tun"
_FIX: Final = "modprobe tun; in a container of your own, give it the device /dev/net/tun"
# linux/if_tun.h, linux/sockios.h, linux/if.h
_TUNSETIFF, _TUNSETPERSIST = 0x400454CA, 0x400454CB
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU = 0x8914, 0x8916, 0x891C, 0x8922
_IFF_UP, _IFF_RUNNING, _IFF_NOARP = 0x1, 0x40, 0x80
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def make(pid: int, place: str) -> None:
    """Give the process's network the interface with that IPv4 address. SandboxError. Blocking."""
    inside(pid, lambda: _make(place))


@asynccontextmanager
async def hold(pid: int) -> AsyncIterator[TunInterface]:
    """The interface of the process's network. Raises SandboxError if it has none, or a holder."""
    names = await trio.to_thread.run_sync(_devices, pid)
    if DEVICE not in names:
        raise SandboxError("the job has no network interface", hint="only a gang's nodes have one")
    interface = TunInterface(await trio.to_thread.run_sync(inside, pid, _attach))
    try:
        yield interface
    finally:
        interface.close()


def check(control: str = CONTROL) -> Check:
    """Whether this machine can make such an interface; tried in a network of its own. Blocking."""
    try:
        _tried(control)
    except (OSError, SandboxError) as problem:
        sentence = f"no interface can be made ({problem}): gangs are not answered"
        return Check(GANG_NETWORK, False, False, sentence, _FIX)
    return Check(GANG_NETWORK, True, False, "an interface can be made: gangs are answered")


class TunInterface:
    """Implements the port `Interface` with a descriptor of the device."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def close(self) -> None:
        """Let it go. Whoever still has this must not meet another file under the same number."""
        descriptor, self._descriptor = self._descriptor, -1
        trio.lowlevel.notify_closing(descriptor)
        os.close(descriptor)

    async def receive(self) -> bytes:
        """The next packet of the job."""
        while (packet := self.receive_nowait()) is None:
            try:
                await trio.lowlevel.wait_readable(self._descriptor)
            except trio.ClosedResourceError as problem:
                raise SandboxError("the interface was let go") from problem
        return packet

    def receive_nowait(self) -> bytes | None:
        """One that is there already."""
        try:
            return os.read(self._descriptor, MTU)
        except BlockingIOError:
            return None
        except OSError as problem:
            raise SandboxError("the job's network is gone") from problem

    def send(self, packet: bytes) -> None:
        """To the job's kernel, which may know better than to take it."""
        try:
            os.write(self._descriptor, packet)
        except (BlockingIOError, InterruptedError):
            return  # its queue is full: a loss like any other
        except OSError as problem:
            raise SandboxError("the job's network does not take a packet") from problem


def _devices(pid: int) -> frozenset[str]:
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    except OSError as problem:
        raise SandboxError("the job has ended") from problem
    return frozenset(line.partition(":")[0].strip() for line in lines[2:])


def _attach(control: str = CONTROL) -> int:
    descriptor = os.open(control, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, _TUNSETIFF, _request("H", _IFF_TUN | _IFF_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _make(place: str, control: str = CONTROL) -> None:
    descriptor = _attach(control)
    try:
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
        with suppress(OSError):  # a kernel without IPv6; what it would say is dropped anyway
            Path(f"/proc/sys/net/ipv6/conf/{DEVICE}/disable_ipv6").write_text("1")
        mask = socket.inet_ntoa((0xFFFFFFFF << 32 - PREFIX_LENGTH & 0xFFFFFFFF).to_bytes(4, "big"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            fcntl.ioctl(asking, _SIOCSIFADDR, _request("16s", _sockaddr(place)))
            fcntl.ioctl(asking, _SIOCSIFNETMASK, _request("16s", _sockaddr(mask)))
            fcntl.ioctl(asking, _SIOCSIFMTU, _request("i", MTU))
            fcntl.ioctl(asking, _SIOCSIFFLAGS, _request("h", _IFF_UP | _IFF_RUNNING | _IFF_NOARP))
    finally:
        os.close(descriptor)


def _request(form: str, value: object) -> bytes:
    """struct ifreq: the device's name and one value."""
    return struct.pack(f"16s{form}", DEVICE.encode(), value).ljust(40, b"\0")


def _sockaddr(place: str) -> bytes:
    """struct sockaddr_in."""
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(place))


def _tried(control: str) -> None:
    """Make one in a network that is gone again with the thread that made it."""
    problems: list[OSError] = []

    def attempt() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET) < 0:
                code = ctypes.get_errno()
                raise OSError(code, os.strerror(code))
            _make(address(0), control)
        except OSError as problem:
            problems.append(problem)

    thread = threading.Thread(target=attempt, name="a network of its own")
    thread.start()
    thread.join()
    if problems:
        raise problems[0]
