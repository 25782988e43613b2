"""Execute: a program in a running container, by the runtime's `exec`, with or without a terminal.

The runtime gives it the container's namespaces, groups and filter; the rest of its confinement is
named here, as for the job's first process. Knows no market.
"""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import tempfile
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from market.errors import SandboxError
from market.limits import CHUNK_BYTES
from node.adapters.oci import bundle
from node.adapters.oci.cgroups import send_signal
from node.adapters.oci.launch import environment
from node.adapters.oci.settings import WorkPaths
from node.ports import Execution, Stream, Terminal

_READ_BYTES = min(CHUNK_BYTES, 64 * 1024)
_QUEUE = 16  # parts of output that wait for a slow reader; then the program waits
_NOT_THERE = 127
_RUNTIME_FAILED = 255  # crun; runc says 255 too when it could not execute
_GONE_S = 2.0


@asynccontextmanager
async def execute(
    runtime: tuple[str, ...],
    paths: WorkPaths,
    cgroup: str,
    plan: bundle.Plan,
    argv: tuple[str, ...],
    terminal: Terminal | None,
) -> AsyncIterator[Execution]:
    """Run `argv` in the container of the job. Raises SandboxError. Leaving kills it."""
    folder = Path(await trio.to_thread.run_sync(tempfile.mkdtemp, "", "exec-", str(paths.live)))
    file, pid_file = folder / "process.json", folder / "pid"
    process = {
        "terminal": terminal is not None,
        "user": {"uid": plan.identity.inside, "gid": plan.identity.inside, "umask": 0o022},
        "args": list(argv),
        "env": [f"{name}={value}" for name, value in sorted(plan.envs.items())],
        "cwd": plan.cwd,
        **bundle.confinement(plan.files, plan.locked_bytes),
    }
    command = [
        *runtime,
        "--root",
        str(paths.live / "runtime"),
        "--log",
        str(folder / "log"),
        "exec",
        "--process",
        str(file),
        "--pid-file",
        str(pid_file),
        paths.container,
    ]
    file.write_text(json.dumps(process))  # in memory, and for as long as the program runs
    running: _Piped | _Typed | None = None
    try:
        complaints = folder / "log"
        if terminal is None:
            running = _Piped(await _open(command, subprocess.PIPE), complaints)
        else:
            hands_over = os.path.basename(runtime[-1]).startswith("crun")
            if hands_over:
                running = await _given(command, folder, terminal)
            else:
                running = await _typed(command, complaints, terminal)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(running.listen)
            try:
                yield running
            finally:
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            if running is not None:
                await _end(running.process, pid_file, cgroup)
                await running.aclose()
            await trio.to_thread.run_sync(_forget, folder)


def _forget(folder: Path) -> None:
    for entry in folder.iterdir():
        entry.unlink()
    folder.rmdir()


async def _end(process: trio.Process, pid_file: Path, cgroup: str) -> None:
    """Kill the program and all of its session, then let the runtime notice."""
    with suppress(OSError, ValueError):
        await trio.to_thread.run_sync(_kill_named, pid_file, cgroup)
    with trio.move_on_after(_GONE_S):
        await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()


def _kill_named(pid_file: Path, cgroup: str) -> None:
    kill_session(int(pid_file.read_text()), cgroup)


def kill_session(leader: int, cgroup: str) -> None:
    """SIGKILL the processes of the session that `leader` began, if they are the job's."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (int(entry) == leader or _session(int(entry)) == leader):
            send_signal(int(entry), signal.SIGKILL, cgroup)


def _session(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[3])


class _Running:
    """What both kinds share: output in a bounded queue, the exit code of the runtime's process."""

    def __init__(self, process: trio.Process, complaints: Path) -> None:
        self.process = process
        self._complaints = complaints
        self._said, self._heard = trio.open_memory_channel[tuple[Stream, bytes]](_QUEUE)

    async def receive(self) -> tuple[Stream, bytes] | None:
        """The next part; None once it has closed its outputs."""
        try:
            return await self._heard.receive()
        except trio.EndOfChannel:
            return None

    async def wait(self) -> int:
        """Its exit code."""
        code = await self.process.wait()
        if code == _RUNTIME_FAILED and self._complaints.exists():
            return _NOT_THERE if self._complaints.stat().st_size else code
        return code if code >= 0 else 128 - code


class _Piped(_Running):
    """Implements the port `Execution` with pipes."""

    async def listen(self) -> None:
        """Read both outputs until they end."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        async with self._said, trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, Stream.OUT, self.process.stdout)
            nursery.start_soon(self._copy, Stream.ERR, self.process.stderr)

    async def _copy(self, which: Stream, source: trio.abc.ReceiveStream) -> None:
        while data := await source.receive_some(_READ_BYTES):
            await self._said.send((which, bytes(data)))

    async def send(self, data: bytes) -> None:
        """To its standard input."""
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the program reads no more") from problem

    async def close_write(self) -> None:
        """The end of it."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()

    async def resize(self, terminal: Terminal) -> None:
        """It has no window."""

    async def aclose(self) -> None:
        """Let go of the pipes."""
        for end in (self.process.stdin, self.process.stdout, self.process.stderr):
            if end is not None:
                await end.aclose()


class _Typed(_Running):
    """Implements the port `Execution` with a terminal: the runtime is shown the far end of ours."""

    def __init__(self, process: trio.Process, complaints: Path, master: int) -> None:
        super().__init__(process, complaints)
        self._master = trio.lowlevel.FdStream(master)
        self._number = master

    async def listen(self) -> None:
        """Read until the far end is closed, which reads as an error here."""
        async with self._said:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                while data := await self._master.receive_some(_READ_BYTES):
                    await self._said.send((Stream.OUT, bytes(data)))

    async def send(self, data: bytes) -> None:
        """As if typed."""
        try:
            await self._master.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the program reads no more") from problem

    async def close_write(self) -> None:
        """A terminal has no end; Ctrl-D is typed like any key."""

    async def resize(self, terminal: Terminal) -> None:
        """The runtime passes it on when it is told that its own window has changed."""
        if self.process.returncode is None:
            set_size(self._number, terminal)
            self.process.send_signal(signal.SIGWINCH)

    async def aclose(self) -> None:
        """Hang up."""
        await self._master.aclose()


async def _given(command: list[str], folder: Path, terminal: Terminal) -> _Typed:
    """crun, asked to copy, drops what a program says just before its end; so it hands over the

    terminal's end by a socket instead. runc would do that only for a program that it leaves alone.
    """
    place = str(folder / "console")
    at = command.index("exec") + 1
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        listener.bind(place)
        listener.listen(1)
        ours = [*command[:at], "--console-socket", place, *command[at:]]
        process = await _open(ours, subprocess.DEVNULL)
        try:
            master = await _receive_terminal(listener, process)
        except BaseException:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
            raise
    set_size(master, terminal)
    return _Typed(process, folder / "log", master)


async def _receive_terminal(listener: socket.socket, process: trio.Process) -> int:
    """The descriptor that the runtime sends, or of nothing if it ends before."""
    found: list[int] = []

    async def take(scope: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(listener.fileno())
        with listener.accept()[0] as made:
            await trio.lowlevel.wait_readable(made.fileno())
            found.extend(socket.recv_fds(made, 256, 1)[1])
        scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, nursery.cancel_scope)
        await process.wait()
        nursery.cancel_scope.deadline = trio.current_time() + 1.0
    if not found:
        found.append(os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC))
    return found[0]


async def _typed(command: list[str], complaints: Path, terminal: Terminal) -> _Typed:
    master, slave = pty.openpty()
    try:
        set_size(master, terminal)
        process = await _open(command, slave)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)
    return _Typed(process, complaints, master)


async def _open(command: list[str], end: int) -> trio.Process:
    options: dict[str, Any] = {"stdin": end, "stdout": end, "stderr": end, "env": environment()}
    try:
        # A session of its own: keys typed at the node's terminal are not for this program.
        return await trio.lowlevel.open_process(command, start_new_session=True, **options)
    except OSError as problem:
        raise SandboxError(f"{command[0]} cannot be run: {problem}") from problem


def set_size(descriptor: int, terminal: Terminal) -> None:
    """Give a terminal its size in characters."""
    size = struct.pack("HHHH", terminal.rows, terminal.columns, 0, 0)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, size)
