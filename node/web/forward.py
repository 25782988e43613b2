"""Forward: local connections to ports of jobs, on a unix socket of their own beside the API's.

A client says on one line of JSON which job and port it wants. The node answers with lines: why it
waits, at last `{"open": true}` or what went wrong. Then both sides speak in frames, a length of
four bytes and that many bytes; a length of 0 ends one way, and an end without it is a broken line.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import trio

from market.errors import LimitError, MarketError, SpecError, UnreachableError
from node.tunnels.splice import READ_BYTES, splice

if TYPE_CHECKING:
    from node.control import Control

log = structlog.get_logger("forward")
CONNECTIONS_MAX: Final = 512
QUESTION_BYTES_MAX: Final = 4096
QUESTION_S: Final = 10.0
SAY_S: Final = 5.0
SIZE: Final = struct.Struct(">I")


def forward_path(api_socket: Path) -> Path:
    """The socket's place, from that of the API."""
    return api_socket.with_name("forward.sock")


class Forward:
    """Serves the socket."""

    def __init__(self, control: Control) -> None:
        """Asks the front desk."""
        self._control = control
        self._connections = trio.Semaphore(CONNECTIONS_MAX)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection; its errors stay here."""
        async with self._connections, stream:
            try:
                await self._serve(LocalStream(stream))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
            except MarketError as problem:
                log.debug("a forwarded connection ended", problem=str(problem))

    async def _serve(self, local: LocalStream) -> None:
        try:
            with trio.fail_after(QUESTION_S):
                job, port = _question(await local.line())
            found = self._control.jobs.job(job)
            self._control.tunnels.check(found, port)
        except trio.TooSlowError:
            return
        except MarketError as problem:
            await local.say(**_problem(problem))
            return
        failure: MarketError | None = None
        async with trio.open_nursery() as nursery:
            waiting = _Waiting(local, nursery.cancel_scope)
            nursery.start_soon(waiting.run)
            try:
                async with self._control.tunnels.open(found.id, port, waiting.tell) as channel:
                    waiting.scope.cancel()
                    await local.say(open=True)
                    await splice(channel, local)
            except MarketError as problem:
                failure = problem
            nursery.cancel_scope.cancel()
        if failure is not None and not local.opened:
            await local.say(**_problem(failure))


class _Waiting:
    """While a connection is not open yet: says why, and notices when nobody waits any more."""

    def __init__(self, local: LocalStream, all_of_it: trio.CancelScope) -> None:
        self._local = local
        self._all_of_it = all_of_it
        self._said = ""
        self._news = trio.Event()
        self.scope = trio.CancelScope()

    def tell(self, text: str) -> None:
        """What it waits for now."""
        if text != self._said:
            self._said = text
            self._news.set()

    async def run(self) -> None:
        """Until the scope is cancelled."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                while True:
                    await self._news.wait()
                    self._news = trio.Event()
                    # Half a line would spoil what comes after it.
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + SAY_S):
                        try:
                            await self._local.say(wait=self._said)
                        except UnreachableError:
                            self._all_of_it.cancel()

    async def _watch(self) -> None:
        await self._local.gone()
        self._all_of_it.cancel()


class LocalStream:
    """The unix socket as a stream of frames, after a line or two."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._left = 0
        self._send_lock = trio.Lock()
        self.opened = False

    async def line(self, limit: int = QUESTION_BYTES_MAX) -> bytes:
        """One line, without its end. Raises UnreachableError, SpecError."""
        while b"\n" not in self._buffer:
            if len(self._buffer) > limit:
                raise SpecError("the question is too long")
            await self._fill()
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        return line

    async def say(self, **answer: Any) -> None:
        """One line of JSON."""
        self.opened = self.opened or "open" in answer
        await self._write(json.dumps(answer).encode() + b"\n")

    async def send(self, data: bytes) -> None:
        """One frame. Raises UnreachableError."""
        await self._write(SIZE.pack(len(data)) + data)

    async def close_write(self) -> None:
        """The frame that ends this way."""
        await self._write(SIZE.pack(0))

    async def receive(self, limit: int) -> bytes:
        """Bytes of a frame, none at the end of the way. Raises UnreachableError if it broke."""
        if not self._left:
            while len(self._buffer) < SIZE.size:
                await self._fill()
            (self._left,) = SIZE.unpack_from(self._buffer)
            del self._buffer[: SIZE.size]
            if not self._left:
                return b""
        if not self._buffer:
            await self._fill()
        data = bytes(self._buffer[: min(limit, self._left)])
        del self._buffer[: len(data)]
        self._left -= len(data)
        return data

    async def frame(self, limit: int) -> bytes:
        """One whole frame, none at the end of the way. Raises UnreachableError, LimitError."""
        data = await self.receive(limit)
        while self._left:
            if len(data) + self._left > limit:
                raise LimitError(f"a frame has at most {limit} bytes")
            data += await self.receive(self._left)
        return data

    async def gone(self) -> None:
        """Return when the other end has closed, or said something."""
        if not self._buffer:
            await trio.lowlevel.wait_readable(self._stream.socket.fileno())

    async def _fill(self) -> None:
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except trio.BrokenResourceError as problem:
            raise UnreachableError("the local connection broke") from problem
        if not data:
            raise UnreachableError("the local connection broke off")
        self._buffer += data

    async def _write(self, data: bytes) -> None:
        try:
            async with self._send_lock:
                await self._stream.send_all(data)
        except trio.BrokenResourceError as problem:
            raise UnreachableError("the local connection is gone") from problem


def _question(line: bytes) -> tuple[str, int]:
    try:
        raw = json.loads(line)
        job, port = raw["job"], raw["port"]
    except (ValueError, KeyError, TypeError, RecursionError) as problem:
        raise SpecError("the question is not a job and a port") from problem
    if not isinstance(job, str) or type(port) is not int or not 0 < port < 65536:
        raise SpecError("the question is not a job and a port")
    return job, port


def _problem(problem: MarketError) -> dict[str, str]:
    return {"code": problem.code, "message": str(problem), "hint": problem.hint}
