"""Sandbox: a machine that runs simulated jobs. It outlives its node, as the real one does.

A job's command is `work SECONDS [exit CODE] [say WORD] [serve PORT] [bare] [progress] [brittle]`.
Its checkpoint holds how many seconds are done; a resumed job goes on from there. Its one result
says for how long it worked in all. A `bare` job leaves neither; one with `progress` says how far it
is. What serves a port gives back what it is sent. When its unit is lost a `brittle` job fails, and
any other hangs. One with `litter COUNT` leaves so many results, one with `claim` too large a one.
One with `greet` says hello to rank 1 of its gang, by UDP to port 9000, and then its answers.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from market.errors import SandboxError
from market.overlay import address
from market.terms import Artifact
from market.units import UnixTime
from node.ports import (
    Blobs,
    Check,
    Execution,
    Interface,
    Observed,
    Pipe,
    RunState,
    Stream,
    Terminal,
    Workspace,
)
from tests.packets import udp


@dataclass
class SimWork:
    """One job in the machine."""

    workspace: Workspace
    done_before_s: float
    started_at: float | None = None
    stopped_at: float | None = None
    paused_at: float | None = None
    paused_s: float = 0.0
    lost_at: float | None = None  # its unit was, and nothing is done since
    rate: float = 1.0  # seconds of work done in a second
    extended_s: float = 0.0
    collected: list[str] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)  # packets of its gang
    sending: list[bytes] = field(default_factory=list)  # packets it sends next
    held: bool = False  # its interface

    @property
    def wanted_s(self) -> float:
        """How long the command works in all."""
        return float(self.workspace.manifest.command.split()[1])

    def option(self, name: str) -> str:
        """The word after `name` in the command, or nothing."""
        words = self.workspace.manifest.command.split()
        return words[words.index(name) + 1] if name in words else ""

    @property
    def bare(self) -> bool:
        """Whether it leaves nothing."""
        return "bare" in self.workspace.manifest.command.split()

    @property
    def limit_s(self) -> float:
        """How long it may run."""
        return max(self.extended_s, float(self.workspace.manifest.max_duration_s or 2**31))

    def ran_s(self, now: float) -> float:
        """Seconds it has run here."""
        if self.started_at is None:
            return 0.0
        left = min(max(0.0, self.wanted_s - self.done_before_s) / self.rate, self.limit_s)
        ends = [end for end in (now, self.stopped_at, self.paused_at) if end is not None]
        return min(min(ends) - self.started_at - self.paused_s, left)

    def done_s(self, now: float) -> float:
        """Seconds of the whole work that are done."""
        return self.done_before_s + self.ran_s(min(now, self.lost_at or now)) * self.rate

    def observed(self, now: float) -> Observed:
        """As the clock says."""
        if self.started_at is None:
            return Observed(RunState.PREPARED)
        ran_s, size = self.ran_s(now), len(self.log(now))
        if self.done_s(now) >= self.wanted_s - 1e-6:
            code = int(self.option("exit") or 0)
            return Observed(RunState.EXITED, ran_s, code, log_bytes=size)
        if self.lost_at is not None and "brittle" in self.workspace.manifest.command.split():
            return Observed(RunState.EXITED, self.ran_s(self.lost_at), 1, log_bytes=size)
        if self.stopped_at is not None:
            return Observed(RunState.EXITED, ran_s, 143, signal=15, log_bytes=size)
        if ran_s >= self.limit_s:
            return Observed(RunState.EXITED, ran_s, 143, 15, timed_out=True, log_bytes=size)
        return Observed(
            RunState.RUNNING,
            ran_s,
            log_bytes=size,
            memory_bytes=1 << 20,
            pids=1,
            paused=self.paused_at is not None,
            progress_ppm=self.progress_ppm(now),
        )

    def progress_ppm(self, now: float) -> int:
        """The share of its work that is done, if it says so."""
        if "progress" not in self.workspace.manifest.command.split():
            return 0
        return round(self.done_s(now) / self.wanted_s * 1_000_000)

    def log(self, now: float) -> bytes:
        """What it has said: its word, then eight bytes for each second."""
        word = self.option("say")
        said = f"{word}\n".encode() if word and self.started_at is not None else b""
        said += b"".join(packet[28:] + b"\n" for packet in self.heard)
        return said + b"".join(b"sec%04d\n" % second for second in range(int(self.ran_s(now))))


class SimSandbox:
    """Implements the port `Sandbox`."""

    def __init__(self, now: Callable[[], UnixTime], blobs: Blobs) -> None:
        self._now = now
        self._blobs = blobs
        self.work: dict[str, SimWork] = {}
        self.overlaps: list[str] = []
        self.checks: tuple[Check, ...] = ()
        self.ran: dict[str, float] = {}  # of what is not here any more, in seconds
        self.rate = 1.0  # of what is prepared from now on

    def power_cut(self) -> None:
        """Everything that ran is gone."""
        for work_id in list(self.work):
            self._drop(work_id)

    def lose(self, unit: int) -> None:
        """What runs on this unit gets nothing done any more."""
        for work in self.work.values():
            if unit in work.workspace.units and work.lost_at is None:
                work.lost_at = self._now()

    async def prepare(self, workspace: Workspace) -> None:
        """Everything the manifest names must be here."""
        if workspace.work_id in self.work:
            return
        manifest = workspace.manifest
        for artifact in (manifest.image, *manifest.inputs):
            if await self._blobs.size(artifact.hash) is None:
                raise SandboxError(f"{artifact.path} is not here")
        done_s = 0.0
        if manifest.resume is not None:
            done_s = float((await self._blobs.read(manifest.resume.hash, 0, 64)).decode())
        for other in self.work.values():
            running = other.started_at is not None and other.stopped_at is None
            shared = set(other.workspace.units) & set(workspace.units)
            if running and shared and other.done_s(self._now()) < other.wanted_s:
                self.overlaps.append(workspace.work_id)
        self.work[workspace.work_id] = SimWork(workspace, done_s, rate=self.rate)

    async def start(self, work_id: str) -> None:
        """Once."""
        work = self.work.get(work_id)
        if work is None:
            raise SandboxError("it was not prepared")
        if work.started_at is None:
            work.started_at = self._now()

    async def observe(self, work_id: str) -> Observed:
        """As the clock says."""
        work = self.work.get(work_id)
        return Observed(RunState.ABSENT) if work is None else work.observed(self._now())

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """A part of it."""
        work = self.work.get(work_id)
        return b"" if work is None else work.log(self._now())[offset : offset + limit]

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """The seconds done so far."""
        work = self.work.get(work_id)
        if work is None:
            raise SandboxError("it is not here")
        if work.bare and work.workspace.manifest.resume is None:
            return None
        data = f"{work.done_s(self._now()):.3f}".encode()
        await self._blobs.put(data)
        path = work.workspace.manifest.checkpoint_path
        return Artifact(path, hashlib.sha256(data).digest(), len(data))

    async def collect(self, work_id: str) -> tuple[Artifact, ...]:
        """One result."""
        work = self.work.get(work_id)
        if work is None:
            raise SandboxError("it is not here")
        if work.bare:
            return ()
        if "claim" in work.workspace.manifest.command.split():
            raise SandboxError("the outputs claim more bytes than may be fetched")
        if many := int(work.option("litter") or 0):
            data = _litter(many)
            return (Artifact("/out/", await self._blobs.put(data), len(data)),)
        data = f"worked {work.done_s(self._now()):.0f} s".encode()
        await self._blobs.put(data)
        return (Artifact("/out/result", hashlib.sha256(data).digest(), len(data)),)

    async def stop(self, work_id: str, grace_s: float) -> None:
        """At once."""
        work = self.work.get(work_id)
        if work is not None and work.stopped_at is None:
            work.stopped_at = self._now()

    async def extend(self, work_id: str, max_duration_s: int) -> None:
        """A later end."""
        work = self._running(work_id)
        work.extended_s = max(work.extended_s, float(max_duration_s))

    async def pause(self, work_id: str) -> None:
        """Its clock stands still."""
        work = self._running(work_id)
        if work.paused_at is None:
            work.paused_at = self._now()

    async def resume(self, work_id: str) -> None:
        """Its clock goes on."""
        work = self._running(work_id)
        if work.paused_at is not None:
            work.paused_s += self._now() - work.paused_at
            work.paused_at = None

    @asynccontextmanager
    async def connect(self, work_id: str, port: int) -> AsyncIterator[Pipe]:
        """An echo."""
        work = self._running(work_id)
        if work.option("serve") != str(port):
            raise SandboxError(f"nothing listens on port {port} in the job")
        yield SimPipe()

    @asynccontextmanager
    async def interface(self, work_id: str) -> AsyncIterator[Interface]:
        """Whatever the test has it send."""
        work = self._running(work_id)
        if not work.workspace.address or work.held:
            raise SandboxError("the job has no network interface")
        if "greet" in work.workspace.manifest.command.split():
            work.sending.append(udp(work.workspace.address, address(1), b"hello"))
        work.held, interface = True, SimInterface(work, self._now)
        try:
            yield interface
        finally:
            work.held, interface.closed = False, True

    @asynccontextmanager
    async def execute(
        self, work_id: str, argv: tuple[str, ...], terminal: Terminal | None = None
    ) -> AsyncIterator[Execution]:
        """One of a few programs."""
        if self._running(work_id).paused_at is not None:
            raise SandboxError("the job is paused")
        yield SimExecution(argv, terminal)

    async def scrub(self, work_id: str) -> None:
        """Forget it."""
        self._drop(work_id)

    async def prune(self) -> int:
        """It unpacks nothing."""
        return 0

    async def works(self) -> tuple[str, ...]:
        """What is here."""
        return tuple(sorted(self.work))

    async def preflight(self) -> tuple[Check, ...]:
        """What the test has set."""
        return self.checks

    def ran_s(self, work_id: str) -> float:
        """How long it ran, whether it is here or not."""
        work = self.work.get(work_id)
        return self.ran.get(work_id, 0.0) + (work.ran_s(self._now()) if work else 0.0)

    def _drop(self, work_id: str) -> None:
        work = self.work.pop(work_id, None)
        if work is not None:
            self.ran[work_id] = self.ran.get(work_id, 0.0) + work.ran_s(self._now())

    def _running(self, work_id: str) -> SimWork:
        work = self.work.get(work_id)
        if work is None or work.observed(self._now()).state is not RunState.RUNNING:
            raise SandboxError("the job does not run")
        return work


def _litter(count: int) -> bytes:
    """So many files in a tar."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for number in range(count):
            tar.addfile(tarfile.TarInfo(str(1000 + number)))
    return target.getvalue()


class SimPipe:
    """Implements the port `Pipe`: what goes in comes out."""

    def __init__(self) -> None:
        self._ends = trio.open_memory_channel[bytes](64)
        self._rest = b""

    async def send(self, data: bytes) -> None:
        """Into the pipe."""
        await self._ends[0].send(data)

    async def receive(self, limit: int) -> bytes:
        """Out of it."""
        if not self._rest:
            try:
                self._rest = await self._ends[1].receive()
            except trio.EndOfChannel:
                return b""
        data, self._rest = self._rest[:limit], self._rest[limit:]
        return data

    async def close_write(self) -> None:
        """The end."""
        await self._ends[0].aclose()


class SimInterface:
    """Implements the port `Interface`: packets are what the work is told to send."""

    def __init__(self, work: SimWork, now: Callable[[], UnixTime]) -> None:
        self._work = work
        self._now = now
        self.closed = False

    async def receive(self) -> bytes:
        """The next, once there is one."""
        while (packet := self.receive_nowait()) is None:
            await trio.sleep(0.5)
        return packet

    def receive_nowait(self) -> bytes | None:
        """The next, if there is one."""
        if self.closed or self._work.observed(self._now()).state is not RunState.RUNNING:
            raise SandboxError("the job is gone")
        return self._work.sending.pop(0) if self._work.sending else None

    def send(self, packet: bytes) -> None:
        """Heard."""
        if self.closed:
            raise SandboxError("the interface was let go")
        self._work.heard.append(packet)


class SimExecution:
    """Implements the port `Execution`: `cat`, `echo WORDS`, `warn WORDS` or `exit CODE`."""

    def __init__(self, argv: tuple[str, ...], terminal: Terminal | None) -> None:
        self.terminal = terminal
        self._argv = argv
        self._input = SimPipe()
        self._said: list[tuple[Stream, bytes]] = []
        words = " ".join(argv[1:]).encode() + b"\n"
        if argv[0] in ("echo", "warn"):
            warns = argv[0] == "warn" and terminal is None
            self._said.append((Stream.ERR if warns else Stream.OUT, words))

    async def send(self, data: bytes) -> None:
        """To its standard input."""
        await self._input.send(data)

    async def close_write(self) -> None:
        """The end of it."""
        await self._input.close_write()

    async def receive(self) -> tuple[Stream, bytes] | None:
        """What it says."""
        if self._said:
            return self._said.pop()
        if self._argv[0] != "cat":
            return None
        data = await self._input.receive(65536)
        return (Stream.OUT, data) if data else None

    async def resize(self, terminal: Terminal) -> None:
        """Remembered."""
        if self.terminal is not None:
            self.terminal = terminal

    async def wait(self) -> int:
        """As it was told."""
        if self._argv[0] not in ("cat", "echo", "warn", "exit"):
            return 127
        return int(self._argv[1]) if self._argv[0] == "exit" else 0
