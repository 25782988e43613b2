"""Attacks: whatever a stranger sends, honest peers are still served, and the rude are cut off."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.utils.varint import encode_uvarint

from node.adapters.libp2p.bounds import (
    CUT_OFF_S,
    FORWARD_BURST,
    INBOUND_STREAMS_PER_PEER_MAX,
    REQUEST_STREAMS_PER_PEER_MAX,
    STRIKES_MAX,
)
from node.adapters.libp2p.identity import key_pair, peer_key
from node.adapters.libp2p.network import Network
from node.adapters.libp2p.pubsub import _frames
from node.adapters.libp2p.strikes import Strikes, TokenBucket
from tests.adapters.contract_network import OFFERS, hear, meshed, until
from tests.adapters.libp2p.world import World, dial, seed, stock_host

MESHSUB = TProtocol("/meshsub/1.1.0")
REQUESTS = TProtocol("/gridsouk/requests/1")
CHANNEL = TProtocol("/gridsouk/echo/1")


class Town:
    """Two honest nodes, and a proof that they still trade."""

    def __init__(self, one: Network, other: Network) -> None:
        self.one, self.other = one, other

    async def still_trades(self) -> None:
        """Gossip and requests between the honest go on, quickly."""
        word = str(self.one.statistics()["messages"]).encode()
        with trio.fail_after(5):
            assert await self.other.request(self.one.key, b"alive", timeout_s=20) == b"alive"
            await meshed(self.one, self.other)
            await self.other.publish(OFFERS, word)
            assert word in [message.data for message in await hear(self.one, 1)]


@pytest.fixture
async def town(networks: World) -> Town:
    async def answer(peer: bytes, data: bytes) -> bytes:
        return data

    one, other = await networks.start(0), await networks.start(1)
    one.answer(answer)
    return Town(one, other)


async def connect(town: Town) -> trio.SocketStream:
    """A bare TCP connection to the first node."""
    return await trio.open_tcp_stream("127.0.0.1", int(town.one.addresses()[0].split("/")[4]))


RANDOM = random.Random(7)
NOISE_HELLO = b"\x13/multistream/1.0.0\n\x07/noise\n"
GREETINGS = {
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "tls": bytes.fromhex("160301020001000200") + RANDOM.randbytes(500),
    "random": RANDOM.randbytes(4096),
    "endless length": b"\xff" * 4096,
    "noise, then random": NOISE_HELLO + RANDOM.randbytes(2000),
    "noise, then a huge frame": NOISE_HELLO + b"\xff\xff" + bytes(65535),
    "plaintext": b"\x13/multistream/1.0.0\n\x11/plaintext/2.0.0\n" + RANDOM.randbytes(100),
}


async def test_strange_greetings(town: Town) -> None:
    for greeting in GREETINGS.values():
        for _ in range(5):
            async with await connect(town) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(greeting)
                    await stream.send_eof()
                    while await stream.receive_some():
                        pass
        assert [info.peer for info in town.one.peers()] == [town.other.key]
        await town.still_trades()


async def test_slow_loris(town: Town, networks: World) -> None:
    """More connections that never finish their handshake than there are slots for any."""
    town.one._swarm._inbound_limiter.total_tokens = 100
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            async with await connect(town) as stream:
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"\x13")
                    while await stream.receive_some():
                        pass

        for _ in range(200):
            nursery.start_soon(hold)
        await until(lambda: town.one.statistics()["refused"] > 100)
        with trio.fail_after(4):
            third = await networks.start(2)
            assert await third.request(town.one.key, b"in", timeout_s=20) == b"in"
        await town.still_trades()
        nursery.cancel_scope.cancel()


def message(author: int, number: int, data: bytes = b"x", **fields: Any) -> Any:
    """A signed gossip message, as any honest node would make it, unless told otherwise."""
    keys = key_pair(seed(author))
    plain = {
        "data": data,
        "topicIDs": [OFFERS],
        "from_id": ID.from_pubkey(keys.public_key).to_bytes(),
        "seqno": (time.time_ns() + number).to_bytes(8, "big"),
    }
    signed = rpc_pb2.Message(**{**plain, **{k: v for k, v in fields.items() if k in plain}})
    signature = keys.private_key.sign(b"libp2p-pubsub:" + signed.SerializeToString())
    signed.signature = fields.get("signature", signature)
    if "key" in fields:
        signed.key = fields["key"]
    return signed


def frame(**fields: Any) -> bytes:
    """One pubsub frame."""
    body = rpc_pb2.RPC(**fields).SerializeToString()
    return bytes(encode_uvarint(len(body)) + body)


def control(**fields: Any) -> bytes:
    """One pubsub frame of control messages."""
    return frame(control=rpc_pb2.ControlMessage(**fields))


RSA_ID = b"\x12\x20" + bytes(32)
FRAMES = {
    "not protobuf": b"\x05\xff\xff\xff\xff\xff",
    "too large": encode_uvarint(2 * 1024 * 1024) + bytes(100_000),
    "endless length": b"\xff" * 64,
    "junk key of an RSA author": frame(publish=[message(80, 0, from_id=RSA_ID, key=b"\x08junk")]),
    "empty author": frame(publish=[message(80, 1, from_id=b"")]),
    "forged": frame(publish=[message(80, 2, signature=bytes(64))]),
    "no signature": frame(publish=[message(80, 3, signature=b"")]),
    "message too large": frame(publish=[message(80, 4, data=bytes(20_000))]),
    "sequence of no bytes": frame(publish=[message(80, 5, seqno=b"")]),
    "bad record": frame(senderRecord=b"\xff\xff\xff"),
    "many subscriptions": frame(
        subscriptions=[
            rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"topic {number}")
            for number in range(5_000)
        ]
    ),
    "graft of an unknown topic": control(graft=[rpc_pb2.ControlGraft(topicID="unheard of")] * 9),
    "prune of an unknown topic": control(prune=[rpc_pb2.ControlPrune(topicID="unheard of")]),
    "prune with strange peers": control(
        prune=[
            rpc_pb2.ControlPrune(
                topicID=OFFERS, backoff=2**60, peers=[rpc_pb2.PeerInfo(peerID=b"\xff")]
            )
        ]
    ),
    "strange ids": control(
        ihave=[rpc_pb2.ControlIHave(topicID=OFFERS, messageIDs=[b"\xff" * 9_000, b"a", b""])],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[b"\x00", b"abc", bytes(500)])],
    ),
}


@pytest.mark.parametrize("rude", FRAMES.values(), ids=FRAMES.keys())
async def test_rude_gossip_frames(town: Town, rude: bytes) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        for _ in range(3):
            stream = await attacker.new_stream(peer, [MESHSUB])
            with suppress(Exception):  # it is reset while we speak
                await stream.write(rude)
                await stream.close_write()
        await town.still_trades()
    mesh = town.one._router
    assert set(mesh.back_off) <= {OFFERS, "jobs"}
    assert "unheard of" not in mesh.graft_flood_tracking[peer]


async def until_gone(town: Town, attacker: Any, rude: Callable[[], Awaitable[None]]) -> None:
    """Be rude until the connection is cut, which must not take long."""
    with trio.fail_after(15):
        while attacker.get_network().connections:
            with suppress(Exception):
                await rude()
            await trio.lowlevel.checkpoint()


async def test_who_sends_malformed_frames_is_cut_off_and_stays_out(town: Town) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)

        async def rude() -> None:
            stream = await attacker.new_stream(peer, [MESHSUB])
            await stream.write(FRAMES["not protobuf"])
            await stream.read(1)

        await until_gone(town, attacker, rude)
        assert town.one.statistics()["cut_off"] == 1
        attacker.get_network().unblock_peer(peer)
        with suppress(Exception):
            await dial(attacker, town.one)
        await until(lambda: not attacker.get_network().connections)
        await until(lambda: len(town.one.peers()) == 1)
    await town.still_trades()


async def test_a_flood_of_forgeries_ends_with_a_cut(town: Town) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        stream = await attacker.new_stream(peer, [MESHSUB])
        forged = frame(publish=[message(80, number, signature=bytes(64)) for number in range(50)])
        await until_gone(town, attacker, lambda: stream.write(forged))
        assert town.one.statistics()["cut_off"] == 1
    await town.still_trades()


async def test_a_flood_of_good_messages_is_limited_to_a_rate(town: Town) -> None:
    """One author may say some hundreds at once; what goes over is neither heard nor relayed."""
    count = FORWARD_BURST // 2
    messages = [message(99, number) for number in range(count)]
    async with stock_host(99) as attacker:
        peer = await dial(attacker, town.one)
        stream = await attacker.new_stream(peer, [MESHSUB])
        for start in range(0, count, 100):
            await stream.write(frame(publish=messages[start : start + 100]))
        await until(lambda: town.one.statistics()["limited"] > 100)
        heard = town.one.statistics()["messages"]
        assert 400 <= heard < count
        assert town.other.statistics()["messages"] <= heard
    await hear(town.one, town.one.statistics()["waiting"])
    await town.still_trades()


async def test_a_message_in_our_own_name_is_not_heard(town: Town) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        stream = await attacker.new_stream(peer, [MESHSUB])
        await stream.write(frame(publish=[message(1, 0, data=b"a replay of our own words")]))
        await stream.write(frame(publish=[message(80, 0, data=b"honest")]))
        assert [one.data for one in await hear(town.one, 1)] == [b"honest"]


async def test_stream_flood(town: Town) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        with trio.move_on_after(3):
            for _ in range(4 * INBOUND_STREAMS_PER_PEER_MAX):
                with suppress(Exception):
                    await attacker.get_network().new_stream(peer)
        assert town.one.statistics()["refused"] > 0
        await town.still_trades()


REQUEST_BYTES = {
    "random": RANDOM.randbytes(5000),
    "huge frame": b"\xff" * 13 + bytes(1000),
    "empty frame": bytes(13),
    "unknown kind": (9).to_bytes(4, "big") + b"\x77" + bytes(8),
    "half a frame": (100_000).to_bytes(4, "big") + b"\x00" + bytes(50),
}


async def test_rude_requests_and_channels(town: Town) -> None:
    async def echo(channel: Any) -> None:
        while (received := await channel.receive()) is not None:
            await channel.send(received)

    town.one.accept("echo", echo)
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        for rude in REQUEST_BYTES.values():
            for protocol in (REQUESTS, CHANNEL):
                stream = await attacker.new_stream(peer, [protocol])
                with suppress(Exception):
                    await stream.write(rude)
            await town.still_trades()
        async with town.other.open(town.one.key, "echo") as channel:
            await channel.send(b"still here")
            assert await channel.receive() == b"still here"


async def test_too_many_requests_at_once_are_refused_not_queued(town: Town) -> None:
    held = trio.Event()

    async def slow(peer: bytes, data: bytes) -> bytes:
        await held.wait()
        return b""

    town.other.answer(slow)
    async with stock_host() as attacker:
        peer = await dial(attacker, town.other)
        stream = await attacker.new_stream(peer, [REQUESTS])
        for number in range(40):
            await stream.write((9).to_bytes(4, "big") + b"\x00" + number.to_bytes(8, "big"))
        refusals = b""
        with trio.fail_after(5):
            while refusals.count(b"too many at once") < 8:
                refusals += await stream.read(4096)
        held.set()


async def test_who_asks_on_many_streams_is_answered_on_each(town: Town) -> None:
    """One stream for each request, its asker's side ended: how most libp2p software asks."""
    gate = trio.Event()

    async def slow(peer: bytes, data: bytes) -> bytes:
        await gate.wait()
        return data

    town.other.answer(slow)
    ask = (12).to_bytes(4, "big") + b"\x00" + bytes(7) + b"\x05abc"
    async with stock_host() as guest:
        peer = await dial(guest, town.other)
        streams = [await guest.new_stream(peer, [REQUESTS]) for _ in range(6)]
        for stream in streams:
            await stream.write(ask)
            await stream.close_write()
        gate.set()
        for stream in streams:
            reply = b""
            with trio.fail_after(5), suppress(StreamEOF):
                while True:
                    reply += await stream.read(4096)
            assert reply == (12).to_bytes(4, "big") + b"\x02" + bytes(7) + b"\x05abc"
        asking, key = town.other._requests, peer_key_of(guest)
        await until(lambda: key not in asking._serving)
        assert key not in asking._answering


async def test_of_too_many_request_streams_the_oldest_gives_way(town: Town) -> None:
    async with stock_host() as attacker:
        peer = await dial(attacker, town.one)
        for _ in range(REQUEST_STREAMS_PER_PEER_MAX * 2):
            await attacker.new_stream(peer, [REQUESTS])
        serving = town.one._requests._serving
        streams = lambda: len(serving.get(peer_key_of(attacker), ()))  # noqa: E731
        await until(lambda: streams() == REQUEST_STREAMS_PER_PEER_MAX)
        await town.still_trades()
    await until(lambda: peer_key_of(attacker) not in serving)


async def test_who_hands_on_other_kinds_of_keys_is_not_a_forger(town: Town) -> None:
    """js-libp2p and go-libp2p let in secp256k1 and RSA peers, and relay what they sign."""
    async with stock_host() as relay:
        peer = await dial(relay, town.one)
        stream = await relay.new_stream(peer, [MESHSUB])
        for number in range(50):
            message = rpc_pb2.Message(
                data=b"x", topicIDs=[OFFERS], from_id=bytes.fromhex("002508021221") + bytes(33),
                seqno=number.to_bytes(8, "big"), signature=bytes(70), key=b"",
            )  # fmt: skip
            frame = rpc_pb2.RPC(publish=[message]).SerializeToString()
            await stream.write(encode_uvarint(len(frame)) + frame)
        await until(lambda: town.one.statistics()["limited"] >= 50)
        key = peer_key_of(relay)
        assert [info.strikes < 2 for info in town.one.peers() if info.peer == key] == [True]
        assert town.one.statistics()["cut_off"] == 0
        await town.still_trades()


def peer_key_of(host: Any) -> bytes:
    """The Ed25519 key of a stock host."""
    key = peer_key(host.get_id().to_bytes())
    assert key is not None
    return key


def test_strikes_decay_and_cut_off_once() -> None:
    cut: list[bytes] = []
    strikes = Strikes(cut.append)
    for second in range(100):
        strikes.strike(b"slow", 1.0, now=second * 20.0)
    assert cut == []
    for _ in range(int(STRIKES_MAX) * 3):
        strikes.strike(b"rude", 1.0, now=0.0)
    assert cut == [b"rude"]
    assert strikes.denied(b"rude", CUT_OFF_S - 1)
    assert not strikes.denied(b"rude", CUT_OFF_S + 1)


def test_a_bucket_gives_what_it_has() -> None:
    bucket = TokenBucket(per_s=10, burst=2, now=0.0)
    assert [bucket.take(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    assert bucket.borrow(0.1, 5) == pytest.approx(0.5)
    assert not bucket.take(0.5)


def test_frames_are_cut_wherever_the_bytes_were_split() -> None:
    whole = b"".join(bytes(encode_uvarint(size)) + bytes(size) for size in (0, 1, 127, 128, 300))
    for size in (1, 2, 3, 7, 1000):
        buffer, cut = bytearray(), []
        for start in range(0, len(whole), size):
            buffer += whole[start : start + size]
            cut += [len(one) for one in _frames(buffer)]
        assert cut == [0, 1, 127, 128, 300]
        assert not buffer
