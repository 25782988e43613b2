"""Moving, live: a running job leaves for a better place when that pays, and never for less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from tests.simulation.test_buying import market
from tests.simulation.world import MILLION, Machine, World, open_world

DEAR = 40 * MILLION
LONG: dict[str, Any] = {
    "max_hourly_cost": "400", "max_duration": "2h", "estimate": "60s", "value_of_time": "1",
}  # fmt: skip


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def at_work(world: World) -> list[str]:
    """Who runs something that is not stopped."""
    return [
        name
        for name, machine in world.machines.items()
        if any(w.started_at is not None and w.stopped_at is None
               for w in machine.sandbox.work.values())
    ]  # fmt: skip


async def newcomer(world: World, name: str, price: int) -> Machine:
    machine = world.add(name, units=1, price=price)
    await machine.start()
    return machine


async def test_a_job_moves_to_a_much_cheaper_place_from_a_fresh_checkpoint(
    autojump_clock: MockClock,
) -> None:
    async with open_world(81) as world:
        _, buyer = await market(world, DEAR)
        job_id = await world.submit(buyer, "work 200", **LONG)
        await trio.sleep(20)
        await newcomer(world, "cheap", MILLION)
        await trio.sleep(60)
        job = world.job(buyer, job_id)
        assert (job.state, job.moves, len(job.attempts)) == (JobState.RUNNING, 1, 2)
        assert job.reason == "moved to another provider: better-offer"
        assert at_work(world) == ["cheap"]
        job = await world.until_over(buyer, job_id, 500)
        await world.until_settled(200)
        world.check_money()
        assert (job.state, job.moves) == (JobState.SUCCEEDED, 1)
        assert await world.result(buyer, job) == b"worked 200 s"
        rows = {row["peer"]: row for row in world.requesters_agreements(buyer)}
        assert {row["phase"] for row in rows.values()} == {"settled"}, "nobody was slashed"
        paid_s = sum(int(str(row["metered_s"])) for row in rows.values())
        assert paid_s < 220, f"{paid_s} s are paid for 200: both ran only for a moment"
        log = await buyer.logs.read(job_id, 0, 8)
        assert log == b"sec0000\n"


async def test_a_little_cheaper_is_not_worth_it(autojump_clock: MockClock) -> None:
    async with open_world(82) as world:
        _, buyer = await market(world, DEAR)
        job_id = await world.submit(buyer, "work 60", **LONG)
        await trio.sleep(20)
        await newcomer(world, "cheaper", DEAR * 95 // 100)
        job = await world.until_over(buyer, job_id, 400)
        assert (job.state, job.moves, len(job.attempts)) == (JobState.SUCCEEDED, 0, 1)


@pytest.mark.parametrize("more", [{"reallocate": False}, {"reallocate": {"max_moves": 0}}])
async def test_who_wants_to_stay_stays(more: dict[str, Any], autojump_clock: MockClock) -> None:
    async with open_world(83) as world:
        _, buyer = await market(world, DEAR)
        job_id = await world.submit(buyer, "work 60", **LONG, **more)
        await trio.sleep(20)
        await newcomer(world, "cheap", MILLION)
        job = await world.until_over(buyer, job_id, 400)
        assert (job.state, job.moves, len(job.attempts)) == (JobState.SUCCEEDED, 0, 1)


async def test_a_provider_that_is_too_slow_is_left(autojump_clock: MockClock) -> None:
    async with open_world(85) as world:
        (slow,), buyer = await market(world, MILLION)
        slow.sandbox.rate = 0.5
        # A slot without a GPU is rated a fiftieth of the reference: 400 s of work there.
        job_id = await world.submit(buyer, "work 400 progress", **{**LONG, "estimate": "8s"})
        await trio.sleep(30)
        await newcomer(world, "sound", MILLION)
        await trio.sleep(250)
        assert world.job(buyer, job_id).moves == 0, "not before the window is over"
        await trio.sleep(160)
        job = world.job(buyer, job_id)
        assert (job.moves, len(job.attempts)) == (1, 2)
        moved = next(c for c in job.history if "moved" in c.reason)
        assert moved.reason == "moved to another provider: degraded"
        assert at_work(world) == ["sound"]


async def test_the_place_it_moves_to_dies_and_nothing_is_lost(autojump_clock: MockClock) -> None:
    async with open_world(86) as world:
        _, buyer = await market(world, DEAR)
        job_id = await world.submit(buyer, "work 100", **LONG)
        await trio.sleep(20)
        cheap = await newcomer(world, "cheap", MILLION)
        with trio.fail_after(60):
            while not world.job(buyer, job_id).next_gang:
                await trio.sleep(0.5)
        await cheap.power_cut()
        job = await world.until_over(buyer, job_id, 600)
        await world.until_settled(400)
        world.check_money()
        assert (job.state, job.moves, job.failures) == (JobState.SUCCEEDED, 0, 0)
        assert [c.state for c in job.history].count(JobState.RECOVERING) == 0


async def test_a_preempted_job_goes_on_elsewhere_and_may_come_back(
    autojump_clock: MockClock,
) -> None:
    async with open_world(87) as world:
        shop = world.add("shop", units=1, price=4 * MILLION)
        assert shop.selling is not None
        shop.selling = replace(
            shop.selling, preemptible_price_per_hour=MILLION, grace_s=2, max_duration_s=7200
        )
        cheap, rich = world.add("frugal"), world.add("rich")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(
            cheap, "work 60", preemptible=True, max_hourly_cost="2", max_duration="1h"
        )
        await trio.sleep(20)
        assert world.job(cheap, job_id).state is JobState.RUNNING
        other = await world.submit(
            rich, "work 30", max_hourly_cost="40", max_duration="1h", priority=5
        )
        await trio.sleep(20)
        job = world.job(cheap, job_id)
        assert (job.state, job.failures, job.excluded) == (JobState.RECOVERING, 0, ())
        assert (await world.until_over(rich, other, 300)).state is JobState.SUCCEEDED
        job = await world.until_over(cheap, job_id, 900)
        await world.until_settled(100)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2)
        assert await world.result(cheap, job) == b"worked 60 s"


async def test_a_deadline_is_met_by_leaving_what_may_be_taken_away(
    autojump_clock: MockClock,
) -> None:
    async with open_world(88) as world:
        firm = world.add("firm", units=1, price=4 * MILLION)
        cheap = world.add("cheap", units=1, price=2 * MILLION)
        assert cheap.selling is not None
        cheap.selling = replace(cheap.selling, preemptible=True, price_per_hour=MILLION // 2)
        cheap.sandbox.rate = 0.2  # a bad place: far behind the line of uniform progress
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(
            buyer, "work 100 progress", preemptible=True, deadline="260s", max_duration="250s",
            max_hourly_cost="40", value_of_time="0",
        )  # fmt: skip
        job = await world.until_over(buyer, job_id, 700)
        await world.until_settled(100)
        world.check_money()
        assert job.state is JobState.SUCCEEDED
        assert job.finished_at_ms / 1000 <= job.bid.deadline_at_s
        assert [c.reason for c in job.history if "moved" in c.reason] == [
            "moved to another provider: behind"
        ]
        assert world.ledger.free[firm.wallet] > 0
        assert world.ledger.free[cheap.wallet] > 0
