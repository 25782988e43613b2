"""Sandbox: a machine that runs simulated jobs. It outlives its node, as the real one does.

A job's command is `work SECONDS [exit CODE]`. Its checkpoint holds how many seconds are done; a
resumed job goes on from there. Its one result says for how long it worked in all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from market.errors import SandboxError
from market.terms import Artifact
from market.units import UnixTime
from node.ports import Blobs, Observed, RunState, Workspace


@dataclass
class SimWork:
    """One job in the machine."""

    workspace: Workspace
    done_before_s: float
    started_at: float | None = None
    stopped_at: float | None = None
    collected: list[str] = field(default_factory=list)

    @property
    def wanted_s(self) -> float:
        """How long the command works in all."""
        return float(self.workspace.manifest.command.split()[1])

    @property
    def code(self) -> int:
        """What it exits with."""
        words = self.workspace.manifest.command.split()
        return int(words[3]) if len(words) > 3 else 0

    def ran_s(self, now: float) -> float:
        """Seconds it has run here."""
        if self.started_at is None:
            return 0.0
        left = max(0.0, self.wanted_s - self.done_before_s)
        end = self.stopped_at if self.stopped_at is not None else now
        return min(end - self.started_at, left)

    def done_s(self, now: float) -> float:
        """Seconds of the whole work that are done."""
        return self.done_before_s + self.ran_s(now)


class SimSandbox:
    """Implements the port `Sandbox`."""

    def __init__(self, now: Callable[[], UnixTime], blobs: Blobs) -> None:
        self._now = now
        self._blobs = blobs
        self.work: dict[str, SimWork] = {}
        self.overlaps: list[str] = []

    def power_cut(self) -> None:
        """Everything that ran is gone."""
        self.work.clear()

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
        self.work[workspace.work_id] = SimWork(workspace, done_s)

    async def start(self, work_id: str) -> None:
        """Once."""
        work = self.work.get(work_id)
        if work is None:
            raise SandboxError("it was not prepared")
        if work.started_at is None:
            work.started_at = self._now()

    async def observe(self, work_id: str) -> Observed:
        """As the clock says."""
        work, now = self.work.get(work_id), self._now()
        if work is None:
            return Observed(RunState.ABSENT)
        if work.started_at is None:
            return Observed(RunState.PREPARED)
        ran_s = work.ran_s(now)
        lines = int(ran_s) * 8
        if work.done_s(now) >= work.wanted_s:
            return Observed(RunState.EXITED, ran_s, work.code, log_bytes=lines)
        if work.stopped_at is not None:
            return Observed(RunState.EXITED, ran_s, 0, signal=15, log_bytes=lines)
        return Observed(RunState.RUNNING, ran_s, log_bytes=lines, memory_bytes=1 << 20)

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """Eight bytes for each second."""
        work = self.work.get(work_id)
        if work is None:
            return b""
        text = b"".join(b"sec%04d\n" % second for second in range(int(work.ran_s(self._now()))))
        return text[offset : offset + limit]

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """The seconds done so far."""
        work = self.work.get(work_id)
        if work is None or work.started_at is None:
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
        data = f"worked {work.done_s(self._now()):.0f} s".encode()
        await self._blobs.put(data)
        return (Artifact("/out/result", hashlib.sha256(data).digest(), len(data)),)

    async def stop(self, work_id: str, grace_s: float) -> None:
        """At once."""
        work = self.work.get(work_id)
        if work is not None and work.stopped_at is None:
            work.stopped_at = self._now()

    async def scrub(self, work_id: str) -> None:
        """Forget it."""
        self.work.pop(work_id, None)

    async def works(self) -> tuple[str, ...]:
        """What is here."""
        return tuple(sorted(self.work))
