"""Preemption, live: what was sold so makes way for who pays more, and keeps its work."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from tests.simulation.shopper import Shopper, open_shoppers
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def _shop(world: World, policy: str = "fcfs") -> Machine:
    machine = world.add("shop", units=1, price=MILLION)
    assert machine.selling is not None
    machine.selling = replace(
        machine.selling, preemptible_price_per_hour=MILLION // 4, grace_s=2, policy=policy
    )
    await machine.start()
    await trio.sleep(1)
    return machine


async def _cheap(shopper: Shopper, seconds: int = 300) -> bytes:
    quote = await shopper.until_quoted(await shopper.want(seconds, preemptible=True))
    assert quote.offer.preemptible
    assert quote.terms.money.price_per_hour == MILLION // 4
    return await shopper.take(quote)


def _phase(machine: Machine, agreement: bytes) -> tuple[str, str]:
    assert machine.control is not None
    rows = {row["id"]: row for row in machine.control.money.agreements()}
    return rows[agreement.hex()]["phase"], rows[agreement.hex()]["ending"]


async def test_who_pays_more_gets_the_unit_and_the_victim_its_checkpoint(
    autojump_clock: MockClock,
) -> None:
    async with open_world(51) as world:
        machine = await _shop(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        cheap = await _cheap(ann)
        await trio.sleep(30)
        before = ann.beats[cheap]
        demand = await bob.want(200)
        quote = await bob.until_quoted(demand, 30)
        assert quote.terms.money.price_per_hour == MILLION
        last = ann.beats[cheap]
        assert last.report.work.value == "preempted"
        assert last.heartbeat.metered_s <= before.heartbeat.metered_s + 4, "the grace is unpaid"
        checkpoint = last.report.checkpoint
        assert checkpoint is not None
        saved_s = float(await ann.blobs.read(checkpoint.hash, 0, 64))
        assert saved_s >= last.heartbeat.metered_s, "what it had done by the end is saved"
        firm = await bob.take(quote)
        await trio.sleep(8)
        assert _phase(machine, cheap) == ("settled", "preempted")
        assert _phase(machine, firm) == ("running", "none")
        assert machine.sandbox.overlaps == []
        assert world.ledger.burned == 0
        world.check_money()


async def test_what_was_sold_firm_never_makes_way(autojump_clock: MockClock) -> None:
    async with open_world(52) as world:
        machine = await _shop(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        firm = await ann.take(await ann.until_quoted(await ann.want(120)))
        demand = await bob.want(100, bid=50 * MILLION, priority=9)
        await trio.sleep(30)
        assert bob.price(demand) is None
        assert _phase(machine, firm) == ("running", "none")


async def test_nobody_makes_way_for_who_pays_no_more(autojump_clock: MockClock) -> None:
    async with open_world(53) as world:
        machine = await _shop(world)
        ann, bob, cid = await open_shoppers(world, "ann", "bob", "cid")
        cheap = await _cheap(ann)
        also_cheap = await bob.want(100, preemptible=True, bid=MILLION // 2)
        short = await cid.want(6)
        await trio.sleep(20)
        assert bob.price(also_cheap) is None
        assert cid.price(short) is None, "six seconds are not worth what the victim loses"
        assert _phase(machine, cheap) == ("running", "none")


async def test_a_cheap_demand_at_the_head_does_not_shield_those_that_run(
    autojump_clock: MockClock,
) -> None:
    async with open_world(58) as world:
        machine = await _shop(world)
        ann, bob, cid = await open_shoppers(world, "ann", "bob", "cid")
        cheap = await _cheap(ann)
        head = await bob.want(100, preemptible=True, bid=MILLION // 2)
        await trio.sleep(5)
        firm = await cid.take(await cid.until_quoted(await cid.want(200), 30))
        await trio.sleep(5)
        assert _phase(machine, cheap) == ("settled", "preempted")
        assert _phase(machine, firm) == ("running", "none")
        assert bob.price(head) is None


async def test_nobody_makes_way_for_an_empty_purse(autojump_clock: MockClock) -> None:
    async with open_world(54) as world:
        machine = await _shop(world)
        ann, eve = await open_shoppers(world, "ann", "eve")
        cheap = await _cheap(ann)
        world.ledger.free[eve.wallet] = 0
        world.minted -= 100 * MILLION
        await eve.want(200, bid=50 * MILLION)
        await trio.sleep(20)
        assert _phase(machine, cheap) == ("running", "none")


@pytest.mark.parametrize("moment_s", [1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0])
async def test_a_crash_in_the_middle_of_it_loses_nothing(
    moment_s: float, autojump_clock: MockClock
) -> None:
    async with open_world(55) as world:
        machine = await _shop(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        cheap = await _cheap(ann)
        await trio.sleep(30)
        demand = await bob.want(200)
        await trio.sleep(moment_s)
        await machine.crash()
        await trio.sleep(0.5)
        await machine.start()
        await bob.say(demand)
        await trio.sleep(1)
        await bob.until_quoted(demand, 60)
        await trio.sleep(8)
        assert _phase(machine, cheap) == ("settled", "preempted")
        checkpoint = ann.beats[cheap].report.checkpoint
        assert checkpoint is not None
        assert float(await ann.blobs.read(checkpoint.hash, 0, 64)) >= 30
        assert world.ledger.burned == 0
        world.check_money()


async def test_a_job_that_made_way_goes_on_elsewhere(autojump_clock: MockClock) -> None:
    """With the node's own requester: from the last checkpoint, and nobody is slashed."""
    async with open_world(56) as world:
        await _shop(world)
        buyer = world.add("buyer")
        await buyer.start()
        (bob,) = await open_shoppers(world, "bob")
        await trio.sleep(8)
        job_id = await world.submit(
            buyer, "work 100", preemptible=True, value_of_time="0", reallocate=False
        )
        await trio.sleep(40)
        assert world.job(buyer, job_id).state is JobState.RUNNING
        refuge = world.add("refuge", units=1, price=MILLION)
        assert refuge.selling is not None
        refuge.selling = replace(refuge.selling, preemptible_price_per_hour=MILLION // 2)
        await refuge.start()
        quote = await bob.until_quoted(await bob.want(200, exclude=(refuge.signer.peer,)), 30)
        await bob.take(quote)
        job = await world.until_over(buyer, job_id, 300)
        states = [change.state for change in job.history]
        assert job.state is JobState.SUCCEEDED
        assert JobState.RECOVERING in states
        assert await world.result(buyer, job) == b"worked 100 s"
        rows = world.requesters_agreements(buyer)
        assert {row["ending"] for row in rows} == {"preempted", "finished"}
        metered = [row["metered_s"] for row in rows]
        assert sum(int(str(m)) for m in metered) <= 104, f"little was done twice: {metered}"
        await trio.sleep(20)
        assert world.ledger.burned == 0
        world.check_money()


async def test_freed_units_are_kept_for_whom_they_were_freed(autojump_clock: MockClock) -> None:
    """The victim asks again at once, and bids more: but it pays less, and has had its turn."""
    async with open_world(57) as world:
        machine = await _shop(world, policy="cost")
        buyer = world.add("buyer")
        await buyer.start()
        (bob,) = await open_shoppers(world, "bob")
        await trio.sleep(8)
        job_id = await world.submit(buyer, "work 400", preemptible=True, value_of_time="0")
        await trio.sleep(30)
        assert world.job(buyer, job_id).state is JobState.RUNNING
        firm = await bob.take(await bob.until_quoted(await bob.want(200), 30))
        await trio.sleep(5)
        assert _phase(machine, firm) == ("running", "none")
        assert world.job(buyer, job_id).state is JobState.RECOVERING
