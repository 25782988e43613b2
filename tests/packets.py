"""Packets: IPv4 by hand, good ones and any other, for tests of a gang's network."""

from __future__ import annotations

import socket
import struct


def packet(
    source: str, destination: str, payload: bytes, protocol: int, *,
    version: int = 4, words: int = 5, length: int | None = None, fragment: int = 0,
) -> bytes:  # fmt: skip
    """An IPv4 packet, with whatever in its header; `words` of 4 bytes is what the header has."""
    options = bytes(4 * (words - 5))
    total = 20 + len(options) + len(payload) if length is None else length
    head = struct.pack(
        ">BBHHHBBH4s4s", version << 4 | words, 0, total, 7, fragment, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    head = head[:10] + struct.pack(">H", checksum(head + options)) + head[12:]
    return head + options + payload


def udp(source: str, destination: str, data: bytes, ports: tuple[int, int] = (9000, 9000)) -> bytes:
    """A datagram; without a checksum of its own, which UDP allows."""
    return packet(source, destination, struct.pack(">HHHH", *ports, 8 + len(data), 0) + data, 17)


def tcp(source: str, destination: str) -> bytes:
    """The first segment of a connection."""
    return packet(source, destination, struct.pack(">HHIIBBHHH", 1, 2, 0, 0, 80, 2, 99, 0, 0), 6)


def icmp(source: str, destination: str, kind: int) -> bytes:
    """A message of that kind."""
    return packet(source, destination, bytes((kind, 3, 0, 0, 0, 0, 0, 0)), 1)


def data_of(datagram: bytes) -> bytes:
    """What a datagram carries."""
    return datagram[28:]


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
