"""Gangs, live: as many agreements as nodes, with as many peers, all of them or none."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from tests.simulation.test_buying import market
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def envs(machine: Machine) -> dict[str, str]:
    """What the one job on this machine was told of itself."""
    (work,) = machine.sandbox.work.values()
    return {env.name: env.value for env in work.workspace.manifest.envs}


async def gang_of(world: World, buyer: Machine, command: str, nodes: int, **more: object) -> bytes:
    return await world.submit(buyer, command, num_nodes=nodes, max_hourly_cost="36", **more)


async def test_each_node_is_told_its_rank_and_every_result_comes_back(
    autojump_clock: MockClock,
) -> None:
    async with open_world(71) as world:
        sellers, buyer = await market(world, MILLION, MILLION, MILLION, 2 * MILLION)
        job_id = await gang_of(world, buyer, "work 20", 3)
        await trio.sleep(12)
        assert world.job(buyer, job_id).state is JobState.RUNNING
        told = [envs(seller) for seller in sellers if seller.sandbox.work]
        assert sorted(one["SOUK_NODE_RANK"] for one in told) == ["0", "1", "2"]
        assert {one["SOUK_NUM_NODES"] for one in told} == {"3"}
        assert [one["PET_NODE_RANK"] for one in told] == [one["SOUK_NODE_RANK"] for one in told]
        opened = {a.opened_at for a in world.ledger.live.values()}
        assert len(world.ledger.live) == 3
        assert len(opened) == 1, "in one transaction"
        job = await world.until_over(buyer, job_id, 200)
        await world.until_settled(100)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 1)
        assert sorted(result.path for result in job.results) == [
            f"/rank-{rank}/out/result" for rank in range(3)
        ]
        assert buyer.control is not None
        for rank in range(3):
            data, _, _ = await buyer.control.jobs.log(job_id.hex(), 0, rank)
            assert data.startswith(b"sec0000\n")
        assert sum(bool(world.ledger.free.get(seller.wallet)) for seller in sellers) == 3


async def test_too_few_peers_are_none(autojump_clock: MockClock) -> None:
    async with open_world(72) as world:
        sellers, buyer = await market(world, MILLION, MILLION, units=4)
        job_id = await gang_of(world, buyer, "work 20", 3, job_recovery={"max_wait": "60s"})
        await trio.sleep(12)
        assert world.job(buyer, job_id).reason.startswith("2 of 3 nodes are held; 3 are wanted")
        job = await world.until_over(buyer, job_id, 100)
        assert job.state is JobState.FAILED_NO_RESOURCE
        await trio.sleep(30)
        assert world.ledger.live == {}
        for seller in sellers:
            assert seller.control is not None
            rows = seller.control.money.agreements()
            assert {row["phase"] for row in rows} == {"void"}, "their units are free again"


async def test_one_member_lost_stops_all_and_the_gang_is_matched_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(73) as world:
        sellers, buyer = await market(world, MILLION, MILLION, MILLION)
        job_id = await gang_of(world, buyer, "work 40", 2)
        await trio.sleep(20)
        working = [seller for seller in sellers if seller.sandbox.work]
        second = next(one for one in working if envs(one)["SOUK_NODE_RANK"] == "1")
        await second.power_cut()
        job = await world.until_over(buyer, job_id, 400)
        await world.until_settled(400)
        world.check_money()
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 2), job.reason
        assert next(c.reason for c in job.history if c.state is JobState.RECOVERING).startswith(
            "rank 1: silent"
        )
        for result in job.results:
            assert await buyer.blobs.read(result.hash, 0, 64) == b"worked 40 s"
        assert all(seller.sandbox.overlaps == [] for seller in sellers)


async def test_a_member_that_fails_fails_the_job(autojump_clock: MockClock) -> None:
    async with open_world(74) as world:
        _, buyer = await market(world, MILLION, MILLION)
        job_id = await gang_of(world, buyer, "work 5 exit 3", 2)
        job = await world.until_over(buyer, job_id, 100)
        await world.until_settled(300)
        world.check_money()
        assert (job.state, job.exit_code) == (JobState.FAILED, 3)
        assert job.reason.endswith("the job exited with code 3")


async def test_a_gang_that_cannot_be_paid_opens_nothing(autojump_clock: MockClock) -> None:
    async with open_world(75) as world:
        _, buyer = await market(world, MILLION, MILLION)
        job_id = await gang_of(world, buyer, "work 20", 2, job_recovery={"max_attempts": 1})
        await trio.sleep(1)
        world.ledger.free[buyer.wallet] -= 99_700_000  # one deposit and its bond fit, two do not
        world.minted -= 99_700_000
        job = await world.until_over(buyer, job_id, 200)
        assert job.state is JobState.FAILED, job.reason
        assert "InsufficientFree" in job.reason
        assert world.ledger.live == {}
        world.check_money()


async def test_a_cancelled_gang_stops_everywhere(autojump_clock: MockClock) -> None:
    async with open_world(76) as world:
        sellers, buyer = await market(world, MILLION, MILLION)
        job_id = await gang_of(world, buyer, "work 60", 2)
        await trio.sleep(15)
        assert buyer.control is not None
        await buyer.control.jobs.cancel(job_id.hex())
        job = await world.until_over(buyer, job_id, 60)
        await world.until_settled(60)
        world.check_money()
        assert job.state is JobState.CANCELLED
        assert all(not seller.sandbox.work for seller in sellers)
