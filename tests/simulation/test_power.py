"""Power: a machine that goes down and comes back at once takes the work with it, not the job."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from tests.simulation.test_buying import market
from tests.simulation.world import MILLION, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_the_job_goes_on_elsewhere_though_its_provider_was_never_missed(
    autojump_clock: MockClock,
) -> None:
    async with open_world(95) as world:
        sellers, buyer = await market(world, MILLION, MILLION)
        job_id = await world.submit(buyer, "work 40")
        await trio.sleep(18)
        working = next(seller for seller in sellers if seller.sandbox.work)
        await working.power_cut()
        await working.start()
        job = await world.until_over(buyer, job_id, 200)
        await world.until_settled(100)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2), job.reason
        assert await world.result(buyer, job) == b"worked 40 s"
        assert "its machine went down while it ran" in [c.reason for c in job.history]
        assert world.ledger.burned == 0, "it came back and said so"
