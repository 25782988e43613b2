"""The map, live: nodes that never met know how far apart they are, and the nearer provider wins.

Delays are like PlanetLab's: a plane of tens of milliseconds, an access link of some for each node,
and a noise that breaks triangles. Each node is connected to four others and measures only those.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.coordinates import known
from tests.simulation.shopper import open_shoppers
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


CORNERS_MS = ((0, 0), (60, 0), (0, 60), (60, 60), (30, 75), (75, 30))


def _spread(world: World, places_ms: dict[str, tuple[float, float]]) -> None:
    """A delay for each pair of machines: the plane, two access links and some noise."""
    links_ms = {name: world.rng.expovariate(1 / 2) + 1 for name in places_ms}
    for one, (ax, ay) in places_ms.items():
        for other, (bx, by) in places_ms.items():
            if one < other:
                plane_ms = ((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5
                noise = world.rng.lognormvariate(0.0, 0.05)
                rtt_ms = (plane_ms + links_ms[one] + links_ms[other]) * noise
                pair = frozenset(world.machines[name].signer.peer for name in (one, other))
                world.wire.delays_s[pair] = rtt_ms / 2000


def _strangers(world: World, near: Machine) -> Machine:
    """A requester whose few connections do not lead to `near`."""
    for number in range(100):
        buyer = world.add(f"buyer{number}")
        ring = sorted(machine.signer.peer for machine in world.machines.values())
        at = ring.index(buyer.signer.peer)
        if near.signer.peer not in (ring[at:] + ring[:at])[1 : 1 + world.wire.acquainted]:
            return buyer
        del world.machines[buyer.name]
        world.minted -= 100 * MILLION
        del world.ledger.free[buyer.wallet]
    raise AssertionError("everybody knows everybody")


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
async def test_the_nearer_provider_wins_though_they_never_met(
    seed: int, autojump_clock: MockClock
) -> None:
    """All ask the same. The requester has met only providers at the edges of the map."""
    async with open_world(seed) as world:
        world.wire.acquainted = 4
        places_ms: dict[str, tuple[float, float]] = dict.fromkeys(("near",), (30.0, 30.0))
        places_ms |= {f"far{n}": place for n, place in enumerate(CORNERS_MS)}
        for name in places_ms:
            world.add(name, units=1, price=MILLION)
        near = world.machines["near"]
        buyer = _strangers(world, near)
        _spread(world, {**places_ms, buyer.name: (33.0, 28.0)})
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(60)
        assert buyer.control is not None
        met = {row["peer"] for row in buyer.control.network.peers()}
        assert len(met) == 4
        assert near.signer.peer.hex() not in met
        job_id = await world.submit(buyer, "work 10", value_of_time="50000")
        job = await world.until_over(buyer, job_id, 60)
        (attempt,) = world.requesters_agreements(buyer)
        assert attempt["peer"] == near.signer.peer.hex()
        assert job.exit_code == 0


async def test_a_node_remembers_where_it_was(autojump_clock: MockClock) -> None:
    async with open_world(5) as world:
        machines = [world.add(f"seller{n}", units=1, price=MILLION) for n in range(4)]
        _spread(world, {f"seller{n}": CORNERS_MS[n] for n in range(4)})
        for machine in machines:
            await machine.start()
        await trio.sleep(60)
        for machine in machines:
            await machine.crash()
        await machines[0].start()
        await trio.sleep(7)
        (shopper,) = await open_shoppers(world, "ann")
        quote = await shopper.until_quoted(await shopper.want(30))
        assert known(quote.offer.coordinate), "nobody was there to measure it again"
