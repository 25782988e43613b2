"""Bandwidth between simulated nodes: what is measured, lent, refused and offered."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.codec import decode, encode
from market.limits import FLOW_BYTES, FLOW_S, FLOWS_PER_HOUR
from market.messages import Flow, Flowing
from node.bandwidth import PIECE_BYTES, PROTOCOL
from tests.simulation.network import SimLink
from tests.simulation.world import Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def certified(world: World, helpers: int) -> Machine:
    """A provider that measured its unit, and its line with so many others."""
    provider = world.add("provider", units=1, price=3_600_000)
    for machine in [provider, *(world.add(f"helper{n}") for n in range(helpers))]:
        await machine.start()
    await trio.sleep(5)
    assert provider.control is not None
    await provider.control.certificates.certify()
    return provider


def own(provider: Machine) -> dict[str, float]:
    assert provider.control is not None
    (row,) = provider.control.certificates.all()["own"]
    return {name: row[name] for name in ("inet_down", "inet_up")}


async def test_the_line_is_measured_with_all_who_help_and_offered(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        provider = await certified(world, helpers=1)
        alone = own(provider)
        # A simulated peer takes 20 ms for a frame.
        assert alone["inet_down"] == pytest.approx(PIECE_BYTES * 8 / 0.02 / 1e6, rel=0.2)
        assert alone["inet_up"] > 10
        assert provider.control is not None
        await trio.sleep(5)
        (offer,) = provider.control.market.offers()
        assert (offer["inet_up"], offer["inet_down"]) == (alone["inet_up"], alone["inet_down"])
    async with open_world(1) as world:
        three = own(await certified(world, helpers=3))
        assert three["inet_down"] > 2 * alone["inet_down"]


async def test_nobody_there_is_not_a_line_without_speed(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        provider = await certified(world, helpers=0)
        assert own(provider) == {"inet_down": 0, "inet_up": 0}
        assert provider.control is not None
        await trio.sleep(5)
        (offer,) = provider.control.market.offers()
        assert offer["inet_down"] == 100  # what is stated where nothing is known


def link_of(machine: Machine) -> SimLink:
    """Its node's own."""
    return machine.world.wire.nodes[machine.signer.peer]


async def _ask(asker: Machine, lender: Machine, frame: bytes) -> str | None:
    async with link_of(asker).open(lender.signer.peer, PROTOCOL) as channel:
        await channel.send(frame)
        said = await channel.receive()
        return None if said is None else decode(Flowing, said).code


async def test_a_line_is_lent_a_few_times_an_hour_and_one_at_a_time(
    autojump_clock: MockClock,
) -> None:
    async with open_world(1) as world:
        lender, asker = world.add("lender"), world.add("asker")
        await lender.start()
        await asker.start()
        assert await _ask(asker, lender, b"\xff") is None
        assert await _ask(asker, lender, encode(Flow(True, 0))) == "busy"
        assert await _ask(asker, lender, encode(Flow(True, FLOW_BYTES + 1))) == "busy"
        async with link_of(asker).open(lender.signer.peer, PROTOCOL) as channel:
            await channel.send(encode(Flow(True, FLOW_BYTES)))
            assert decode(Flowing, await channel.receive() or b"").code == ""
            assert await _ask(asker, lender, encode(Flow(True, 1))) == "busy"
        await trio.sleep(3 * FLOW_S)  # one who never reads on does not hold it for ever
        answers = []
        for _ in range(FLOWS_PER_HOUR):
            answers.append(await _ask(asker, lender, encode(Flow(True, 1))))
            await trio.sleep(1)
        assert answers == [""] * (FLOWS_PER_HOUR - 1) + ["busy"]
        await trio.sleep(3600)
        assert await _ask(asker, lender, encode(Flow(False, 1))) == ""
