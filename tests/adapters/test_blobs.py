"""Blobs in files keep the port's contract, as their simulated twin does, and survive what happens
to files: crashes, links, pipes and several users at once."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from market.errors import IntegrityError, LimitError, MarketError, NotFoundError
from market.units import MIB
from node.adapters.disk import files
from node.adapters.disk.blobs import Blobs, open_blobs
from node.ports import Blobs as Port
from tests.adapters.contract_blobs import CONTRACT, PINNED, ROOM, Factory, Law, file_names, sha
from tests.simulation.memory import MemoryBlobs


async def opened(folder: Path, bytes_max: int = ROOM) -> Blobs:
    return await open_blobs(folder / "blobs", bytes_max=bytes_max, pinned=lambda: {PINNED})


@pytest.fixture(params=["disk", "memory"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    memory = MemoryBlobs(ROOM, lambda: {PINNED})

    @asynccontextmanager
    async def made() -> AsyncIterator[Port]:
        yield memory if request.param == "memory" else await opened(tmp_path)

    return made


@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
async def test_blobs_keep(law: Law, factory: Factory, tmp_path: Path) -> None:
    await law(factory, tmp_path)


async def test_a_complete_blob_has_a_path(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    hash_ = await blobs.put(b"content")
    path = blobs.path(hash_)
    assert path is not None
    name = hash_.hex()
    assert path == tmp_path / "blobs" / name[:2] / name[2:4] / name
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    await blobs.append(sha(b"other"), 0, b"oth")
    assert blobs.path(sha(b"other")) is None
    assert blobs.path(sha(b"unknown")) is None


async def test_nothing_is_left_of_what_was_evicted(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    for number in range(20):
        await blobs.put(bytes([number]) * 300)
        await blobs.append(sha(bytes([number])), 0, bytes([number]) * 30)
    on_disk = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    used = sum(path.stat().st_size for path in on_disk)
    statistics = blobs.statistics()
    assert used == statistics["bytes"] <= ROOM
    assert len(on_disk) == statistics["blobs"] + statistics["partial"]
    assert statistics["evicted"] == 40 - len(on_disk)


async def test_the_order_of_use_outlives_a_restart(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    first, second = await blobs.put(b"1" * 400), await blobs.put(b"2" * 400)
    for age, hash_ in enumerate((first, second)):  # the clock of a filesystem may be coarse
        path = blobs.path(hash_)
        assert path is not None
        os.utime(path, (1_000_000 + age, 1_000_000 + age))
    await blobs.read(first, 0, 10)
    again = await opened(tmp_path)
    await again.put(b"3" * 400)
    assert [await again.size(hash_) for hash_ in (first, second)] == [400, None]


async def test_a_crash_leaves_nothing_half_done(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    hash_ = await blobs.put(b"content")
    folder = files.place(tmp_path / "blobs", hash_).parent
    (folder / f"{hash_.hex()}.part").write_bytes(b"con")
    (folder / f"{'0' * 64}.new").write_bytes(b"half a file")
    (folder / "notes").write_bytes(b"somebody else's")
    again = await opened(tmp_path)
    assert await again.size(hash_) == 7
    assert sorted(path.name for path in folder.iterdir()) == sorted([hash_.hex(), "notes"])
    assert again.statistics()["bytes"] == 7


async def test_a_damaged_tail_of_a_part_is_found(tmp_path: Path) -> None:
    """A part is not forced to the disk: after a power cut it may end in zeros."""
    blobs = await opened(tmp_path)
    await blobs.append(sha(b"abcdef"), 0, b"abc")
    files.place(tmp_path / "blobs", sha(b"abcdef"), ".part").write_bytes(b"a\0\0")
    again = await opened(tmp_path)
    await again.append(sha(b"abcdef"), 3, b"def")
    with pytest.raises(IntegrityError):
        await again.finish(sha(b"abcdef"))
    assert await again.partial(sha(b"abcdef")) == 0


async def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    blobs = await opened(tmp_path)
    with trio.fail_after(5):
        for path in (tmp_path / "pipe", tmp_path, Path("/dev/null")):
            with pytest.raises(LimitError, match="not a regular file"):
                await blobs.put_file(str(path))


async def test_a_file_that_changes_is_not_kept_under_a_wrong_hash(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"before")
    store = tmp_path / "blobs"
    hash_, size = files.measure(source, 100)
    source.write_bytes(b"before and after")
    with pytest.raises(IntegrityError, match="changed while"):
        files.copy_new(store, hash_, source, size)
    assert [path for path in store.rglob("*") if path.is_file()] == []


async def test_an_export_that_fails_leaves_the_target(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    hash_ = await blobs.put(b"content")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    with pytest.raises(MarketError):
        await blobs.export(hash_, str(tmp_path / "folder"))
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["inner"]
    assert file_names(tmp_path) == []  # no draft is left
    with pytest.raises(MarketError):
        await blobs.export(hash_, str(tmp_path / "nowhere" / "file"))


async def test_many_users_at_once_stay_under_the_bound(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)

    async def use(number: int) -> None:
        data = bytes([number % 7]) * (100 + number % 7)
        try:
            assert await blobs.put(data) == sha(data)
            await blobs.append(sha(b"part %d" % (number % 5)), 0, b"x" * 50)
        except LimitError:
            pass  # all the rest was in use, or the part was begun already
        if number % 3 == 0:
            await blobs.discard(sha(data))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(use, number)
    on_disk = [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in on_disk) == blobs.statistics()["bytes"] <= ROOM
    assert blobs._locks == {}


async def cancelled_once_in_its_thread(work: Callable[[], Awaitable[object]]) -> None:
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()


async def test_a_cancelled_eviction_removes_every_victim(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    victims = [await blobs.put(bytes([number]) * 400) for number in range(2)]
    await cancelled_once_in_its_thread(partial(blobs.put, b"2" * 800))
    assert [await blobs.size(victim) for victim in victims] == [None, None]
    for victim in victims:
        assert not files.place(tmp_path / "blobs", victim).exists()


async def test_wrong_bytes_go_even_if_nobody_waits(tmp_path: Path) -> None:
    blobs = await opened(tmp_path, bytes_max=16 * MIB)
    await blobs.append(sha(b"right"), 0, bytes(16 * MIB))  # enough that hashing takes a while
    await cancelled_once_in_its_thread(partial(finish_wrong, blobs, sha(b"right")))
    assert blobs.statistics()["bytes"] == 0
    assert not files.place(tmp_path / "blobs", sha(b"right"), ".part").exists()


async def finish_wrong(blobs: Blobs, hash_: bytes) -> None:
    with pytest.raises(IntegrityError):
        await blobs.finish(hash_)


def test_a_part_begun_anew_holds_nothing_old(tmp_path: Path) -> None:
    files.extend(tmp_path, sha(b"ab"), 0, b"what was evicted and not yet swept")
    files.extend(tmp_path, sha(b"ab"), 0, b"ab")
    assert files.complete(tmp_path, sha(b"ab")) == 2


async def test_what_was_hashed_as_it_came_is_not_read_again(tmp_path: Path) -> None:
    """And what came before a restart, or out of turn, is."""
    blobs = await opened(tmp_path)
    await blobs.append(sha(b"first second"), 0, b"first ")
    again = await opened(tmp_path)
    await again.append(sha(b"first second"), 6, b"second")
    assert await again.finish(sha(b"first second")) == 12
    await blobs.append(sha(b"whole"), 0, b"wh")
    await blobs.append(sha(b"whole"), 2, b"ole")
    assert await blobs.finish(sha(b"whole")) == 5
    seen = files.Seen()
    seen.add(0, b"old")
    seen.add(0, b"ne")
    seen.add(5, b"gap")
    seen.add(2, b"w")
    assert (seen.size, seen.digest) == (3, sha(b"new"))


async def test_a_blob_is_lent_without_a_copy(tmp_path: Path) -> None:
    blobs = await opened(tmp_path)
    hash_ = await blobs.put(b"lent")
    await blobs.lend(hash_, str(tmp_path / "here"))
    assert (tmp_path / "here").read_bytes() == b"lent"
    assert (tmp_path / "here").stat().st_ino == files.place(tmp_path / "blobs", hash_).stat().st_ino
    await blobs.discard(hash_)
    assert (tmp_path / "here").read_bytes() == b"lent"
    with pytest.raises(NotFoundError):
        await blobs.lend(hash_, str(tmp_path / "there"))
