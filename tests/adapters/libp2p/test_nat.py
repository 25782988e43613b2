"""NAT: two nodes behind routers of their own find out, and deal with each other through relays."""

from __future__ import annotations

import os

import pytest

from node.adapters.libp2p.identity import format_address
from tests.adapters.libp2p.nat import FIRST, IPS, LEFT, RIGHT, SECOND, missing, nat, nodes
from tests.adapters.libp2p.test_peers import key

PORT = 4001
RELAYS = [
    format_address(f"/ip4/{IPS[name]}/tcp/{PORT}", key(number))
    for number, name in enumerate((FIRST, SECOND))
]


@pytest.fixture(autouse=True)
def _possible() -> None:
    if missing():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing())


async def test_two_behind_nat_deal_through_a_relay_and_then_another() -> None:
    """Nothing is configured but whom to know first: each finds out what it is."""
    anywhere = [f"/ip4/0.0.0.0/tcp/{PORT}"]
    async with (
        nat() as net,
        nodes(
            net,
            (FIRST, {"number": 1, "listen": anywhere}),
            (SECOND, {"number": 2, "listen": anywhere, "bootstrap": RELAYS[:1]}),
            (LEFT, {"number": 3, "listen": anywhere, "bootstrap": RELAYS}),
            (RIGHT, {"number": 4, "listen": anywhere, "bootstrap": RELAYS}),
        ) as (first, second, left, right),
    ):
        for public in (first, second):
            reach = await public.until("reach", lambda reach: reach["reachable"] is not None)
            assert reach == {"reachable": True, "relays": [], "relaying": True}
        for hidden in (left, right):
            reach = await hidden.until("reach", lambda reach: len(reach["relays"]) == 2)
            assert not reach["reachable"]
            assert not reach["relaying"]
            announced = await hidden.ask("addresses")
            assert sum("/p2p-circuit/p2p/" in address for address in announced) == 2
        found = await left.ask("request", peer=right.key.hex())
        assert found == "are you there?"
        peers = await left.ask("peers")
        assert peers[right.key.hex()]["relayed"]
        assert not peers[first.key.hex()]["relayed"]
        assert await left.ask("channel", peer=right.key.hex(), mib=8) == 8 << 20
        for hidden in (left, right):
            await hidden.until("mesh", bool)
        await right.ask("publish", text="an offer")
        assert await left.until("hear", bool) == "an offer"

        used = peers[right.key.hex()]["address"]
        killed, other = (first, second) if used.startswith(RELAYS[0]) else (second, first)
        carried = (await killed.ask("statistics"))["relay_bytes"]
        assert carried > 8 << 20
        await killed.kill()
        await left.until("peers", lambda peers: right.key.hex() not in peers)
        assert await left.ask("request", peer=right.key.hex()) == "are you there?"
        assert (await left.ask("peers"))[right.key.hex()]["relayed"]
        assert (await other.ask("statistics"))["relay_circuits"] == 1
        assert await right.ask("channel", peer=left.key.hex(), mib=1) == 1 << 20
