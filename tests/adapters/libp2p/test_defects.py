"""Regression tests of the defects of stock py-libp2p 0.8.1, against our wrapper of it."""

from __future__ import annotations

import os
from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.rsa import create_new_key_pair as create_rsa_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.custom_types import TProtocol
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedStreamError

from market.errors import MarketError, UnreachableError
from market.limits import CHUNK_BYTES
from node.adapters.libp2p import patches
from node.adapters.libp2p.bounds import HEARD_MAX, OUT_QUEUE_MAX, UNREAD_BYTES_MAX
from node.adapters.libp2p.identity import parse_address, peer_id, peer_key
from node.adapters.libp2p.network import run_network
from node.adapters.system.entropy import SystemEntropy
from node.bandwidth import PROTOCOL as BANDWIDTH
from node.bandwidth import Bandwidth
from node.ports import Channel
from tests.adapters.contract_network import OFFERS, hear, mesh, meshed, until
from tests.adapters.libp2p.world import (
    SystemClock,
    World,
    config,
    dial,
    seed,
    stock_host,
)


async def answer(peer: bytes, data: bytes) -> bytes:
    """Say it back."""
    return data


async def test_defect_1_plaintext_is_refused(networks: World) -> None:
    one = await networks.start(0)
    keys = create_new_key_pair(seed(50))
    plain = {TProtocol(PLAINTEXT_PROTOCOL_ID): InsecureTransport(keys)}
    async with stock_host(50, sec_opt=plain, key_pair=keys) as liar:
        with pytest.raises(Exception, match="no addresses established"):
            await dial(liar, one)
    assert one.peers() == ()


async def test_only_ed25519_peers_are_accepted(networks: World) -> None:
    one = await networks.start(0)
    keys = create_rsa_key_pair(2048)
    noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
    async with stock_host(51, key_pair=keys, sec_opt={NOISE: noise}) as stranger:
        with suppress(SwarmException):  # it may learn of the refusal while it still connects
            await dial(stranger, one)
        await until(lambda: one.statistics()["refused"] == 1)
        await until(lambda: not stranger.get_network().connections)
    assert one.peers() == ()


async def test_defect_2_a_raising_handler_costs_one_channel(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1)
    one.answer(answer)

    async def fail(channel: Channel) -> None:
        raise RuntimeError("a bug")

    async def fail_to_answer(peer: bytes, data: bytes) -> bytes:
        raise RuntimeError("a bug")

    other.answer(fail_to_answer)
    one.accept("fails", fail)
    with pytest.raises(UnreachableError):
        async with other.open(one.key, "fails") as channel:
            await channel.receive()
    with pytest.raises(UnreachableError, match="could not answer"):
        await one.request(other.key, b"?", timeout_s=20)
    assert await other.request(one.key, b"alive", timeout_s=20) == b"alive"


async def test_defect_3_inbound_connections_are_not_counted_for_ever(networks: World) -> None:
    """Stock refuses everybody once as many as it has slots for have come, and gone."""
    one = await networks.start(0)
    one.answer(answer)
    one._swarm._inbound_limiter.total_tokens = 3
    for number in range(8):
        async with stock_host(60 + number) as guest:
            await dial(guest, one)
            assert guest.get_network().connections
        await until(lambda: one._swarm._inbound_limiter.borrowed_tokens == 0)
    other = await networks.start(1)
    assert await other.request(one.key, b"alive", timeout_s=20) == b"alive"


async def test_defect_4_a_restarted_node_is_heard_at_once(networks: World) -> None:
    one = await networks.start(0)
    heard: list[bytes] = []
    for life in range(2):
        other = await networks.start(1)
        await meshed(one, other)
        for number in range(30):
            await other.publish(OFFERS, bytes([life, number]))
        heard += [message.data for message in await hear(one, 30)]
        await networks.stop(other)
        await until(lambda: one.peers() == ())
    assert sorted(heard) == [bytes([life, number]) for life in range(2) for number in range(30)]


async def test_defects_5_and_7_a_burst_of_400_arrives_whole(networks: World) -> None:
    """Stock drops over 10 a second per peer, and over 32 in a queue."""
    one, other = await networks.start(0), await networks.start(1)
    await meshed(one, other)
    for number in range(400):
        await other.publish(OFFERS, number.to_bytes(2, "big") + bytes(500))
    heard = [int.from_bytes(message.data[:2], "big") for message in await hear(one, 400)]
    assert heard == list(range(400))
    assert one.statistics()["limited"] == 0


async def test_defects_6_and_8_the_mesh_is_ours_to_set(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1)
    router = one._router
    assert router.heartbeat_interval == 1
    assert not router.adaptive_gossip_enabled
    assert not router.spam_protection_enabled
    assert (router.degree_low, router.degree, router.degree_high) == (4, 5, 12)
    assert router.prune_back_off == 3
    await meshed(one, other)
    # After a PRUNE the two find together again in seconds, not after a minute.
    await other._router.emit_prune(OFFERS, peer_id(one.key), False, False)
    other._router.mesh[OFFERS].clear()
    await until(lambda: mesh(one, OFFERS) == 0)
    await until(lambda: mesh(one, OFFERS) == 1)


async def test_defect_7_a_slow_node_loses_the_oldest_and_counts(networks: World) -> None:
    one = await networks.start(0)
    for number in range(HEARD_MAX + 3):
        one._deliver(OFFERS, number.to_bytes(2, "big"), one.key)
    assert one.statistics()["dropped_in"] == 3
    assert (await hear(one, 1))[0].data == (3).to_bytes(2, "big")
    assert one._pubsub.peer_queues == {}
    assert patches._RoomyQueue()._queue.max_size == OUT_QUEUE_MAX


async def test_bulk_keeps_to_its_rate_and_lets_requests_pass(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1, bulk_bytes_per_s=4 * CHUNK_BYTES)
    one.answer(answer)

    async def sink(channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    one.accept("sink", sink)
    began, asked = trio.current_time(), 0

    async def ask() -> None:
        nonlocal asked
        while True:
            await other.request(one.key, b"?", timeout_s=20)
            asked += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        async with other.open(one.key, "sink") as channel:
            for _ in range(4):
                await channel.send(bytes(CHUNK_BYTES))
        nursery.cancel_scope.cancel()
    # Four chunks at four a second, less the half chunk that may go at once.
    assert trio.current_time() - began > 0.8
    assert asked > 20


@pytest.mark.slow
async def test_defect_9_a_reader_may_stall_longer_than_yamux_waits(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1, bulk_bytes_per_s=10**9)
    received: list[int] = []

    async def serve(channel: Channel) -> None:
        await trio.sleep(7)
        while (frame := await channel.receive()) is not None:
            received.append(len(frame))

    one.accept("blob", serve)
    one.answer(answer)
    async with other.open(one.key, "blob") as channel:
        for _ in range(10):
            await channel.send(bytes(CHUNK_BYTES))
        assert await other.request(one.key, b"beside it", timeout_s=20) == b"beside it"
    await until(lambda: received == [CHUNK_BYTES] * 10)


async def test_defect_9_the_transport_writer_waits_for_credit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Stock gives up after five seconds; ours after a minute."""
    written: list[int] = []

    async def write_frame(data: bytes) -> None:
        written.append(len(data) - 12)

    stream = SimpleNamespace(
        closed=False, send_closed=False, send_window=100, stream_id=1,
        conn=SimpleNamespace(_write_frame=write_frame),
    )  # fmt: skip

    async def read_on() -> None:
        await trio.sleep(30)
        stream.send_window = 50

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_on)
        await patches._write_patiently(stream, bytes(150))
    assert written == [100, 50]
    with pytest.raises(MuxedStreamError):
        await patches._write_patiently(stream, b"1")


async def test_a_peer_cannot_fill_our_memory(networks: World) -> None:
    """A stream that nobody reads grows its own window in yamux; we bound the connection."""
    one, other = await networks.start(0), await networks.start(1)
    done = trio.Event()

    async def ignore(stream: object) -> None:
        await done.wait()

    name = TProtocol("/gridsouk/ignored/1")
    one._host.set_stream_handler(name, ignore)
    stream = await other._host.new_stream(peer_id(one.key), [name])
    muxed = one._swarm.connections[peer_id(other.key)][0].muxed_conn
    # What an attacker does: send on, whatever the window says.
    stream.muxed_stream.send_window = 2**40
    unread: list[int] = []

    async def fill() -> None:
        for _ in range(2 * UNREAD_BYTES_MAX // CHUNK_BYTES):
            await stream.write(bytes(CHUNK_BYTES))
            unread.append(sum(map(len, muxed.stream_buffers.values())))

    with pytest.raises(StreamError):
        await fill()
    assert 0 < max(unread) <= UNREAD_BYTES_MAX
    # Its keeper may dial again at once; this connection is over.
    await until(muxed.event_closed.is_set)
    done.set()


async def test_defect_13_nothing_is_left_after_the_end() -> None:
    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    # Twice: what Python and libp2p keep for ever is opened the first time.
    for _ in range(2):
        await trio.testing.wait_all_tasks_blocked()
        before = tasks(), descriptors()
        async with run_network(config(), seed(1), SystemClock()) as one:
            bootstrap = tuple(one.addresses())
            async with run_network(config(bootstrap=bootstrap), seed(2), SystemClock()) as other:
                await meshed(one, other)
    await until(lambda: (tasks(), descriptors()) == before)


async def test_a_cancelled_network_leaves_nothing_either() -> None:
    await trio.testing.wait_all_tasks_blocked()
    before = len(os.listdir("/proc/self/fd"))
    with trio.CancelScope() as scope:
        async with run_network(config(), seed(1), SystemClock()) as one:
            bootstrap = tuple(one.addresses())
            async with run_network(config(bootstrap=bootstrap), seed(2), SystemClock()) as other:
                await meshed(one, other)
                scope.cancel()
                await trio.sleep_forever()
    await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


async def test_the_bodys_error_comes_out_plain() -> None:
    with pytest.raises(ValueError, match="mine"):
        async with run_network(config(), seed(1), SystemClock()):
            raise ValueError("mine")


async def test_two_nodes_cannot_share_a_port(networks: World) -> None:
    """libp2p binds with SO_REUSEPORT, and half of the callers would reach the wrong node."""
    one = await networks.start(0)
    taken = one.addresses()[0].split("/p2p/")[0]
    second = config()
    object.__setattr__(second, "listen", (taken,))
    with pytest.raises(MarketError, match="cannot listen"):
        async with run_network(second, seed(2), SystemClock()):
            pass


async def test_a_wildcard_is_advertised_as_what_others_can_dial(networks: World) -> None:
    one = await networks.alone(0, listen=("/ip4/0.0.0.0/tcp/0",))
    assert any(address.startswith("/ip4/127.0.0.1/tcp/") for address in one.addresses())
    assert not any("/0.0.0.0/" in address for address in one.addresses())
    other = await networks.alone(1, announce=("/ip4/203.0.113.7/tcp/4001",))
    assert other.addresses() == (f"/ip4/203.0.113.7/tcp/4001/p2p/{peer_id(other.key)}",)


def test_the_patched_libp2p_is_the_one_we_know(monkeypatch: pytest.MonkeyPatch) -> None:
    patches.self_test()
    monkeypatch.setattr(patches, "_EXPECTED", ((patches.yamux, "_no_such_thing"),))
    with pytest.raises(AssertionError, match="_no_such_thing"):
        patches.self_test()


def test_keys_and_peer_ids_are_the_same_bytes() -> None:
    key = create_new_key_pair(seed(1)).public_key.to_bytes()
    assert peer_key(peer_id(key).to_bytes()) == key
    assert str(peer_id(key)).startswith("12D3KooW")
    assert peer_key(b"\x12\x20" + bytes(32)) is None
    for wrong in (
        "",
        "/ip4/1.2.3.4/tcp/1",
        "/ip4/1.2.3.4/udp/1/p2p/" + str(peer_id(key)),
        "/p2p/x",
    ):
        with pytest.raises(UnreachableError):
            parse_address(wrong)


async def test_a_line_is_measured_over_real_channels(networks: World) -> None:
    one, other = await networks.start(0), await networks.start(1)
    one.accept(BANDWIDTH, Bandwidth(one, SystemEntropy()).serve)
    await until(lambda: any(info.rtt_us for info in other.peers()))
    down_kbps, up_kbps = await Bandwidth(other, SystemEntropy()).measure()
    assert down_kbps > 1000
    assert up_kbps > 1000
