"""One job in a quiet world, and one whose provider dies: the walk of DESIGN section 4."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.agreement import Ending, Phase
from market.job import JobState
from tests.simulation.world import MILLION, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_a_job_runs_and_is_paid(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        cheap = world.add("cheap", units=1, price=MILLION)
        dear = world.add("dear", units=1, price=2 * MILLION)
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(buyer, "work 20", value_of_time="0")
        job = await world.until_over(buyer, job_id, 120)
        await world.until_settled(60)
        world.check_money()
        assert (job.state, job.exit_code, len(job.attempts)) == (JobState.SUCCEEDED, 0, 1)
        assert await world.result(buyer, job) == b"worked 20 s"
        assert (await buyer.logs.read(job_id, 0, 8)) == b"sec0000\n"
        assert world.ledger.free.get(cheap.wallet, 0) == MILLION * 20 // 3600
        assert world.ledger.free.get(dear.wallet, 0) == 0
        await trio.sleep(5)
        assert cheap.sandbox.work == {}, "nothing of it is left"


async def test_a_dead_provider_is_slashed_and_the_job_goes_on(autojump_clock: MockClock) -> None:
    async with open_world(2) as world:
        for name in ("one", "two"):
            world.add(name, units=1, price=MILLION)
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(buyer, "work 40")
        await trio.sleep(20)
        assert world.job(buyer, job_id).state is JobState.RUNNING
        working = next(m for m in world.machines.values() if m.sandbox.work)
        await working.power_cut()
        job = await world.until_over(buyer, job_id, 200)
        await world.until_settled(60)
        world.check_money()
        assert job.state is JobState.SUCCEEDED
        assert [change.state for change in job.history if change.state is JobState.RECOVERING]
        assert await world.result(buyer, job) == b"worked 40 s"
        phases = {row["phase"] for row in world.requesters_agreements(buyer)}
        assert phases == {Phase.SLASHED.value, Phase.SETTLED.value}
        assert world.ledger.burned == MILLION // 2


async def _tale(seed: int) -> str:
    async with open_world(seed, loss=0.1, chain_loss=0.1) as world:
        world.add("one", units=1, price=MILLION)
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(8)
        begun = trio.current_time()
        await world.until_over(buyer, await world.submit(buyer, "work 20"), 600)
        return f"{trio.current_time() - begun}\n{world.tell()}"


def test_a_seed_tells_the_same_tale_again() -> None:
    tales = {trio.run(_tale, 3, clock=MockClock(autojump_threshold=0)) for _ in range(3)}
    assert len(tales) == 1


async def test_who_works_for_a_requester_that_went_away_is_paid_its_allowance(
    autojump_clock: MockClock,
) -> None:
    async with open_world(3) as world:
        seller, buyer = world.add("seller", units=1, price=MILLION), world.add("buyer")
        await seller.start()
        await buyer.start()
        await trio.sleep(10)
        await world.submit(buyer, "work 500")
        await trio.sleep(20)
        (held,) = world.requesters_agreements(buyer)
        assert held["phase"] == Phase.RUNNING.value
        await buyer.power_cut()
        await world.until_settled(600)
        world.check_money()
        (a,) = seller.journal_agreements()
        assert (a.phase, a.ending) == (Phase.SETTLED, Ending.UNPAID)
        allowance = MILLION * a.terms.timing.offline_allowance_s // 3600
        assert a.paid == world.ledger.free[seller.wallet] == a.promised + allowance
        assert world.ledger.burned == 0
