"""A GPU that is lost under a job: its provider says so, is paid until then, and is not slashed.

The job goes on elsewhere from its last checkpoint; the unit is not sold until it is well again.
"""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from node.machine import LOOK_S
from tests.simulation.test_buying import market
from tests.simulation.world import MILLION, Machine, World, open_world

WHY = "its CPU was lost: it has fallen off the bus"


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def _lose_one(world: World, command: str, after_s: float) -> tuple[bytes, Machine, Machine]:
    """A job that has run for some time where its unit is lost: (job, its seller, the buyer)."""
    sellers, buyer = await market(world, MILLION, MILLION)
    job_id = await world.submit(buyer, command)
    while world.job(buyer, job_id).state is not JobState.RUNNING:
        await trio.sleep(0.5)
    await trio.sleep(after_s)
    working = next(seller for seller in sellers if seller.sandbox.work)
    working.lose(0)
    return job_id, working, buyer


def _free(machine: Machine) -> int:
    assert machine.control is not None
    return sum(kind["free"] for kind in machine.control.selling.status()["kinds"])


@pytest.mark.parametrize("command", ["work 60", "work 60 brittle"])
async def test_the_job_goes_on_elsewhere_and_nobody_is_slashed(
    command: str, autojump_clock: MockClock
) -> None:
    async with open_world(96) as world:
        job_id, working, buyer = await _lose_one(world, command, 20)
        lost_at = trio.current_time()
        while world.job(buyer, job_id).state is JobState.RUNNING:
            await trio.sleep(0.5)
        noticed_s = trio.current_time() - lost_at
        assert noticed_s < 25, "it was told, not missed"
        job = await world.until_over(buyer, job_id, 300)
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2), job.reason
        assert await world.result(buyer, job) == b"worked 60 s"
        reasons = {change.state: change.reason for change in job.history}
        assert reasons[JobState.RECOVERING] == WHY
        await world.until_settled(100)
        world.check_money()
        assert world.ledger.burned == 0
        rows = {row["ending"]: int(str(row["metered_s"])) for row in
                world.requesters_agreements(buyer)}  # fmt: skip
        assert 18 <= rows["broken"] <= 20 + LOOK_S + 1, "metered until the loss was seen"
        assert rows["finished"] <= 48, f"from its last checkpoint: {rows}"
        assert not working.sandbox.work, "nothing of it is left"
        assert _free(working) == 0
        working.devices.ill.clear()
        await trio.sleep(10)
        assert _free(working) == 1


async def test_one_hiccup_of_a_driver_ends_no_job(autojump_clock: MockClock) -> None:
    async with open_world(97) as world:
        sellers, buyer = await market(world, MILLION)
        job_id = await world.submit(buyer, "work 40")
        await trio.sleep(18)
        sellers[0].devices.ill[0] = "the driver says: Unknown Error"
        await trio.sleep(5)
        sellers[0].devices.ill.clear()
        job = await world.until_over(buyer, job_id, 100)
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 1), job.reason


async def test_a_job_that_fails_on_a_unit_that_is_well_has_failed(
    autojump_clock: MockClock,
) -> None:
    async with open_world(98) as world:
        _, buyer = await market(world, MILLION, MILLION)
        job_id = await world.submit(buyer, "work 5 exit 3")
        job = await world.until_over(buyer, job_id, 100)
        assert (job.state, job.exit_code, len(job.attempts)) == (JobState.FAILED, 3, 1)


@pytest.mark.parametrize("moment_s", [4.0, 8.0, 11.0, 12.0, 14.0])
async def test_a_crash_in_the_middle_of_it_loses_nothing(
    moment_s: float, autojump_clock: MockClock
) -> None:
    async with open_world(99) as world:
        job_id, working, buyer = await _lose_one(world, "work 60", 20)
        await trio.sleep(moment_s)
        await working.crash()
        await trio.sleep(0.5)
        await working.start()
        job = await world.until_over(buyer, job_id, 300)
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2), job.reason
        assert WHY in [change.reason for change in job.history]
        await world.until_settled(100)
        world.check_money()
        assert world.ledger.burned == 0


async def test_a_slowed_unit_is_told_of_and_keeps_its_job(autojump_clock: MockClock) -> None:
    async with open_world(100) as world:
        sellers, buyer = await market(world, MILLION, MILLION)
        job_id = await world.submit(buyer, "work 60")
        await trio.sleep(18)
        working = next(seller for seller in sellers if seller.sandbox.work)
        working.devices.slow[0] = "too hot"
        await trio.sleep(20)
        assert world.job(buyer, job_id).reason == "a GPU of it is slowed down: too hot"
        working.devices.slow.clear()
        await trio.sleep(20)
        assert world.job(buyer, job_id).reason == ""
        job = await world.until_over(buyer, job_id, 100)
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 1), job.reason
        for machine in (working, buyer):
            told = [one.text for one in machine.journal.everything() if one.kind == "Slowed"]
            assert told == ["a GPU of it is slowed down: too hot", "at full speed again"]


async def test_nothing_is_started_on_a_unit_that_is_lost(autojump_clock: MockClock) -> None:
    async with open_world(101) as world:
        sellers, buyer = await market(world, MILLION)
        job_id = await world.submit(buyer, "work 20")
        while world.job(buyer, job_id).state is not JobState.STARTING:
            await trio.sleep(0.1)
        sellers[0].lose(0)
        while len(world.job(buyer, job_id).history) < 4:
            await trio.sleep(0.5)
        assert world.job(buyer, job_id).reason == WHY
        assert not any(sellers[0].sandbox.ran.values())
        sellers[0].devices.ill.clear()
        job = await world.until_over(buyer, job_id, 200)
        assert job.state is JobState.SUCCEEDED
        assert world.ledger.burned == 0
