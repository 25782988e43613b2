"""Networks for tests: real ones on loopback, and a stock libp2p host to be rude with."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from market.units import UnixTime
from node.adapters.libp2p import patches
from node.adapters.libp2p.network import Network, NetworkConfig, run_network

TOPICS = ("offers", "jobs")
ANY_PORT = ("/ip4/127.0.0.1/tcp/0",)


class SystemClock:
    """The machine's clock."""

    def now(self) -> UnixTime:
        """Seconds since 1970."""
        return UnixTime(time.time())


def seed(number: int) -> bytes:
    """A key of its own for each number."""
    return number.to_bytes(32, "big")


def config(bootstrap: tuple[str, ...] = (), **others: Any) -> NetworkConfig:
    """Loopback, any free port, short intervals."""
    settings = {"listen": ANY_PORT, "keeper_interval_s": 0.2, "ping_interval_s": 0.5, **others}
    return NetworkConfig(bootstrap=bootstrap, topics=TOPICS, **settings)


class World:
    """Networks that are all closed together; each knows those started before it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._ends: dict[bytes, tuple[trio.Event, trio.Event]] = {}
        self.networks: list[Network] = []

    async def start(self, number: int, **settings: Any) -> Network:
        """One more network, connected to all before it."""
        before = tuple(network.addresses()[0] for network in self.networks)
        network = await self.alone(number, bootstrap=before, **settings)
        for address in before:
            await network.connect(address)
        self.networks.append(network)
        return network

    async def alone(self, number: int, **settings: Any) -> Network:
        """A network that knows nobody but whom the settings name."""
        network: Network = await self._nursery.start(self._hold, config(**settings), number)
        return network

    async def stop(self, network: Network) -> None:
        """Close one network and wait until it is gone."""
        stop, stopped = self._ends[network.key]
        stop.set()
        await stopped.wait()
        if network in self.networks:
            self.networks.remove(network)

    async def _hold(
        self,
        config: NetworkConfig,
        number: int,
        task_status: trio.TaskStatus[Network] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        stop, stopped = trio.Event(), trio.Event()
        async with run_network(config, seed(number + 1), SystemClock()) as network:
            self._ends[network.key] = stop, stopped
            task_status.started(network)
            await stop.wait()
        stopped.set()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    """A world, and its end."""
    async with trio.open_nursery() as nursery:
        yield World(nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stock_host(
    number: int = 99, *, listening: bool = False, **settings: Any
) -> AsyncIterator[Any]:
    """A libp2p host without our guards, to say with it what our own software never would."""
    patches.apply()
    keys = create_new_key_pair(seed(number))
    security = {NOISE: Noise(keys, noise_privkey=create_noise_key_pair().private_key)}
    settings = {"key_pair": keys, "sec_opt": security, **settings}
    host = new_host(muxer_preference="YAMUX", transports=[TCP()], **settings)
    async with host.run(listen_addrs=[Multiaddr(address) for address in ANY_PORT if listening]):
        try:
            yield host
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 3):
                await host.close()


async def dial(host: Any, network: Network) -> Any:
    """Connect a stock host to one of our networks; returns its PeerId."""
    info = info_from_p2p_addr(Multiaddr(network.addresses()[0]))
    await host.connect(info)
    return info.peer_id
