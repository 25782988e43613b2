"""Relay: peers that nobody can dial reach each other through a third, within its bounds."""

from __future__ import annotations

from node.adapters.libp2p.network import Network
from node.ports import Channel
from tests.adapters.contract_network import hear, meshed, until
from tests.adapters.libp2p.world import World

UNDIALABLE = {"listen": (), "reachable": False, "min_peers": 1}


async def echo(peer: bytes, data: bytes) -> bytes:
    """Answer with what was asked."""
    return data


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
    assert await one.request(other.key, b"through", timeout_s=5) == b"through"
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
