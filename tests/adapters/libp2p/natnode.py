"""NAT node: a real network in a process of its own, driven by lines of JSON (see `nat`)."""

from __future__ import annotations

import json
import sys
from typing import Any

import structlog
import trio

from market.errors import MarketError
from node.adapters.libp2p.network import Network, run_network
from node.ports import Channel
from tests.adapters.libp2p.world import SystemClock, config, seed


async def echo(peer: bytes, data: bytes) -> bytes:
    """Answer with what was asked."""
    return data


async def measure(channel: Channel) -> None:
    """Say how much came."""
    size = 0
    while frame := await channel.receive():
        size += len(frame)
    await channel.send(str(size).encode())


async def do(network: Network, order: dict[str, Any]) -> Any:
    """Carry out one order."""
    peer = bytes.fromhex(order.get("peer", ""))
    match order["do"]:
        case "reach":
            reach = network.reach()
            relays = [relay.hex() for relay in reach.relays]
            return {"reachable": reach.reachable, "relays": relays, "relaying": reach.relaying}
        case "addresses":
            return list(network.addresses())
        case "peers":
            return {
                info.peer.hex(): {"relayed": info.relayed, "address": info.address}
                for info in network.peers()
            }
        case "mesh":
            return network.statistics()["mesh offers"]
        case "statistics":
            return network.statistics()
        case "request":
            return (await network.request(peer, b"are you there?", timeout_s=30)).decode()
        case "channel":
            async with network.open(peer, "measure") as channel:
                for _ in range(order["mib"]):
                    await channel.send(bytes(1 << 20))
                await channel.send(b"")
                return int(await channel.receive() or b"0")
        case "publish":
            await network.publish("offers", order["text"].encode())
            return ""
        case "hear":
            with trio.move_on_after(1.0):
                return (await anext(network.heard())).data.decode()
            return ""
        case other:
            raise AssertionError(other)


async def main() -> None:
    """Until standard input ends."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    settings = json.loads(sys.argv[1])
    number = settings.pop("number")
    for name in ("bootstrap", "listen"):
        settings[name] = tuple(settings.get(name, ()))
    async with run_network(config(**settings), seed(number), SystemClock()) as network:
        network.answer(echo)
        network.accept("measure", measure)
        print(json.dumps(network.key.hex()), flush=True)
        while line := await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            try:
                answer = await do(network, json.loads(line))
            except MarketError as problem:
                answer = {"problem": str(problem)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    trio.run(main)
