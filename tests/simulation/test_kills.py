"""Kills: a node dies right after its n-th commit while a gang opens, a job moves, makes way or is
lengthened, and comes back. Whatever n is: the ledger is whole, no unit is sold twice, every job
comes to its end, and nobody is paid for a second that was not run.

A few n of each scene run with the suite. All of them: `python -m tests.simulation.test_kills`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import structlog
import trio
from trio.testing import MockClock

from market.agreement import Ending
from market.job import Job, JobState
from market.voucher import owed
from tests.simulation.test_buying import market
from tests.simulation.world import MILLION, Machine, World, open_world

DEAR = 40 * MILLION
Scene = Callable[[World], Awaitable[tuple[Machine, list[bytes]]]]
"""Sets a world up and starts what is to be disturbed: the buyer, and its jobs."""


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def gang_opens(world: World) -> tuple[Machine, list[bytes]]:
    """Two of three providers, one transaction."""
    _, buyer = await market(world, MILLION, MILLION, MILLION)
    job = await world.submit(buyer, "work 8", num_nodes=2, max_hourly_cost="36")
    return buyer, [job]


async def job_moves(world: World) -> tuple[Machine, list[bytes]]:
    """From a dear place to a cheap one that has just come."""
    _, buyer = await market(world, DEAR)
    job = await world.submit(buyer, "work 50", max_hourly_cost="400", max_duration="1h",
                             estimate="60s", value_of_time="1")  # fmt: skip
    await trio.sleep(12)
    seller = world.add("seller1", units=1, price=MILLION)
    await seller.start()
    await trio.sleep(8)
    return buyer, [job]


async def job_makes_way(world: World) -> tuple[Machine, list[bytes]]:
    """A cheap job is preempted for a dear one of the same buyer, and goes on after it."""
    seller = world.add("seller0", units=1, price=4 * MILLION)
    assert seller.selling is not None
    seller.selling = replace(seller.selling, preemptible_price_per_hour=MILLION, grace_s=2)
    buyer = world.add("buyer")
    for machine in world.machines.values():
        await machine.start()
    await trio.sleep(10)
    cheap = await world.submit(buyer, "work 25", preemptible=True, max_hourly_cost="2",
                               max_duration="30m")  # fmt: skip
    await trio.sleep(12)
    dear = await world.submit(buyer, "work 8", max_hourly_cost="40", max_duration="30m")
    return buyer, [cheap, dear]


async def job_is_lengthened(world: World) -> tuple[Machine, list[bytes]]:
    """Longer than its first agreement lasts."""
    _, buyer = await market(world, MILLION)
    job = await world.submit(buyer, "work 25", max_duration="20s")
    await trio.sleep(8)
    assert buyer.control is not None
    await buyer.control.jobs.extend(job.hex(), 120)
    return buyer, [job]


SCENES: dict[str, Scene] = {
    "gang": gang_opens, "move": job_moves, "preempt": job_makes_way, "extend": job_is_lengthened,
}  # fmt: skip


async def play(scene: str, victim: str, commits: int, seed: int = 91) -> None:
    """The scene, with the victim killed after so many commits from its beginning."""
    async with open_world(seed) as world:
        buyer, jobs = await SCENES[scene](world)
        machine = world.machines[victim]
        moment = machine.journal.commits + commits
        reached = machine.journal.reached[moment] = trio.Event()
        with trio.move_on_after(60):
            await reached.wait()
            await machine.crash()
            await trio.sleep(world.rng.choice((0.3, 1.5, 2.5)))
            await machine.start()
        over = [await world.until_over(buyer, job, 900) for job in jobs]
        await world.until_settled(900)
        world.check_money()
        for job in over:
            assert job.state is JobState.SUCCEEDED, f"{job.state}: {job.reason}\n{world.tell()}"
        await trio.sleep(40)  # what was held for nobody is let go
        for name, seller in world.machines.items():
            assert seller.sandbox.overlaps == [], f"two jobs on one unit of {name}"
            check_pay(world, seller)


def check_pay(world: World, seller: Machine) -> None:
    """Nobody is paid for more than was run, but for the silence that a challenge pays up."""
    assert world.ledger.units.get(seller.wallet, 0) == 0
    for a in seller.journal_agreements():
        if a.role.value != "provider" or not a.opened_at_s or a.challenge_tx:
            continue
        ran_s = seller.sandbox.ran_s(a.id.hex())
        most = owed(a.extended, round(ran_s) + 1 + (a.ending is Ending.LOST) * 60)
        assert a.paid <= most, f"paid {a.paid} for {ran_s} s, {most} at most"


FEW = [
    ("gang", "buyer", 2), ("gang", "buyer", 5), ("gang", "buyer", 8), ("gang", "seller0", 2),
    ("gang", "seller1", 4), ("move", "buyer", 3), ("move", "buyer", 9), ("move", "seller0", 12),
    ("move", "seller1", 3), ("preempt", "seller0", 4), ("preempt", "seller0", 9),
    ("preempt", "buyer", 7), ("extend", "buyer", 1), ("extend", "buyer", 4),
    ("extend", "seller0", 2), ("extend", "seller0", 30),
]  # fmt: skip


@pytest.mark.parametrize(("scene", "victim", "commits"), FEW)
async def test_killed_after_any_commit(
    scene: str, victim: str, commits: int, autojump_clock: MockClock
) -> None:
    await play(scene, victim, commits)


async def _misfortune(world: World, machine: Machine, until: float) -> None:
    while True:
        await trio.sleep(world.rng.expovariate(1 / 40))
        if trio.current_time() > until:
            return
        await (machine.power_cut() if world.rng.random() < 0.3 else machine.crash())
        await trio.sleep(world.rng.choice((0.5, 2.0, 8.0, 30.0)))
        await machine.start()


async def storm(seed: int) -> list[Job]:
    """Gangs, moves, preemption and an extension at once, while everything crashes and is lost."""
    async with open_world(seed, loss=0.1, chain_loss=0.1) as world:
        sellers = []
        for number, price in enumerate((4, 1, 30)):
            seller = world.add(f"seller{number}", units=2, price=price * MILLION)
            assert seller.selling is not None
            cheap = MILLION // (number + 2)
            seller.selling = replace(seller.selling, preemptible_price_per_hour=cheap, grace_s=2)
            sellers.append(seller)
        buyer, rich = world.add("buyer"), world.add("rich")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(8)
        dear = {"max_hourly_cost": "60", "max_duration": "20m"}
        gang = await world.submit(buyer, "work 30", num_nodes=2, max_hourly_cost="200")
        jobs = [
            (buyer, gang),
            (buyer, await world.submit(buyer, "work 40", preemptible=True, max_hourly_cost="2")),
            (buyer, await world.submit(buyer, "work 60 progress", estimate="2s", **dear)),
            (rich, await world.submit(rich, "work 20", **dear)),
        ]
        assert buyer.control is not None
        await buyer.control.jobs.extend(gang.hex(), 100)
        async with trio.open_nursery() as nursery:
            for machine in (*sellers, buyer):
                nursery.start_soon(_misfortune, world, machine, 140.0)
            await trio.sleep(25)
            more = await world.submit(rich, "work 20", num_nodes=3, priority=3,
                                      max_hourly_cost="300")  # fmt: skip
            jobs.append((rich, more))
        over = [await world.until_over(machine, job, 4000) for machine, job in jobs]
        await world.until_settled(4000)
        world.check_money()
        await trio.sleep(40)
        for seller in sellers:
            assert seller.sandbox.overlaps == []
            check_pay(world, seller)
        return over


async def test_a_storm_over_all_of_it(autojump_clock: MockClock) -> None:
    for job in await storm(6):
        assert job.state is JobState.SUCCEEDED or job.reason, "a failure gives its reason"


def main(most: int) -> int:
    """Every scene, every victim, every commit up to `most`; prints what went wrong."""
    silent = structlog.make_filtering_bound_logger(logging.ERROR)
    structlog.configure(wrapper_class=silent)
    wrong = tried = 0
    victims = {"gang": 3, "move": 2, "preempt": 1, "extend": 1}
    for scene, sellers in victims.items():
        for victim in ("buyer", *(f"seller{n}" for n in range(sellers))):
            for commits in range(1, most + 1):
                tried += 1
                try:
                    trio.run(play, scene, victim, commits, clock=MockClock(autojump_threshold=0))
                except BaseException as problem:  # reported, and the next is tried
                    if isinstance(problem, KeyboardInterrupt):
                        raise
                    wrong += 1
                    first = problem
                    while isinstance(first, BaseExceptionGroup):
                        first = first.exceptions[0]
                    sys.stderr.write(f"{scene} {victim} {commits}: {str(first)[:300]}\n")
    sys.stderr.write(f"{tried} kills, {wrong} went wrong\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 40))
