"""Overlay: the addresses of a gang's nodes, and which packet may pass between two of them.

Pure: bytes in, a verdict out. It knows ranks, no peer, no device and no channel. Both ends judge
every packet: what a job sends before it leaves, and what another provider sends before it gets in.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Final

from market.errors import CodecError
from market.limits import NODES_MAX

DEVICE: Final = "souk0"  # what the interface is called inside the job
PREFIX: Final = bytes((10, 77, 0))  # private (RFC 1918); the job has no other network to clash with
PREFIX_LENGTH: Final = 24
MTU: Final = 65_535  # the longest IPv4 packet: none is ever cut, and few carry much
MASTER_PORT: Final = 29_500  # torchrun's own
_HEADER: Final = 20  # without options, which nothing needs and which could say "route me"
_ICMP, _TCP, _UDP = 1, 6, 17
_UNREACHABLE: Final = 3  # the one ICMP message that a TCP or UDP socket has use for
_LEAST: Final = {_ICMP: 8, _TCP: 20, _UDP: 8}

assert NODES_MAX < 255, "every rank has an address of its own below the broadcast address"


class Drop(Enum):
    """Why a packet goes nowhere."""

    MALFORMED = "malformed"  # too short, or its length is not its length
    VERSION = "version"  # not IPv4
    OPTIONS = "options"
    FRAGMENT = "fragment"
    PROTOCOL = "protocol"  # neither TCP nor UDP nor a word that a port is not there
    SOURCE = "source"  # not the address of who sends it
    DESTINATION = "destination"  # no other node of the gang, or not the one it came to
    FULL = "full"  # more waits for that node than may wait
    UNREACHABLE = "unreachable"  # that node does not answer


def address(rank: int) -> str:
    """The IPv4 address of a rank, as text."""
    assert 0 <= rank < NODES_MAX, "a rank of a gang"
    return ".".join(map(str, (*PREFIX, rank + 1)))


def addresses(num_nodes: int) -> tuple[str, ...]:
    """Those of a gang, by rank."""
    return tuple(address(rank) for rank in range(num_nodes))


def destination(packet: bytes, source: int, num_nodes: int) -> int | Drop:
    """To which rank a packet goes that rank `source` sends, or why it goes nowhere.

    RFC 791: version and header length in byte 0, total length in 2-3, fragment in 6-7, protocol in
    9, source in 12-15, destination in 16-19. Checksums are the receiving kernel's business.
    """
    if len(packet) < _HEADER:
        return Drop.MALFORMED
    if packet[0] >> 4 != 4:
        return Drop.VERSION
    if packet[0] & 15 != _HEADER // 4:
        return Drop.OPTIONS
    if int.from_bytes(packet[2:4], "big") != len(packet):
        return Drop.MALFORMED
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:  # more to come, or not the first
        return Drop.FRAGMENT
    protocol = packet[9]
    if protocol not in _LEAST:
        return Drop.PROTOCOL
    if len(packet) < _HEADER + _LEAST[protocol]:
        return Drop.MALFORMED
    if protocol == _ICMP and packet[_HEADER] != _UNREACHABLE:
        return Drop.PROTOCOL
    if packet[12:15] != PREFIX or packet[15] != source + 1:
        return Drop.SOURCE
    rank = packet[19] - 1
    if packet[16:19] != PREFIX or not 0 <= rank < num_nodes or rank == source:
        return Drop.DESTINATION
    return rank


def admit(packet: bytes, source: int, mine: int, num_nodes: int) -> Drop | None:
    """Why a packet that came from rank `source` must not reach rank `mine`; None: it may."""
    found = destination(packet, source, num_nodes)
    if isinstance(found, Drop):
        return found
    return None if found == mine else Drop.DESTINATION


def split(frame: bytes) -> Iterator[bytes]:
    """The packets in a frame, which lie one after the other and say how long they are.

    Raises CodecError for a frame that does not end where its last packet does.
    """
    at = 0
    while at < len(frame):
        size = int.from_bytes(frame[at + 2 : at + 4], "big")
        if size < _HEADER or at + size > len(frame):
            raise CodecError("a frame holds whole packets")
        yield frame[at : at + size]
        at += size
