"""Execute: the provider's end of `souk exec`. Only the job's own requester, only a job that runs.

    souk exec --unix socket-- enter ==channel== execute --sandbox.execute-- a program in the job

After `Execute` and `Executing` each frame begins with a letter that says what it is: IN, END and
SIZE from the requester; OUT, ERR and CODE, the last one, from the provider.
"""

from __future__ import annotations

import struct
from collections import Counter

import structlog
import trio

from market.agreement import Agreement, Phase, Role
from market.codec import clip, decode, encode
from market.errors import CodecError, MarketError, SandboxError
from market.limits import EXECUTIONS_MAX, EXECUTIONS_PER_PEER_MAX
from market.messages import Execute, Executing, WorkState
from node.keeper import Keeper
from node.ports import Channel, Execution, Sandbox, Stream, Terminal

log = structlog.get_logger("execute")
PROTOCOL = "exec"
QUESTION_BYTES_MAX = 64 * 1024
IN, END, SIZE = b"i", b"e", b"r"
OUT, ERR, CODE = b"o", b"s", b"x"
_WINDOW = struct.Struct(">HH")
_CODE = struct.Struct(">I")


def window(terminal: Terminal) -> bytes:
    """The frame that tells the size of a terminal."""
    return SIZE + _WINDOW.pack(terminal.columns, terminal.rows)


def exit_code(frame: bytes) -> int | None:
    """The exit code, if the frame is the one that says it."""
    if frame[:1] != CODE or len(frame) != 1 + _CODE.size:
        return None
    return int(_CODE.unpack(frame[1:])[0])


class ExecutionServer:
    """Serves channels of the protocol `exec`."""

    def __init__(self, keeper: Keeper, sandbox: Sandbox) -> None:
        """Shares the node's rooms."""
        self._keeper = keeper
        self._sandbox = sandbox
        self._open: Counter[bytes] = Counter()

    async def serve(self, channel: Channel) -> None:
        """Answer one `Execute`, then carry what is typed and said. Malformed things end it."""
        frame = await channel.receive()
        if frame is None:
            return
        try:
            asked = decode(Execute, frame, size_max=QUESTION_BYTES_MAX)
        except CodecError:
            return
        refusal = self._refusal(channel.peer, asked)
        if refusal is not None:
            await channel.send(encode(refusal))
            return
        self._open[channel.peer] += 1
        log.info("executing", agreement=asked.agreement.hex()[:12], tty=bool(asked.columns))
        try:
            await self._execute(channel, asked)
        except MarketError as problem:
            log.debug("an execution broke off", problem=str(problem))
        finally:
            self._open[channel.peer] -= 1
            self._open += Counter()  # forgets those who have none left

    async def _execute(self, channel: Channel, asked: Execute) -> None:
        terminal = Terminal(asked.columns, asked.rows) if asked.columns else None
        answered = False
        try:
            async with self._sandbox.execute(
                asked.agreement.hex(), asked.argv, terminal
            ) as execution:
                await channel.send(encode(Executing("", "")))
                answered = True
                await _carry(channel, execution)
        except SandboxError as problem:
            if answered:
                raise
            await channel.send(encode(Executing("not-running", clip(str(problem)))))

    def _refusal(self, peer: bytes, asked: Execute) -> Executing | None:
        a = self._keeper.agreements.get(asked.agreement)
        if a is None or a.role is not Role.PROVIDER or a.peer != peer or a.manifest is None:
            return Executing("refused", "there is no such agreement between us")
        if not runs(a):
            return Executing("not-running", "the job does not run")
        if self._open[peer] >= EXECUTIONS_PER_PEER_MAX or self._open.total() >= EXECUTIONS_MAX:
            return Executing("busy", "too many programs are being executed already")
        return None


def runs(a: Agreement) -> bool:
    """Whether the job of this agreement has a container to enter."""
    return a.phase is Phase.RUNNING and a.report.work is WorkState.RUNNING


async def _carry(channel: Channel, execution: Execution) -> None:
    """Both ways until the program has ended. A peer that goes away takes it with it."""
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            try:
                while (frame := await channel.receive()) is not None:
                    await _take(frame, execution)
            except SandboxError:
                return  # it reads no more; what it says still matters
            except MarketError:
                nursery.cancel_scope.cancel()
                return
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        while (said := await execution.receive()) is not None:
            await channel.send((ERR if said[0] is Stream.ERR else OUT) + said[1])
        code = await execution.wait()
        await channel.send(CODE + _CODE.pack(code & 0xFFFFFFFF))
        nursery.cancel_scope.cancel()


async def _take(frame: bytes, execution: Execution) -> None:
    kind, data = frame[:1], frame[1:]
    if kind == IN:
        await execution.send(data)
    elif kind == END:
        await execution.close_write()
    elif kind == SIZE and len(data) == _WINDOW.size:
        columns, rows = _WINDOW.unpack(data)
        await execution.resize(Terminal(max(1, columns), max(1, rows)))
