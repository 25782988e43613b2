"""Dial: the requester's end of a tunnel. Finds where the job runs, and waits until it listens."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import trio

from market.agreement import Agreement, Phase
from market.codec import decode, encode
from market.errors import CodecError, NotFoundError, RefusedError, SpecError, UnreachableError
from market.job import Job
from market.limits import TUNNELS_PER_PEER_MAX
from market.messages import Dial, Dialled, WorkState
from node.keeper import Keeper
from node.ports import Channel, Link
from node.tunnels.accept import PROTOCOL

RETRY_S = 0.5
ANSWER_S = 15.0
Tell = Callable[[str], None]
"""Told why a connection waits."""


class Dialler:
    """Opens tunnels to this node's own jobs."""

    def __init__(self, keeper: Keeper, link: Link) -> None:
        """Shares the node's rooms."""
        self._keeper = keeper
        self._link = link
        self._turns: defaultdict[bytes, trio.CapacityLimiter] = defaultdict(
            lambda: trio.CapacityLimiter(TUNNELS_PER_PEER_MAX)
        )

    def check(self, job: Job, port: int) -> None:
        """Raise unless a tunnel to that port makes sense at all."""
        if port not in job.manifest.ports:
            known = ", ".join(map(str, job.manifest.ports)) or "none"
            raise SpecError(
                f"the job file of {job.manifest.name} names no port {port} (it names {known})",
                hint=f"write ports: [{port}] and run it again",
            )
        if job.over:
            raise RefusedError(f"the job is over: {job.state.value}")

    @asynccontextmanager
    async def open(self, job_id: bytes, port: int, tell: Tell) -> AsyncIterator[Channel]:
        """A channel to a port of the job, wherever it runs; waits for the job and for the port.

        `tell` hears why. Raises SpecError, RefusedError if the job is over or its provider says
        no; never times out: the caller does.
        """
        while True:
            job = self._keeper.jobs.get(job_id)
            if job is None:
                raise NotFoundError("the job is gone")
            self.check(job, port)
            a = self._keeper.agreements.get(job.agreement)
            if a is None or not _runs(a):
                tell(_why_not_yet(job))
                await trio.sleep(RETRY_S)
                continue
            async with AsyncExitStack() as stack:
                try:
                    await stack.enter_async_context(self._turns[a.peer])
                    channel = await stack.enter_async_context(self._link.open(a.peer, PROTOCOL))
                    refusal = await self._ask(channel, a, port)
                except UnreachableError as problem:
                    refusal = f"the provider does not answer ({problem}); waiting"
                if not refusal:
                    yield channel
                    return
                tell(refusal)
            await trio.sleep(RETRY_S)

    async def _ask(self, channel: Channel, a: Agreement, port: int) -> str:
        """Empty if the tunnel is open, else why it must wait. Raises RefusedError."""
        await channel.send(encode(Dial(a.id, port)))
        with trio.move_on_after(ANSWER_S):
            frame = await channel.receive()
            try:
                said = decode(Dialled, frame or b"", size_max=1024)
            except CodecError as problem:
                raise UnreachableError("the provider does not speak of tunnels") from problem
            if said.code == "refused":
                raise RefusedError(f"the provider says no: {said.message}")
            if said.code == "not-listening":
                return f"nothing listens on port {port} in the job yet"
            return said.message if said.code else ""
        raise UnreachableError("the provider does not answer")


def _runs(a: Agreement) -> bool:
    return a.phase is Phase.RUNNING and a.report.work is WorkState.RUNNING


def _why_not_yet(job: Job) -> str:
    reason = f": {job.reason}" if job.reason else ""
    return f"the job is {job.state.value}{reason}"
