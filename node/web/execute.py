"""Execute: `souk exec` on a unix socket of its own beside the API's; no web page can reach it.

A client says on one line of JSON which job, program and window it wants. The node answers with a
line: `{"open": true}` or what went wrong. Then both speak in frames, a length of four bytes and
that many bytes; what is in them is what `node/tunnels/execute.py` says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from market.errors import MarketError, SpecError
from market.limits import ARGUMENT_BYTES_MAX, ARGUMENTS_MAX
from node.ports import Channel, Terminal
from node.tunnels.execute import QUESTION_BYTES_MAX
from node.web.forward import LocalStream

if TYPE_CHECKING:
    from node.control import Control

log = structlog.get_logger("exec")
QUESTION_S: Final = 10.0
FRAME_BYTES_MAX: Final = 256 * 1024
_SIDE_MAX: Final = 65_535


def execute_path(api_socket: Path) -> Path:
    """The socket's place, from that of the API."""
    return api_socket.with_name("exec.sock")


class Execute:
    """Serves the socket."""

    def __init__(self, control: Control) -> None:
        """Asks the front desk."""
        self._control = control

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection; its errors stay here."""
        local = LocalStream(stream)
        async with stream:
            try:
                await self._serve(local)
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
                return
            except MarketError as problem:
                log.debug("an execution ended", problem=str(problem))

    async def _serve(self, local: LocalStream) -> None:
        try:
            with trio.fail_after(QUESTION_S):
                job, argv, terminal = _question(await local.line(QUESTION_BYTES_MAX))
            found = self._control.jobs.job(job)
            async with self._control.entrance.open(found, argv, terminal) as channel:
                await local.say(open=True)
                await _carry(channel, local)
        except MarketError as problem:
            if not local.opened:
                await local.say(code=problem.code, message=str(problem), hint=problem.hint)


async def _carry(channel: Channel, local: LocalStream) -> None:
    """Frames both ways until the program has ended or somebody has gone."""
    async with trio.open_nursery() as nursery:

        async def typed() -> None:
            try:
                while frame := await local.frame(FRAME_BYTES_MAX):
                    await channel.send(frame)
            except MarketError:
                nursery.cancel_scope.cancel()

        async def said() -> None:
            try:
                while (frame := await channel.receive()) is not None:
                    await local.send(frame)
                await local.close_write()
            except MarketError:
                pass  # the client sees its connection end without a code
            nursery.cancel_scope.cancel()

        nursery.start_soon(typed)
        nursery.start_soon(said)


def _question(line: bytes) -> tuple[str, tuple[str, ...], Terminal | None]:
    try:
        raw: dict[str, Any] = json.loads(line)
        job, argv, columns, rows = (raw[key] for key in ("job", "argv", "columns", "rows"))
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise SpecError("the question is not a job and a program") from problem
    words = isinstance(argv, list) and all(isinstance(word, str) for word in argv)
    sides = all(type(side) is int and 0 <= side <= _SIDE_MAX for side in (columns, rows))
    if not isinstance(job, str) or not words or not sides:
        raise SpecError("the question is not a job and a program")
    if not 0 < len(argv) <= ARGUMENTS_MAX:
        raise SpecError(f"a program has 1 to {ARGUMENTS_MAX} words", hint="put them into a file")
    if any(len(word.encode()) > ARGUMENT_BYTES_MAX for word in argv):
        raise SpecError(f"a word has at most {ARGUMENT_BYTES_MAX} bytes")
    return job, tuple(argv), Terminal(columns, max(1, rows)) if columns else None
