"""Execute: `souk exec`, a program in a running job, with its terminal if there is one here."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import sys
import termios
import tty as terminals
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import trio
from cyclopts import Parameter

from market.errors import SpecError, UnreachableError
from node.cli.options import DEFAULT, Common
from node.client.http import NodeDownError, refusal
from node.ports import Terminal
from node.tunnels.execute import END, ERR, IN, OUT, exit_code, window

READ_BYTES: Final = 64 * 1024
LINE_BYTES_MAX: Final = 64 * 1024
FRAME_BYTES_MAX: Final = 2 * 1024 * 1024
SIZE: Final = struct.Struct(">I")
_WINDOW: Final = struct.Struct("HHHH")


def exec_(
    job: str,
    *program: str,
    tty: Annotated[bool | None, Parameter(name=["--tty", "-t"])] = None,
    common: Common = DEFAULT,
) -> int:
    """Run a program in a running job, beside its own, and end with its exit code.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    program
        The program and its words, after `--`: souk exec JOB -- sh
    tty
        Give it a terminal; by default if there is one here on both ends.
    """
    if not program:
        raise SpecError("which program?", hint=f"write it like: souk exec {job} -- sh")
    both = sys.stdin.isatty() and sys.stdout.isatty()
    if tty and not sys.stdin.isatty():
        raise SpecError("--tty: there is no terminal here", hint="leave it out, or type it by hand")
    typed = both if tty is None else tty
    path = common.settings().socket_path.with_name("exec.sock")
    return trio.run(_run, path, job, program, typed)


async def _run(path: Path, job: str, program: tuple[str, ...], typed: bool) -> int:
    size = _size() if typed else Terminal(0, 0)
    question = {"job": job, "argv": program, "columns": size.columns, "rows": size.rows}
    try:
        stream = await trio.open_unix_socket(str(path))
    except OSError as problem:
        raise NodeDownError("no node runs here", hint="start it with: souk up") from problem
    async with stream:
        frames = _Frames(stream)
        try:
            await stream.send_all(json.dumps(question).encode() + b"\n")
            await frames.opened()
            with _raw(typed):
                return await _talk(frames, typed)
        except (trio.BrokenResourceError, BrokenPipeError) as problem:
            raise UnreachableError("the connection to the node broke off") from problem


async def _talk(frames: _Frames, typed: bool) -> int:
    code: int | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_type, frames)
        if typed:
            nursery.start_soon(_watch_window, frames)
        while frame := await frames.receive():
            code = exit_code(frame)
            if code is not None:
                break
            where = {OUT: 1, ERR: 2}.get(frame[:1])
            if where is not None:
                await trio.to_thread.run_sync(_write, where, frame[1:])
        nursery.cancel_scope.cancel()
    if code is None:
        raise UnreachableError(
            "the program was cut off: its job or provider is gone", hint="see: souk ps"
        )
    return code & 0xFF


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


async def _type(frames: _Frames) -> None:
    """What is typed or piped in here. A thread that reads a terminal cannot be called back."""
    while True:
        # The types know an older name of the argument.
        in_thread: Any = trio.to_thread.run_sync
        data: bytes = await in_thread(os.read, 0, READ_BYTES, abandon_on_cancel=True)
        await frames.send(IN + data if data else END)
        if not data:
            return


async def _watch_window(frames: _Frames) -> None:
    with trio.open_signal_receiver(signal.SIGWINCH) as changes:
        async for _ in changes:
            await frames.send(window(_size()))


def _size() -> Terminal:
    try:
        raw = fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(_WINDOW.size))
    except OSError:
        return Terminal()
    rows, columns, _, _ = _WINDOW.unpack(raw)
    return Terminal(columns or 80, rows or 24)


@contextmanager
def _raw(typed: bool) -> Iterator[None]:
    """Every key goes to the program, Ctrl-C too; afterwards the terminal is as it was."""
    if not typed:
        yield
        return
    before = termios.tcgetattr(0)
    try:
        terminals.setraw(0, termios.TCSADRAIN)  # what was typed ahead is the program's
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


class _Frames:
    """The node's socket: a line or two, then frames."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._buffer = bytearray()
        self._lock = trio.Lock()

    async def opened(self) -> None:
        """Wait until the program runs. Raises MarketError."""
        while b"\n" not in self._buffer:
            if not await self._fill() or len(self._buffer) > LINE_BYTES_MAX:
                raise UnreachableError("the node ended the connection")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        answer: dict[str, Any] = json.loads(line)
        if "open" not in answer:
            raise refusal(answer["code"], answer["message"], answer["hint"])

    async def send(self, frame: bytes) -> None:
        """One frame."""
        async with self._lock:
            await self._stream.send_all(SIZE.pack(len(frame)) + frame)

    async def receive(self) -> bytes:
        """The next frame; none at the end."""
        while len(self._buffer) < SIZE.size:
            if not await self._fill():
                return b""
        (size,) = SIZE.unpack_from(self._buffer)
        if size > FRAME_BYTES_MAX:
            raise UnreachableError("the node's answer makes no sense")
        while len(self._buffer) < SIZE.size + size:
            if not await self._fill():
                return b""
        frame = bytes(self._buffer[SIZE.size : SIZE.size + size])
        del self._buffer[: SIZE.size + size]
        return frame

    async def _fill(self) -> bool:
        data = await self._stream.receive_some(READ_BYTES)
        self._buffer += data
        return bool(data)
