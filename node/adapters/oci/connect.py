"""Connect: a TCP connection into a job's network, which nothing else reaches.

A socket belongs to the network namespace it was made in. So a thread steps into the job's, makes
one, and steps back; from there on it is an ordinary socket of ours. Knows a pid, no job.
"""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import trio

from market.errors import SandboxError

_CLONE_NEWNET = 0x40000000
_CONNECT_S = 10.0
_libc = ctypes.CDLL(None, use_errno=True)
T = TypeVar("T")


class SocketPipe:
    """Implements the port `Pipe` with a connected socket."""

    def __init__(self, made: trio.socket.SocketType) -> None:
        self._stream = trio.SocketStream(made)

    async def send(self, data: bytes) -> None:
        """All of it."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the job has closed the connection") from problem

    async def receive(self, limit: int) -> bytes:
        """Some of it; nothing at the end."""
        try:
            return bytes(await self._stream.receive_some(limit))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the connection to the job broke") from problem

    async def close_write(self) -> None:
        """Half of it ends."""
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the other half has ended too, which the reader will see


@asynccontextmanager
async def connect(pid: int, port: int) -> AsyncIterator[SocketPipe]:
    """Connect to 127.0.0.1:`port` in the network of the process. Raises SandboxError."""
    if not 0 < port < 65536:
        raise SandboxError(f"{port} is not a port", hint="1 to 65535")
    made = trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(socket_in, pid))
    with made:
        try:
            with trio.fail_after(_CONNECT_S):
                await made.connect(("127.0.0.1", port))
        except (OSError, trio.TooSlowError) as problem:
            raise SandboxError(
                f"nothing listens on port {port} in the job",
                hint="the program must listen on 127.0.0.1 or 0.0.0.0 inside the job",
            ) from problem
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield SocketPipe(made)


class SocketListener:
    """Implements the port `Listener` with a socket inside the job's network."""

    def __init__(self, made: trio.socket.SocketType) -> None:
        self._made = made

    async def accept(self) -> AbstractAsyncContextManager[SocketPipe]:
        """The next connection."""
        try:
            taken, _ = await self._made.accept()
        except OSError as problem:
            raise SandboxError("the job's port is gone") from problem
        return _piped(taken)


@asynccontextmanager
async def listen(pid: int, port: int) -> AsyncIterator[SocketListener]:
    """Listen on 127.0.0.1:`port` in the network of the process. Raises SandboxError."""
    made = trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(socket_in, pid))
    with made:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            await made.bind(("127.0.0.1", port))
            made.listen(64)
        except OSError as problem:
            raise SandboxError(f"port {port} in the job cannot be taken: {problem}") from problem
        yield SocketListener(made)


@asynccontextmanager
async def _piped(taken: trio.socket.SocketType) -> AsyncIterator[SocketPipe]:
    with taken:
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield SocketPipe(taken)


def socket_in(pid: int) -> socket.socket:
    """A TCP socket of the process's network namespace. Raises SandboxError. Blocking."""
    return inside(pid, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))


def inside(pid: int, make: Callable[[], T]) -> T:
    """What `make` returns in the network of the process. Raises SandboxError. Blocking."""
    found: list[T] = []
    problems: list[OSError] = []

    def enter() -> None:
        # A thread of its own, which ends with this: it never comes back to a pool elsewhere.
        try:
            handle = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(handle, _CLONE_NEWNET) < 0:
                    code = ctypes.get_errno()
                    raise OSError(code, os.strerror(code))
            finally:
                os.close(handle)
            found.append(make())
        except OSError as problem:
            problems.append(problem)

    thread = threading.Thread(target=enter, name="into the job's network")
    thread.start()
    thread.join()
    if problems:
        raise SandboxError(f"the job's network cannot be entered: {problems[0]}") from problems[0]
    return found[0]
