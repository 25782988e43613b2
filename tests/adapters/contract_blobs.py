"""The contract of the port Blobs, for files and for the simulated one alike.

Each law takes a `Factory`: entered again, it gives the same store as found after a restart. The
store holds ROOM bytes and must keep what is in PINNED.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from market.errors import IntegrityError, LimitError, NotFoundError
from node.ports import Blobs

ROOM = 1000
PINNED = hashlib.sha256(b"p" * 400).digest()
Factory = Callable[[], AbstractAsyncContextManager[Blobs]]
Law = Callable[[Factory, Path], Awaitable[None]]


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def file_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


async def small_bytes_are_kept_by_their_hash(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        assert await blobs.put(b"content") == sha(b"content")
        assert await blobs.put(b"content") == sha(b"content")
        assert await blobs.size(sha(b"content")) == 7
        assert await blobs.read(sha(b"content"), 0, 100) == b"content"
        assert await blobs.read(sha(b"content"), 3, 2) == b"te"
        assert await blobs.read(sha(b"content"), 7, 10) == b""


async def an_unknown_blob_is_not_found(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        assert await blobs.size(sha(b"x")) is None
        assert await blobs.partial(sha(b"x")) == 0
        with pytest.raises(NotFoundError):
            await blobs.read(sha(b"x"), 0, 1)
        with pytest.raises(NotFoundError):
            await blobs.export(sha(b"x"), str(folder / "x"))
        with pytest.raises(NotFoundError):
            await blobs.put_file(str(folder / "nothing"))
        await blobs.discard(sha(b"x"))


async def a_transfer_goes_on_after_a_restart(factory: Factory, folder: Path) -> None:
    hash_ = sha(b"first second")
    async with factory() as blobs:
        await blobs.append(hash_, 0, b"first ")
        assert await blobs.size(hash_) is None
        with pytest.raises(NotFoundError):
            await blobs.read(hash_, 0, 1)
    async with factory() as blobs:
        assert await blobs.partial(hash_) == 6
        await blobs.append(hash_, 6, b"second")
        assert await blobs.finish(hash_) == 12
        assert await blobs.finish(hash_) == 12
        assert await blobs.partial(hash_) == 0
    async with factory() as blobs:
        assert await blobs.size(hash_) == 12
        assert await blobs.read(hash_, 0, 100) == b"first second"


async def only_the_next_byte_is_appended(factory: Factory, folder: Path) -> None:
    hash_ = sha(b"abcdef")
    async with factory() as blobs:
        await blobs.append(hash_, 0, b"abc")
        for wrong in (0, 2, 4):
            with pytest.raises(LimitError):
                await blobs.append(hash_, wrong, b"xxx")
        await blobs.append(hash_, 3, b"def")
        await blobs.finish(hash_)
        with pytest.raises(LimitError):
            await blobs.append(hash_, 0, b"xxx")
        assert await blobs.read(hash_, 0, 10) == b"abcdef"


async def wrong_bytes_are_thrown_away(factory: Factory, folder: Path) -> None:
    hash_ = sha(b"right")
    async with factory() as blobs:
        await blobs.append(hash_, 0, b"wrong")
        with pytest.raises(IntegrityError):
            await blobs.finish(hash_)
        assert await blobs.partial(hash_) == 0
        assert await blobs.size(hash_) is None
        with pytest.raises(IntegrityError):
            await blobs.finish(hash_)
        await blobs.append(hash_, 0, b"right")
        assert await blobs.finish(hash_) == 5


async def the_blob_of_no_bytes_needs_no_append(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        assert await blobs.finish(sha(b"")) == 0
        assert await blobs.size(sha(b"")) == 0
        assert await blobs.read(sha(b""), 0, 10) == b""


async def a_put_overtakes_a_transfer(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        await blobs.append(sha(b"content"), 0, b"con")
        await blobs.put(b"content")
        assert await blobs.partial(sha(b"content")) == 0
        assert await blobs.finish(sha(b"content")) == 7


async def files_go_in_and_out_unchanged(factory: Factory, folder: Path) -> None:
    source, target = folder / "source", folder / "target"
    source.write_bytes(bytes(range(256)))
    target.write_bytes(b"what was there before")
    async with factory() as blobs:
        assert await blobs.put_file(str(source)) == (sha(bytes(range(256))), 256)
        await blobs.export(sha(bytes(range(256))), str(target))
    assert target.read_bytes() == bytes(range(256))
    assert file_names(folder) == ["source", "target"]


async def a_discarded_blob_is_gone_for_good(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        hash_ = await blobs.put(b"content")
        await blobs.append(sha(b"other"), 0, b"oth")
        await blobs.discard(hash_)
        await blobs.discard(sha(b"other"))
        assert await blobs.size(hash_) is None
        assert await blobs.partial(sha(b"other")) == 0
    async with factory() as blobs:
        assert await blobs.size(hash_) is None
        assert await blobs.partial(sha(b"other")) == 0


async def the_blob_unused_for_longest_makes_room(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        first = await blobs.put(b"1" * 400)
        second = await blobs.put(b"2" * 400)
        await blobs.read(first, 0, 1)
        third = await blobs.put(b"3" * 400)
        kept = [await blobs.size(hash_) for hash_ in (first, second, third)]
        assert kept == [400, None, 400]
        with pytest.raises(NotFoundError):
            await blobs.read(second, 0, 1)


async def an_abandoned_transfer_makes_room_too(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        await blobs.append(sha(b"never finished"), 0, b"x" * 700)
        kept = await blobs.put(b"2" * 700)
        assert await blobs.partial(sha(b"never finished")) == 0
        assert await blobs.size(kept) == 700
        await blobs.append(sha(b"y" * 3), 0, b"y" * 3)  # begins anew, at its first byte
        assert await blobs.finish(sha(b"y" * 3)) == 3


async def a_pinned_blob_stays(factory: Factory, folder: Path) -> None:
    async with factory() as blobs:
        assert await blobs.put(b"p" * 400) == PINNED
        other = await blobs.put(b"o" * 300)
        with pytest.raises(LimitError):
            await blobs.put(b"x" * 601)
        assert await blobs.size(other) == 300  # nothing is lost to what could not be kept anyway
        await blobs.put(b"x" * 600)
        assert await blobs.size(PINNED) == 400
        assert await blobs.size(other) is None


async def a_transfer_without_room_is_refused(factory: Factory, folder: Path) -> None:
    large = folder / "large"
    large.write_bytes(b"l" * (ROOM + 1))
    async with factory() as blobs:
        await blobs.append(sha(b"big"), 0, b"b" * ROOM)
        with pytest.raises(LimitError):
            await blobs.append(sha(b"big"), ROOM, b"b")
        assert await blobs.partial(sha(b"big")) == ROOM
        with pytest.raises(LimitError):
            await blobs.put_file(str(large))


CONTRACT: tuple[Law, ...] = (
    small_bytes_are_kept_by_their_hash,
    an_unknown_blob_is_not_found,
    a_transfer_goes_on_after_a_restart,
    only_the_next_byte_is_appended,
    wrong_bytes_are_thrown_away,
    the_blob_of_no_bytes_needs_no_append,
    a_put_overtakes_a_transfer,
    files_go_in_and_out_unchanged,
    a_discarded_blob_is_gone_for_good,
    the_blob_unused_for_longest_makes_room,
    an_abandoned_transfer_makes_room_too,
    a_pinned_blob_stays,
    a_transfer_without_room_is_refused,
)
