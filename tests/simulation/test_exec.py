"""`souk exec` over whole nodes: the requester is let in, nobody else, and the code comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from market.codec import decode, encode
from market.errors import RefusedError
from market.job import Job, JobState
from market.messages import Execute, Executing
from node.ports import Channel, Terminal
from node.tunnels.execute import ERR, IN, OUT, PROTOCOL, exit_code, window
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def running(seed: int) -> AsyncIterator[tuple[World, Machine, Machine, Job]]:
    """A world in which a job runs: the world, its shop, its buyer, the job."""
    async with open_world(seed) as world:
        shop = world.add("shop", units=1, price=MILLION)
        buyer = world.add("buyer")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        job_id = await world.submit(buyer, "work 200")
        with trio.fail_after(60):
            while world.job(buyer, job_id).state is not JobState.RUNNING:
                await trio.sleep(1)
        await trio.sleep(3)
        yield world, shop, buyer, world.job(buyer, job_id)


async def frames(channel: Channel) -> list[bytes]:
    """Everything up to the exit code."""
    found = []
    with trio.fail_after(30):
        while (frame := await channel.receive()) is not None:
            found.append(frame)
            if exit_code(frame) is not None:
                break
    return found


async def test_the_requester_runs_programs_in_its_job(autojump_clock: MockClock) -> None:
    async with running(3) as (_, _, buyer, job):
        assert buyer.control is not None
        entrance = buyer.control.entrance
        async with entrance.open(job, ("warn", "from", "inside"), None) as channel:
            said = await frames(channel)
        assert said[0] == ERR + b"from inside\n"
        assert exit_code(said[-1]) == 0
        async with entrance.open(job, ("exit", "7"), None) as channel:
            assert [exit_code(frame) for frame in await frames(channel)] == [7]
        async with entrance.open(job, ("cat",), Terminal(80, 24)) as channel:
            await channel.send(window(Terminal(100, 30)))
            await channel.send(IN + b"typed")
            with trio.fail_after(30):
                assert await channel.receive() == OUT + b"typed"


async def test_nobody_else_is_let_in(autojump_clock: MockClock) -> None:
    async with running(4) as (world, shop, buyer, job):
        stranger = world.add("stranger")
        await stranger.start()
        await trio.sleep(10)
        assert stranger.control is not None
        asked = encode(Execute(job.agreement, ("echo", "hi"), 0, 0))
        link = stranger.control.ports.link
        async with link.open(shop.signer.peer, PROTOCOL) as channel:
            await channel.send(asked)
            said = decode(Executing, await channel.receive() or b"", size_max=1024)
        assert said.code == "refused"
        async with link.open(shop.signer.peer, PROTOCOL) as channel:
            await channel.send(b"\xff" * 100)
            assert await channel.receive() is None
        del buyer


async def test_a_job_that_does_not_run_cannot_be_entered(autojump_clock: MockClock) -> None:
    async with running(5) as (world, _, buyer, job):
        assert buyer.control is not None
        await buyer.control.jobs.cancel(job.id.hex())
        await world.until_over(buyer, job.id, 120)
        with pytest.raises(RefusedError, match="over"):
            async with buyer.control.entrance.open(world.job(buyer, job.id), ("echo",), None):
                pass
