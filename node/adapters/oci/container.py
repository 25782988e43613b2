"""Container: one container as its shim holds it: made, released, watched, ended, removed.

Standard library only, because the shim imports it. Knows the runtime's command line and the
kernel's files; nothing of the market.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time

TYPE_CHECKING = False  # importing typing would cost a tenth of the shim's start
if TYPE_CHECKING:
    from typing import Any

START_S = 120.0  # for the runtime and for the starter to verify, on a loaded machine
LOOK_S = 0.02  # how often a job that was asked to end is looked at


READ_BYTES = 1024 * 1024


class Held:
    """A container as its shim holds it, whoever made it: one runtime or engine each derives.

    `output` is readable when the job has said something, `pid` is its first process.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._cpu_ms = 0
        self.pid = 0
        self.output = -1

    def create(self) -> None:
        """Make it, with its first process ready to start. Raises RuntimeError with the reason."""
        raise NotImplementedError

    def start(self) -> None:
        """Run the first process up to its gate. Raises RuntimeError."""
        raise NotImplementedError

    def open_gate(self) -> None:
        """Let the job begin."""
        raise NotImplementedError

    def read_output(self) -> bytes | None:
        """What the job has said, once `output` is readable; None at the end."""
        raise NotImplementedError

    def kill(self) -> None:
        """End the first process and with it all others of its pid namespace."""
        raise NotImplementedError

    def reap(self) -> tuple[int, int]:
        """Wait for the first process to end: its exit code, and the signal that ended it or 0."""
        raise NotImplementedError

    def delete(self) -> None:
        """Remove what its maker keeps of it, the control groups among it."""
        raise NotImplementedError

    def members(self) -> list[int]:
        """The host pids in the job's control group, and in those an engine made below it."""
        folder, name = os.path.split(self._spec["processes_file"])
        return [
            int(line)
            for directory, _, _ in os.walk(folder)
            for line in read(os.path.join(directory, name)).split()
        ]

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed any of its processes for memory."""
        return counter(read(self._spec["oom_file"]), "oom_kill") > 0

    def cpu_ms(self) -> int:
        """CPU milliseconds used; what was last seen once the group is gone."""
        text = read(self._spec["cpu_file"])
        if text.strip().isdigit():
            used = int(text) // 1_000_000
        else:
            used = counter(text, "usage_usec") // 1000
        self._cpu_ms = max(self._cpu_ms, used)
        return self._cpu_ms


class Container(Held):
    """An OCI runtime's container and its first process, which is our child by adoption."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self._runtime = [*spec["runtime"], "--root", spec["runtime_root"]]
        self.gate = -1

    def create(self) -> None:
        """Make it, with its first process ready to start. Raises RuntimeError with the reason."""
        gate_read, self.gate = os.pipe2(os.O_CLOEXEC)
        self.output, output_write = os.pipe2(os.O_CLOEXEC)
        pid_file = os.path.join(self._spec["bundle"], "pid")
        try:
            # The runtime's own complaints go to its log file; the pipe is the job's.
            done = subprocess.run(
                [
                    *self._runtime,
                    "--log",
                    self._spec["runtime_log"],
                    "run",  # both steps in one: the gate holds the job, not the runtime
                    "--detach",
                    "--bundle",
                    self._spec["bundle"],
                    "--pid-file",
                    pid_file,
                    self._spec["id"],
                ],
                stdin=gate_read,
                stdout=output_write,
                stderr=output_write,
                timeout=START_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise RuntimeError(f"{self._spec['runtime'][-1]} run: {problem}") from problem
        finally:
            os.close(gate_read)
            os.close(output_write)
        if done.returncode:
            said = self._complaint()
            raise RuntimeError(f"{self._spec['runtime'][-1]} run failed: {said}")
        with open(pid_file) as file:
            self.pid = int(file.read())

    def start(self) -> None:
        """It stands at its gate already."""

    def open_gate(self) -> None:
        """Let the job begin."""
        try:
            with os.fdopen(self.gate, "wb") as gate:
                gate.write(read(self._spec["gate"]).encode())
        except BrokenPipeError:
            return  # it died before it could read, which its exit code will say

    def kill(self) -> None:
        """End the first process and with it all others of its pid namespace."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # unreaped, so the pid is still ours

    def read_output(self) -> bytes | None:
        """What the job has said, once `output` is readable; None at the end."""
        return os.read(self.output, READ_BYTES) or None

    def reap(self) -> tuple[int, int]:
        """Wait for the first process to end: its exit code, and the signal that ended it or 0."""
        try:
            status = os.waitpid(self.pid, 0)[1]
        except ChildProcessError:
            status = signal.SIGKILL
        if os.WIFSIGNALED(status):
            return 128 + os.WTERMSIG(status), os.WTERMSIG(status)
        return os.WEXITSTATUS(status), 0

    def delete(self) -> None:
        """Remove what the runtime keeps, the control groups among it."""
        subprocess.run(
            [*self._runtime, "delete", "--force", self._spec["id"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def _complaint(self) -> str:
        lines = read(self._spec["runtime_log"]).strip().splitlines()
        said = read_ready(self.output)
        return (lines[-1] if lines else said.decode(errors="replace").strip())[:2000]


class Ending:
    """How a job is brought to its end: asked first, then killed."""

    def __init__(self, container: Held, cgroup: str) -> None:
        self._container = container
        self._cgroup = cgroup
        self._kill_at = float("inf")
        self._held: set[int] = set()
        self.stopped = False
        self.timed_out = False

    def begin(self, grace_s: float) -> None:
        """SIGTERM to every program; an earlier deadline holds."""
        self._kill_at = min(self._kill_at, time.monotonic() + grace_s)
        if not self.stopped and grace_s > 0:
            self._terminate()
        self.stopped = True

    def timeout_s(self) -> float:
        """How long until there is something to look at."""
        if not self.stopped:
            return float("inf")
        return max(0.0, min(LOOK_S, self._kill_at - time.monotonic()))

    def proceed(self) -> None:
        """Kill what is left when the grace is over, or at once if only held shells are."""
        if self.stopped and (time.monotonic() >= self._kill_at or self._only_held()):
            self._container.kill()

    def _terminate(self) -> None:
        """A shell that waits for a program is held still: it must not start the next command,

        and its own death must not take away a program that is saving its state.
        """
        members = self._container.members()
        parents = {parent_of(pid) for pid in members}
        shell = program_of(self._container.pid)
        for pid in members:
            held = pid in parents and program_of(pid) == shell
            if held:
                self._held.add(pid)
            send(pid, signal.SIGSTOP if held else signal.SIGTERM, self._cgroup)

    def _only_held(self) -> bool:
        left = [pid for pid in self._container.members() if pid not in self._held]
        return all(state_of(pid) in "ZX" for pid in left)


def read_ready(descriptor: int) -> bytes:
    """What the pipe holds now, without waiting."""
    ready, _, _ = select.select([descriptor], [], [], 0)
    return os.read(descriptor, 4096) if ready else b""


def read(path: str) -> str:
    """A small file of the kernel's, or nothing."""
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def counter(text: str, key: str) -> int:
    """The number on the line that begins with `key`."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0


def send(pid: int, number: int, cgroup: str) -> None:
    """Signal a process of the job, and no other that has taken over its number."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if cgroup in read(f"/proc/{pid}/cgroup"):
            signal.pidfd_send_signal(handle, number)
    except OSError:
        return
    finally:
        os.close(handle)


def parent_of(pid: int) -> int:
    """The host pid of its parent, or 0."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return int(fields[1]) if len(fields) > 1 else 0


def state_of(pid: int) -> str:
    """Its state letter; X when it is gone."""
    fields = read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    return fields[0] if fields else "X"


def program_of(pid: int) -> tuple[int, int]:
    """Which file it executes."""
    try:
        found = os.stat(f"/proc/{pid}/exe")
    except OSError:
        return (0, 0)
    return (found.st_dev, found.st_ino)
