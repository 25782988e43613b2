"""The contract of the port Journal, for SQLite and for the simulated one alike.

Each law takes a `Factory`: entered again, it gives the same journal as found after a restart.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import trio

from market.units import UnixTime
from node.ports import Journal, LogLine, Write

Factory = Callable[[], AbstractAsyncContextManager[Journal]]
STORY_LINES = 500


def line(number: int, subject: bytes = b"subject") -> LogLine:
    return LogLine(UnixTime(1000.5 + number), subject, "Happened", f"line {number} … ü")


async def a_new_journal_is_empty(factory: Factory) -> None:
    async with factory() as journal:
        assert await journal.load() == ()
        assert await journal.story(b"subject", 10) == ()


async def values_come_back_in_order_of_table_and_key(factory: Factory) -> None:
    writes = (
        Write("job", b"\x02", b"second"),
        Write("job", b"\x01\xff", b""),
        Write("agreement", b"\xff" * 32, b"\x00" * 1000),
        Write("job", b"\x01", b"first"),
    )
    async with factory() as journal:
        await journal.commit(writes, ())
        assert await journal.load() == (writes[2], writes[3], writes[1], writes[0])


async def the_last_write_of_a_key_counts(factory: Factory) -> None:
    async with factory() as journal:
        await journal.commit((Write("job", b"a", b"old"), Write("job", b"b", b"gone")), ())
        await journal.commit(
            (Write("job", b"a", b"new"), Write("job", b"b", None), Write("job", b"c", None)), ()
        )
        assert await journal.load() == (Write("job", b"a", b"new"),)
        await journal.commit((Write("job", b"a", None), Write("job", b"a", b"again")), ())
        assert await journal.load() == (Write("job", b"a", b"again"),)


async def what_was_committed_outlives_a_restart(factory: Factory) -> None:
    async with factory() as journal:
        await journal.commit((Write("job", b"a", b"kept"),), (line(1),))
    async with factory() as journal:
        assert await journal.load() == (Write("job", b"a", b"kept"),)
        assert await journal.story(b"subject", 10) == (line(1),)


async def a_story_is_the_newest_lines_oldest_first(factory: Factory) -> None:
    async with factory() as journal:
        await journal.commit((), (line(1), line(2, b"another"), line(3)))
        await journal.commit((), (line(4),))
        assert await journal.story(b"subject", 2) == (line(3), line(4))
        assert await journal.story(b"subject", 10) == (line(1), line(3), line(4))
        assert await journal.story(b"another", 10) == (line(2, b"another"),)
        assert await journal.story(b"subject", 0) == ()


async def a_story_is_bounded_for_each_subject(factory: Factory) -> None:
    async with factory() as journal:
        await journal.commit((), (line(0, b"another"),))
        await journal.commit((), tuple(line(number) for number in range(STORY_LINES)))
        await journal.commit((), (line(STORY_LINES), line(STORY_LINES + 1)))
        story = await journal.story(b"subject", 10_000)
        assert story == tuple(line(number) for number in range(2, STORY_LINES + 2))
        assert await journal.story(b"another", 10) == (line(0, b"another"),)


async def commits_from_many_tasks_all_arrive(factory: Factory) -> None:
    async with factory() as journal:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                write = Write("job", bytes([number]), b"value")
                nursery.start_soon(journal.commit, (write,), (line(number),))
        assert len(await journal.load()) == 20
        assert len(await journal.story(b"subject", 100)) == 20


CONTRACT: tuple[Callable[[Factory], Awaitable[None]], ...] = (
    a_new_journal_is_empty,
    values_come_back_in_order_of_table_and_key,
    the_last_write_of_a_key_counts,
    what_was_committed_outlives_a_restart,
    a_story_is_the_newest_lines_oldest_first,
    a_story_is_bounded_for_each_subject,
    commits_from_many_tasks_all_arrive,
)
