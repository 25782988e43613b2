"""Buying, live: demands that stand in line, a plan before any deposit, one job for one key."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from market.errors import RefusedError, SpecError
from market.job import JobState
from market.terms import Artifact
from tests.simulation.world import IMAGE, MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def raw(command: str, **changes: object) -> dict[str, Any]:
    return {
        "name": "job", "image": "base", "run": command, "resources": {"accelerators": "CPU:1"},
        "max_hourly_cost": "3.6", "max_duration": "10m", **changes,
    }  # fmt: skip


async def market(world: World, *prices: int, units: int = 1) -> tuple[list[Machine], Machine]:
    sellers = [world.add(f"seller{n}", units=units, price=p) for n, p in enumerate(prices)]
    buyer = world.add("buyer")
    for machine in world.machines.values():
        await machine.start()
    await trio.sleep(10)
    return sellers, buyer


async def test_a_job_waits_in_line_and_says_so(autojump_clock: MockClock) -> None:
    async with open_world(61) as world:
        (seller,), buyer = await market(world, MILLION)
        first = await world.submit(buyer, "work 45", max_duration="60s")
        await trio.sleep(8)
        second = await world.submit(buyer, "work 5", max_duration="60s")
        await trio.sleep(10)
        waiting = world.job(buyer, second)
        assert waiting.state is JobState.MATCHING
        assert waiting.reason.startswith("queued at 1 provider")
        assert waiting.round == 1, "it stands in line with its first demand"
        assert (await world.until_over(buyer, first, 200)).state is JobState.SUCCEEDED
        done = await world.until_over(buyer, second, 200)
        assert (done.state, len(done.attempts)) == (JobState.SUCCEEDED, 1)
        begun = next(c.at_ms for c in done.history if c.state is JobState.STARTING)
        ended = world.job(buyer, first).finished_at_ms
        assert begun - ended < 12_000, "it takes the unit soon after that is free"
        await world.until_settled(100)
        world.check_money()


async def test_what_is_met_or_cancelled_is_unsaid(autojump_clock: MockClock) -> None:
    async with open_world(62) as world:
        (seller,), buyer = await market(world, MILLION)
        assert seller.control is not None
        assert buyer.control is not None
        await world.submit(buyer, "work 60")
        await trio.sleep(8)
        second = await world.submit(buyer, "work 5")
        await trio.sleep(6)
        assert len(seller.control.selling.queue()) == 1
        await buyer.control.jobs.cancel(second.hex())
        await trio.sleep(3)
        assert seller.control.selling.queue() == []
        assert world.job(buyer, second).state is JobState.CANCELLED


async def test_nobody_fits_and_the_failure_explains_it(autojump_clock: MockClock) -> None:
    async with open_world(63) as world:
        _, buyer = await market(world, 5 * MILLION, 6 * MILLION)
        job_id = await world.submit(buyer, "work 5", job_recovery={"max_wait": "50s"})
        job = await world.until_over(buyer, job_id, 200)
        assert job.state is JobState.FAILED_NO_RESOURCE
        assert job.reason == "no live offer fits; nearest: 1 offer at +1.4/h, 2 at +2.8/h"
        assert "price removes 2, 2 of them by itself." in job.explanation
        assert world.ledger.free[buyer.wallet] == 100 * MILLION


async def test_the_plan_ranks_with_reasons_and_says_what_is_held(
    autojump_clock: MockClock,
) -> None:
    async with open_world(64) as world:
        _, buyer = await market(world, MILLION, 2 * MILLION, 5 * MILLION)
        assert buyer.control is not None
        image = Artifact("base", bytes(32), 10_000_000)
        told = await buyer.control.plans.plan(
            raw("work 5", estimate="2s", value_of_time="1"), image
        )
        assert [row["dph"] for row in told["ranking"]] == ["1", "2"]
        assert [row["chosen"] for row in told["ranking"]] == [True, False]
        best = told["ranking"][0]
        parts = [float(best["cost"][part]) for part in ("price", "waiting", "risk")]
        assert float(best["cost"]["total"]) == pytest.approx(sum(parts))
        assert best["seconds"]["transfer"] == pytest.approx(0.8), "10 MB at 100 Mbit/s"
        assert told["estimate"]["is_guess"] is False
        assert told["held"] == best["held"] == "0.266667", "ten minutes, and the bond"
        assert float(told["refundable"]) == pytest.approx(
            float(told["held"]) - float(best["cost"]["price"])
        )
        assert told["wallet"]["enough"]
        assert told["explanation"]["removed"] == [{"constraint": "price", "offers": 1, "alone": 1}]
        assert world.ledger.live == {}, "nothing was bound"
        dear = await buyer.control.plans.plan(raw("work 5", max_hourly_cost="0.5"))
        assert (dear["ranking"], dear["estimate"], dear["held"]) == ([], None, "0")
        assert dear["explanation"]["relaxations"][0]["sentence"].startswith("1 offer at +0.5/h")


async def test_one_key_one_job(autojump_clock: MockClock) -> None:
    async with open_world(65) as world:
        _, buyer = await market(world, MILLION)
        hash_ = await buyer.blobs.put(IMAGE)
        image = Artifact("base", hash_, len(IMAGE))
        ids: list[str] = []

        async def submit(key: str) -> None:
            assert buyer.control is not None
            ids.append(await buyer.control.jobs.submit(raw("work 5"), image, (), {}, key))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit, "once")
            nursery.start_soon(submit, "once")
        await buyer.crash()
        await buyer.start()
        await submit("once")
        assert len(set(ids)) == 1
        await submit("another")
        assert len(set(ids)) == 2
        assert buyer.control is not None
        with pytest.raises(SpecError, match="another job"):
            await buyer.control.jobs.submit(raw("work 6"), image, (), {}, "once")


async def test_a_job_takes_longer_under_the_same_agreement(autojump_clock: MockClock) -> None:
    async with open_world(66) as world:
        (seller,), buyer = await market(world, MILLION)
        job_id = await world.submit(buyer, "work 50", max_duration="30s")
        await trio.sleep(15)
        assert buyer.control is not None
        told = await buyer.control.jobs.extend(job_id.hex(), 40)
        assert told["max_duration_s"] == 70
        assert told["at_most"] == "0.04", "forty seconds at the cap of 3.6"
        job = await world.until_over(buyer, job_id, 300)
        await world.until_settled(100)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 1)
        assert await world.result(buyer, job) == b"worked 50 s"
        assert world.ledger.free[seller.wallet] == MILLION * 50 // 3600
        with pytest.raises(RefusedError):
            await buyer.control.jobs.extend(job_id.hex(), 40)


async def test_a_provider_that_wants_no_more_is_followed_by_another(
    autojump_clock: MockClock,
) -> None:
    async with open_world(67) as world:
        (seller, _), buyer = await market(world, MILLION, 2 * MILLION)
        job_id = await world.submit(buyer, "work 50", max_duration="30s", value_of_time="0")
        await trio.sleep(12)
        assert seller.control is not None
        assert buyer.control is not None
        await seller.control.selling.drain()
        await buyer.control.jobs.extend(job_id.hex(), 60)
        job = await world.until_over(buyer, job_id, 400)
        await world.until_settled(200)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2), job.reason
        assert await world.result(buyer, job) == b"worked 50 s"
