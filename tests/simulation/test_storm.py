"""Storms: nodes crash and come back at any moment, messages and transactions are lost.

After the storm the world is left in peace, and then everything must have come to an end: each job
over, no money bound, not a base unit lost, no unit sold twice. A seed that failed once is a line of
`seeds.txt` with its story.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from tests.simulation.world import MILLION, Machine, World, open_world

SEEDS = tuple(range(20))
FAILED_ONCE = tuple(
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def _misfortune(world: World, machine: Machine, until: float) -> None:
    """Crash a machine every now and then, sometimes with all that runs on it."""
    while True:
        await trio.sleep(world.rng.expovariate(1 / 40))
        if trio.current_time() > until:
            return
        if world.rng.random() < 0.3:
            await machine.power_cut()
        else:
            await machine.crash()
        await trio.sleep(world.rng.choice((0.5, 2.0, 8.0, 30.0)))
        await machine.start()


@pytest.mark.parametrize("seed", sorted({*SEEDS, *FAILED_ONCE}))
async def test_nothing_is_stuck_and_nothing_is_lost(seed: int, autojump_clock: MockClock) -> None:
    async with open_world(seed, loss=0.1, chain_loss=0.1) as world:
        sellers = [world.add(f"seller{n}", units=2, price=MILLION) for n in range(2)]
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(8)
        jobs = [await world.submit(buyer, f"work {20 + 10 * n}") for n in range(3)]
        async with trio.open_nursery() as nursery:
            for machine in (*sellers, buyer):
                nursery.start_soon(_misfortune, world, machine, 200.0)
        over = [await world.until_over(buyer, job, 3600) for job in jobs]
        await world.until_settled(3600)
        world.check_money()
        for machine in sellers:
            assert machine.sandbox.overlaps == []
            assert world.ledger.units.get(machine.wallet, 0) == 0
        for job in over:
            assert job.reason or job.state is JobState.SUCCEEDED, "a failure gives its reason"


@pytest.mark.parametrize("moment_s", [1.0, 1.6, 2.2, 2.8, 3.4, 4.5, 6.0, 10.0, 16.0, 24.0, 32.0])
async def test_a_provider_killed_at_any_moment(moment_s: float, autojump_clock: MockClock) -> None:
    async with open_world(7) as world:
        for name in ("one", "two"):
            world.add(name, units=1, price=MILLION)
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(buyer, "work 24")
        await trio.sleep(moment_s)
        chosen = [m for m in world.machines.values() if m.sandbox.work]
        held = [
            m
            for m in world.machines.values()
            if m.selling
            and m.control
            and any(row["phase"] == "confirmed" for row in m.control.money.agreements())
        ]
        for victim in (chosen or held or [world.machines["one"]])[:1]:
            await victim.power_cut()
        job = await world.until_over(buyer, job_id, 600)
        await world.until_settled(600)
        world.check_money()
        assert job.state is JobState.SUCCEEDED, job.reason
        assert await world.result(buyer, job) == b"worked 24 s"
