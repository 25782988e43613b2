"""Look: the state of a job, told from what its shim left on disk. Blocking; called in threads."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.adapters.oci import launch
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.settings import WorkPaths
from node.ports import Observed, RunState, UnitHealth


def look(paths: WorkPaths, cgroup: Cgroup) -> Observed:
    """The job as it is. A job whose shim is gone without a record is ended here."""
    log_bytes = paths.log.stat().st_size if paths.log.exists() else 0
    shim = launch.shim_pid(paths)  # asked first: its exit record comes before it lets go
    ended = launch.read_json(paths.exit)
    if ended is not None:
        return Observed(
            RunState.EXITED,
            metered_s=ended["metered_s"],
            exit_code=ended["code"],
            signal=ended["signal"],
            out_of_memory=ended["oom"],
            timed_out=ended["timed_out"],
            lost=ended.get("lost", False),
            cpu_ms=ended["cpu_ms"],
            log_bytes=log_bytes,
        )
    clock = launch.read_json(paths.clock)
    if clock is None:
        there = paths.prepared.exists()
        return Observed(RunState.PREPARED if there else RunState.ABSENT)
    if not shim:
        _abandon(paths, cgroup, clock["seen_s"])
        return look(paths, cgroup)
    return Observed(
        RunState.RUNNING,
        metered_s=metered_s(clock),
        cpu_ms=cgroup.cpu_ms(),
        memory_bytes=cgroup.memory_bytes(),
        log_bytes=log_bytes,
        paused=clock["paused"],
        throttled_ms=cgroup.throttled_ms(),
        pids=cgroup.count(),
    )


def metered_s(clock: dict[str, Any]) -> float:
    """The seconds that a living shim's clock stands at now."""
    seen_s = float(clock["seen_s"])
    if clock["paused"]:
        return seen_s
    return max(seen_s, float(clock["before_s"]) + time.monotonic() - float(clock["since"]))


def is_paused(paths: WorkPaths) -> bool:
    """Whether the job was told to stand still. The freezer alone cannot say: a checkpoint uses it
    too, and a node may be killed in the middle of one.
    """
    clock = launch.read_json(paths.clock)
    return clock is not None and not paths.exit.exists() and bool(clock["paused"])


def with_sensors(
    observed: Observed, health: tuple[UnitHealth, ...], units: tuple[int, ...]
) -> Observed:
    """The same with what the sensors of the job's GPUs say."""
    mine = [one for one in health if one.index in units]
    busy = [one.utilisation_ppm for one in mine if one.utilisation_ppm is not None]
    power = [one.power_w for one in mine if one.power_w is not None]
    heat = [one.temperature_c for one in mine if one.temperature_c is not None]
    return replace(
        observed,
        gpu_ppm=sum(busy) // len(busy) if busy else 0,
        vram_mib=sum(one.memory_used_mib or 0 for one in mine),
        power_w=sum(power) if power else None,
        temperature_c=max(heat) if heat else None,
    )


def variables(pid: int) -> dict[str, str]:
    """The variables of the job: its first process's, and what that gave to the one it started.

    Raises OSError.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    given = Path(f"/proc/{pid}/environ").read_bytes()
    if children:
        with suppress(OSError):
            given = Path(f"/proc/{int(children[0])}/environ").read_bytes() or given
    pairs = (item.partition("=") for item in given.decode(errors="surrogateescape").split("\0"))
    return {name: value for name, sign, value in pairs if sign and name}


def _abandon(paths: WorkPaths, cgroup: Cgroup, seen_s: float) -> None:
    """It ran, and nobody wrote how it ended: the machine or the shim died. So the job ends."""
    cgroup.kill()
    record = {"code": 137, "signal": 9, "oom": False, "timed_out": False, "cpu_ms": 0, "lost": True}
    draft = paths.exit.with_suffix(".lost")
    draft.write_text(json.dumps({**record, "stopped": False, "metered_s": seen_s}))
    draft.rename(paths.exit)


def read_log(paths: WorkPaths, offset: int, limit: int) -> bytes:
    """A part of the job's output; nothing where there is none."""
    try:
        with paths.log.open("rb") as file:
            file.seek(offset)
            return file.read(limit)
    except OSError:
        return b""
