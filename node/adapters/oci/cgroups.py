"""Control groups of one job, version 1 and 2: its limits, its use, its processes.

The runtime makes them; we read, freeze, kill and remove. Knows paths and numbers, no job.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/sys/fs/cgroup")
_V1 = ("cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids")
_FREEZE_S = 2.0  # a process in uninterruptible sleep can hold a freeze up
_KILL_S = 5.0  # a large process needs seconds to give its memory back


def is_v2(root: Path = ROOT) -> bool:
    """Whether this machine has the unified hierarchy only."""
    return (root / "cgroup.controllers").exists()


@dataclass(frozen=True, slots=True)
class Cgroup:
    """One job's group, `path` relative to every hierarchy's root, e.g. `/gridsouk/node/job`."""

    path: str
    v2: bool
    root: Path = ROOT

    def _file(self, controller: str, name: str) -> Path:
        base = self.root if self.v2 else self.root / controller
        return base / self.path.lstrip("/") / name

    @property
    def processes_file(self) -> Path:
        """The host pids of the job, one a line."""
        return self._file("pids", "cgroup.procs")

    @property
    def oom_file(self) -> Path:
        """Has a line `oom_kill N` in both versions."""
        return self._file("memory", "memory.events" if self.v2 else "memory.oom_control")

    @property
    def cpu_file(self) -> Path:
        """Nanoseconds in version 1; a line `usage_usec N` in version 2."""
        return self._file("cpuacct", "cpu.stat" if self.v2 else "cpuacct.usage")

    @property
    def memory_limit_file(self) -> Path:
        """Bytes, or `max`."""
        return self._file("memory", "memory.max" if self.v2 else "memory.limit_in_bytes")

    @property
    def pids_limit_file(self) -> Path:
        """A count, or `max`."""
        return self._file("pids", "pids.max")

    @property
    def cpu_limit_file(self) -> Path:
        """Microseconds per period: the first number, or `max` or -1 for no limit."""
        return self._file("cpu", "cpu.max" if self.v2 else "cpu.cfs_quota_us")

    def pids(self) -> tuple[int, ...]:
        """The processes of the job now, those in groups below its own among them."""
        return tuple(
            int(line)
            for file in (self.processes_file, *_below(self.processes_file))
            for line in _read(file).split()
        )

    def count(self) -> int:
        """How many tasks (threads count) the kernel holds against its limit."""
        return int(_read(self._file("pids", "pids.current")) or 0)

    def throttled_ms(self) -> int:
        """How long its processes stood still because their quota was used up."""
        text = _read(self._file("cpu", "cpu.stat"))
        if self.v2:
            return _line(text, "throttled_usec") // 1000
        return _line(text, "throttled_time") // 1_000_000

    def make(self, memory_bytes: int, pids: int, cpu_quota_us: int, cpu_period_us: int) -> None:
        """The group with its limits, for an engine to put a container below. Raises OSError.

        They hold whatever the engine does with those it is told.
        """
        if self.v2:
            self._make_v2()
            written = (
                ("memory.max", memory_bytes),
                ("pids.max", pids),
                ("cpu.max", f"{cpu_quota_us} {cpu_period_us}"),
            )
            for name, limit in written:
                self._file("", name).write_text(str(limit))
            _write(self._file("", "memory.swap.max"), "0")
            return
        for controller in ("memory", "pids", "cpu", "cpuacct", "freezer"):
            self._file(controller, "").mkdir(parents=True, exist_ok=True)
        self._file("memory", "memory.limit_in_bytes").write_text(str(memory_bytes))
        _write(self._file("memory", "memory.memsw.limit_in_bytes"), str(memory_bytes))
        self._file("pids", "pids.max").write_text(str(pids))
        self._file("cpu", "cpu.cfs_period_us").write_text(str(cpu_period_us))
        self._file("cpu", "cpu.cfs_quota_us").write_text(str(cpu_quota_us))

    def _make_v2(self) -> None:
        """Every group above must hand its controllers down."""
        current = self.root
        for part in self.path.strip("/").split("/"):
            (current / "cgroup.subtree_control").write_text("+cpu +memory +pids")
            current = current / part
            current.mkdir(exist_ok=True)
        (current / "cgroup.subtree_control").write_text("+cpu +memory +pids")

    def cpu_ms(self) -> int:
        """CPU milliseconds used so far."""
        text = _read(self.cpu_file)
        if self.v2:
            return _line(text, "usage_usec") // 1000
        return int(text or 0) // 1_000_000

    def memory_bytes(self) -> int:
        """Memory that cannot be reclaimed by dropping cached files."""
        used = _read(self._file("memory", "memory.current" if self.v2 else "memory.usage_in_bytes"))
        stat = _read(self._file("memory", "memory.stat"))
        cached = _line(stat, "inactive_file" if self.v2 else "total_inactive_file")
        return max(0, int(used or 0) - cached)

    def freezer(self) -> dict[str, Any]:
        """For a shim: the file to order at, and (what to write, where to look, for which words)."""
        if self.v2:
            state = str(self._file("", "cgroup.events"))
            go, still = ("0", state, "frozen 0"), ("1", state, "frozen 1")
            return {"file": str(self._file("", "cgroup.freeze")), "go": go, "still": still}
        state = str(self._file("freezer", "freezer.state"))
        go, still = ("THAWED", state, "THAWED"), ("FROZEN", state, "FROZEN")
        return {"file": state, "go": go, "still": still}

    def freeze(self) -> bool:
        """Stop every process in its tracks; False if that did not succeed in two seconds."""
        name, value = ("cgroup.freeze", "1") if self.v2 else ("freezer.state", "FROZEN")
        if not _write(self._file("freezer", name), value):
            return False
        deadline = time.monotonic() + _FREEZE_S
        while time.monotonic() < deadline:
            if self.frozen():
                return True
            time.sleep(0.002)
        self.thaw()
        return False

    def thaw(self) -> None:
        """Let them go on."""
        name, value = ("cgroup.freeze", "0") if self.v2 else ("freezer.state", "THAWED")
        _write(self._file("freezer", name), value)

    def frozen(self) -> bool:
        """Whether they all stand still."""
        if self.v2:
            return _line(_read(self._file("freezer", "cgroup.events")), "frozen") == 1
        return _read(self._file("freezer", "freezer.state")).strip() == "FROZEN"

    def kill(self) -> None:
        """SIGKILL everything, until nothing is left or a bound is reached."""
        self.thaw()
        # One write reaches even what is being forked (Linux 5.14); it does not wait for the end.
        at_once = self.v2 and _write(self._file("", "cgroup.kill"), "1")
        deadline = time.monotonic() + _KILL_S
        while (pids := self.pids()) and time.monotonic() < deadline:
            for pid in () if at_once else pids:
                send_signal(pid, signal.SIGKILL, self.path)
            time.sleep(0.005)

    def remove(self) -> None:
        """Remove the emptied groups. A group that is still busy stays."""
        for controller in ("",) if self.v2 else (*_V1, "systemd", "unified"):
            directory = self._file(controller, "")
            for each in sorted(_tree(directory), reverse=True):
                _remove(each)


def known(parent: str, root: Path = ROOT) -> frozenset[str]:
    """The names of the groups under `parent` in any hierarchy."""
    names: set[str] = set()
    for controller in ("",) if is_v2(root) else _V1:
        directory = root / controller / parent.lstrip("/")
        with suppress(FileNotFoundError):  # also one that goes while it is read
            names.update(entry.name for entry in os.scandir(directory) if entry.is_dir())
    return frozenset(names)


def _tree(directory: Path) -> list[Path]:
    """It and all groups in it; none if it is gone, which somebody else may have seen to."""
    try:
        inside = [entry for entry in directory.iterdir() if entry.is_dir()]
    except FileNotFoundError:
        return []
    return [directory, *(each for entry in inside for each in _tree(entry))]


def send_signal(pid: int, number: int, path: str) -> None:
    """Signal a process only if it is still the group's: a pid may be somebody else's by now."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if path in _read(Path(f"/proc/{pid}/cgroup")):
            signal.pidfd_send_signal(handle, number)
    except OSError:
        return
    finally:
        os.close(handle)


def _below(file: Path) -> tuple[Path, ...]:
    """The file of that name in every group below the one of `file`."""
    return tuple(file.parent.glob(f"**/*/{file.name}"))


def _remove(directory: Path) -> None:
    for attempt in range(20):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return
        except OSError:
            # The kernel lets a group go a moment after its last process.
            time.sleep(0.005 * (attempt + 1))
        else:
            return


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _write(path: Path, value: str) -> bool:
    try:
        path.write_text(value)
    except OSError:
        return False
    return True


def _line(text: str, key: str) -> int:
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
