"""Launch: start a job's shim, look at the container it made, open the gate or end it.

Blocking, called in threads. Also how a shim is found again and spoken to. Knows no market.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

from market.errors import SandboxError
from node.adapters.oci import tun, verify
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.settings import OciSettings, WorkPaths
from node.adapters.oci.verify import Expected

_ROOT = Path(__file__).parents[3]
# The package's own front brings more than the shim needs, and costs it half of its start.
_SHIM = (
    "import sys; kind = type(sys); sys.path.append(sys.argv[1]); "
    "node = sys.modules['node'] = kind('node'); node.__path__ = [sys.argv[1] + '/node']; "
    "from {} import main; main()"
)
_VERIFY_S = 5.0  # between the runtime's start and the first program's exec; milliseconds
_LINE_BYTES_MAX = 16 * 1024
_FLOCK = "hhqqi4x"  # struct flock: type, whence, start, length, pid


def write_spec(
    paths: WorkPaths,
    cgroup: Cgroup,
    settings: OciSettings,
    container: dict[str, Any],
    *,
    gate: str,
    wall_s: int,
    grace_s: int,
) -> Path:
    """The shim's specification, in memory; returns its path. `gate` is what opens it.

    `container` says how the container is held: what the runtime's own part of the shim wants.
    """
    spec = {
        **container,
        "gate": str(paths.live / "gate"),
        "cgroup": cgroup.path,
        "freezer": cgroup.freezer(),
        "processes_file": str(cgroup.processes_file),
        "oom_file": str(cgroup.oom_file),
        "cpu_file": str(cgroup.cpu_file),
        "log": str(paths.log),
        "log_bytes_max": settings.log_bytes_max,
        "clock": str(paths.clock),
        "exit": str(paths.exit),
        "lock": str(paths.lock),
        "control": str(paths.control),
        "freezing": str(paths.freezing),
        "wall_s": wall_s,
        "grace_s": grace_s,
    }
    (paths.live / "gate").touch(mode=0o600)
    (paths.live / "gate").write_text(gate)
    file = paths.live / "shim.json"
    file.write_text(json.dumps(spec))
    return file


def launch(
    paths: WorkPaths,
    cgroup: Cgroup,
    settings: OciSettings,
    expected: Expected,
    command: list[str],
) -> None:
    """Start the shim, verify, let go. Raises SandboxError; then nothing of it runs."""
    with (paths.state / "shim.err").open("ab") as errors:
        shim = subprocess.Popen(
            command,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    assert shim.stdin is not None
    assert shim.stdout is not None
    # Closing the pipes before `go` makes the shim remove the container.
    with shim.stdin, shim.stdout:
        shim.wait()  # it has forked; what goes on is not our child
        said = _hear(shim.stdout.fileno(), settings.start_timeout_s)
        if "pid" not in said:
            raise SandboxError(f"the container did not start: {said.get('error', 'no reason')}")
        faults = _look(int(said["pid"]), expected, cgroup)
        if faults:
            shim.stdin.close()
            wait_released(paths, settings.start_timeout_s)
            raise SandboxError(
                "the container is not what was asked for: " + "; ".join(faults),
                hint="this machine gives less than it promises; see docs/OPERATIONS.md",
            )
        if expected.address:
            tun.make(int(said["pid"]), expected.address)
        (paths.live / "pid").write_text(f"{int(said['pid'])} {cgroup.path}")
        shim.stdin.write(b"go\n")
        shim.stdin.flush()
        if not _hear(shim.stdout.fileno(), settings.start_timeout_s).get("started"):
            raise SandboxError("the job's shim ended before the job began")


def environment() -> dict[str, str]:
    """For whoever makes or enters a container: nothing of the node's.

    Of a node that systemd started it would inherit NOTIFY_SOCKET, and runc then wants to mount that
    into the job's read-only root.
    """
    return {"PATH": os.environ.get("PATH", os.defpath)}


def shim_command(spec: Path, module: str) -> list[str]:
    """How a shim is run: isolated, without the node's packages and its user's settings."""
    return [sys.executable, "-I", "-S", "-c", _SHIM.format(module), str(_ROOT), str(spec)]


def _look(pid: int, expected: Expected, cgroup: Cgroup) -> tuple[str, ...]:
    """The faults of the container once its first program runs."""
    deadline = time.monotonic() + _VERIFY_S
    while True:
        try:
            executed = Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sh\0")
            faults = verify.faults(pid, expected, cgroup)
        except (ProcessLookupError, FileNotFoundError):
            return ("its first process ended at once: does the image have /bin/sh?",)
        if not faults or executed or time.monotonic() > deadline:
            return faults
        time.sleep(0.002)  # the runtime drops its last privileges just before it executes


def _hear(descriptor: int, timeout_s: float) -> dict[str, Any]:
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_BYTES_MAX:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([descriptor], [], [], max(0.0, left))
        if not ready:
            return {"error": f"no answer in {timeout_s:.0f} s"}
        data = os.read(descriptor, _LINE_BYTES_MAX)
        if not data:
            return {"error": "the shim ended; see shim.err in the job's state"}
        line += data
    # Two lines may arrive together only after `go`; the first is the one that is waited for.
    return cast(dict[str, Any], json.loads(line.splitlines()[0]))


def first_pid(paths: WorkPaths) -> int:
    """The pid of the job's first process, or 0 if it is not there any more."""
    try:
        pid, _, group = (paths.live / "pid").read_text().partition(" ")
        mine = group in Path(f"/proc/{int(pid)}/cgroup").read_text()
    except (OSError, ValueError):
        return 0
    return int(pid) if mine else 0


def shim_pid(paths: WorkPaths) -> int:
    """The pid of the job's living shim, or 0: the holder of its lock."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(descriptor, fcntl.F_GETLK, asked)
        kind, _, _, _, pid = struct.unpack(_FLOCK, answer)
        return 0 if kind == fcntl.F_UNLCK else int(pid)
    finally:
        os.close(descriptor)


def open_shim(paths: WorkPaths) -> int | None:
    """A descriptor of the job's shim, readable once that has ended; None if there is no shim."""
    pid = shim_pid(paths)
    try:
        descriptor = os.pidfd_open(pid) if pid else -1
    except ProcessLookupError:
        return None
    if pid and shim_pid(paths) == pid:
        return descriptor
    if descriptor >= 0:
        os.close(descriptor)  # it ended between the two looks, and the number is another's now
    return None


def wait_released(paths: WorkPaths, timeout_s: float) -> bool:
    """Wait until no shim holds the job; False if one still does after the time."""
    deadline = time.monotonic() + timeout_s
    while shim_pid(paths):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


def order(paths: WorkPaths, words: str) -> bool:
    """Give the shim an order; False if there is no shim to hear it."""
    try:
        descriptor = os.open(paths.control, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.write(descriptor, f"{words}\n".encode())
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def read_json(path: Path) -> dict[str, Any] | None:
    """A record of the shim's, or None if there is none (or a power cut left it torn)."""
    try:
        return cast(dict[str, Any], json.loads(path.read_text()))
    except (OSError, ValueError):
        return None
