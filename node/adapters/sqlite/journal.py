"""The journal in one SQLite file: what `commit` returned from is there after a power cut.

It knows tables, keys and bytes; never what a value means. One process at a time: the file stays
locked while it is open, so two nodes cannot act on one memory.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final, TypeVar

import trio

from market.errors import MarketError
from market.units import UnixTime
from node.ports import LogLine, Write

T = TypeVar("T")

STORY_LINES_MAX: Final = 500  # per subject; nobody reads further back, and a flapping peer ends
LOG_LINES_MAX: Final = 1_000_000  # over all subjects: about 100 MB, the oldest go first

_APPLICATION = 0x534F554B  # "SOUK": so that somebody else's database is never taken for ours
_VERSION = 1
_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE value (
    tbl TEXT NOT NULL, key BLOB NOT NULL, data BLOB NOT NULL, PRIMARY KEY (tbl, key)
) STRICT, WITHOUT ROWID;
CREATE TABLE log (
    seq INTEGER PRIMARY KEY, at REAL NOT NULL, subject BLOB NOT NULL,
    kind TEXT NOT NULL, text TEXT NOT NULL
) STRICT;
CREATE INDEX log_of_subject ON log (subject, seq);
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_BEGIN = "BEGIN IMMEDIATE"
_PUT = (
    "INSERT INTO value VALUES (?, ?, ?) ON CONFLICT (tbl, key) DO UPDATE SET data = excluded.data"
)
_REMOVE = "DELETE FROM value WHERE tbl = ? AND key = ?"
_TELL = "INSERT INTO log (at, subject, kind, text) VALUES (?, ?, ?, ?)"
_SHORTEN = """
DELETE FROM log WHERE subject = ?1 AND seq <=
    (SELECT seq FROM log WHERE subject = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)
"""
_FORGET = "DELETE FROM log WHERE seq <= (SELECT max(seq) FROM log) - ?"
_LOAD = "SELECT tbl, key, data FROM value ORDER BY tbl, key"
_STORY = "SELECT at, subject, kind, text FROM log WHERE subject = ? ORDER BY seq DESC LIMIT ?"
_FULL_OR_BROKEN = "free space on its disk, or check the disk, and start the node again"
_SET_ASIDE = (
    "restore it from a backup, or move it away to start an empty one: "
    "the node then no longer knows the jobs it was running"
)


class Journal:
    """Fills the `Journal` port. Made by `open_journal`."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        """`connection` is open, checked and locked; only one thread at a time may use it."""
        self._connection = connection
        self._path = path
        self._one_at_a_time = trio.Lock()

    async def load(self) -> tuple[Write, ...]:
        """Every live value, in (table, key) order. Raises MarketError if the file is damaged."""
        return await self._in_thread(self._load)

    async def commit(self, writes: tuple[Write, ...], log: tuple[LogLine, ...]) -> None:
        """All or nothing. Raises MarketError if the disk does not take it; then it was nothing."""
        await self._in_thread(lambda: self._commit(writes, log))

    async def story(self, subject: bytes, limit: int) -> tuple[LogLine, ...]:
        """The newest lines about one subject, oldest first; at most STORY_LINES_MAX are kept."""
        return await self._in_thread(lambda: self._story(subject, limit))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        # A thread is never abandoned: once begun, a commit ends before a cancellation is felt.
        async with self._one_at_a_time:
            try:
                return await trio.to_thread.run_sync(work)
            except sqlite3.Error as problem:
                raise MarketError(
                    f"the journal {self._path} failed: {problem}", hint=_FULL_OR_BROKEN
                ) from problem

    def _load(self) -> tuple[Write, ...]:
        return tuple(Write(*row) for row in self._connection.execute(_LOAD))

    def _commit(self, writes: tuple[Write, ...], log: tuple[LogLine, ...]) -> None:
        execute = self._connection.execute
        execute(_BEGIN)
        try:
            for write in writes:
                if write.data is None:
                    execute(_REMOVE, (write.table, write.key))
                else:
                    execute(_PUT, (write.table, write.key, write.data))
            for line in log:
                execute(_TELL, (line.at, line.subject, line.kind, line.text))
            for subject in sorted({line.subject for line in log}):
                execute(_SHORTEN, (subject, STORY_LINES_MAX))
            if log:
                execute(_FORGET, (LOG_LINES_MAX,))
            execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # after some failures SQLite has rolled back already
                execute("ROLLBACK")
            raise

    def _story(self, subject: bytes, limit: int) -> tuple[LogLine, ...]:
        rows = self._connection.execute(_STORY, (subject, max(0, limit))).fetchall()
        return tuple(
            LogLine(UnixTime(at), about, kind, text) for at, about, kind, text in reversed(rows)
        )


@asynccontextmanager
async def open_journal(path: Path) -> AsyncIterator[Journal]:
    """The journal in `path`, made if it is not there; locked for this process until left.

    Raises MarketError if it is damaged, not a journal, of a newer version, or in use.
    """
    connection = await trio.to_thread.run_sync(_open, path)
    try:
        yield Journal(connection, path)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(connection.close)


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # SQLite gives its side files the mode of this one, and jobs are nobody else's business.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as problem:
        raise MarketError(
            f"the journal {path} cannot be opened: {problem}",
            hint="check that the folder exists and belongs to the user who runs the node",
        ) from problem
    try:
        _prepare(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _check_ours(connection, path)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        if _ask(connection, "PRAGMA user_version") == 0:
            connection.executescript(_SCHEMA)
        connection.execute(_BEGIN)  # the first write takes the lock, and it is then kept
        connection.execute("COMMIT")
        found = _ask(connection, "PRAGMA quick_check(1)")
    except sqlite3.OperationalError as problem:
        if problem.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
            raise MarketError(
                f"the journal {path} is in use by another process",
                hint="stop the other node, or give this one a folder of its own",
            ) from problem
        raise MarketError(
            f"the journal {path} cannot be used: {problem}", hint=_FULL_OR_BROKEN
        ) from problem
    except sqlite3.DatabaseError as problem:
        raise MarketError(f"the journal {path} is damaged: {problem}", hint=_SET_ASIDE) from problem
    if found != "ok":
        raise MarketError(f"the journal {path} is damaged: {found}", hint=_SET_ASIDE)


def _check_ours(connection: sqlite3.Connection, path: Path) -> None:
    version = _ask(connection, "PRAGMA user_version")
    empty = _ask(connection, "SELECT count(*) FROM sqlite_schema") == 0
    if not empty and _ask(connection, "PRAGMA application_id") != _APPLICATION:
        raise MarketError(
            f"{path} is a database, but not a journal of this market",
            hint="give the node another folder",
        )
    if not empty and version != _VERSION:
        raise MarketError(
            f"the journal {path} is of version {version}, this program writes {_VERSION}",
            hint="run the version of the program that wrote it",
        )


def _ask(connection: sqlite3.Connection, question: str) -> object:
    return connection.execute(question).fetchone()[0]
