"""Shim: one small process per job that outlives the node. Holds the container, its log, its clock.

Run as `python -I -S shim.py SPEC`; imports the standard library only, so that an upgrade of the
node cannot break it. It knows nothing of the market, and trusts its specification and its FIFO,
which only root can write.

It speaks one JSON line to its starter, `{"pid": ...}` or `{"error": ...}`, and waits for `go`: until
then the job's gate is closed. If the starter vanishes before that, the container is removed and the
job counts as never started. Orders come later by FIFO: `stop SECONDS`.

The log is one append-only document, so an offset always means the same byte. Output is kept from
its beginning up to the bound; of what follows, the last part is held in memory and is appended,
after a line that counts what was left out, when the job ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

TAIL_BYTES = 64 * 1024  # the last words of a job that talked too much: a traceback fits
MARKER_BYTES = 256  # room for the line between the two
TICK_S = 1.0  # how often the clock on disk moves; only a power cut makes that matter
READ_BYTES = 1024 * 1024
GO_S = 120.0  # the starter verifies in milliseconds; a stuck one must not hold the GPU
_PR_SET_CHILD_SUBREAPER = 36


class Log:
    """The job's output, bounded: `cap` bytes of document in all."""

    def __init__(self, path: str, cap: int) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._room = max(0, cap - TAIL_BYTES - MARKER_BYTES - os.fstat(self._file).st_size)
        self._tail = bytearray()
        self._left_out = 0

    def write(self, data: bytes) -> None:
        """Take some output."""
        head = data[: self._room]
        if head:
            _write_all(self._file, head)
            self._room -= len(head)
        rest = data[len(head) :]
        if rest:
            self._tail += rest
            if len(self._tail) > 4 * TAIL_BYTES:
                self._shorten()

    def close(self) -> None:
        """Append the last words."""
        self._shorten()
        if self._left_out:
            line = f"\n[gridsouk: {self._left_out} bytes of output left out here]\n"
            _write_all(self._file, line.encode())
        _write_all(self._file, bytes(self._tail))
        os.close(self._file)

    def _shorten(self) -> None:
        surplus = len(self._tail) - TAIL_BYTES
        if surplus > 0:
            del self._tail[:surplus]
            self._left_out += surplus


class Clock:
    """Seconds the container has run, on disk: the boot, the start, and the last second seen."""

    def __init__(self, path: str) -> None:
        self._path = path
        with open("/proc/sys/kernel/random/boot_id") as file:
            self._boot = file.read().strip()
        self._started = 0.0

    def start(self) -> None:
        """From now on it runs."""
        self._started = time.monotonic()
        self.tick()

    def seconds(self) -> float:
        """How long so far."""
        return time.monotonic() - self._started

    def tick(self) -> None:
        """Put it on disk, in one step."""
        record = {"boot": self._boot, "started": self._started, "seen_s": self.seconds()}
        replace(self._path, record, durable=False)


class Container:
    """The runtime's container and its first process, which is our child by adoption."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._runtime = [spec["runtime"], "--root", spec["runtime_root"]]
        self.pid = 0
        self.gate = -1
        self.output = -1

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
                    "create",
                    "--bundle",
                    self._spec["bundle"],
                    "--pid-file",
                    pid_file,
                    self._spec["id"],
                ],
                stdin=gate_read,
                stdout=output_write,
                stderr=output_write,
                timeout=GO_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise RuntimeError(f"{self._spec['runtime']} create: {problem}") from problem
        finally:
            os.close(gate_read)
            os.close(output_write)
        if done.returncode:
            raise RuntimeError(f"{self._spec['runtime']} create failed: {self._complaint()}")
        with open(pid_file) as file:
            self.pid = int(file.read())

    def start(self) -> None:
        """Run the first process up to its gate. Raises RuntimeError."""
        done = subprocess.run(
            [*self._runtime, "--log", self._spec["runtime_log"], "start", self._spec["id"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{self._spec['runtime']} start failed: {self._complaint()}")

    def open_gate(self) -> None:
        """Let the job begin."""
        try:
            os.write(self.gate, b"go\n")
        except BrokenPipeError:
            return  # it died before it could read, which its exit code will say
        finally:
            os.close(self.gate)

    def kill(self) -> None:
        """End the first process and with it all others of its pid namespace."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)  # unreaped, so the pid is still ours

    def delete(self) -> None:
        """Remove what the runtime keeps, the control groups among it."""
        subprocess.run(
            [*self._runtime, "delete", "--force", self._spec["id"]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def members(self) -> list[int]:
        """The host pids in the job's control group."""
        return [int(line) for line in read(self._spec["processes_file"]).split()]

    def out_of_memory(self) -> bool:
        """Whether the kernel has killed any of its processes for memory."""
        return counter(read(self._spec["oom_file"]), "oom_kill") > 0

    def cpu_ms(self) -> int:
        """CPU milliseconds used."""
        text = read(self._spec["cpu_file"])
        if text.strip().isdigit():
            return int(text) // 1_000_000
        return counter(text, "usage_usec") // 1000

    def _complaint(self) -> str:
        lines = read(self._spec["runtime_log"]).strip().splitlines()
        said = read_ready(self.output)
        return (lines[-1] if lines else said.decode(errors="replace").strip())[:2000]


class Ending:
    """How a job is brought to its end: asked first, then killed."""

    def __init__(self, container: Container, cgroup: str) -> None:
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
            return TICK_S
        return max(0.0, min(0.02, self._kill_at - time.monotonic()))

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


def main(spec_path: str) -> None:
    """Run one job to its end."""
    with open(spec_path) as file:
        spec: dict[str, Any] = json.load(file)
    if os.fork():
        os._exit(0)  # the starter reaps this one; the other belongs to nobody
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    lock = os.open(spec["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say({"error": "the job has a shim already"})
        return
    container = Container(spec)
    try:
        container.create()
        container.start()
    except RuntimeError as problem:
        container.delete()
        say({"error": str(problem)})
        return
    say({"pid": container.pid})
    if not told_to_go():
        container.kill()
        reap(container.pid)
        container.delete()
        return
    run(container, spec)


def run(container: Container, spec: dict[str, Any]) -> None:
    """From the opening of the gate to the exit record."""
    log = Log(spec["log"], spec["log_bytes_max"])
    clock = Clock(spec["clock"])
    control = open_control(spec["control"])
    clock.start()
    container.open_gate()
    say({"started": True})
    release_starter()
    ending = Ending(container, spec["cgroup"])
    try:
        watch(container, log, clock, control, ending, spec)
    finally:
        container.kill()
        status = reap(container.pid)
        seconds = clock.seconds()
        drain(container.output, log.write)
        log.close()
        record = outcome(status, container, ending)
        record["metered_s"] = seconds
        container.delete()
        replace(spec["exit"], record, durable=True)


def watch(
    container: Container,
    log: Log,
    clock: Clock,
    control: int,
    ending: Ending,
    spec: dict[str, Any],
) -> None:
    """Until the first process has ended: keep its output, its time and its limits."""
    ended = os.pidfd_open(container.pid)
    poll = select.poll()
    for descriptor in (ended, control, container.output):
        poll.register(descriptor, select.POLLIN)
    ticked = 0.0
    while True:
        ready = dict(poll.poll(ending.timeout_s() * 1000))
        if container.output in ready:
            data = os.read(container.output, READ_BYTES)
            log.write(data)
            if not data:
                poll.unregister(container.output)
        if control in ready:
            for line in os.read(control, 4096).decode(errors="replace").splitlines():
                word, _, grace = line.partition(" ")
                if word == "stop":
                    ending.begin(float(grace))
        if ended in ready:
            return
        if clock.seconds() >= spec["wall_s"] and not ending.timed_out:
            ending.timed_out = True
            ending.begin(spec["grace_s"])
        ending.proceed()
        if clock.seconds() - ticked >= TICK_S:
            ticked = clock.seconds()
            clock.tick()


def outcome(status: int, container: Container, ending: Ending) -> dict[str, Any]:
    """The exit record. The shells say 128 + n of a program that signal n ended."""
    if os.WIFSIGNALED(status):
        number = signal.SIGTERM if ending.stopped else os.WTERMSIG(status)
        code = 128 + number
    else:
        code = os.WEXITSTATUS(status)
        number = code - 128 if 128 < code <= 128 + 64 else 0
    return {
        "code": code,
        "signal": int(number),
        "oom": container.out_of_memory(),
        "timed_out": ending.timed_out,
        "stopped": ending.stopped,
        "cpu_ms": container.cpu_ms(),
    }


def told_to_go() -> bool:
    """Whether the starter has said `go`; False if it vanished or took too long."""
    ready, _, _ = select.select([0], [], [], GO_S)
    return bool(ready) and os.read(0, 16) == b"go\n"


def release_starter() -> None:
    """Let go of the starter's pipes; nothing is said to it from here on."""
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)


def say(record: dict[str, Any]) -> None:
    """One line to the starter, which may be gone."""
    try:
        os.write(1, json.dumps(record).encode() + b"\n")
    except OSError:
        return


def open_control(path: str) -> int:
    """The FIFO, open for both directions, so that it never ends."""
    if not os.path.exists(path):
        os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def drain(descriptor: int, take: Callable[[bytes], None]) -> None:
    """What is left in the pipe, to its end. All writers are dead, so it ends."""
    while data := os.read(descriptor, READ_BYTES):
        take(data)


def read_ready(descriptor: int) -> bytes:
    """What the pipe holds now, without waiting."""
    ready, _, _ = select.select([descriptor], [], [], 0)
    return os.read(descriptor, 4096) if ready else b""


def reap(pid: int) -> int:
    """Wait for the first process to end; its wait status."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return signal.SIGKILL


def replace(path: str, record: dict[str, Any], *, durable: bool) -> None:
    """Write JSON in one step: readers see the old or the new, never a part."""
    draft = f"{path}.new"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        _write_all(descriptor, json.dumps(record).encode())
        if durable:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(draft, path)
    if durable:
        parent = os.open(os.path.dirname(path), os.O_RDONLY)
        os.fsync(parent)
        os.close(parent)


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


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


if __name__ == "__main__":
    main(sys.argv[1])
