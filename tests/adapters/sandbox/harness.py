"""Harness: a driver to attack, jobs to attack it with, and a way to wait for them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import trio

from market.terms import Artifact, Env, Manifest, Workload
from node.adapters.engine.driver import EngineSandbox
from node.adapters.engine.hold import EngineError, ask
from node.adapters.oci import disk
from node.adapters.oci.driver import ContainerSandbox, OciSandbox
from node.adapters.oci.settings import OciSettings, WorkPaths, paths_of
from node.ports import (
    Blobs,
    Devices,
    Observed,
    RunState,
    Sandbox,
    Unit,
    UnitHealth,
    Workspace,
)

PATIENCE_S = 30.0 * float(os.environ.get("GRIDSOUK_SLOWNESS", "1"))  # of an emulated machine
MIB = 1024 * 1024
BASE = Manifest(
    job_id=bytes(16),
    name="probe",
    workload=Workload.BATCH,
    image=Artifact("base", bytes(32), 0),
    command="true",
    envs=(),
    inputs=(),
    outputs=("/out",),
    checkpoint_path="",
    checkpoint_interval_s=0,
    resume=None,
    cpus=1,
    memory_mib=128,
    disk_mib=16,
    max_duration_s=60,
    grace_s=2,
    ports=(),
)


@dataclass(frozen=True)
class NoGpus:
    """A machine with two slots and no GPU."""

    found: tuple[Unit, ...] = ()

    def units(self) -> tuple[Unit, ...]:
        """None to speak of."""
        return self.found

    def health(self) -> tuple[UnitHealth, ...]:
        """Nothing to look at."""
        return ()


@dataclass
class Driver:
    """A sandbox under test with what it was made from."""

    settings: OciSettings
    blobs: Blobs
    image: Artifact
    kind: str = "runc"
    sandbox: Sandbox = field(init=False)
    _numbers: count[int] = field(default_factory=count)
    _works: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sandbox = self.again()

    def again(self, devices: Devices | None = None, **changes: object) -> ContainerSandbox:
        """Another driver over the same state, as after a restart of the node."""
        settings = replace(self.settings, **changes) if changes else self.settings  # type: ignore[arg-type]
        make = OciSandbox if settings.driver == "oci" else EngineSandbox
        return make(settings, self.blobs, devices or NoGpus())

    def workspace(self, command: str, unit: int = 0, **changes: object) -> Workspace:
        """A job of its own that runs `command`."""
        work_id = f"job-{next(self._numbers)}"
        self._works.append(work_id)
        manifest = replace(BASE, image=self.image, command=command, **changes)  # type: ignore[arg-type]
        return Workspace(work_id, manifest, (unit,))

    def paths(self, work_id: str) -> WorkPaths:
        """Where the driver keeps a job."""
        return paths_of(self.settings, work_id)

    async def started(self, command: str, **changes: object) -> str:
        """Prepare and start; returns the work id."""
        workspace = self.workspace(command, **changes)  # type: ignore[arg-type]
        await self.sandbox.prepare(workspace)
        await self.sandbox.start(workspace.work_id)
        return workspace.work_id

    async def finished(self, command: str, **changes: object) -> tuple[str, Observed, str]:
        """Run to the end: (work id, how it ended, its whole output)."""
        work_id = await self.started(command, **changes)
        observed = await ended(self.sandbox, work_id)
        return work_id, observed, await self.log(work_id)

    async def log(self, work_id: str) -> str:
        """The whole output so far."""
        data = b""
        while part := await self.sandbox.read_log(work_id, len(data), 65536):
            data += part
        return data.decode()

    async def wait_log(self, work_id: str, text: str) -> None:
        """Until the job has said `text`."""
        with trio.fail_after(PATIENCE_S):
            while text not in await self.log(work_id):
                await trio.sleep(0.01)

    async def wait_started(self, work_id: str) -> None:
        """Until the job's own first command has run, which may be a while after the start."""
        volume = self.paths(work_id).volume
        with trio.fail_after(PATIENCE_S):
            while not any(volume.glob("v*/starts")):
                await trio.sleep(0.01)

    async def scrub(self) -> None:
        """Remove every job this driver was given."""
        async with trio.open_nursery() as nursery:
            while self._works:
                nursery.start_soon(self.sandbox.scrub, self._works.pop())


async def ended(sandbox: Sandbox, work_id: str) -> Observed:
    """Wait for a job to end."""
    with trio.fail_after(PATIENCE_S):
        while (observed := await sandbox.observe(work_id)).state is not RunState.EXITED:
            assert observed.state is RunState.RUNNING, observed
            await trio.sleep(0.01)
    return observed


def env(name: str, value: str) -> Env:
    """A variable of a manifest."""
    return Env(name, value)


DRIVERS = ("runc", "crun", "docker", "podman")
ENGINES = ("docker", "remapped", "podman")  # a Docker with user namespaces, beside the usual one


@contextmanager
def engine(kind: str, folder: Path) -> Iterator[Path]:
    """An engine of our own, with nothing of the machine's: its socket."""
    socket = folder / f"{kind}.sock"
    if kind in ("docker", "remapped"):
        command = ["dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec",
                   "-H", f"unix://{socket}", "--pidfile", f"{folder}/pid", "--iptables=false",
                   "--ip6tables=false", "--bridge=none",
                   "--add-runtime", f"liar={folder}/liar"]  # fmt: skip
        if kind == "remapped":
            command = _with_ids(folder, command)
    else:
        command = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run",
                   "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
                   "system", "service", "--time=0", f"unix://{socket}"]  # fmt: skip
    with (folder / "log").open("wb") as log:
        started = subprocess.Popen(  # conmon leaves files where it was started
            command, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (socket.exists() and _answers(socket)):
            ended = started.poll() is not None or time.monotonic() > deadline
            assert not ended, (folder / "log").read_text()[-2000:]
            time.sleep(0.05)
        yield socket
    finally:
        started.terminate()
        started.wait(PATIENCE_S)


def _with_ids(folder: Path, command: list[str]) -> list[str]:
    """The same Docker, with `userns-remap` and a range of ids that this machine knows nothing of.

    It sees its own /etc/subuid, so stands in a mount namespace; what the sandbox mounts below
    `folder`/mounts reaches it there.
    """
    (folder / "ids").write_text("nobody:700000:65536\nnogroup:700000:65536\n")
    mounts = folder / "mounts"
    mounts.mkdir(mode=0o711)
    disk.command("mount", "--bind", str(mounts), str(mounts))
    disk.command("mount", "--make-shared", str(mounts))
    see = 'mount --bind "$0" /etc/subuid; mount --bind "$0" /etc/subgid; exec "$@"'
    return ["unshare", "-m", "--propagation", "slave", "sh", "-c", see, str(folder / "ids"),
            *command, "--userns-remap", "nobody:nogroup"]  # fmt: skip


@contextmanager
def engine_folder() -> Iterator[Path]:
    """A folder that an engine may fill and mount things below; all of it goes.

    Podman leaves its store mounted on itself, and its last helpers mount it once more.
    """
    folder = Path(tempfile.mkdtemp(prefix="gridsouk-engine-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        deadline = time.monotonic() + PATIENCE_S
        gone = 0
        while gone < 5:
            gone = 0 if folder.exists() else gone + 1
            disk.unmount_all(folder)
            shutil.rmtree(folder, ignore_errors=True)
            assert time.monotonic() < deadline, f"{folder} cannot be removed"
            time.sleep(0.2)


def _answers(socket: Path) -> bool:
    try:
        return bool(ask(str(socket), "GET", "/version"))
    except EngineError:
        return False


def missing_for(kind: str) -> str:
    """Why a driver cannot be tested here, or nothing."""
    needed = {"runc": ["runc"], "crun": ["crun"], "docker": ["dockerd"], "podman": ["podman"],
              "remapped": ["dockerd"]}  # fmt: skip
    programs = [*needed[kind], "mkfs.ext4", "busybox"]
    missing = [name for name in programs if shutil.which(name) is None]
    if os.geteuid():
        missing.append("root")
    return f"needs {', '.join(missing)}" if missing else ""


def small_settings(root: Path, instance: str, **changes: object) -> OciSettings:
    """Small limits, so that attacks reach them soon."""
    return OciSettings(
        root / "state",
        **changes,  # type: ignore[arg-type]
        instance=instance,
        tmp_mib=8,
        pids_max=64,
        files_max=128,
        log_bytes_max=256 * 1024,
    )
