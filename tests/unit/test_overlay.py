"""Overlay: which packet passes between two nodes of a gang. Everything else goes nowhere."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import CodecError
from market.limits import NODES_MAX
from market.overlay import MTU, Drop, address, addresses, admit, destination, split
from tests.packets import icmp, packet, tcp, udp

NODES = 4
ONE, TWO, THREE = address(1), address(2), address(3)


def test_every_rank_has_a_private_address_of_its_own() -> None:
    found = addresses(NODES_MAX)
    assert len(set(found)) == NODES_MAX
    assert found[0] == "10.77.0.1"
    assert all(ipaddress.ip_address(one).is_private for one in found)
    assert found[-1] != "10.77.0.255"


@pytest.mark.parametrize(
    "good",
    [udp(ONE, TWO, b"x"), udp(ONE, TWO, b""), tcp(ONE, TWO), icmp(ONE, TWO, 3)],
    ids=["udp", "an empty datagram", "tcp", "nothing listens there"],
)
def test_what_programs_need_passes(good: bytes) -> None:
    assert destination(good, 1, NODES) == 2
    assert admit(good, 1, 2, NODES) is None


def test_the_longest_packet_passes() -> None:
    assert destination(udp(ONE, TWO, bytes(MTU - 28)), 1, NODES) == 2


HOSTILE = {
    "nothing": (b"", Drop.MALFORMED),
    "too short for a header": (udp(ONE, TWO, b"")[:19], Drop.MALFORMED),
    "too short for a port": (packet(ONE, TWO, bytes(7), 17), Drop.MALFORMED),
    "too short for a TCP header": (packet(ONE, TWO, bytes(19), 6), Drop.MALFORMED),
    "longer than it says": (udp(ONE, TWO, b"x") + b"y", Drop.MALFORMED),
    "shorter than it says": (packet(ONE, TWO, bytes(8), 17, length=99), Drop.MALFORMED),
    "IPv6": (packet(ONE, TWO, bytes(40), 17, version=6), Drop.VERSION),
    "version 0": (packet(ONE, TWO, bytes(40), 17, version=0), Drop.VERSION),
    "options": (packet(ONE, TWO, bytes(40), 17, words=6), Drop.OPTIONS),
    "a header of nothing": (bytes((0x40,)) + udp(ONE, TWO, b"x")[1:], Drop.OPTIONS),
    "the first fragment": (packet(ONE, TWO, bytes(8), 17, fragment=0x2000), Drop.FRAGMENT),
    "the last fragment": (packet(ONE, TWO, bytes(8), 17, fragment=1), Drop.FRAGMENT),
    "a tunnel": (packet(ONE, TWO, udp(THREE, TWO, b"x"), 4), Drop.PROTOCOL),
    "GRE": (packet(ONE, TWO, bytes(40), 47), Drop.PROTOCOL),
    "IGMP": (packet(ONE, TWO, bytes(40), 2), Drop.PROTOCOL),
    "SCTP": (packet(ONE, TWO, bytes(40), 132), Drop.PROTOCOL),
    "a redirect": (icmp(ONE, TWO, 5), Drop.PROTOCOL),
    "a ping": (icmp(ONE, TWO, 8), Drop.PROTOCOL),
    "another's source": (udp(THREE, TWO, b"x"), Drop.SOURCE),
    "the receiver's own source": (udp(TWO, TWO, b"x"), Drop.SOURCE),
    "the loopback's source": (udp("127.0.0.1", TWO, b"x"), Drop.SOURCE),
    "the machine's source": (udp("192.168.1.1", TWO, b"x"), Drop.SOURCE),
    "a source that only ends alike": (udp("192.168.1.2", TWO, b"x"), Drop.SOURCE),
    "no source": (udp("0.0.0.0", TWO, b"x"), Drop.SOURCE),
    "to oneself": (udp(ONE, ONE, b"x"), Drop.DESTINATION),
    "to a rank that is not": (udp(ONE, address(NODES), b"x"), Drop.DESTINATION),
    "to the network": (udp(ONE, "10.77.0.0", b"x"), Drop.DESTINATION),
    "to all of it": (udp(ONE, "10.77.0.255", b"x"), Drop.DESTINATION),
    "to everybody": (udp(ONE, "255.255.255.255", b"x"), Drop.DESTINATION),
    "multicast": (udp(ONE, "224.0.0.1", b"x"), Drop.DESTINATION),
    "to the loopback": (udp(ONE, "127.0.0.1", b"x"), Drop.DESTINATION),
    "to a cloud's metadata": (udp(ONE, "169.254.169.254", b"x"), Drop.DESTINATION),
    "to a neighbour network": (udp(ONE, "10.77.1.2", b"x"), Drop.DESTINATION),
    "to what only ends alike": (udp(ONE, "1.1.1.3", b"x"), Drop.DESTINATION),
    "to the world": (udp(ONE, "1.1.1.1", b"x"), Drop.DESTINATION),
}


@pytest.mark.parametrize(("hostile", "why"), HOSTILE.values(), ids=HOSTILE.keys())
def test_anything_else_is_dropped_at_both_ends(hostile: bytes, why: Drop) -> None:
    assert destination(hostile, 1, NODES) is why
    assert admit(hostile, 1, 2, NODES) is why


def test_a_packet_for_another_node_is_not_passed_on() -> None:
    assert admit(udp(ONE, THREE, b"x"), 1, 2, NODES) is Drop.DESTINATION


@given(st.binary(max_size=100), st.integers(0, NODES - 1), st.integers(0, NODES - 1))
def test_whatever_comes_is_judged(data: bytes, source: int, mine: int) -> None:
    found = destination(data, source, NODES)
    assert isinstance(found, Drop) or (found != source and 0 <= found < NODES)
    assert (admit(data, source, mine, NODES) is None) == (found == mine)


@given(st.lists(st.binary(max_size=60), max_size=9))
def test_packets_that_lie_together_come_apart(payloads: list[bytes]) -> None:
    packets = [udp(ONE, TWO, payload) for payload in payloads]
    assert list(split(b"".join(packets))) == packets


@given(st.binary(max_size=200))
def test_any_frame_comes_apart_or_is_refused(frame: bytes) -> None:
    try:
        packets = list(split(frame))
    except CodecError:
        return
    assert b"".join(packets) == frame
    assert all(len(one) >= 20 for one in packets)


@pytest.mark.parametrize("frame", [b"E", b"E" * 4, bytes(20), udp(ONE, TWO, b"x")[:-1]])
def test_a_frame_of_half_packets_is_refused(frame: bytes) -> None:
    with pytest.raises(CodecError):
        list(split(frame))
