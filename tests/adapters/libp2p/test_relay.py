"""Relay: peers that nobody can dial reach each other through a third, within its bounds."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from multiaddr import Multiaddr

from market.codec import decode, encode
from market.errors import UnreachableError
from node.adapters.libp2p import relay, shortcut
from node.adapters.libp2p.bounds import (
    DIAL_BACKS_BURST,
    RELAY_ASKS_BURST,
    RELAY_CIRCUITS_PER_PEER_MAX,
    RELAY_RESERVATIONS_PER_IP_MAX,
)
from node.adapters.libp2p.circuit import (
    HOP,
    STOP,
    HopMessage,
    Status,
    StopMessage,
    read_message,
    write_message,
)
from node.adapters.libp2p.dialback import Tried, TryMe
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import format_address, parse_address, peer_id
from node.adapters.libp2p.network import Network
from node.adapters.libp2p.requests import ASK_DIAL_BACK
from node.adapters.libp2p.wire import Wire
from node.ports import Channel
from tests.adapters.contract_network import hear, meshed, until
from tests.adapters.libp2p.test_peers import address, key
from tests.adapters.libp2p.world import World, dial, stock_host

UNDIALABLE = {"listen": (), "reachable": False, "min_peers": 1}


async def echo(peer: bytes, data: bytes) -> bytes:
    """Answer with what was asked."""
    return data


async def echo_frames(channel: Channel) -> None:
    """Send back what comes."""
    while (frame := await channel.receive()) is not None:
        await channel.send(frame)


async def sheltered(networks: World, number: int, *relays: Network) -> Network:
    """A network that listens nowhere and has reservations at these relays."""
    known = tuple(relay.addresses()[0] for relay in relays)
    network = await networks.alone(number, bootstrap=known, **UNDIALABLE)
    await until(lambda: set(network.reach().relays) == {relay.key for relay in relays})
    return network


async def test_two_that_nobody_can_dial_talk_through_a_relay(networks: World) -> None:
    relay = await networks.alone(0, reachable=True)
    one, other = await sheltered(networks, 1, relay), await sheltered(networks, 2, relay)
    other.answer(echo)
    assert await one.request(other.key, b"through", timeout_s=20) == b"through"
    (info,) = [info for info in one.peers() if info.peer == other.key]
    assert info.relayed
    assert "/p2p-circuit/p2p/" in info.address

    async def count(channel: Channel) -> None:
        size = 0
        while frame := await channel.receive():
            size += len(frame)
        await channel.send(str(size).encode())

    other.accept("count", count)
    async with one.open(other.key, "count") as channel:
        for _ in range(4):
            await channel.send(bytes(1 << 20))
        await channel.send(b"")
        assert await channel.receive() == str(4 << 20).encode()
    await meshed(one, other)
    await one.publish("offers", b"hello")
    assert [heard.data for heard in await hear(other, 1)] == [b"hello"]


@asynccontextmanager
async def hop(host: Any, relay: Network, message: Any) -> AsyncIterator[tuple[Wire, Any]]:
    """What the relay answers a stock host, and the stream, which is a circuit if it answers OK."""
    stream = await host.new_stream(peer_id(relay.key), [HOP])
    wire = Wire(stream, Counter())
    try:
        await write_message(wire, message)
        with trio.fail_after(5):
            yield wire, await read_message(wire, HopMessage)
    finally:
        await discard(stream)


def connect(target: bytes) -> Any:
    """CONNECT to the peer of this key."""
    message = HopMessage(type=HopMessage.CONNECT)
    message.peer.id = peer_id(target).to_bytes()
    return message


def reserve() -> Any:
    """RESERVE."""
    return HopMessage(type=HopMessage.RESERVE)


async def test_when_the_relay_goes_the_next_one_is_taken(networks: World) -> None:
    first, second = [await networks.alone(number, reachable=True) for number in (0, 1)]
    one, other = [await sheltered(networks, number, first, second) for number in (2, 3)]
    other.answer(echo)
    assert await one.request(other.key, b"before", timeout_s=20) == b"before"
    await networks.stop(first)
    await until(lambda: one.reach().relays == other.reach().relays == (second.key,))
    assert await one.request(other.key, b"after", timeout_s=20) == b"after"
    assert second.statistics()["relay_circuits"] == 1
    assert all(format_address("", second.key) in address for address in one.addresses())


async def test_a_direct_connection_replaces_the_relayed_one(networks: World) -> None:
    """The hidden one is called through its relay, and dials the caller back; nothing is lost."""
    relay = await networks.alone(0, reachable=True)
    hidden = await sheltered(networks, 1, relay)
    caller = await networks.alone(2, bootstrap=relay.addresses(), reachable=True, min_peers=1)
    hidden.answer(echo)
    hidden.accept("echo", echo_frames)
    hidden._keeper._min_peers = 0  # it would dial by itself, for company
    await until(lambda: relay.address(caller.key) != "")
    async with caller.open(hidden.key, "echo") as channel:
        assert [info.relayed for info in caller.peers() if info.peer == hidden.key] == [True]
        hidden._book.heard_of(caller.key, relay.address(caller.key))
        await until(lambda: not any(info.relayed for info in (*caller.peers(), *hidden.peers())))
        await channel.send(b"still here")
        assert await channel.receive() == b"still here"
        assert relay.statistics()["relay_circuits"] == 1
    await until(lambda: relay.statistics()["relay_circuits"] == 0)
    assert await caller.request(hidden.key, b"direct", timeout_s=5) == b"direct"
    await until(lambda: peer_id(hidden.key) in caller._pubsub.peers)
    await meshed(caller, hidden)
    await caller.publish("offers", b"hello")
    assert [heard.data for heard in await hear(hidden, 1)] == [b"hello"]


async def test_a_relayed_peer_without_business_is_let_go(
    networks: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while a channel is open, however long nothing is asked."""
    relay = await networks.alone(0, reachable=True)
    one, other = await sheltered(networks, 1, relay), await sheltered(networks, 2, relay)
    other.answer(echo)
    other.accept("echo", echo_frames)
    async with one.open(other.key, "echo") as channel:
        await channel.send(b"here")
        assert await channel.receive() == b"here"
        monkeypatch.setattr(shortcut, "RELAYED_UNUSED_S", 0.3)
        await trio.sleep(1.0)
        await channel.send(b"still here")
        assert await channel.receive() == b"still here"
    await until(lambda: relay.statistics()["relay_circuits"] == 0)
    await until(lambda: {info.peer for info in (*one.peers(), *other.peers())} == {relay.key})
    monkeypatch.undo()
    assert await one.request(other.key, b"again", timeout_s=5) == b"again"


async def test_a_relay_connects_to_nobody_without_a_reservation(networks: World) -> None:
    """A peer connected to the relay, but that never asked for it, cannot be called through it."""
    relay = await networks.alone(0, reachable=True)
    one, other = [
        await networks.alone(
            number, bootstrap=relay.addresses(), listen=(), min_peers=1, reachable=reachable
        )
        for number, reachable in ((1, False), (2, True))
    ]
    await until(lambda: len(relay.peers()) == 2)
    way = f"{relay.addresses()[0]}/p2p-circuit/p2p/{peer_id(other.key)}"
    with pytest.raises(UnreachableError):
        await one.connect(way)
    assert other.key not in {info.peer for info in one.peers()}
    async with stock_host() as host:
        await dial(host, relay)
        for target in (other.key, key(77), relay.key):
            async with hop(host, relay, connect(target)) as (_, answer):
                assert answer.status == Status.NO_RESERVATION
    assert relay.statistics()["relay_circuits"] == 0


async def test_a_node_that_does_not_relay_says_so(networks: World) -> None:
    """By its owner's word, or because it cannot be dialled itself."""
    for number, settings in enumerate(({"reachable": True, "relay": False}, {"reachable": False})):
        network = await networks.alone(number, **settings)
        assert not network.reach().relaying
        async with stock_host() as host:
            await dial(host, network)
            async with hop(host, network, reserve()) as (_, answer):
                assert answer.status == Status.PERMISSION_DENIED


async def test_a_peer_has_so_many_circuits_and_no_more(networks: World) -> None:
    relay = await networks.alone(0, reachable=True)
    target = await sheltered(networks, 1, relay)
    async with stock_host() as host, trio.open_nursery() as nursery:
        await dial(host, relay)
        done = trio.Event()

        async def hold(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with hop(host, relay, connect(target.key)) as (_, answer):
                task_status.started(answer.status)
                await done.wait()

        for _ in range(RELAY_CIRCUITS_PER_PEER_MAX):
            assert await nursery.start(hold) == Status.OK
        assert await nursery.start(hold) == Status.RESOURCE_LIMIT_EXCEEDED
        assert relay.statistics()["relay_circuits"] == RELAY_CIRCUITS_PER_PEER_MAX
        assert relay.statistics()["relay_refused"] == 1
        done.set()
        await until(lambda: relay.statistics()["relay_circuits"] == 0)


async def test_one_host_does_not_take_all_reservations(networks: World) -> None:
    """Each peer has a key of its own, and all come from one address."""
    relay = await networks.alone(0, reachable=True)
    answers: Counter[int] = Counter()
    done = trio.Event()
    async with trio.open_nursery() as nursery:

        async def crowd(number: int, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            async with stock_host(number) as host:
                await dial(host, relay)
                async with hop(host, relay, reserve()) as (_, answer):
                    answers[answer.status] += 1
                task_status.started()
                await done.wait()

        for number in range(100, 102 + RELAY_RESERVATIONS_PER_IP_MAX):
            await nursery.start(crowd, number)
        assert answers == {
            Status.OK: RELAY_RESERVATIONS_PER_IP_MAX, Status.RESERVATION_REFUSED: 2
        }  # fmt: skip
        assert relay.statistics()["relay_reservations"] == RELAY_RESERVATIONS_PER_IP_MAX
        done.set()
    await until(lambda: relay.statistics()["relay_reservations"] == 0)


async def test_who_asks_a_relay_all_the_time_is_refused_and_struck(networks: World) -> None:
    relay = await networks.alone(0, reachable=True)
    async with stock_host() as host:
        await dial(host, relay)
        answers: Counter[int] = Counter()
        for _ in range(int(RELAY_ASKS_BURST) + 10):
            async with hop(host, relay, reserve()) as (_, answer):
                answers[answer.status] += 1
        assert answers[Status.RESOURCE_LIMIT_EXCEEDED] >= 1
        assert answers[Status.OK] >= RELAY_ASKS_BURST
        assert [info.strikes > 0 for info in relay.peers()] == [True]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\x02\xff\xff", b"\x80\x40" + bytes(9000)])
async def test_a_malformed_message_is_struck_and_ends_the_stream(
    networks: World, data: bytes
) -> None:
    relay = await networks.alone(0, reachable=True)
    async with stock_host() as host:
        await dial(host, relay)
        stream = await host.new_stream(peer_id(relay.key), [HOP])
        await stream.write(data)
        await until(lambda: [info.strikes > 1 for info in relay.peers()] == [True])
        assert relay.statistics()["relay_refused"] == 1


async def test_a_call_is_taken_from_a_chosen_relay_only(networks: World) -> None:
    """A stranger that plays the relay is refused, whoever it says is calling."""
    network = await networks.alone(0, reachable=False, min_peers=0)
    async with stock_host() as host:
        await dial(host, network)
        stream = await host.new_stream(peer_id(network.key), [STOP])
        wire = Wire(stream, Counter())
        call = StopMessage(type=StopMessage.CONNECT)
        call.peer.id = peer_id(key(5)).to_bytes()
        await write_message(wire, call)
        answer: Any = await read_message(wire, StopMessage)
        assert answer.status == Status.PERMISSION_DENIED


async def test_the_handshake_through_a_relay_proves_the_far_peer(networks: World) -> None:
    """A relay that connects us to somebody else is found out."""
    relay = await networks.alone(0, reachable=True)
    one, other, third = [await sheltered(networks, number, relay) for number in (1, 2, 3)]
    stop = relay._reaching._relay._call

    async def swap(peer: bytes, target: bytes) -> Wire:
        return await stop(peer, third.key)

    relay._reaching._relay._call = swap  # type: ignore[method-assign]
    with pytest.raises(UnreachableError):
        await one.request(other.key, b"is it you?", timeout_s=5)
    assert {info.peer for info in one.peers()} == {relay.key}


async def test_a_silent_circuit_ends(networks: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "RELAY_IDLE_S", 0.3)
    node = await networks.alone(0, reachable=True)
    target = await sheltered(networks, 1, node)
    async with stock_host() as host:
        await dial(host, node)
        async with hop(host, node, connect(target.key)) as (wire, answer):
            assert answer.status == Status.OK
            with trio.fail_after(8), pytest.raises(UnreachableError):
                await wire.read(1 << 20)  # the target greets, and waits for us
        assert node.statistics()["relay_circuits"] == 0


async def test_circuits_together_keep_to_the_rate(networks: World) -> None:
    """Two megabytes at one a second take more than a second, and the relay answers meanwhile."""
    relay = await networks.alone(0, reachable=True, relay_bytes_per_s=1_000_000)
    relay.answer(echo)
    one, other = await sheltered(networks, 1, relay), await sheltered(networks, 2, relay)

    async def swallow(channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    other.accept("swallow", swallow)
    began = trio.current_time()
    async with one.open(other.key, "swallow") as channel:
        for _ in range(2):
            await channel.send(bytes(1 << 20))
        assert await one.request(relay.key, b"and you?", timeout_s=20) == b"and you?"
    assert trio.current_time() - began > 1.0


# Finding out whether we are reachable.


async def test_nodes_find_out_what_they_are(networks: World) -> None:
    """The first asks those who come to it: it knows nobody else."""
    first = await networks.alone(0)
    second = await networks.alone(1, bootstrap=first.addresses())
    await until(lambda: first.reach().reachable is second.reach().reachable is True)
    assert first.reach().relaying


async def test_a_node_whose_port_is_somebody_elses_is_not_reachable(networks: World) -> None:
    """That something answers there is not enough: it must prove our key."""
    first = await networks.alone(0)
    port = int(first.addresses()[0].split("/")[4])
    hidden = await networks.alone(1, bootstrap=first.addresses(), min_peers=1)
    hidden._reaching._dial_back._ports = lambda: (port,)
    hidden._reaching._dial_back._asked_at.clear()
    hidden._reaching._dial_back._verdicts.clear()
    await until(lambda: hidden.reach().reachable is False)
    await until(lambda: hidden.reach().relays == (first.key,))


async def test_dial_backs_are_few_and_go_nowhere_else(networks: World) -> None:
    one, other = await networks.alone(0, min_peers=0), await networks.alone(1, min_peers=0)
    await other.connect(one.addresses()[0])
    port = int(other.addresses()[0].split("/")[4])
    answers = []
    for _ in range(int(DIAL_BACKS_BURST) + 2):
        data = await other._requests.ask(one.key, encode(TryMe((port,))), 5, ASK_DIAL_BACK)
        answers.append(decode(Tried, data))
    assert answers[0] == Tried(tried=True, ip="127.0.0.1", ports=(port,))
    assert not answers[-1].tried
    broken = decode(Tried, await one._reaching.tell(other.key, b"\xff"))
    assert broken.ports == ()
    assert decode(Tried, await one._reaching.tell(key(9), encode(TryMe((port,))))).tried is False


# Addresses.


@pytest.mark.parametrize(
    "text",
    [
        f"{address(1)}/p2p-circuit/p2p/{peer_id(key(1))}",  # through itself
        f"{address(1)}/p2p-circuit",
        f"{address(1)}/p2p-circuit/p2p/{peer_id(key(2))}/p2p-circuit/p2p/{peer_id(key(3))}",
        f"/p2p/{peer_id(key(1))}/p2p-circuit/p2p/{peer_id(key(2))}",
        f"/dns4/{'a' * 200}.example/tcp/1/p2p/{peer_id(key(1))}/p2p-circuit/p2p/{peer_id(key(2))}",
    ],
)
def test_an_address_that_nobody_can_dial_is_refused(text: str) -> None:
    with pytest.raises(UnreachableError):
        parse_address(text)


async def test_a_claimed_relay_is_believed_only_where_we_know_it(networks: World) -> None:
    """Or a peer could aim everybody's dials at a stranger by calling it its relay."""
    relay = await networks.alone(0, reachable=True)
    witness = await networks.alone(1, bootstrap=relay.addresses(), min_peers=1)
    hidden = await sheltered(networks, 2, relay)
    await hidden.connect(witness.addresses()[0])
    await until(lambda: hidden.key in {info.peer for info in witness.peers()})
    honest = f"{relay.addresses()[0]}/p2p-circuit/p2p/{peer_id(hidden.key)}"
    await until(lambda: witness.address(hidden.key) == honest)
    store = witness._host.get_peerstore()
    store.clear_addrs(peer_id(hidden.key))
    stranger = f"{address(66)}/p2p-circuit/p2p/{peer_id(hidden.key)}"
    store.add_addrs(peer_id(hidden.key), [Multiaddr(stranger)], 3600)
    assert witness.address(hidden.key) == ""
