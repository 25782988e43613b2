"""A storm over a crowded market: few units, many bids, owners who change their minds, and crashes.

Sellers have different policies and sell the same units firm and preemptible; buyers bid unevenly;
owners pause, resume and change prices while machines die and messages are lost. Afterwards all must
have come to an end, and whatever was agreed must have been within its rules.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from market.agreement import Agreement, Ending, Role
from market.codec import decode
from market.job import JobState
from market.limits import RECORD_BYTES_MAX
from tests.simulation.test_storm import _misfortune
from tests.simulation.world import MILLION, Machine, World, open_world

POLICIES = ("priority", "fair", "cost")
STORM_S = 160.0


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def _moods(world: World, machine: Machine, until: float) -> None:
    """The owner closes, opens and changes what the units cost, whenever the node is up."""
    assert machine.selling is not None
    while trio.current_time() < until:
        await trio.sleep(world.rng.expovariate(1 / 20))
        mood = world.rng.choice(("pause", "price", "price", "resume"))
        if machine.control is None:
            continue
        desk = machine.control.selling
        if mood == "price":
            price = world.rng.choice((MILLION, MILLION * 5 // 4))
            machine.selling = replace(machine.selling, price_per_hour=price)
            desk.reconfigure(machine.selling)
        else:
            with trio.move_on_after(5):  # the node may die under the owner's hands
                await (desk.pause() if mood == "pause" else desk.resume())


async def _open_again(machines: list[Machine]) -> None:
    for machine in machines:
        while machine.control is None:
            await trio.sleep(1)
        await machine.control.selling.resume()


def _agreements(machine: Machine) -> list[Agreement]:
    """Everything the machine's journal holds."""
    return [
        decode(Agreement, data, size_max=RECORD_BYTES_MAX)
        for data in machine.journal.table("agreement")
    ]


# 208: a node that had been down gave an agreement up before it heard of its opening, sold the unit
# again, and then could not start any more: two agreements on one unit.
@pytest.mark.parametrize("seed", [101, 208])
async def test_a_crowded_market_comes_to_rest(seed: int, autojump_clock: MockClock) -> None:
    async with open_world(seed, loss=0.1, chain_loss=0.1) as world:
        sellers = []
        for policy in POLICIES:
            machine = world.add(f"seller-{policy}", units=1, price=MILLION)
            assert machine.selling is not None
            machine.selling = replace(
                machine.selling, policy=policy, preemptible_price_per_hour=MILLION // 4, grace_s=2
            )
            sellers.append(machine)
        buyers = [world.add(f"buyer{n}") for n in range(3)]
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(8)
        jobs = []
        for number in range(7):
            buyer = buyers[number % 3]
            job_id = await world.submit(
                buyer, f"work {20 + 5 * number}", preemptible=number % 2 == 0,
                priority=number % 4, max_hourly_cost=f"{2 + number * 0.3:.1f}",
            )  # fmt: skip
            jobs.append((buyer, job_id))
        async with trio.open_nursery() as nursery:
            for machine in sellers:
                nursery.start_soon(_misfortune, world, machine, STORM_S)
                nursery.start_soon(_moods, world, machine, STORM_S)
        await _open_again(sellers)
        over = [await world.until_over(buyer, job_id, 3600) for buyer, job_id in jobs]
        await world.until_settled(3600)
        world.check_money()
        for job in over:
            assert job.reason or job.state is JobState.SUCCEEDED, "a failure gives its reason"
        for machine in sellers:
            assert machine.sandbox.overlaps == []
            assert world.ledger.units.get(machine.wallet, 0) == 0
            for a in _agreements(machine):
                assert a.role is Role.PROVIDER
                price = a.terms.money.price_per_hour
                assert (MILLION // 4 if a.preemptible else MILLION) <= price <= a.bid_per_hour
                assert a.ending is not Ending.PREEMPTED or a.preemptible
