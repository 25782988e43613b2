"""Enter: the requester's end of `souk exec`. Finds where the job runs and asks to be let in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from market.codec import decode, encode
from market.errors import CodecError, RefusedError, SpecError, UnreachableError
from market.job import Job
from market.messages import Execute, Executing
from node.keeper import Keeper
from node.ports import Channel, Link, Terminal
from node.tunnels.execute import PROTOCOL, QUESTION_BYTES_MAX, runs

ANSWER_S = 30.0  # a loaded engine takes seconds


class Entrance:
    """Opens executions in this node's own jobs."""

    def __init__(self, keeper: Keeper, link: Link) -> None:
        """Shares the node's rooms."""
        self._keeper = keeper
        self._link = link

    @asynccontextmanager
    async def open(
        self, job: Job, argv: tuple[str, ...], terminal: Terminal | None
    ) -> AsyncIterator[Channel]:
        """A channel to a program that was started in the job; see `execute` for its frames.

        Raises RefusedError if the job does not run or its provider says no, UnreachableError.
        """
        a = self._keeper.agreements.get(job.agreement)
        if job.over:
            raise RefusedError(f"the job is over: {job.state.value}", hint="see: souk logs")
        if a is None or not runs(a):
            raise RefusedError(
                f"the job is {job.state.value}: there is nothing to enter yet",
                hint="try again once souk ps shows RUNNING",
            )
        size = terminal or Terminal(0, 0)
        asked = encode(Execute(a.id, argv, size.columns, size.rows))
        if len(asked) > QUESTION_BYTES_MAX:
            raise SpecError("the program's words are too long", hint="put them into a file")
        async with self._link.open(a.peer, PROTOCOL) as channel:
            await channel.send(asked)
            with trio.move_on_after(ANSWER_S):
                said = _decoded(await channel.receive())
                if said.code:
                    raise RefusedError(f"the provider says no: {said.message}")
                yield channel
                return
            raise UnreachableError("the provider does not answer")


def _decoded(frame: bytes | None) -> Executing:
    try:
        return decode(Executing, frame or b"", size_max=1024)
    except CodecError as problem:
        raise UnreachableError("the provider does not let anybody in") from problem
