"""Holds, and terms that outlive them: opened on chain too late, or while the node is down."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from tests.simulation.shopper import open_shoppers
from tests.simulation.test_selling import shop_of
from tests.simulation.world import MILLION, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def test_who_opens_terms_whose_hold_ran_out_breaks_nothing(
    autojump_clock: MockClock,
) -> None:
    """The only unit is promised to another by then. The late one is closed again."""
    async with open_world(44) as world:
        machine = await shop_of(world)
        eve, bob = await open_shoppers(world, "eve", "bob")
        late = await eve.until_quoted(await eve.want(30))
        hold_s = late.hold_until_s - world.clock.now()
        await trio.sleep(hold_s + 1)
        held = await bob.until_quoted(await bob.want(30), 5)
        assert held.terms.units == late.terms.units
        await eve.open(late)
        await trio.sleep(3)
        assert machine.up
        assert machine.control is not None
        assert machine.control.selling.status()["kinds"][0]["free"] == 0
        with pytest.raises(AssertionError, match="UnitsTaken"):
            await bob.take(held)
        await trio.sleep(60)
        await world.until_settled(120)
        assert (world.ledger.burned, machine.sandbox.overlaps) == (0, [])
        await bob.take(await bob.until_quoted(await bob.want(20)))
        world.check_money()


async def test_a_provider_that_was_down_hears_of_the_opening_before_it_sells_again(
    autojump_clock: MockClock,
) -> None:
    async with open_world(45) as world:
        machine = await shop_of(world)
        ann, bob = await open_shoppers(world, "ann", "bob")
        quote = await ann.until_quoted(await ann.want(120))
        id_ = await ann.accept(quote)
        await machine.crash()
        await ann.open(quote)
        await trio.sleep(50)  # past the last second in which it may be opened
        demand, _ = bob.demand(30, 2 * MILLION)
        await machine.start()
        await bob.say(demand)
        await trio.sleep(5)
        assert machine.control is not None
        phases = {row["id"]: row["phase"] for row in machine.control.money.agreements()}
        assert phases[id_.hex()] == "running"
        assert bob.price(demand) is None
