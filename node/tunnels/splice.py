"""Splice: bytes both ways between a channel and another stream, each way with an end of its own.

Whoever sends waits until the other side has taken what went before: nothing is piled up here.
"""

from __future__ import annotations

from typing import Protocol

import trio

from market.errors import MarketError, UnreachableError
from node.ports import Channel

READ_BYTES = 64 * 1024


class Stream(Protocol):
    """The other end: a pipe into a job, or a local connection."""

    async def send(self, data: bytes) -> None:
        """All of it. Raises a MarketError if the other end is gone."""

    async def receive(self, limit: int) -> bytes:
        """Some bytes; none at the end. Raises a MarketError if it broke."""

    async def close_write(self) -> None:
        """No more will be sent."""


async def splice(channel: Channel, stream: Stream) -> None:
    """Carry bytes until both ways have ended.

    Raises UnreachableError if the peer is gone before its end, and what `stream` raises.
    """
    problems: list[MarketError] = []
    async with trio.open_nursery() as nursery:

        async def out() -> None:
            try:
                while data := await stream.receive(READ_BYTES):
                    await channel.send(data)
                await channel.send(b"")
            except MarketError as problem:
                problems.append(problem)
                nursery.cancel_scope.cancel()

        nursery.start_soon(out)
        try:
            while frame := await channel.receive():
                await stream.send(frame)
            if frame is None:
                raise UnreachableError("the connection broke off at the other end")
            await stream.close_write()
        except MarketError as problem:
            problems.append(problem)
            nursery.cancel_scope.cancel()
    if problems:
        raise problems[0]
