"""A live provider's queue: who is answered when, at what price, and what the owner may change."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from node.config import UnitPrice
from node.ports import Check
from tests.simulation.devices import SimDevices
from tests.simulation.shopper import Shopper, open_shoppers, renewed
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def shop_of(world: World, *, units: int = 1, **changes: object) -> Machine:
    """A running provider that asks a million per unit-hour, changed so."""
    machine = world.add("shop", units=units, price=MILLION)
    assert machine.selling is not None
    machine.selling = replace(machine.selling, **changes)  # type: ignore[arg-type]
    await machine.start()
    await trio.sleep(1)
    return machine


async def busy(shopper: Shopper, seconds: int = 60, **changes: object) -> bytes:
    """Take a unit for so long; returns the agreement."""
    quote = await shopper.until_quoted(await shopper.want(seconds, **changes))
    return await shopper.take(quote)


def outcomes(machine: Machine) -> dict[str, str]:
    """By demand, in hex, what became of the quote for it."""
    assert machine.control is not None
    return {row["demand"]: row["outcome"] for row in machine.control.selling.quotes()}


# The queue.


async def test_a_demand_that_finds_no_unit_waits_and_gets_the_next(
    autojump_clock: MockClock,
) -> None:
    async with open_world(11) as world:
        machine = await shop_of(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        await busy(ann, 30)
        demand = await bob.want(30, expires_at_s=int(world.clock.now()) + 90)
        await trio.sleep(10)
        assert machine.control is not None
        (row,) = machine.control.selling.queue()
        assert (row["demand"], row["starts"]) == (demand.demand_id.hex(), False)
        assert bob.price(demand) is None
        wait_s = machine.control.selling.status()["kinds"][0]["wait_s"]
        before = world.clock.now()
        quote = await bob.until_quoted(demand, 90)
        waited = world.clock.now() - before
        assert quote.terms.money.price_per_hour == MILLION
        assert waited <= wait_s + 30, "the queue ahead of a newcomer is this one demand"
        assert machine.control.selling.queue() == []


@pytest.mark.parametrize(("policy", "winner"), [("fcfs", "old"), ("priority", "urgent")])
async def test_the_policy_orders_those_that_wait(
    policy: str, winner: str, autojump_clock: MockClock
) -> None:
    async with open_world(12) as world:
        await shop_of(world, policy=policy)
        ann, old, urgent = await open_shoppers(world, "ann", "old", "urgent")
        await busy(ann, 30)
        until = int(world.clock.now()) + 60
        first = await old.want(20, expires_at_s=until)
        await trio.sleep(3)
        second = await urgent.want(20, priority=5, expires_at_s=until)
        await trio.sleep(40)
        quoted = {"old": old.price(first), "urgent": urgent.price(second)}
        assert {name for name, asked in quoted.items() if asked} == {winner}


async def test_a_renewed_demand_keeps_its_place(autojump_clock: MockClock) -> None:
    async with open_world(13) as world:
        await shop_of(world)
        ann, old, new = await open_shoppers(world, "ann", "old", "new")
        await busy(ann, 40)
        now = int(world.clock.now())
        first = await old.want(20, expires_at_s=now + 15)
        await trio.sleep(5)
        second = await new.want(20, expires_at_s=now + 90)
        await trio.sleep(8)
        again = renewed(first, 1, world.clock.now())
        await old.say(again)
        await old.until_quoted(again, 60)
        assert new.price(second) is None


async def test_backfill_fills_a_gap_but_never_delays_the_head(autojump_clock: MockClock) -> None:
    async with open_world(14) as world:
        await shop_of(world, units=2)
        ann, wide, short, long = await open_shoppers(world, "ann", "wide", "short", "long")
        await busy(ann, 40)
        until = int(world.clock.now()) + 100
        head = await wide.want(20, units=2, expires_at_s=until)
        await trio.sleep(3)
        gap = await short.want(10, expires_at_s=until)
        too_long = await long.want(80, expires_at_s=until)
        await short.until_quoted(gap, 5)
        await short.release(short.quotes[gap.demand_id][0])
        await wide.until_quoted(head, 60)
        assert long.price(too_long) is None, "it would have held a unit that the head needs"


async def test_fair_remembers_who_had_the_units(autojump_clock: MockClock) -> None:
    async with open_world(15) as world:
        machine = await shop_of(world, policy="fair")
        greedy, modest = await open_shoppers(world, "greedy", "modest")
        await busy(greedy, 30)
        until = int(world.clock.now()) + 80
        more = await greedy.want(20, expires_at_s=until)
        await trio.sleep(5)
        some = await modest.want(20, expires_at_s=until)
        await machine.crash()  # what was used is in the journal
        await machine.start()
        await trio.sleep(1)
        for shopper, demand in ((greedy, more), (modest, some)):
            await shopper.say(demand)
        await modest.until_quoted(some, 60)
        assert greedy.price(more) is None


# Price by competition.


async def bid_for_one_unit(bids: dict[str, int], seed: int = 21) -> dict[str, int | None]:
    """What each of several requesters, at once, is asked for the only unit; None: nothing."""
    async with open_world(seed) as world:
        await shop_of(world)
        shoppers = await open_shoppers(world, *bids)
        demands = [
            await shopper.want(30, bid=bid)
            for shopper, bid in zip(shoppers, bids.values(), strict=True)
        ]
        await trio.sleep(3)
        return {s.name: s.price(d) for s, d in zip(shoppers, demands, strict=True)}


async def test_the_highest_bid_wins_and_pays_the_best_losing_bid(
    autojump_clock: MockClock,
) -> None:
    bids = {"a": 1_500_000, "b": 3_000_000, "c": 2_200_000}
    assert await bid_for_one_unit(bids) == {"a": None, "b": 2_200_000, "c": None}


async def test_without_a_rival_the_ask_is_paid(autojump_clock: MockClock) -> None:
    assert await bid_for_one_unit({"a": 3_000_000}) == {"a": MILLION}
    assert await bid_for_one_unit({"a": 3_000_000, "b": MILLION - 1}) == {"a": MILLION, "b": None}


@pytest.mark.parametrize("lie", [MILLION, 1_900_000, 2_100_000, 2_600_000, 9_000_000])
async def test_bidding_the_truth_is_best(lie: int, autojump_clock: MockClock) -> None:
    """Whatever b bids instead of what it is worth to it, it does not come off better."""
    worth = 2_500_000

    def gain(answer: dict[str, int | None]) -> int:
        asked = answer["b"]
        return 0 if asked is None else worth - asked

    others = {"a": 1_500_000, "c": 2_000_000}
    truth = gain(await bid_for_one_unit({**others, "b": worth}))
    assert truth == 500_000
    assert gain(await bid_for_one_unit({**others, "b": lie})) <= truth
    dearer = {"a": 1_500_000, "c": 2_600_000}
    assert gain(await bid_for_one_unit({**dearer, "b": worth})) == 0
    assert gain(await bid_for_one_unit({**dearer, "b": lie})) <= 0


async def test_who_could_have_another_unit_does_not_drive_the_price(
    autojump_clock: MockClock,
) -> None:
    async with open_world(22) as world:
        for name in ("one", "two"):
            await world.add(name, units=1, price=MILLION).start()
        await trio.sleep(8)  # each has heard of the other
        shoppers = await open_shoppers(world, "a", "b")
        demands = [await shopper.want(30, bid=3 * MILLION) for shopper in shoppers]
        await trio.sleep(3)
        heard = [s.price(d) for s, d in zip(shoppers, demands, strict=True)]
        assert {price for price in heard if price is not None} == {MILLION}


# What the owner changes.


async def test_price_and_policy_change_without_a_restart(autojump_clock: MockClock) -> None:
    async with open_world(31) as world:
        machine = await shop_of(world, units=2)
        ann, bob = await open_shoppers(world, "ann", "bob")
        assert machine.control is not None
        assert machine.selling is not None
        held = await ann.until_quoted(await ann.want(30, bid=5 * MILLION))
        dearer = replace(machine.selling, price_per_hour=4 * MILLION, policy="cost")
        machine.control.selling.reconfigure(dearer)
        quote = await bob.until_quoted(await bob.want(30, bid=5 * MILLION))
        assert held.terms.money.price_per_hour == MILLION
        assert quote.terms.money.price_per_hour == 4 * MILLION
        assert machine.control.selling.status()["policy"] == "cost"
        await ann.take(held)


async def test_a_paused_shop_answers_nobody_even_after_a_crash(autojump_clock: MockClock) -> None:
    async with open_world(32) as world:
        machine = await shop_of(world)
        (ann,) = await open_shoppers(world, "ann")
        assert machine.control is not None
        await machine.control.selling.pause()
        demand = await ann.want(30)
        await trio.sleep(5)
        await machine.crash()
        await machine.start()
        await trio.sleep(5)
        assert ann.price(demand) is None
        assert machine.control is not None
        assert machine.control.selling.status()["mode"] == "paused"
        await machine.control.selling.resume()
        await ann.say(renewed(demand, 1, world.clock.now()))
        await trio.sleep(3)
        assert [len(quotes) for quotes in ann.quotes.values()] == [1]


async def test_a_drained_shop_lets_what_runs_end(autojump_clock: MockClock) -> None:
    async with open_world(33) as world:
        machine = await shop_of(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        id_ = await busy(ann, 30)
        assert machine.control is not None
        await machine.control.selling.drain()
        demand = await bob.want(20)
        await trio.sleep(10)
        assert not machine.control.selling.status()["drained"]
        await trio.sleep(40)
        assert machine.control.selling.status()["drained"]
        assert ann.beats[id_].report.work.value == "exited"
        assert bob.price(demand) is None


async def test_each_kind_of_units_has_its_price(autojump_clock: MockClock) -> None:
    async with open_world(34) as world:
        prices = (UnitPrice("H100", 81_920, 5 * MILLION),)
        machine = world.add("shop", units=2, price=MILLION)
        assert machine.selling is not None
        machine.selling = replace(machine.selling, prices=prices)
        machine.devices = SimDevices(0, (("CPU", 2048, 1), ("H100", 81_920, 1)))
        await machine.start()
        await trio.sleep(1)
        assert machine.control is not None
        rows = machine.control.selling.status()["kinds"]
        asked = {row["name"]: row["wares"][0]["dph"] for row in rows}
        assert asked == {"CPU": "1", "H100": "5"}
        (ann,) = await open_shoppers(world, "ann")
        quote = await ann.until_quoted(await ann.want(30))
        assert (quote.offer.gpu_name, quote.terms.units) == ("CPU", 1)


@pytest.mark.parametrize(("placement", "whole"), [("fgd", True), ("spread", False)])
async def test_placement_keeps_a_group_whole_for_the_usual_demand(
    placement: str, whole: bool, autojump_clock: MockClock
) -> None:
    """Sixteen units in two groups, and a market that asks for eight: singles share a group."""
    async with open_world(35) as world:
        await shop_of(world, units=16, placement=placement)
        (ann,) = await open_shoppers(world, "ann")
        for _ in range(3):
            eight = await ann.until_quoted(await ann.want(30, units=8))
            await ann.release(eight)
        singles = [(await ann.until_quoted(await ann.want(30))).terms.units for _ in range(2)]
        groups = {units.bit_length() > 8 for units in singles}
        assert (len(groups) == 1) is whole


# What was quoted, and why it was won or lost.


async def test_the_outcome_of_each_quote_is_kept(autojump_clock: MockClock) -> None:
    async with open_world(41) as world:
        machine = await shop_of(world, units=3)
        ann, bob, cid = await open_shoppers(world, "ann", "bob", "cid")
        wanted = [await shopper.want(30) for shopper in (ann, bob, cid)]
        quotes = [await s.until_quoted(d) for s, d in zip((ann, bob, cid), wanted, strict=True)]
        assert set(outcomes(machine).values()) == {"waiting"}
        await ann.take(quotes[0])
        await bob.release(quotes[1])
        await trio.sleep(30)
        told = outcomes(machine)
        assert [told[d.demand_id.hex()] for d in wanted] == ["won", "lost", "expired"]
        await machine.crash()
        await machine.start()
        assert outcomes(machine) == told


async def test_quotes_tell_the_truth_about_the_image(autojump_clock: MockClock) -> None:
    async with open_world(42) as world:
        machine = await shop_of(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        first = await ann.until_quoted(await ann.want(20))
        assert not first.image_cached
        await ann.take(first)
        await trio.sleep(40)
        demand = await bob.want(20)
        second = await bob.until_quoted(demand)
        assert second.image_cached
        assert second.offer.cached_images == (demand.image,)
        await machine.blobs.discard(demand.image)
        await bob.release(second)
        await trio.sleep(6)
        third = await ann.until_quoted(await ann.want(20))
        assert not third.image_cached


async def test_who_has_no_deposit_holds_nothing(autojump_clock: MockClock) -> None:
    async with open_world(43) as world:
        await shop_of(world)
        (ann,) = await open_shoppers(world, "ann")
        world.ledger.free[ann.wallet] = 0
        world.minted -= 100 * MILLION
        demand = await ann.want(30)
        await trio.sleep(4)
        assert ann.price(demand) is None
        world.ledger.deposit(ann.wallet, MILLION)
        world.minted += MILLION
        await ann.until_quoted(demand, 12)


async def test_a_machine_that_lets_code_out_sells_nothing_and_says_why(
    autojump_clock: MockClock,
) -> None:
    async with open_world(77) as world:
        machine = world.add("shop", units=1, price=MILLION)
        open_door = Check("escape 1", False, True, "mount got through", "update the runtime")
        advice = Check("kernel settings", False, False, "could be stricter", "sysctl")
        machine.sandbox.checks = (open_door, advice)
        buyer = world.add("buyer")
        for each in world.machines.values():
            await each.start()
        await trio.sleep(30)
        assert machine.control is not None
        assert buyer.control is not None
        assert buyer.control.market.offers() == []
        status = machine.control.selling.status()
        assert status["unfit"] == [
            {"check": "escape 1", "found": "mount got through", "fix": "update the runtime"}
        ]
