"""Tunnels between simulated nodes: who may, to what, and what both ends see."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from market.codec import decode, encode
from market.errors import MarketError, RefusedError, SpecError, UnreachableError
from market.job import JobState
from market.limits import TUNNELS_PER_PEER_MAX
from market.messages import Dial, Dialled
from tests.simulation.world import Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def serving(
    seed: int, command: str = "work 300 serve 8000"
) -> AsyncIterator[tuple[World, Machine, Machine, bytes]]:
    """A provider, a requester, and the requester's job that echoes on port 8000."""
    async with open_world(seed) as world:
        provider, buyer = world.add("provider", units=1, price=3_600_000), world.add("buyer")
        for machine in (provider, buyer):
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(buyer, command, ports=["8000", "9000"])
        with trio.fail_after(100):
            while world.job(buyer, job_id).state is not JobState.RUNNING:
                await trio.sleep(1)
        yield world, provider, buyer, job_id


async def echoed(machine: Machine, job_id: bytes, data: bytes) -> bytes:
    """What comes back through a tunnel."""
    assert machine.control is not None
    found = bytearray()
    async with machine.control.tunnels.open(job_id, 8000, lambda _: None) as channel:
        await channel.send(data)
        await channel.send(b"")
        while frame := await channel.receive():
            found += frame
        assert frame == b""  # an end, not a broken line
    return bytes(found)


async def test_what_is_sent_comes_back_and_both_ways_end(autojump_clock: MockClock) -> None:
    async with serving(1) as (_, _, buyer, job_id):
        assert await echoed(buyer, job_id, b"hello") == b"hello"
        async with trio.open_nursery() as nursery:
            for _ in range(2 * TUNNELS_PER_PEER_MAX):  # more than there may be: they take turns
                nursery.start_soon(echoed, buyer, job_id, b"many")


async def test_nobody_else_and_no_other_port(autojump_clock: MockClock) -> None:
    async with serving(2) as (world, provider, buyer, job_id):
        stranger = world.add("stranger")
        await stranger.start()
        agreement = world.job(buyer, job_id).agreement

        async def dialled(machine: Machine, dial: Dial) -> Dialled:
            assert machine.control is not None
            link = machine.control.ports.link
            async with link.open(provider.signer.peer, "tunnel") as channel:
                await channel.send(encode(dial))
                return decode(Dialled, await channel.receive() or b"")

        assert (await dialled(stranger, Dial(agreement, 8000))).code == "refused"
        assert (await dialled(buyer, Dial(bytes(32), 8000))).code == "refused"
        assert (await dialled(buyer, Dial(agreement, 22))).code == "refused"
        assert (await dialled(buyer, Dial(agreement, 9000))).code == "not-listening"
        assert (await dialled(buyer, Dial(agreement, 8000))).code == ""
        assert buyer.control is not None
        with pytest.raises(SpecError, match="names no port 22"):
            async with buyer.control.tunnels.open(job_id, 22, lambda _: None):
                pass
        for junk in (b"", b"junk", bytes(200)):
            assert stranger.control is not None
            link = stranger.control.ports.link
            async with link.open(provider.signer.peer, "tunnel") as channel:
                await channel.send(junk)
                assert await channel.receive() is None


async def test_a_port_that_is_not_open_yet_is_waited_for(autojump_clock: MockClock) -> None:
    async with serving(3, "work 300") as (_, provider, buyer, job_id):
        told: list[str] = []
        assert buyer.control is not None
        (work,) = provider.sandbox.work.values()

        async def later() -> None:
            await trio.sleep(5)
            manifest = work.workspace.manifest
            object.__setattr__(manifest, "command", f"{manifest.command} serve 8000")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            async with buyer.control.tunnels.open(job_id, 8000, told.append) as channel:
                await channel.send(b"")
        assert set(told) == {"nothing listens on port 8000 in the job yet"}


async def test_a_provider_that_dies_breaks_the_line_and_the_next_is_found(
    autojump_clock: MockClock,
) -> None:
    async with serving(4) as (world, provider, buyer, job_id):
        assert buyer.control is not None
        told: list[str] = []
        tunnels = buyer.control.tunnels
        broke = False
        try:
            async with tunnels.open(job_id, 8000, told.append) as channel:
                await provider.crash()
                broke = await channel.receive() is None  # no empty frame: it broke, it did not end
        except UnreachableError:
            broke = True
        assert broke
        second = world.add("second", units=1, price=3_600_000)
        await second.start()
        with trio.fail_after(300):
            async with buyer.control.tunnels.open(job_id, 8000, told.append) as channel:
                await channel.send(b"again")
                assert await channel.receive() == b"again"
        assert any("does not answer" in text for text in told)
        assert any(text.startswith("the job is") for text in told)


async def test_a_job_that_is_over_is_said_to_be(autojump_clock: MockClock) -> None:
    async with serving(5, "work 3 serve 8000") as (world, _, buyer, job_id):
        await world.until_over(buyer, job_id, 100)
        assert buyer.control is not None
        with pytest.raises(RefusedError, match="over: SUCCEEDED"):
            async with buyer.control.tunnels.open(job_id, 8000, lambda _: None):
                raise MarketError("never")  # pragma: no cover
