"""A private image: its requester's node passes it on, and nobody else's job runs on it."""

from __future__ import annotations

import hashlib

import pytest
import trio
from trio.testing import MockClock

from market.errors import UnreachableError
from market.job import Job, JobState
from tests.simulation.registry import SimRegistry
from tests.simulation.test_pulling import DIGEST, IMAGE, LAYERS, filled, submit
from tests.simulation.world import IMAGE as IMAGE_OF_ANN
from tests.simulation.world import Machine, World, open_world

CLOSED = "example.org"


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


async def _up(world: World, *without: str) -> dict[str, Machine]:
    """A provider and three requesters; those named have no credentials for the registry."""
    world.registry = SimRegistry(CLOSED)
    filled(world)
    found = {name: world.add(name) for name in ("ann", "bob", "eve")}
    found["shop"] = world.add("shop", units=1, price=3_600_000)
    for name, machine in found.items():
        if name in without:
            machine.registry = world.registry.for_others()
        await machine.start()
    await trio.sleep(10)
    return found


async def _run(world: World, machine: Machine, **changes: object) -> Job:
    return await world.until_over(machine, await submit(machine, **changes), 400)


async def test_its_requester_passes_it_on_and_credentials_stay_at_home(
    autojump_clock: MockClock,
) -> None:
    async with open_world(121) as world:
        nodes = await _up(world, "shop")
        job = await _run(world, nodes["ann"])
        assert job.state is JobState.SUCCEEDED, world.tell()
        assert job.manifest.image.hash == DIGEST
        for part in LAYERS:
            assert world.registry.asked.count(hashlib.sha256(part).hexdigest()) == 1
        shop = nodes["shop"].control
        assert shop is not None
        (row,) = await shop.images.all()
        assert (row["complete"], row["open"]) == (True, False)
        assert (await _run(world, nodes["ann"])).state is JobState.SUCCEEDED


async def test_a_provider_s_own_credentials_are_not_for_strangers(
    autojump_clock: MockClock,
) -> None:
    async with open_world(122) as world:
        nodes = await _up(world, "eve")
        job = await _run(world, nodes["eve"], image=IMAGE.path)
        assert job.state is JobState.FAILED_SETUP
        assert "wants a name and a password" in job.reason


async def test_whoever_knows_only_its_hash_does_not_run_on_it(autojump_clock: MockClock) -> None:
    async with open_world(123) as world:
        nodes = await _up(world, "shop", "eve")
        assert (await _run(world, nodes["ann"])).state is JobState.SUCCEEDED
        job = await _run(world, nodes["eve"], image=IMAGE.path)
        assert job.state is JobState.FAILED_SETUP
        assert "the image here is another requester's" in job.reason
        assert not nodes["shop"].sandbox.ran or len(nodes["shop"].sandbox.ran) == 1
        # Who has it, too, need not send it again.
        before = world.registry.asked.copy()
        job = await _run(world, nodes["bob"])
        assert job.state is JobState.SUCCEEDED, world.tell()
        fetched = [a for a in world.registry.asked[len(before) :] if len(a) == 64]
        assert len(fetched) == 3, "configuration and layers, by its own node only"


async def test_a_provider_waits_for_what_is_on_its_way(autojump_clock: MockClock) -> None:
    async with open_world(124) as world:
        there = trio.Event()

        class Slow(SimRegistry):
            """Keeps the second layer back."""

            def blob(self, reference, digest, offset):  # type: ignore[no-untyped-def]
                if digest == hashlib.sha256(LAYERS[1]).digest() and not there.is_set():
                    raise UnreachableError("not yet")
                return super().blob(reference, digest, offset)

        nodes = await _up(world, "shop")
        ann = nodes["ann"]
        ann.registry = object.__new__(Slow)
        ann.registry.__dict__.update(world.registry.__dict__)
        await ann.crash()
        await ann.start()
        await trio.sleep(10)
        job_id = await submit(ann)
        await trio.sleep(30)
        assert world.job(ann, job_id).state is JobState.STARTING
        await ann.crash()  # what is on its way follows from the job, not from a memory
        await ann.start()
        await trio.sleep(100)
        assert world.job(ann, job_id).state is JobState.STARTING, world.tell()
        there.set()
        job = await world.until_over(ann, job_id, 200)
        assert (job.state, len(job.attempts)) == (JobState.SUCCEEDED, 1), world.tell()


async def test_a_claim_that_failed_is_no_key_to_an_archive(autojump_clock: MockClock) -> None:
    """Its hash is in demands: who only knows it asks before it is there, and after."""
    async with open_world(125) as world:
        nodes = await _up(world)
        ann, eve = nodes["ann"], nodes["eve"]

        async def claimed() -> Job:
            job_id = await world.submit(eve, "work 4", job_recovery={"max_attempts": 1})
            await eve.blobs.discard(hashlib.sha256(IMAGE_OF_ANN).digest())
            return await world.until_over(eve, job_id, 200)

        assert (await claimed()).state is JobState.FAILED_SETUP
        job = await world.until_over(ann, await world.submit(ann, "work 4"), 200)
        assert job.state is JobState.SUCCEEDED
        job = await claimed()
        assert job.state is JobState.FAILED_SETUP
        assert "the image here is another requester's" in job.reason
        assert (await world.until_over(ann, await world.submit(ann, "work 4"), 200)).exit_code == 0
