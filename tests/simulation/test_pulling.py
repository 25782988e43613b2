"""Images between simulated nodes: from a registry once, from peers afterwards, to nobody else's."""

from __future__ import annotations

import gzip
import hashlib
import random

import pytest
import trio
from trio.testing import MockClock

from market.errors import IntegrityError, NotFoundError, SpecError, UnreachableError
from market.job import JobState
from market.terms import Artifact
from tests.adapters.registry.server import make_manifest
from tests.simulation.registry import SimRegistry
from tests.simulation.world import Machine, World, open_world

CONFIG = b'{"config": {}}'
LAYERS = (gzip.compress(random.Random(5).randbytes(300_000)), random.Random(6).randbytes(900_000))
MANIFEST = make_manifest(CONFIG, (LAYERS[0], "tar+gzip"), (LAYERS[1], "tar"))
DIGEST = hashlib.sha256(MANIFEST).digest()
SIZE = len(MANIFEST) + len(CONFIG) + sum(map(len, LAYERS))
IMAGE = Artifact(f"example.org/org/x@sha256:{DIGEST.hex()}", DIGEST, SIZE)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def raw(**changes: object) -> dict[str, object]:
    """A job file with an image of the registry."""
    return {
        "name": "job", "image": "example.org/org/x:1", "run": "work 4",
        "resources": {"accelerators": "CPU:1"}, "outputs": ["/out"], "max_hourly_cost": "3.6",
        "max_duration": "10m", **changes,
    }  # fmt: skip


async def submit(machine: Machine, **changes: object) -> bytes:
    assert machine.control is not None
    return bytes.fromhex(await machine.control.jobs.submit(raw(**changes), None, (), {}))


async def market(world: World) -> tuple[Machine, Machine]:
    """A provider and a requester, both up."""
    provider, requester = world.add("provider", units=1, price=3_600_000), world.add("buyer")
    for machine in (provider, requester):
        await machine.start()
    return provider, requester


def filled(world: World) -> SimRegistry:
    world.registry.put("org/x", "1", MANIFEST, CONFIG, *LAYERS)
    return world.registry


async def test_a_job_runs_with_an_image_of_a_registry(autojump_clock: MockClock) -> None:
    async with open_world(1) as world:
        registry = filled(world)
        provider, requester = (
            world.add("provider", units=1, price=3_600_000),
            world.add("requester"),
        )
        for machine in (provider, requester):
            await machine.start()
        await trio.sleep(10)
        job_id = await submit(requester)
        job = await world.until_over(requester, job_id, 120)
        assert job.state is JobState.SUCCEEDED, world.tell()
        assert job.manifest.image.hash == DIGEST  # the tag was pinned when it was submitted
        assert job.manifest.image.size_bytes == SIZE
        assert job.manifest.image.path == f"example.org/org/x:1@sha256:{DIGEST.hex()}"
        # Fetched once each, by the provider; the requester has only read the manifest.
        for part in LAYERS:
            assert registry.asked.count(hashlib.sha256(part).hexdigest()) == 1
            assert await provider.blobs.size(hashlib.sha256(part).digest()) == len(part)
            assert await requester.blobs.size(hashlib.sha256(part).digest()) is None
        # It is announced, and the next job with it fetches nothing.
        await trio.sleep(10)
        assert requester.control is not None
        before = world.registry.asked.copy()
        second = await world.until_over(requester, await submit(requester), 120)
        assert second.state is JobState.SUCCEEDED
        assert [a for a in registry.asked if len(a) == 64] == [a for a in before if len(a) == 64]


async def test_peers_give_what_the_registry_gave_them(autojump_clock: MockClock) -> None:
    async with open_world(2) as world:
        registry = filled(world)
        first, second = (world.add(name, units=1, price=3_600_000) for name in ("one", "two"))
        for machine in (first, second):
            await machine.start()
        assert first.control is not None
        await first.control.images.pull("example.org/org/x:1")
        await trio.sleep(15)  # it is announced
        world.registry._blobs = {DIGEST: MANIFEST}  # the registry loses all but the manifest
        before = len(registry.asked)
        assert second.control is not None
        done = await second.control.images.pull("example.org/org/x:1")
        assert done["digest"] == f"sha256:{DIGEST.hex()}"
        assert [a for a in registry.asked[before:] if len(a) == 64] == []
        rows = await second.control.images.all()
        assert rows[0]["complete"]
        assert rows[0]["open"]
        assert rows[0]["here_bytes"] == SIZE


async def test_what_came_with_credentials_is_not_passed_on(autojump_clock: MockClock) -> None:
    async with open_world(3) as world:
        world.registry = SimRegistry("example.org")
        filled(world)
        first, second = (world.add(name, units=1, price=3_600_000) for name in ("one", "two"))
        for machine in (first, second):
            await machine.start()
        assert first.control is not None
        assert second.control is not None
        await first.control.images.pull("example.org/org/x:1")
        await trio.sleep(15)
        world.registry._blobs = {DIGEST: MANIFEST}
        with pytest.raises((NotFoundError, UnreachableError)):
            await second.control.images.pull("example.org/org/x:1")


async def test_a_peer_s_wrong_bytes_cost_nothing_but_time(autojump_clock: MockClock) -> None:
    async with open_world(4) as world:
        filled(world)
        first, second = (world.add(name, units=1, price=3_600_000) for name in ("one", "two"))
        for machine in (first, second):
            await machine.start()
        assert first.control is not None
        assert second.control is not None
        await first.control.images.pull("example.org/org/x:1")
        await trio.sleep(15)
        evil = hashlib.sha256(LAYERS[1]).digest()
        first.blobs._kept[evil] = (bytes(len(LAYERS[1])), True)
        await second.control.images.pull("example.org/org/x:1")
        assert (await second.control.images.all())[0]["complete"]
        assert await second.blobs.read(evil, 0, 10) == LAYERS[1][:10]


async def test_wrong_bytes_of_a_registry_are_refused(autojump_clock: MockClock) -> None:
    async with open_world(5) as world:
        registry = filled(world)
        registry._blobs[hashlib.sha256(LAYERS[1]).digest()] = bytes(len(LAYERS[1]))
        machine = world.add("one", units=1, price=3_600_000)
        await machine.start()
        assert machine.control is not None
        with pytest.raises(IntegrityError):
            await machine.control.images.pull("example.org/org/x:1")
        registry._blobs[hashlib.sha256(LAYERS[1]).digest()] = LAYERS[1] + b"more"
        with pytest.raises(IntegrityError):
            await machine.control.images.pull("example.org/org/x:1")


async def test_what_is_needed_stays_and_the_rest_can_be_pruned(autojump_clock: MockClock) -> None:
    async with open_world(6) as world:
        filled(world)
        provider, requester = (
            world.add("provider", units=1, price=3_600_000),
            world.add("requester"),
        )
        for machine in (provider, requester):
            await machine.start()
        await trio.sleep(10)
        job_id = await submit(requester, run="work 60")
        with trio.fail_after(60):
            while world.job(requester, job_id).state is not JobState.RUNNING:
                await trio.sleep(1)
        assert provider.control is not None
        assert (await provider.control.images.prune())["removed"] == []
        # A disk full of other things gives way before the live job's image does.
        provider.blobs._bytes_max = SIZE + 600_000
        for number in range(8):
            await provider.blobs.put(random.Random(number).randbytes(200_000))
        assert await provider.blobs.size(hashlib.sha256(LAYERS[1]).digest()) == len(LAYERS[1])
        await world.until_over(requester, job_id, 200)
        await world.until_settled(120)
        done = await provider.control.images.prune()
        assert done["removed"]
        assert done["freed_bytes"] >= sum(map(len, LAYERS))
        assert await provider.blobs.size(hashlib.sha256(LAYERS[1]).digest()) is None
        await provider.blobs.put(b"x")


async def test_a_tag_that_is_not_there_is_said_before_anything_is_asked(
    autojump_clock: MockClock,
) -> None:
    async with open_world(7) as world:
        requester = world.add("requester")
        await requester.start()
        with pytest.raises(NotFoundError):
            await submit(requester, image="example.org/org/x:9")
        with pytest.raises(SpecError):
            await submit(requester, image="Not An Image")


async def test_how_far_it_is_can_be_read(autojump_clock: MockClock) -> None:
    async with open_world(8) as world:
        filled(world)
        provider, requester = (
            world.add("provider", units=1, price=3_600_000),
            world.add("requester"),
        )
        for machine in (provider, requester):
            await machine.start()
        await trio.sleep(10)
        slow = trio.Event()

        class Slow(SimRegistry):
            """Keeps the second layer back."""

            def blob(self, reference, digest, offset):  # type: ignore[no-untyped-def]
                if digest == hashlib.sha256(LAYERS[1]).digest() and not slow.is_set():
                    raise UnreachableError("not yet")
                return super().blob(reference, digest, offset)

        world.registry.__class__ = Slow
        job_id = await submit(requester)
        reasons: set[str] = set()
        with trio.fail_after(120):
            while not any("not yet" in reason for reason in reasons):
                reasons.add(world.job(requester, job_id).reason)
                await trio.sleep(0.5)
        slow.set()
        job = await world.until_over(requester, job_id, 120)
        assert job.state is JobState.SUCCEEDED, world.tell()
        assert len(job.history) < 10
