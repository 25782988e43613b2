"""Accept: the provider's end of a tunnel. Only the job's own requester, only a port it named."""

from __future__ import annotations

from collections import Counter

import structlog

from market.agreement import Agreement, Phase, Role
from market.codec import clip, decode, encode
from market.errors import CodecError, MarketError, SandboxError
from market.limits import TUNNELS_MAX, TUNNELS_PER_PEER_MAX
from market.messages import Dial, Dialled, WorkState
from node.keeper import Keeper
from node.ports import Channel, Sandbox
from node.tunnels.splice import splice

log = structlog.get_logger("tunnels")
PROTOCOL = "tunnel"


class TunnelServer:
    """Serves channels of the protocol `tunnel`."""

    def __init__(self, keeper: Keeper, sandbox: Sandbox) -> None:
        """Shares the node's rooms."""
        self._keeper = keeper
        self._sandbox = sandbox
        self._open: Counter[bytes] = Counter()
        self.served = 0

    async def serve(self, channel: Channel) -> None:
        """Answer one `Dial`, then carry bytes. Anything malformed ends the channel."""
        frame = await channel.receive()
        if frame is None:
            return
        try:
            dial = decode(Dial, frame, size_max=128)
        except CodecError:
            return
        refusal = self._refusal(channel.peer, dial)
        if refusal is not None:
            await channel.send(encode(refusal))
            return
        self._open[channel.peer] += 1
        self.served += 1
        try:
            await self._carry(channel, dial)
        finally:
            self._open[channel.peer] -= 1
            self._open += Counter()  # forgets those who have none left

    async def _carry(self, channel: Channel, dial: Dial) -> None:
        answered = False
        try:
            async with self._sandbox.connect(dial.agreement.hex(), dial.port) as pipe:
                await channel.send(encode(Dialled("", "")))
                answered = True
                await splice(channel, pipe)
        except SandboxError as problem:
            if answered:
                raise  # the channel is cut, which the other side sees
            await channel.send(encode(Dialled("not-listening", clip(str(problem)))))
        except MarketError as problem:
            log.debug("a tunnel broke off", problem=str(problem))
            raise

    def _refusal(self, peer: bytes, dial: Dial) -> Dialled | None:
        a = self._keeper.agreements.get(dial.agreement)
        if a is None or a.role is not Role.PROVIDER or a.peer != peer or a.manifest is None:
            return Dialled("refused", "there is no such agreement between us")
        if dial.port not in a.manifest.ports:
            return Dialled("refused", f"the job file names no port {dial.port}")
        if not _runs(a):
            return Dialled("not-running", "the job does not run")
        if self._open[peer] >= TUNNELS_PER_PEER_MAX or self._open.total() >= TUNNELS_MAX:
            return Dialled("busy", "too many connections are open already")
        return None


def _runs(a: Agreement) -> bool:
    return a.phase is Phase.RUNNING and a.report.work is WorkState.RUNNING
