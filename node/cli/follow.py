"""Follow: a job watched until it is over; its states go to stderr, its output to stdout."""

from __future__ import annotations

import shutil
import sys
import time
from typing import Any, Final
from urllib.parse import quote

from market.units import format_duration
from node.cli.output import clean, say, write_log
from node.client.http import Node

POLL_S: Final = 0.3  # a request costs the node two milliseconds
LOG_LATE_S: Final = 15.0  # how long after a job's end its last output may still arrive

FAILED, UNFINISHED, CANCELLED, TIMED_OUT = 100, 101, 103, 124


def job_path(name: str) -> str:
    """The job's address in the API."""
    return f"/api/jobs/{quote(name, safe='')}"


def exit_code(job: dict[str, Any]) -> int:
    """0, 100, 101 or 103, as SkyPilot has them."""
    if not job["over"]:
        return UNFINISHED
    return {"SUCCEEDED": 0, "CANCELLED": CANCELLED}.get(job["state"], FAILED)


def follow(node: Node, name: str, *, log: bool, log_to_stderr: bool = False) -> dict[str, Any]:
    """Watch a job until it is over; returns its last state. Ctrl-C says how to come back."""
    job: dict[str, Any] = node.get(job_path(name))
    name = job["id"]
    told = 0
    offset = 0
    ended_at: float | None = None
    pulse = Pulse()
    try:
        while True:
            pulse.clear(len(job.get("history", [])) > told)
            told = _tell(job, told)
            more = False
            if log:
                data, offset, end = node.log(name, offset)
                pulse.clear(bool(data))
                write_log(data, to_stderr=log_to_stderr)
                more = bool(data) or not end
            pulse.show(job)
            if job["over"]:
                pulse.clear()
                ended_at = ended_at or time.monotonic()
                if not more or time.monotonic() - ended_at > LOG_LATE_S:
                    return job
            if not more or not data:
                time.sleep(POLL_S)
            job = node.get(job_path(name))
    except KeyboardInterrupt:
        pulse.clear()
        if not job["over"]:
            say(f"\ndetached; the job goes on. See it with: souk logs -f {name[:12]}")
        raise


class Pulse:
    """One line at the foot of a terminal: where the job is now, for how long, at what cost.

    Silent where nobody watches. It is wiped before anything else is written.
    """

    def __init__(self) -> None:
        """Nothing is shown yet."""
        self._shown = False
        self._lives = sys.stderr.isatty()

    def show(self, job: dict[str, Any]) -> None:
        """Draw it anew."""
        if not self._lives or job["over"]:
            return
        history = job.get("history") or [{"at": job.get("created") or time.time()}]
        so_long = format_duration(time.time() - history[-1]["at"])
        parts = [job["state"], so_long]
        if job["metered_s"]:
            parts.append(f"{format_duration(job['metered_s'])} metered, {job['promised']} owed")
        if job.get("progress"):
            parts.append(f"{job['progress']:.0%} done")
        if job["reason"]:
            parts.append(job["reason"])
        width = shutil.get_terminal_size().columns - 1
        line = clean("  ".join(parts))[:width]
        print(f"\r\x1b[2K\x1b[2m{line}\x1b[0m", end="", file=sys.stderr, flush=True)
        self._shown = True

    def clear(self, needed: bool = True) -> None:
        """Make room for a line that stays."""
        if self._shown and needed:
            print("\r\x1b[2K", end="", file=sys.stderr, flush=True)
            self._shown = False


def wait(node: Node, name: str, timeout_s: float | None) -> dict[str, Any]:
    """Wait in silence until a job is over or the time is; returns its state then."""
    started = time.monotonic()
    while True:
        job: dict[str, Any] = node.get(job_path(name))
        if job["over"] or (timeout_s is not None and time.monotonic() - started >= timeout_s):
            return job
        time.sleep(POLL_S)


def summary(job: dict[str, Any]) -> str:
    """One line about a job that is over."""
    line = f"{job['name']} ({job['id'][:12]}) {job['state']}"
    if job["reason"]:
        line += f": {job['reason']}"
    return f"{line}; {format_duration(job['metered_s'])} metered, {job['promised']} owed"


def _tell(job: dict[str, Any], told: int) -> int:
    """Say the lines of the history that are new. It is bounded, so count by its last line."""
    history = job.get("history", [])
    for change in history[told:]:
        say(f"{change['state']}" + (f": {change['reason']}" if change["reason"] else ""))
    return len(history)
