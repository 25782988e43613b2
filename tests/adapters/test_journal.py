"""The journal in SQLite keeps the port's contract, as its simulated twin does, and says it when
its file cannot be used."""

from __future__ import annotations

import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from market.errors import MarketError
from market.units import UnixTime
from node.adapters.sqlite.journal import open_journal
from node.ports import Journal, LogLine, Write
from tests.adapters.contract_journal import CONTRACT, Factory
from tests.simulation.memory import MemoryJournal


@pytest.fixture(params=["sqlite", "memory"])
def factory(request: pytest.FixtureRequest, tmp_path: Path) -> Factory:
    memory = MemoryJournal()

    @asynccontextmanager
    async def in_memory() -> AsyncIterator[Journal]:
        yield memory

    if request.param == "memory":
        return in_memory
    return lambda: open_journal(tmp_path / "node" / "journal.sqlite")


@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
async def test_the_journal_keeps(
    law: Callable[[Factory], Awaitable[None]], factory: Factory
) -> None:
    await law(factory)


async def test_a_commit_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    too_long = Write("job", b"b", b"x" * 2000)
    async with open_journal(path) as journal:
        await journal.commit((Write("job", b"a", b"1"),), ())
        journal._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)  # a disk that says no
        with pytest.raises(MarketError):
            await journal.commit((Write("job", b"a", b"2"), too_long), ())
        assert await journal.load() == (Write("job", b"a", b"1"),)
        line = LogLine(UnixTime(1), b"s", "kind", "text")
        await journal.commit((Write("job", b"a", b"3"),), (line,))
    async with open_journal(path) as journal:
        assert await journal.load() == (Write("job", b"a", b"3"),)


async def test_a_cancelled_commit_is_whole(tmp_path: Path) -> None:
    """Once begun it ends, and the journal goes on."""
    writes = tuple(Write("job", bytes([number]), b"v" * 1000) for number in range(200))
    async with open_journal(tmp_path / "journal.sqlite") as journal:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(journal.commit, writes, ())
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert await journal.load() in ((), writes)
        await journal.commit((Write("job", b"z", b"after"),), ())
        assert Write("job", b"z", b"after") in await journal.load()


KILLED = """
import os, signal, sys, trio
from pathlib import Path
from node.adapters.sqlite.journal import open_journal
from node.ports import Write

async def main():
    async with open_journal(Path(sys.argv[1])) as journal:
        await journal.commit((Write("job", b"a", b"kept"),), ())
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main)
"""


async def test_a_killed_process_keeps_what_it_committed(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    ended = await trio.run_process(
        [sys.executable, "-c", KILLED, str(path)], check=False, cwd=Path(__file__).parents[2]
    )
    assert ended.returncode == -signal.SIGKILL
    async with open_journal(path) as journal:
        assert await journal.load() == (Write("job", b"a", b"kept"),)


async def test_two_nodes_never_share_a_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    async with open_journal(path):
        with pytest.raises(MarketError, match="in use by another process") as caught:
            async with open_journal(path):
                pytest.fail("opened twice")
        assert "stop the other node" in caught.value.hint


async def test_a_damaged_file_is_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    async with open_journal(path) as journal:
        await journal.commit(
            tuple(Write("job", bytes([number]), b"v" * 3000) for number in range(50)), ()
        )
    whole = path.read_bytes()
    for name, content in {
        "rubbish": b"this is no database at all" * 100,
        "zeroed": whole[:8192] + bytes(40_000) + whole[48_192:],
        "cut": whole[: len(whole) // 2],
    }.items():
        damaged = tmp_path / f"{name}.sqlite"
        damaged.write_bytes(content)
        with pytest.raises(MarketError, match="damaged") as caught:
            async with open_journal(damaged):
                pytest.fail("opened")
        assert str(damaged) in str(caught.value)
        assert "backup" in caught.value.hint


async def test_other_files_are_left_alone(tmp_path: Path) -> None:
    other, newer = tmp_path / "other.sqlite", tmp_path / "newer.sqlite"
    connection = sqlite3.connect(other)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    with pytest.raises(MarketError, match="not a journal"):
        async with open_journal(other):
            pytest.fail("opened")
    async with open_journal(newer):
        pass
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(MarketError, match="version 7"):
        async with open_journal(newer):
            pytest.fail("opened")
    with pytest.raises(MarketError, match="cannot be opened"):
        async with open_journal(tmp_path):
            pytest.fail("opened")


async def test_the_file_is_its_owners_and_forced_to_disk(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    async with open_journal(path) as journal:
        await journal.commit((Write("job", b"a", b"1"),), ())
        assert journal._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert journal._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert file_modes(tmp_path) == {0o600}


def file_modes(folder: Path) -> set[int]:
    return {file.stat().st_mode & 0o777 for file in folder.iterdir()}
