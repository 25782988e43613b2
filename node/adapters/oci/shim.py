"""Shim: one small process per job that outlives the node. Holds the container, its log, its clock.

Run as `python -I -S`; what it imports is the standard library's or of this folder and like it, so
that it starts in 40 ms and needs none of the node's packages. It knows nothing of the market, and
trusts its specification and its FIFO, which only root can write.

It speaks one JSON line to its starter, `{"pid": ...}` or `{"error": ...}`, and waits for `go`;
until then the job's gate is closed. If the starter vanishes before that, the container is removed
and the job counts as never started. Orders come later by FIFO: `stop SECONDS`, `pause`, `resume`.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable

from node.adapters.oci.container import START_S, Container, Ending, Held, read
from node.adapters.oci.records import Clock, Log, replace

TYPE_CHECKING = False  # importing typing would cost a tenth of the shim's start
if TYPE_CHECKING:
    from typing import Any

TICK_S = 1.0  # how often the clock on disk moves; only a power cut makes that matter
FREEZE_S = 5.0  # a process in uninterruptible sleep can hold a freeze up
DRAIN_S = 10.0  # for output that is under way once all who wrote it are dead
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36


def main(make: Callable[[dict[str, Any]], Held] = Container) -> None:
    """Run one job to its end; its specification is the last argument."""
    with open(sys.argv[-1]) as file:
        spec: dict[str, Any] = json.load(file)
    settle(spec.get("scope"))
    if os.fork():
        os._exit(0)  # the starter reaps this one; the other belongs to nobody
    os.setsid()
    os.chdir("/")
    os.umask(0o077)
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.prctl(_PR_SET_NAME, b"gridsouk-shim", 0, 0, 0)
    lock = os.open(spec["lock"], os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say({"error": "the job has a shim already"})
        return
    container = make(spec)
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
        container.reap()
        container.delete()
        return
    run(container, spec)


def settle(scope: str | None) -> None:
    """Make room in its scope: a group with processes in it hands no controllers down."""
    if not scope:
        return
    own = os.path.join(scope, "shim")
    os.makedirs(own, exist_ok=True)
    with open(os.path.join(own, "cgroup.procs"), "w") as file:
        file.write(str(os.getpid()))
    with open(os.path.join(scope, "cgroup.subtree_control"), "w") as file:
        file.write("+cpu +memory +pids")


def run(container: Held, spec: dict[str, Any]) -> None:
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
        seconds = clock.seconds()
        container.kill()
        freeze(spec, False)
        code, number = container.reap()
        drain(container, log.write)
        log.close()
        record = outcome(code, number, container, ending)
        record["metered_s"] = seconds
        container.delete()
        replace(spec["exit"], record, durable=True)


def watch(
    container: Held,
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
        ready = dict(poll.poll(min(TICK_S, ending.timeout_s()) * 1000))
        if container.output in ready:
            data = container.read_output()
            log.write(data or b"")
            if data is None:
                poll.unregister(container.output)
        if control in ready:
            for line in os.read(control, 4096).decode(errors="replace").splitlines():
                obey(line, clock, ending, spec)
        if ended in ready:
            return
        if clock.seconds() >= spec["wall_s"] and not ending.timed_out:
            ending.timed_out = True
            ending.begin(spec["grace_s"])
        ending.proceed()
        if clock.seconds() - ticked >= TICK_S:
            ticked = clock.seconds()
            clock.tick()
            container.cpu_ms()
            # A node killed while it took a checkpoint has left the job standing still.
            if not clock.paused and is_frozen(spec) and not is_held(spec["freezing"]):
                freeze(spec, False)


def obey(order: str, clock: Clock, ending: Ending, spec: dict[str, Any]) -> None:
    """One line from the FIFO. A job that is to end must be able to hear so."""
    word, _, seconds = order.partition(" ")
    if word == "pause" and not ending.stopped:
        # The clock stops first: if the freeze takes a while, the time is the provider's loss.
        clock.pause()
        if not freeze(spec, True):
            freeze(spec, False)
            clock.start()
    elif word == "resume":
        freeze(spec, False)
        clock.start()
    elif word == "stop":
        freeze(spec, False)
        clock.start()
        ending.begin(float(seconds))
    elif word == "extend":
        spec["wall_s"] = max(spec["wall_s"], int(seconds))


def freeze(spec: dict[str, Any], still: bool) -> bool:
    """Stop all the job's programs in their tracks, or let them go on; whether it came about."""
    order, look_at, sign = spec["freezer"]["still" if still else "go"]
    deadline = time.monotonic() + FREEZE_S
    while True:
        try:
            with open(spec["freezer"]["file"], "w") as file:
                file.write(order)
        except OSError:
            return False
        if sign in read(look_at):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def is_frozen(spec: dict[str, Any]) -> bool:
    """Whether the job's programs stand still now."""
    _, look_at, sign = spec["freezer"]["still"]
    return sign in read(look_at)


def is_held(path: str) -> bool:
    """Whether a living node has the job frozen for a checkpoint."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False


def outcome(code: int, number: int, container: Held, ending: Ending) -> dict[str, Any]:
    """The exit record. The shells say 128 + n of a program that signal n ended."""
    if number and ending.stopped:
        number = signal.SIGTERM
        code = 128 + number
    elif not number:
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
    ready, _, _ = select.select([0], [], [], START_S)
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


def drain(container: Held, take: Callable[[bytes], None]) -> None:
    """What is left of its output, to the end. All writers are dead, so it ends."""
    deadline = time.monotonic() + DRAIN_S
    while (left_s := deadline - time.monotonic()) > 0:
        ready, _, _ = select.select([container.output], [], [], left_s)
        data = container.read_output() if ready else None
        if data is None:
            return
        take(data)
