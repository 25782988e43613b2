"""Bench of the network: gossip, requests and channels beside stock libp2p and bare TCP.

Everything runs in one process on one core, ours and the reference one after the other. The
reference pubsub is stock's with the settings of ours: with its own it loses messages.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.peerinfo import PeerInfo
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service

from market.limits import CHUNK_BYTES
from node.adapters.libp2p.identity import peer_id
from node.adapters.libp2p.network import Network
from node.ports import Channel
from tests.adapters.contract_network import OFFERS, mesh, until
from tests.adapters.libp2p.world import World, stock_host, world
from tests.bench.row import Row, row

NODES, DIALS, MESSAGES, MESSAGE_BYTES = 10, 4, 40, 1000
REQUESTS = 200
TRANSFER_BYTES = 64 * 1024 * 1024
ECHO = TProtocol("/bench/echo/1")


async def rows(data: Path) -> list[Row]:
    """About twenty seconds."""
    lean = await _gossip(_lean)
    stock = await _gossip(_stock)
    async with world() as networks:
        fast = {"bulk_bytes_per_s": 10**10}
        one, other = await networks.start(0, **fast), await networks.start(1, **fast)
        line, fresh = await _line(one, other), await _stream_each(one, other)
        ours = await _channel(one, other)
    tcp = await _tcp()
    return [
        row("gossip, 10 nodes, publish to all, p50", lean * 1000, "ms",
            ("stock pubsub", stock * 1000), "at most 1/1.5 of it", lean * 1.5 <= stock),
        row("request and reply, p50", line * 1000, "ms",
            ("a stream per request", fresh * 1000), "at most 1/1.5 of it", line * 1.5 <= fresh),
        row("channel, one way", ours / 1e6, "MB/s",
            ("bare TCP", tcp / 1e6), "at least 0.02 of it", ours >= 0.02 * tcp),
    ]  # fmt: skip


Publish = Callable[[int, bytes], Awaitable[None]]
Heard = list[trio.MemoryReceiveChannel[bytes]]


def _neighbours() -> list[tuple[int, int]]:
    chosen = random.Random(1)
    pairs = set()
    for node in range(1, NODES):
        for neighbour in chosen.sample(range(node), min(DIALS, node)):
            pairs.add((node, neighbour))
    return sorted(pairs)


async def _gossip(start: Callable[[], Any]) -> float:
    """Median seconds from a publish until all the others have the message."""
    async with start() as (publish, heard):
        took = []
        for number in range(MESSAGES):
            author = number % NODES
            data = number.to_bytes(4, "big") + bytes(MESSAGE_BYTES - 4)
            began = time.perf_counter()
            await publish(author, data)
            for node in range(NODES):
                if node != author:
                    with trio.fail_after(20):
                        assert await heard[node].receive() == data
            took.append(time.perf_counter() - began)
        return statistics.median(took)


@asynccontextmanager
async def _lean() -> AsyncIterator[tuple[Publish, Heard]]:
    async with world() as networks, trio.open_nursery() as nursery:
        nodes = [await _loner(networks, number) for number in range(NODES)]
        for node, neighbour in _neighbours():
            await nodes[node].connect(nodes[neighbour].addresses()[0])
        heard: Heard = []

        async def forward(node: Network, send: trio.MemorySendChannel[bytes]) -> None:
            async for message in node.heard():
                send.send_nowait(message.data)

        for node in nodes:
            send, receive = trio.open_memory_channel[bytes](1000)
            nursery.start_soon(forward, node, send)
            heard.append(receive)
        await until(lambda: all(mesh(node, OFFERS) >= 3 for node in nodes), 20)

        async def publish(author: int, data: bytes) -> None:
            await nodes[author].publish(OFFERS, data)

        yield publish, heard
        nursery.cancel_scope.cancel()


async def _loner(networks: World, number: int) -> Network:
    return await networks.alone(number, min_peers=0, ping_interval_s=60.0)


@asynccontextmanager
async def _stock() -> AsyncIterator[tuple[Publish, Heard]]:
    async with trio.open_nursery() as nursery:
        nodes: list[tuple[Any, Pubsub, GossipSub]] = []
        heard: Heard = []
        stop = trio.Event()
        for number in range(NODES):
            send, receive = trio.open_memory_channel[bytes](1000)
            heard.append(receive)
            nodes.append(await nursery.start(_stock_node, number, send, stop))
        for node, neighbour in _neighbours():
            host = nodes[neighbour][0]
            await nodes[node][0].connect(_info(host))
        await until(lambda: all(len(node[2].mesh[OFFERS]) >= 3 for node in nodes), 20)

        async def publish(author: int, data: bytes) -> None:
            await nodes[author][1].publish(OFFERS, data)

        yield publish, heard
        stop.set()


def _info(host: Any) -> Any:
    return PeerInfo(host.get_id(), host.get_transport_addrs())


async def _stock_node(
    number: int,
    send: trio.MemorySendChannel[bytes],
    stop: trio.Event,
    task_status: Any = trio.TASK_STATUS_IGNORED,
) -> None:
    async with stock_host(number + 1, listening=True) as host:
        router = GossipSub(
            protocols=[TProtocol("/meshsub/1.1.0")], degree=5, degree_low=4, degree_high=12,
            heartbeat_interval=1, prune_back_off=3, adaptive_gossip_enabled=False,
            spam_protection_enabled=False, eclipse_protection_enabled=False,
        )  # fmt: skip
        pubsub = Pubsub(host, router)
        async with background_trio_service(pubsub), background_trio_service(router):
            await pubsub.wait_until_ready()
            subscription = await pubsub.subscribe(OFFERS)
            own = host.get_id().to_bytes()

            async def forward() -> None:
                async for message in subscription:
                    if message.from_id != own:
                        send.send_nowait(message.data)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(forward)
                task_status.started((host, pubsub, router))
                await stop.wait()
                nursery.cancel_scope.cancel()
        pubsub.seen_messages.stop()


async def _line(one: Network, other: Network) -> float:
    async def answer(peer: bytes, data: bytes) -> bytes:
        return data

    one.answer(answer)

    async def ask() -> None:
        await other.request(one.key, b"x" * 64, timeout_s=5)

    return await _median(ask)


async def _stream_each(one: Network, other: Network) -> float:
    async def echo(stream: Any) -> None:
        await stream.write(await stream.read(64))
        await stream.close()

    one._host.set_stream_handler(ECHO, echo)

    async def ask() -> None:
        stream = await other._host.new_stream(peer_id(one.key), [ECHO])
        await stream.write(b"x" * 64)
        await stream.read(64)
        await stream.close()

    return await _median(ask)


async def _median(ask: Callable[[], Awaitable[None]]) -> float:
    took = []
    for _ in range(REQUESTS):
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


async def _channel(one: Network, other: Network) -> float:
    """Bytes a second."""

    async def sink(channel: Channel) -> None:
        while await channel.receive() is not None:
            pass

    one.accept("sink", sink)
    chunk = bytes(CHUNK_BYTES)
    began = time.perf_counter()
    async with other.open(one.key, "sink") as channel:
        for _ in range(TRANSFER_BYTES // CHUNK_BYTES):
            await channel.send(chunk)
    return TRANSFER_BYTES / (time.perf_counter() - began)


async def _tcp() -> float:
    """Bytes a second."""
    done = trio.Event()

    async def sink(stream: trio.SocketStream) -> None:
        while await stream.receive_some(65_536):
            pass
        done.set()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, sink, listeners)
        chunk = bytes(65_536)
        began = time.perf_counter()
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            for _ in range(TRANSFER_BYTES // len(chunk)):
                await stream.send_all(chunk)
        await done.wait()
        took = time.perf_counter() - began
        nursery.cancel_scope.cancel()
    return TRANSFER_BYTES / took
