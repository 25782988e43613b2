"""Driver: the `Sandbox` port over containers. What is where is decided by the disk alone.

Nothing is remembered between calls but a cache: a node that was killed and started again finds
each job as it is. One task at a time works on one job. Knows no agreement and no money.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from market.errors import SandboxError
from market.terms import Artifact, Manifest
from market.units import MIB
from node.adapters.oci import bundle, cdi, cgroups, disk, launch, look, preflight, staging, tun
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.connect import connect, listen
from node.adapters.oci.place import Placing, same, thread
from node.adapters.oci.progress import read_progress
from node.adapters.oci.results import Results
from node.adapters.oci.runtime import OciRuntime, Runtime, need
from node.adapters.oci.settings import OUT, OciSettings, WorkPaths, paths_of
from node.adapters.oci.verify import expected_of
from node.ports import (
    Blobs,
    Check,
    Devices,
    Execution,
    Interface,
    Listener,
    Observed,
    Pipe,
    RunState,
    Terminal,
    Workspace,
)

_KILL_S = 20.0  # from SIGKILL to the exit record, on a loaded machine
_LOOK_S = 0.005


class ContainerSandbox:
    """Jobs in containers that a runtime makes, each with its own shim."""

    def __init__(
        self, settings: OciSettings, blobs: Blobs, devices: Devices, runtime: Runtime
    ) -> None:
        """Makes its directories; raises SandboxError if the machine cannot run jobs."""
        self._settings = settings
        self._blobs = blobs
        self._devices = devices
        self._runtime = runtime
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._uuids = {unit.index: unit.uuid for unit in devices.units() if unit.uuid}
        self._results = Results(settings, blobs)
        self._placing = Placing(settings, blobs, self._results, runtime)
        self._wake()

    async def prepare(self, workspace: Workspace) -> None:
        """Image, disk, inputs and the checkpoint to resume, in place. Raises SandboxError."""
        paths = paths_of(self._settings, workspace.work_id)
        async with self._locks[workspace.work_id]:
            observed = await thread(self._observe, paths)
            if observed.state in (RunState.RUNNING, RunState.EXITED):
                return
            if observed.state is RunState.PREPARED and await thread(same, paths, workspace):
                return
            edits = self._edits(workspace.units)
            await self._clear(paths)
            await self._placing.place(paths, workspace, edits)

    async def start(self, work_id: str) -> None:
        """Start what was prepared; nothing if it runs or has run. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            if await thread(self._startable, paths):
                await self._start(paths)

    async def observe(self, work_id: str) -> Observed:
        """Look; ABSENT for what is not known."""
        try:
            paths = paths_of(self._settings, work_id)
        except SandboxError:
            return Observed(RunState.ABSENT)
        return await thread(self._observe, paths)

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """A part of the job's output."""
        return await thread(look.read_log, paths_of(self._settings, work_id), offset, limit)

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """A consistent tar of the checkpoint directory. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            manifest, _ = await thread(self._placing.load, paths)
            await thread(self._remount, paths, manifest)
            return await self._results.checkpoint(paths, manifest, self._runtime.cgroup(paths))

    async def collect(self, work_id: str) -> tuple[Artifact, ...]:
        """The job's outputs into the blob store. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            manifest, _ = await thread(self._placing.load, paths)
            await thread(self._remount, paths, manifest)
            return await self._results.collect(paths, manifest)

    async def stop(self, work_id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when nothing of it runs."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await self._stop(paths, grace_s)

    async def pause(self, work_id: str) -> None:
        """Freeze it and its meter. Raises SandboxError."""
        await self._order(work_id, "pause", paused=True)

    async def resume(self, work_id: str) -> None:
        """Let it go on. Raises SandboxError."""
        await self._order(work_id, "resume", paused=False)

    @contextlib.asynccontextmanager
    async def connect(self, work_id: str, port: int) -> AsyncIterator[Pipe]:
        """A TCP connection to what listens on that port in the job. Raises SandboxError."""
        pid = await thread(self._living, paths_of(self._settings, work_id))
        async with connect(pid, port) as pipe:
            yield pipe

    @contextlib.asynccontextmanager
    async def listen(self, work_id: str, port: int) -> AsyncIterator[Listener]:
        """Connections that the job makes to that port of its own. Raises SandboxError."""
        pid = await thread(self._living, paths_of(self._settings, work_id))
        async with listen(pid, port) as listener:
            yield listener

    @contextlib.asynccontextmanager
    async def interface(self, work_id: str) -> AsyncIterator[Interface]:
        """The job's network interface among the nodes of its gang. Raises SandboxError."""
        pid = await thread(self._living, paths_of(self._settings, work_id))
        async with tun.hold(pid) as interface:
            yield interface

    @contextlib.asynccontextmanager
    async def execute(
        self, work_id: str, argv: tuple[str, ...], terminal: Terminal | None = None
    ) -> AsyncIterator[Execution]:
        """A program in the running job, as confined as the job. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        if not argv or any("\0" in word for word in argv):
            raise SandboxError("there is no program to execute", hint="name one, like: sh")
        plan = await thread(self._plan_of_running, paths)
        if terminal is not None:
            plan = replace(plan, envs={"TERM": "xterm-256color", **plan.envs})
        async with self._runtime.execute(paths, plan, argv, terminal) as execution:
            yield execution

    async def extend(self, work_id: str, max_duration_s: int) -> None:
        """Let it run for so many seconds in all, if that is longer than it may."""
        paths = paths_of(self._settings, work_id)
        if not await thread(launch.order, paths, f"extend {max_duration_s}"):
            raise SandboxError(f"the job {work_id[:12]} does not run")

    async def scrub(self, work_id: str) -> None:
        """Remove every trace. Stops it first."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await self._stop(paths, 0.0)
            await self._clear(paths)
            self._results.forget(paths)
        if not self._locks[work_id].statistics().tasks_waiting:
            del self._locks[work_id]

    async def prune(self) -> int:
        """Remove what is unpacked of images that no job here uses; returns bytes freed."""
        return await self._placing.prune()

    async def works(self) -> tuple[str, ...]:
        """Every job of which there is a trace: on disk, mounted, a group or a container."""
        return tuple(sorted(await thread(self._works) | await self._runtime.known()))

    async def preflight(self) -> tuple[Check, ...]:
        """The machine's parts, and what the escape probe says from inside a job of ours."""
        checks = (
            *await thread(preflight.machine, self._settings),
            *await self._runtime.checks(),
            *await thread(preflight.gpus, tuple(sorted(self._uuids.values())), self._settings),
        )
        if any(check.critical and not check.ok for check in checks):
            return checks
        return (*checks, *await preflight.probe(self, self._blobs, self._settings))

    # What follows blocks, or runs under the job's lock.

    def _works(self) -> frozenset[str]:
        names = {entry.name for entry in (self._settings.state_dir / "works").iterdir()}
        run = self._settings.run_dir / self._settings.instance
        with contextlib.suppress(FileNotFoundError):  # it goes with its last job
            names.update(os.listdir(run))
        return frozenset(names) | cgroups.known(f"/gridsouk/{self._settings.instance}")

    def _wake(self) -> None:
        """A node killed while it took a checkpoint has left the job frozen."""
        for name in self._works():
            with contextlib.suppress(SandboxError):
                paths = paths_of(self._settings, name)
                group = self._runtime.cgroup(paths)
                if group.frozen() and not look.is_paused(paths):
                    group.thaw()

    def _edits(self, units: tuple[int, ...]) -> cdi.Edits:
        uuids = [self._uuids[unit] for unit in units if unit in self._uuids]
        return cdi.edits_for(uuids, self._settings.cdi_dirs) if uuids else cdi.Edits()

    def _startable(self, paths: WorkPaths) -> bool:
        observed = self._observe(paths)
        if observed.state in (RunState.RUNNING, RunState.EXITED):
            return False
        # A shim whose starter was killed at the gate gives up by itself; wait for that.
        if not launch.wait_released(paths, self._settings.start_timeout_s):
            raise SandboxError("an earlier start of this job hangs", hint="scrub the job")
        if self._observe(paths).state is not RunState.PREPARED:
            raise SandboxError(f"the job {paths.state.name} is not prepared here")
        return True

    async def _start(self, paths: WorkPaths) -> None:
        manifest, units = await thread(self._placing.load, paths)
        plan = await thread(self._plan, paths, manifest, units, True)
        container = await self._runtime.make(paths, plan)
        cgroup = self._runtime.cgroup(paths)
        spec = await thread(
            partial(
                launch.write_spec,
                paths,
                cgroup,
                self._settings,
                container,
                gate=bundle.gate(plan.secrets),
                wall_s=manifest.max_duration_s or 2**31,
                grace_s=manifest.grace_s,
            )
        )
        expected = expected_of(plan, await thread(self._placing.address, paths))
        shim = [*self._runtime.before_shim(paths), *launch.shim_command(spec, self._runtime.shim)]
        await thread(launch.launch, paths, cgroup, self._settings, expected, shim)
        await thread(self._runtime.made, paths)
        # The job has its variables now; secrets need not lie about for its whole life.
        for file in (paths.secrets, paths.live / "gate"):
            await thread(partial(file.unlink, missing_ok=True))

    def _plan(
        self, paths: WorkPaths, manifest: Manifest, units: tuple[int, ...], secret: bool
    ) -> bundle.Plan:
        settings, count = self._settings, max(1, len(units))
        image = self._placing.image_of(manifest)
        edits = self._edits(units)
        memory = (manifest.memory_mib or settings.memory_mib * count) * MIB
        volumes = staging.layout_of(manifest).volumes
        secrets = staging.secrets_of(paths) if secret else ()
        return bundle.Plan(
            command=manifest.command,
            envs=bundle.environment_of(manifest, image.envs, secrets, edits),
            cwd=staging.safe_cwd(image.root, image.cwd),
            hostname=f"gridsouk-{min(units, default=0)}",
            root=str(paths.root),
            cgroup=paths.cgroup,
            identity=self._runtime.identity(units),
            memory_bytes=memory,
            cpus=manifest.cpus or settings.cpus * count,
            pids=settings.pids_max,
            files=_allowed(resource.RLIMIT_NOFILE, settings.files_max),
            locked_bytes=_allowed(resource.RLIMIT_MEMLOCK, memory),
            tmp_bytes=min(settings.tmp_mib * MIB, memory),
            volumes=tuple((str(paths.volume / name), inside) for inside, name in volumes),
            edits=edits,
            cgroup_namespace=Path("/proc/self/ns/cgroup").exists(),
            inputs=staging.seen_inputs(paths, manifest),
            secrets=secrets,
            image=manifest.image.hash.hex(),
        )

    def _plan_of_running(self, paths: WorkPaths) -> bundle.Plan:
        """The plan that the job runs by, with the variables that it has."""
        pid = self._living(paths)
        if look.is_paused(paths):
            raise SandboxError("the job is paused", hint="resume it first")
        plan = self._plan(paths, *self._placing.load(paths), False)
        try:
            return replace(plan, envs=look.variables(pid))
        except OSError as problem:
            raise SandboxError("the job has ended") from problem

    def _living(self, paths: WorkPaths) -> int:
        """The pid of the job's first process. Raises SandboxError if the job does not run."""
        pid = launch.first_pid(paths)
        if self._observe(paths).state is not RunState.RUNNING or not pid:
            raise SandboxError("the job does not run")
        return pid

    def _observe(self, paths: WorkPaths) -> Observed:
        observed = look.look(paths, self._runtime.cgroup(paths))
        if observed.state is not RunState.RUNNING:
            return observed
        manifest, units = self._placing.load(paths)
        out = staging.layout_of(manifest).place(OUT)
        done = read_progress(paths.volume / out.name / out.inner)
        observed = replace(observed, progress_ppm=done)
        if not self._uuids:
            return observed
        return look.with_sensors(observed, self._devices.health(), units)

    async def _order(self, work_id: str, word: str, *, paused: bool) -> None:
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await thread(self._living, paths)
            with trio.move_on_after(self._settings.pause_timeout_s):
                while (await thread(self._observe, paths)).paused is not paused:
                    if not await thread(launch.order, paths, word):
                        break
                    await trio.sleep(_LOOK_S)
            await thread(self._living, paths)
            if look.is_paused(paths) is not paused:
                raise SandboxError(f"the job could not {word}", hint="it is stuck in the kernel")

    async def _stop(self, paths: WorkPaths, grace_s: float) -> None:
        grace_s = max(0.0, grace_s)
        if await thread(launch.order, paths, f"stop {grace_s}"):
            shim = await thread(launch.open_shim, paths)
            if shim is not None:
                try:
                    with trio.move_on_after(grace_s + _KILL_S):
                        await trio.lowlevel.wait_readable(shim)
                finally:
                    os.close(shim)
        await thread(self._end_rest, paths)

    def _end_rest(self, paths: WorkPaths) -> None:
        """Normally nothing is left. A stuck or killed shim leaves its container."""
        cgroup = self._runtime.cgroup(paths)
        if cgroup.pids():
            cgroup.kill()
        if not launch.wait_released(paths, _KILL_S):
            raise SandboxError(f"the shim of {paths.state.name} does not end")

    def _remount(self, paths: WorkPaths, manifest: Manifest) -> None:
        """After a reboot the volume is still on disk."""
        if disk.is_mounted(paths.volume):
            return
        if not paths.volume_image.exists():
            raise SandboxError(f"the job {paths.state.name} has no disk here")
        disk.mount_memory(paths.run)
        disk.mount_volume(
            paths.volume_image, paths.volume, manifest.disk_mib or self._settings.disk_mib
        )

    async def _clear(self, paths: WorkPaths) -> None:
        """Remove container, mounts, groups and files, whether or not they are all there."""
        cgroup = self._runtime.cgroup(paths)
        if await thread(cgroup.pids):
            await thread(cgroup.kill)
        await self._runtime.remove(paths)
        await thread(self._clear_rest, paths)

    def _clear_rest(self, paths: WorkPaths) -> None:
        cgroup = self._runtime.cgroup(paths)
        disk.unmount_all(paths.run)
        cgroup.remove()
        for directory in (paths.run, paths.state):
            disk.remove_tree(directory)
        for left in (self._settings.state_dir / "staging").glob(f"{paths.state.name}.*"):
            left.unlink(missing_ok=True)
        for parent in (paths.run.parent, paths.run.parent.parent):
            try:
                parent.rmdir()
            except OSError:
                break
        for group in (f"/gridsouk/{self._settings.instance}", "/gridsouk"):
            if not cgroups.known(group):
                Cgroup(group, cgroup.v2).remove()


class OciSandbox(ContainerSandbox):
    """The sandbox over runc, or one that speaks like it."""

    def __init__(self, settings: OciSettings, blobs: Blobs, devices: Devices) -> None:
        """Raises SandboxError if the runtime is not installed."""
        need(settings)
        super().__init__(settings, blobs, devices, OciRuntime(settings))


def _allowed(limit: int, wanted: int) -> int:
    """A node without CAP_SYS_RESOURCE cannot give a job more than it has itself."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
