"""The contract of the port Logs, for files and for the simulated one alike."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

from market.limits import LOG_BYTES_MAX
from node.ports import Logs

Factory = Callable[[], AbstractAsyncContextManager[Logs]]
JOB = bytes(range(16))


async def an_unknown_job_has_no_output(factory: Factory) -> None:
    async with factory() as logs:
        assert await logs.size(JOB) == 0
        assert await logs.read(JOB, 0, 100) == b""


async def output_is_read_back_in_parts(factory: Factory) -> None:
    async with factory() as logs:
        await logs.append(JOB, 0, b"hello ")
        await logs.append(JOB, 6, b"world")
        assert await logs.size(JOB) == 11
        assert await logs.read(JOB, 0, 100) == b"hello world"
        assert await logs.read(JOB, 6, 3) == b"wor"
        assert await logs.read(JOB, 11, 100) == b""
        assert await logs.read(JOB, 1000, 100) == b""
        assert await logs.read(b"\xff" * 16, 0, 100) == b""


async def what_is_there_already_is_skipped(factory: Factory) -> None:
    async with factory() as logs:
        await logs.append(JOB, 0, b"hello")
        await logs.append(JOB, 0, b"HELLO")
        await logs.append(JOB, 2, b"XXX world")
        assert await logs.read(JOB, 0, 100) == b"hello world"


async def a_gap_reads_as_zero_bytes(factory: Factory) -> None:
    async with factory() as logs:
        await logs.append(JOB, 0, b"ab")
        await logs.append(JOB, 5, b"c")
        assert await logs.read(JOB, 0, 100) == b"ab\0\0\0c"


async def output_past_the_bound_is_dropped(factory: Factory) -> None:
    async with factory() as logs:
        await logs.append(JOB, LOG_BYTES_MAX - 2, b"abcd")
        await logs.append(JOB, LOG_BYTES_MAX, b"more")
        await logs.append(JOB, 2**60, b"far")
        assert await logs.size(JOB) == LOG_BYTES_MAX
        assert await logs.read(JOB, LOG_BYTES_MAX - 2, 100) == b"ab"


async def output_outlives_a_restart(factory: Factory) -> None:
    async with factory() as logs:
        await logs.append(JOB, 0, b"kept")
    async with factory() as logs:
        assert await logs.read(JOB, 0, 100) == b"kept"


CONTRACT: tuple[Callable[[Factory], Awaitable[None]], ...] = (
    an_unknown_job_has_no_output,
    output_is_read_back_in_parts,
    what_is_there_already_is_skipped,
    a_gap_reads_as_zero_bytes,
    output_past_the_bound_is_dropped,
    output_outlives_a_restart,
)
