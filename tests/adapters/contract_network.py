"""The contract of the ports Gossip and Link, for the real network and for the simulated one alike.

Import everything of this module into a test module that has a fixture `start`: an async function
of a node's number that returns a running network which knows every network started before it.
Topics `offers` and `jobs` are carried by all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest
import trio
import trio.testing

from market.errors import LimitError, UnreachableError
from market.limits import CHUNK_BYTES, ENVELOPE_BYTES_MAX, GOSSIP_BYTES_MAX
from node.ports import Channel, Gossip, Heard, Link

OFFERS, JOBS = "offers", "jobs"


class Both(Gossip, Link, Protocol):
    """What is tested: one object that is both ports, and says who it is."""

    @property
    def key(self) -> bytes:
        """The peer key of this network."""


Start = Callable[[int], Awaitable[Both]]


async def until(true: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait for something that has no event; fails after `timeout_s`."""
    with trio.fail_after(timeout_s):
        while not true():
            await trio.sleep(0.01)


async def meshed(*networks: Both) -> None:
    """Wait until every network has gossip neighbours."""
    for network in networks:
        await until(lambda network=network: mesh(network, OFFERS) and mesh(network, JOBS))


def mesh(network: Both, topic: str) -> int:
    """How many neighbours it has for this topic."""
    return network.statistics()[f"mesh {topic}"]


async def hear(network: Both, count: int, timeout_s: float = 8.0) -> list[Heard]:
    """The next `count` messages."""
    heard: list[Heard] = []
    messages = network.heard()
    with trio.fail_after(timeout_s):
        while len(heard) < count:
            heard.append(await anext(messages))
    return heard


async def echo(channel: Channel) -> None:
    """Serve a channel by sending back what comes."""
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


# Gossip.


async def test_a_message_reaches_every_other_peer_once(start: Start) -> None:
    networks = [await start(number) for number in range(3)]
    await meshed(*networks)
    await networks[0].publish(OFFERS, b"hello")
    expected = Heard(topic=OFFERS, data=b"hello", via=networks[0].key)
    assert await hear(networks[1], 1) == [expected]
    assert await hear(networks[2], 1) == [expected]
    # A second message marks the end: had the first come twice, it would come before.
    await networks[0].publish(JOBS, b"end")
    for network in networks[1:]:
        assert [heard.data for heard in await hear(network, 1)] == [b"end"]


async def test_a_node_does_not_hear_itself(start: Start) -> None:
    one, other = await start(0), await start(1)
    await meshed(one, other)
    await one.publish(OFFERS, b"mine")
    await hear(other, 1)
    await other.publish(OFFERS, b"yours")
    assert [heard.data for heard in await hear(one, 1)] == [b"yours"]


async def test_a_message_too_large_is_refused_here(start: Start) -> None:
    one = await start(0)
    with pytest.raises(LimitError):
        await one.publish(OFFERS, bytes(GOSSIP_BYTES_MAX + 1))


async def test_the_largest_message_arrives(start: Start) -> None:
    one, other = await start(0), await start(1)
    await meshed(one, other)
    await one.publish(OFFERS, bytes(GOSSIP_BYTES_MAX))
    assert [len(heard.data) for heard in await hear(other, 1)] == [GOSSIP_BYTES_MAX]


async def test_a_peer_blamed_too_often_is_cut_off(start: Start) -> None:
    one, other = await start(0), await start(1)
    await meshed(one, other)
    for _ in range(32):
        one.blame(other.key)
    await until(lambda: one.peers() == () and other.peers() == ())
    with pytest.raises(UnreachableError):
        await other.request(one.key, b"let me in", timeout_s=2)


# Link: requests.


async def test_a_request_is_answered_and_names_its_asker(start: Start) -> None:
    one, other = await start(0), await start(1)

    async def answer(peer: bytes, data: bytes) -> bytes:
        return peer + data

    one.answer(answer)
    assert await other.request(one.key, b"?", timeout_s=20) == other.key + b"?"


async def test_requests_overtake_each_other(start: Start) -> None:
    one, other = await start(0), await start(1)
    release = trio.Event()

    async def answer(peer: bytes, data: bytes) -> bytes:
        if data == b"slow":
            await release.wait()
        return data

    one.answer(answer)
    replies: list[bytes] = []

    async def ask(data: bytes) -> None:
        replies.append(await other.request(one.key, data, timeout_s=20))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, b"slow")
        await trio.testing.wait_all_tasks_blocked()
        await ask(b"quick")
        release.set()
    assert replies == [b"quick", b"slow"]


async def test_a_request_without_an_answer_ends_in_time(start: Start) -> None:
    one, other = await start(0), await start(1)

    async def answer(peer: bytes, data: bytes) -> bytes:
        if data == b"?":
            await trio.sleep_forever()
        return data

    one.answer(answer)
    with pytest.raises(UnreachableError):
        await other.request(one.key, b"?", timeout_s=0.3)
    assert await other.request(one.key, b"again", timeout_s=20) == b"again"


async def test_requests_and_replies_are_bounded(start: Start) -> None:
    one, other = await start(0), await start(1)

    async def answer(peer: bytes, data: bytes) -> bytes:
        return data

    one.answer(answer)
    largest = bytes(ENVELOPE_BYTES_MAX)
    assert await other.request(one.key, largest, timeout_s=20) == largest
    with pytest.raises(LimitError):
        await other.request(one.key, largest + b"1", timeout_s=20)


async def test_an_unknown_peer_is_unreachable(start: Start) -> None:
    one = await start(0)
    with pytest.raises(UnreachableError):
        await one.request(bytes(range(32)), b"?", timeout_s=2)
    with pytest.raises(UnreachableError):
        async with one.open(bytes(range(32)), "echo"):
            pass


# Link: channels.


async def test_a_channel_carries_frames_both_ways_and_ends(start: Start) -> None:
    one, other = await start(0), await start(1)
    peers: list[bytes] = []
    after_end: list[bytes | None] = []

    async def serve(channel: Channel) -> None:
        peers.append(channel.peer)
        await echo(channel)
        after_end.append(await channel.receive())

    one.accept("echo", serve)
    async with other.open(one.key, "echo") as channel:
        assert channel.peer == one.key
        for frame in (b"", b"a", bytes(CHUNK_BYTES)):
            await channel.send(frame)
            assert await channel.receive() == frame
        with pytest.raises(LimitError):
            await channel.send(bytes(CHUNK_BYTES + 1))
    await until(lambda: after_end == [None])
    assert peers == [other.key]


async def test_all_that_was_sent_arrives_before_the_end(start: Start) -> None:
    one, other = await start(0), await start(1)

    async def serve(channel: Channel) -> None:
        for number in range(20):
            await channel.send(bytes([number]))

    one.accept("count", serve)
    async with other.open(one.key, "count") as channel:
        received = [await channel.receive() for _ in range(21)]
    assert received == [*(bytes([number]) for number in range(20)), None]


async def test_a_sender_waits_for_its_reader(start: Start) -> None:
    one, other = await start(0), await start(1)
    sent: list[int] = []
    read_on = trio.Event()
    total: list[int] = []

    async def serve(channel: Channel) -> None:
        await read_on.wait()
        while (frame := await channel.receive()) is not None:
            total.append(len(frame))

    one.accept("blob", serve)

    async def send() -> None:
        async with other.open(one.key, "blob") as channel:
            for number in range(6):
                await channel.send(bytes(CHUNK_BYTES))
                sent.append(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        await until(lambda: len(sent) == 2)
        with trio.move_on_after(0.3):
            await until(lambda: len(sent) > 2)
        assert len(sent) == 2
        read_on.set()
    await until(lambda: len(total) == 6)


async def test_a_failed_handler_is_a_death_not_an_end(start: Start) -> None:
    one, other = await start(0), await start(1)

    async def serve(channel: Channel) -> None:
        await channel.send(b"before")
        raise UnreachableError("on purpose")

    one.accept("fails", serve)
    came: list[bytes] = []

    async def drain(channel: Channel) -> None:
        while (frame := await channel.receive()) is not None:
            came.append(frame)

    async with other.open(one.key, "fails") as channel:
        with pytest.raises(UnreachableError):
            await drain(channel)
    assert came in ([], [b"before"])  # a death may overtake what was on its way


async def test_a_protocol_nobody_accepts_is_refused(start: Start) -> None:
    one, other = await start(0), await start(1)
    with pytest.raises(UnreachableError):
        async with other.open(one.key, "nothing") as channel:
            await channel.receive()


async def test_the_error_of_a_channels_user_comes_out_plain(start: Start) -> None:
    one, other = await start(0), await start(1)
    one.accept("echo", echo)
    with pytest.raises(ValueError, match="mine"):
        async with other.open(one.key, "echo"):
            raise ValueError("mine")


# Link: peers.


async def test_peers_and_joined_tell_who_is_there(start: Start) -> None:
    one = await start(0)
    joined: AsyncIterator[bytes] = one.joined()
    other = await start(1)
    with trio.fail_after(8):
        assert await anext(joined) == other.key
    await until(lambda: len(other.peers()) == 1)
    assert [info.peer for info in one.peers()] == [other.key]
    assert [info.outbound for info in one.peers()] == [False]
    assert [info.outbound for info in other.peers()] == [True]
    assert one.statistics()["peers"] == 1
    await until(lambda: all(info.rtt_us is not None for info in other.peers()))


async def test_connect_by_address_names_the_peer(start: Start) -> None:
    one, other = await start(0), await start(1)
    assert await other.connect(one.addresses()[0]) == one.key
    with pytest.raises(UnreachableError):
        await other.connect("not an address")
    with pytest.raises(UnreachableError):
        await other.connect(other.addresses()[0])


async def test_the_address_of_a_connected_peer_leads_others_to_it(start: Start) -> None:
    one, other, third = await start(0), await start(1), await start(2)
    await other.connect(one.addresses()[0])
    address = other.address(one.key)
    assert len(address.encode()) <= 256
    assert await third.connect(address) == one.key
    assert other.address(bytes(32)) == ""
