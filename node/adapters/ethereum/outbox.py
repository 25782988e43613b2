"""Outbox: signed transactions, on disk before they are sent. Knows bytes; signs and sends nothing.

After a crash the same bytes are sent again: the chain takes a transaction once however often it
comes, so nothing is done twice and no nonce is left out. One SQLite file, or memory.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, TypeVar

import trio

from market.errors import ChainError

T = TypeVar("T")

ROWS_MAX: Final = 100_000
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS sent (
    nonce INTEGER NOT NULL, hash BLOB NOT NULL PRIMARY KEY, raw BLOB NOT NULL,
    to_ BLOB NOT NULL, data TEXT NOT NULL, value TEXT NOT NULL, gas INTEGER NOT NULL,
    most TEXT NOT NULL, tip TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS fact (name TEXT NOT NULL PRIMARY KEY, value BLOB NOT NULL) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Transaction:
    """One signed transaction and what it was made of. `to` is empty for a deployment."""

    nonce: int
    hash: bytes
    raw: bytes
    to: bytes
    data: str
    value: int
    gas: int
    most: int
    tip: int


class Outbox:
    """Made by `open_outbox`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """`connection` is open and has the tables."""
        self._connection = connection
        self._one_at_a_time = trio.Lock()

    @classmethod
    def in_memory(cls) -> Outbox:
        """For a key that is used by hand: nothing outlives the process."""
        return cls(_connect(None))

    async def load(self) -> tuple[Transaction, ...]:
        """Everything that may still have to be sent, by nonce, oldest first."""

        def read() -> tuple[Transaction, ...]:
            rows = self._connection.execute(
                "SELECT nonce, hash, raw, to_, data, value, gas, most, tip FROM sent "
                "ORDER BY nonce, rowid LIMIT ?",
                (ROWS_MAX,),
            )
            return tuple(
                Transaction(n, h, raw, to, data, int(value), gas, int(most), int(tip))
                for n, h, raw, to, data, value, gas, most, tip in rows
            )

        return await self._in_thread(read)

    async def put(self, sent: Transaction) -> None:
        """It is on disk when this returns. Raises ChainError if the disk does not take it."""
        row = [str(v) if name in ("value", "most", "tip") else v for name, v in zip(
            ("nonce", "hash", "raw", "to", "data", "value", "gas", "most", "tip"),
            astuple(sent), strict=True)]  # fmt: skip
        await self._write("INSERT OR IGNORE INTO sent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)

    async def forget(self, nonces: list[int]) -> None:
        """These are settled for good."""
        marks = ",".join("?" * len(nonces))
        await self._write(f"DELETE FROM sent WHERE nonce IN ({marks})", nonces)

    async def recall(self, name: str) -> bytes:
        """A small fact kept here; empty if there is none."""

        def read() -> bytes:
            row = self._connection.execute(
                "SELECT value FROM fact WHERE name = ?", (name,)
            ).fetchone()
            return bytes(row[0]) if row else b""

        return await self._in_thread(read)

    async def remember(self, name: str, value: bytes) -> None:
        """Keep a small fact."""
        await self._write("INSERT OR REPLACE INTO fact VALUES (?, ?)", [name, value])

    async def clear(self) -> None:
        """Everything here belongs to a chain that is gone."""
        await self._write("DELETE FROM sent", [])
        await self._write("DELETE FROM fact", [])

    async def _write(self, statement: str, values: Sequence[object]) -> None:
        def write() -> None:
            with self._connection:
                self._connection.execute(statement, values)

        await self._in_thread(write)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        async with self._one_at_a_time:
            try:
                return await trio.to_thread.run_sync(work)
            except sqlite3.Error as problem:
                raise ChainError(
                    f"the file of sent transactions cannot be used: {problem}",
                    hint="free space on its disk, or check the disk",
                ) from problem


@asynccontextmanager
async def open_outbox(path: Path | None) -> AsyncIterator[Outbox]:
    """The outbox in the file at `path`, made if need be, readable by its owner only."""

    try:
        connection = await trio.to_thread.run_sync(_connect, path)
    except (OSError, sqlite3.Error) as problem:
        raise ChainError(
            f"{path} cannot be used: {problem}", hint="move it away to start an empty one"
        ) from problem
    try:
        yield Outbox(connection)
    finally:
        connection.close()


def _connect(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path or ":memory:", check_same_thread=False)
    connection.executescript(_SCHEMA)
    return connection
