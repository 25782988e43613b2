"""Artifacts over the simulated wire: resume, lies of size and content, and who may have what."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from market.codec import decode, encode
from market.errors import IntegrityError, LimitError, NotFoundError, UnreachableError
from market.limits import ARTIFACT_BYTES_MAX
from market.messages import Fetch, Fetched
from market.terms import Artifact
from node.artifacts import Artifacts, pull_all
from node.ports import Channel
from tests.simulation.memory import MemoryBlobs
from tests.simulation.network import SimLink, Wire

HERE, THERE, STRANGER = (bytes([n]) * 32 for n in (1, 2, 3))
DATA = random.Random(7).randbytes(1_300_000)
HASH = hashlib.sha256(DATA).digest()
WHOLE = Artifact("/out", HASH, len(DATA))


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


class Place:
    """One node's blobs and link; serves to `HERE` only."""

    def __init__(self, peer: bytes, wire: Wire) -> None:
        self.link = SimLink(peer, wire)
        self.blobs = MemoryBlobs()
        self.artifacts = Artifacts(self.link, self.blobs, lambda asker, _: asker == HERE)
        self.fetches: list[Fetch] = []
        self.link.accept("blob", self.artifacts.serve)


@asynccontextmanager
async def places() -> AsyncIterator[tuple[Place, Place, Place]]:
    wire = Wire(random.Random(1))
    found = tuple(Place(peer, wire) for peer in (HERE, THERE, STRANGER))
    async with trio.open_nursery() as nursery:
        for place in found:
            await nursery.start(place.link.run)
        yield found[0], found[1], found[2]
        nursery.cancel_scope.cancel()


def speaks(place: Place, *frames: bytes) -> None:
    """Make a place answer any fetch with these frames."""

    async def serve(channel: Channel) -> None:
        first = await channel.receive()
        assert first is not None
        place.fetches.append(decode(Fetch, first))
        for frame in frames:
            await channel.send(frame)

    place.link.accept("blob", serve)


async def test_a_blob_arrives_whole(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        await there.blobs.put(DATA)
        told: list[int] = []
        await here.artifacts.pull(THERE, WHOLE, told.append)
        assert await here.blobs.size(HASH) == len(DATA)
        assert await here.blobs.read(HASH, 1_000_000, 9) == DATA[1_000_000:1_000_009]
        assert told == sorted(told)
        assert told[-1] == len(DATA)


async def test_what_was_begun_goes_on(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        await here.blobs.append(HASH, 0, DATA[:700_000])
        speaks(there, encode(Fetched(len(DATA))), DATA[700_000:])
        await here.artifacts.pull(THERE, WHOLE)
        assert there.fetches == [Fetch(HASH, 700_000)]
        assert await here.blobs.size(HASH) == len(DATA)


async def test_a_broken_line_keeps_what_it_brought(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        speaks(there, encode(Fetched(len(DATA))), DATA[:9])
        with pytest.raises(UnreachableError, match="ended early"):
            await here.artifacts.pull(THERE, WHOLE)
        assert await here.blobs.partial(HASH) == 9


async def test_a_stranger_gets_nothing_and_learns_nothing(autojump_clock: MockClock) -> None:
    async with places() as (_, there, stranger):
        await there.blobs.put(DATA)
        for wanted in (WHOLE, Artifact("/out", bytes(32), 9)):
            with pytest.raises(NotFoundError, match="does not have it for us"):
                await stranger.artifacts.pull(THERE, wanted)
        assert await stranger.blobs.partial(HASH) == 0


@pytest.mark.parametrize(
    "frames",
    [
        (encode(Fetched(len(DATA) + 1)), DATA),
        (encode(Fetched(2**63 - 1)),),
        (encode(Fetched(len(DATA))), DATA[:800_000], DATA[:800_000]),
        (encode(Fetched(len(DATA))), b""),
    ],
)
async def test_a_lie_about_the_size_is_refused(
    frames: tuple[bytes, ...], autojump_clock: MockClock
) -> None:
    async with places() as (here, there, _):
        speaks(there, *(frame[:1_000_000] for frame in frames))
        with pytest.raises(LimitError, match="not of the announced size"):
            await here.artifacts.pull(THERE, WHOLE)
        assert await here.blobs.size(HASH) is None


async def test_wrong_bytes_are_thrown_away(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        speaks(there, encode(Fetched(len(DATA))), DATA[:700_000], bytes(len(DATA) - 700_000))
        with pytest.raises(IntegrityError):
            await here.artifacts.pull(THERE, WHOLE)
        assert await here.blobs.partial(HASH) == 0
        assert await here.blobs.size(HASH) is None


@pytest.mark.parametrize("answer", [b"", b"hello", b"\xc0"])
async def test_who_does_not_speak_the_protocol_is_left(
    answer: bytes, autojump_clock: MockClock
) -> None:
    async with places() as (here, there, _):
        speaks(there, answer)
        with pytest.raises(UnreachableError, match="does not speak"):
            await here.artifacts.pull(THERE, WHOLE)


@pytest.mark.parametrize("question", [b"", b"hello", encode(Fetched(3)), bytes(200)])
async def test_a_malformed_question_ends_the_channel(
    question: bytes, autojump_clock: MockClock
) -> None:
    async with places() as (here, _, _), here.link.open(THERE, "blob") as channel:
        await channel.send(question)
        assert await channel.receive() is None


async def test_a_silent_peer_is_not_waited_for(autojump_clock: MockClock) -> None:
    async def silent(channel: Channel) -> None:
        await trio.sleep_forever()

    async with places() as (here, there, _):
        there.link.accept("blob", silent)
        with pytest.raises(UnreachableError, match="stalled"):
            await here.artifacts.pull(THERE, WHOLE)


async def test_what_is_too_large_is_not_asked_for(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        speaks(there)
        with pytest.raises(LimitError, match="too large"):
            await here.artifacts.pull(THERE, Artifact("/out", HASH, ARTIFACT_BYTES_MAX + 1))
        assert there.fetches == []


async def test_two_who_want_the_same_fetch_it_once(autojump_clock: MockClock) -> None:
    async with places() as (here, there, _):
        speaks(there, encode(Fetched(9)), b"ninebytes")
        small = Artifact("/out", hashlib.sha256(b"ninebytes").digest(), 9)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(here.artifacts.pull, THERE, small)
        assert len(there.fetches) == 1


async def test_an_empty_file_is_a_file_and_small_ones_come_first(
    autojump_clock: MockClock,
) -> None:
    async with places() as (here, there, _):
        empty = Artifact("/empty", await there.blobs.put(b""), 0)
        small = Artifact("/small", await there.blobs.put(b"small"), 5)
        lost = Artifact("/lost", HASH, len(DATA))
        with pytest.raises(NotFoundError):
            await pull_all(here.artifacts, THERE, (lost, small, empty))
        assert await here.blobs.size(small.hash) == 5
        assert await here.blobs.size(empty.hash) == 0
