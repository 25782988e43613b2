"""Probe, fourth part: the interface among the nodes of a gang, if the probe's job has one.

Standard library only. Sending to the other nodes is what the interface is for; anything else that
could be done with it is tried here.
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial

from node.adapters.oci.probe_more import Attempt, blocked

DEVICE = b"souk0"
_SIOCADDRT, _SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFMTU = 0x890B, 0x8914, 0x8916, 0x8922
_IP_FREEBIND, _IP_TRANSPARENT = 15, 19
_OTHER, _THIRD = "10.77.0.2", "10.77.0.3"
_NEIGHBOUR_PORT = 45_678
_WAIT_S = 0.3


def attempts() -> Iterator[Attempt]:
    """All of them; none without the interface."""
    if "PROBE_GANG" not in os.environ:
        return
    yield 11, "take another node's address", partial(_interface, _SIOCSIFADDR, _place(_OTHER))
    yield 11, "switch its gang's interface off", partial(_interface, _SIOCSIFFLAGS, bytes(16))
    yield 11, "change its gang's interface", partial(_interface, _SIOCSIFMTU, b"\xff\0\0\0")
    yield 11, "route the world through its gang", _route
    yield 11, "send as another node of its gang", _spoof
    yield 11, "send as anybody", partial(_option, _IP_TRANSPARENT)
    port = int(os.environ.get("PROBE_PORT", "22"))
    for host in ("10.77.0.254", "10.77.0.255", "10.77.0.0", _OTHER):
        yield 11, f"reach the machine at {host}", partial(_connect, host, port)
    for path in ("/tmp/tun", "/out/tun", "/dev/shm/tun"):
        yield 12, f"make the device of its gang in {path}", partial(_device, path)
    yield 24, "reach its port by a gang", partial(_connect, _OTHER, _NEIGHBOUR_PORT)


def _interface(order: int, value: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made, order, (DEVICE.ljust(16, b"\0") + value).ljust(40, b"\0"))


def _place(host: str) -> bytes:
    return struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(host))


def _route() -> None:
    """struct rtentry: destination, gateway and mask follow a long, the flags follow them."""
    entry = bytes(8) + _place("0.0.0.0") + _place(_OTHER) + _place("0.0.0.0")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        fcntl.ioctl(made, _SIOCADDRT, (entry + struct.pack("H", 3)).ljust(120, b"\0"))


def _spoof() -> None:
    """Binding to a foreign address may be had; a packet from there may not."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        try:
            made.bind((_THIRD, 0))
            made.sendto(b"probe", (_OTHER, 9))
        except OSError as problem:
            blocked(str(problem))


def _option(name: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.setsockopt(socket.IPPROTO_IP, name, 1)


def _connect(host: str, port: int) -> None:
    with socket.socket() as made:
        made.settimeout(_WAIT_S)
        made.connect((host, port))


def _device(path: str) -> None:
    os.mknod(path, 0o020666, os.makedev(10, 200))
