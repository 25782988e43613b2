"""Gang: who may send packets to which job. Only to nodes of one gang, only while both run.

The requester names the members when it accepts (`Accept.members`); a channel comes from one of
exactly those peers, proven by the handshake, and names the agreement of the node it wants. What it
carries is judged packet by packet in `overlay`.

    node 0 --Join--> node 1 --Joined--> node 0 ==packets==> node 1      (and the same way back)
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
import trio

from market.agreement import Agreement, Phase, Role
from market.codec import decode, encode
from market.errors import CodecError, LimitError, RefusedError, SandboxError, UnreachableError
from market.limits import GANG_RETRY_S
from market.messages import Join, Joined, WorkState
from node.keeper import Keeper
from node.ports import Channel, Link, Sandbox
from node.tunnels.overlay import Overlay, handshake

log = structlog.get_logger("gang")
PROTOCOL = "gang"
ANSWER_S = 15.0


class Gangs:
    """The overlays of this node's running jobs; serves channels of the protocol `gang`."""

    def __init__(self, keeper: Keeper, link: Link, sandbox: Sandbox) -> None:
        """Shares the node's rooms."""
        self._keeper = keeper
        self._link = link
        self._sandbox = sandbox
        self._scopes: dict[bytes, trio.CancelScope] = {}
        self.overlays: dict[bytes, Overlay] = {}  # by agreement

    async def run(self, tick_s: float) -> None:
        """Connect each job that is a node of a gang, as long as it runs."""
        async with trio.open_nursery() as nursery:
            while True:
                wanted = {a.id: a for a in self._keeper.agreements.values() if _wants(a)}
                for key, scope in list(self._scopes.items()):
                    if key not in wanted:
                        scope.cancel()
                for key, a in wanted.items():
                    if key not in self._scopes:
                        self._scopes[key] = trio.CancelScope()
                        nursery.start_soon(self._connect, a)
                await trio.sleep(tick_s)

    async def serve(self, channel: Channel) -> None:
        """Answer one `Join`, then take packets. Anything malformed ends the channel."""
        frame = await channel.receive()
        try:
            join = decode(Join, frame or b"", size_max=64)
        except CodecError:
            return
        a = self._keeper.agreements.get(join.agreement)
        rank = _rank_of(a, channel.peer)
        if a is None or rank is None:
            await channel.send(encode(Joined("refused", "you are no other node of such a gang")))
            return
        overlay = self.overlays.get(a.id)
        if overlay is None:
            await channel.send(encode(Joined("not-running", "the job does not run")))
            return
        await channel.send(encode(Joined("", "")))
        try:
            await overlay.take(channel, rank)
        except (CodecError, LimitError, SandboxError) as problem:
            log.debug("a gang's channel was cut", rank=rank, problem=str(problem))

    async def _connect(self, a: Agreement) -> None:
        try:
            with self._scopes[a.id]:
                while True:
                    try:
                        await self._overlay(a)
                    except SandboxError as problem:
                        log.info("a gang's network waits", agreement=a.id.hex()[:12],
                                 problem=str(problem))  # fmt: skip
                    await trio.sleep(GANG_RETRY_S)
        finally:
            del self._scopes[a.id]

    async def _overlay(self, a: Agreement) -> None:
        async with self._sandbox.interface(a.id.hex()) as interface:
            made = Overlay(a.rank, len(a.members), interface, partial(self._open, a))
            self.overlays[a.id] = made
            log.info("a gang's node is connected", agreement=a.id.hex()[:12], rank=a.rank)
            try:
                await made.run()
            finally:
                del self.overlays[a.id]
                log.info(
                    "a gang's node is disconnected", agreement=a.id.hex()[:12], rank=a.rank,
                    sent=made.bytes_out, received=made.bytes_in,
                    dropped={drop.value: count for drop, count in made.dropped.items()},
                )  # fmt: skip

    @asynccontextmanager
    async def _open(self, a: Agreement, rank: int) -> AsyncIterator[Channel]:
        """A channel to the node of that rank, which takes packets. UnreachableError, Refused."""
        member = a.members[rank]
        async with AsyncExitStack() as stack:
            try:
                channel = await stack.enter_async_context(self._link.open(member.peer, PROTOCOL))
            except UnreachableError:
                if not member.address or await self._link.connect(member.address) != member.peer:
                    raise
                channel = await stack.enter_async_context(self._link.open(member.peer, PROTOCOL))
            said = await handshake(channel, encode(Join(member.agreement)), ANSWER_S)
            try:
                joined = decode(Joined, said, size_max=1024)
            except CodecError as problem:
                raise UnreachableError("the other node's provider knows no gangs") from problem
            if joined.code:
                raise RefusedError(f"the other node's provider says: {joined.message}")
            yield channel


def _rank_of(a: Agreement | None, peer: bytes) -> int | None:
    """Which other node of this agreement's gang the peer is; None if it is none."""
    if a is None or not _wants(a):
        return None
    ranks = (rank for rank, member in enumerate(a.members) if member.peer == peer)
    return next((rank for rank in ranks if rank != a.rank), None)


def _wants(a: Agreement) -> bool:
    """Whether this node runs a node of a gang for it now."""
    if a.role is not Role.PROVIDER or not a.members or a.phase is not Phase.RUNNING:
        return False
    return a.report.work is WorkState.RUNNING
