"""Driver: the `Sandbox` port over an OCI runtime. What is where is decided by the disk alone.

Nothing is remembered between calls but a cache: a node that was killed and started again finds
each job as it is. One task at a time works on one job. Knows no agreement and no money.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from market.codec import decode, encode
from market.errors import CodecError, SandboxError
from market.limits import ENV_BYTES_MAX, ENVS_MAX, FILES_MAX
from market.terms import Artifact, Manifest
from market.units import MIB
from node.adapters.oci import bundle, cdi, cgroups, disk, images, launch, look, staging
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.results import Results
from node.adapters.oci.settings import OciSettings, WorkPaths, paths_of, uid_base_of
from node.adapters.oci.verify import Expected
from node.ports import (
    Blobs,
    Check,
    Devices,
    Execution,
    Observed,
    Pipe,
    RunState,
    Terminal,
    Workspace,
)

_MANIFEST_BYTES_MAX = 2 * ENVS_MAX * ENV_BYTES_MAX
_KILL_S = 20.0  # from SIGKILL to the exit record, on a loaded machine

T = TypeVar("T")


class OciSandbox:
    """Jobs in containers made by runc (or one that speaks like it), each with its own shim."""

    def __init__(self, settings: OciSettings, blobs: Blobs, devices: Devices) -> None:
        """Makes its directories; raises SandboxError if the machine cannot run jobs."""
        self._settings = settings
        self._blobs = blobs
        self._devices = devices
        self._locks: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        self._image_lock = trio.Lock()
        self._v2 = cgroups.is_v2()
        self._uuids = {unit.index: unit.uuid for unit in devices.units() if unit.uuid}
        self._results = Results(settings, blobs)
        if shutil.which(settings.runtime) is None:
            raise SandboxError(
                f"{settings.runtime} is not installed", hint="install the package runc"
            )
        for name in ("works", "images", "staging"):
            (settings.state_dir / name).mkdir(parents=True, exist_ok=True)
        images.sweep(settings.state_dir / "images")
        for left in (settings.state_dir / "staging").iterdir():
            disk.remove_tree(left)

    async def prepare(self, workspace: Workspace) -> None:
        """Image, disk, inputs and the checkpoint to resume, in place. Raises SandboxError."""
        paths = paths_of(self._settings, workspace.work_id)
        async with self._locks[workspace.work_id]:
            observed = await _thread(self._observe, paths)
            if observed.state in (RunState.RUNNING, RunState.EXITED):
                return
            if observed.state is RunState.PREPARED and await _thread(_same, paths, workspace):
                return
            layout = staging.layout_of(workspace.manifest)
            edits = self._edits(workspace.units)
            await _thread(self._clear, paths)
            await _thread(partial(paths.state.mkdir, parents=True, mode=0o700))
            image = await self._image(workspace.manifest.image)
            inside = tuple(path for _, path in edits.mounts)
            await _thread(staging.make_skeleton, paths, layout, inside)
            await self._stage_inputs(paths, workspace.manifest)
            await _thread(
                staging.mount_places, self._settings, paths, workspace.manifest, image.root
            )
            base = uid_base_of(self._settings, workspace.units)
            await _thread(staging.own_volumes, paths, layout, workspace.manifest, base)
            if workspace.manifest.resume is not None:
                await self._resume(paths, layout, workspace, base)
            await _thread(_record, paths, workspace)

    async def start(self, work_id: str) -> None:
        """Start what was prepared; nothing if it runs or has run. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await _thread(self._start, paths)

    async def observe(self, work_id: str) -> Observed:
        """Look; ABSENT for what is not known."""
        try:
            paths = paths_of(self._settings, work_id)
        except SandboxError:
            return Observed(RunState.ABSENT)
        return await _thread(self._observe, paths)

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """A part of the job's output."""
        return await _thread(look.read_log, paths_of(self._settings, work_id), offset, limit)

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """A consistent tar of the checkpoint directory. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            manifest, _ = await _thread(self._load, paths)
            await _thread(self._remount, paths, manifest)
            return await self._results.checkpoint(paths, manifest, self._cgroup(paths))

    async def collect(self, work_id: str) -> tuple[Artifact, ...]:
        """The job's outputs into the blob store. Raises SandboxError."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            manifest, _ = await _thread(self._load, paths)
            await _thread(self._remount, paths, manifest)
            return await self._results.collect(paths, manifest)

    async def stop(self, work_id: str, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after the grace; returns when nothing of it runs."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await self._stop(paths, grace_s)

    async def pause(self, work_id: str) -> None:
        """Not built yet."""
        raise SandboxError("this sandbox cannot pause")

    async def resume(self, work_id: str) -> None:
        """Not built yet."""
        raise SandboxError("this sandbox cannot pause")

    def connect(self, work_id: str, port: int) -> contextlib.AbstractAsyncContextManager[Pipe]:
        """Not built yet."""
        raise SandboxError("this sandbox cannot be connected to")

    def execute(
        self, work_id: str, argv: tuple[str, ...], terminal: Terminal | None = None
    ) -> contextlib.AbstractAsyncContextManager[Execution]:
        """Not built yet."""
        raise SandboxError("this sandbox cannot execute")

    async def preflight(self) -> tuple[Check, ...]:
        """Not built yet."""
        return ()

    async def scrub(self, work_id: str) -> None:
        """Remove every trace. Stops it first."""
        paths = paths_of(self._settings, work_id)
        async with self._locks[work_id]:
            await self._stop(paths, 0.0)
            await _thread(self._clear, paths)
            self._results.forget(paths)
        if not self._locks[work_id].statistics().tasks_waiting:
            del self._locks[work_id]

    async def works(self) -> tuple[str, ...]:
        """Every job of which there is a trace: on disk, mounted, or as a control group."""
        return await _thread(self._works)

    # What follows blocks, or runs under the job's lock.

    def _works(self) -> tuple[str, ...]:
        names = {entry.name for entry in (self._settings.state_dir / "works").iterdir()}
        run = self._settings.run_dir / self._settings.instance
        if run.is_dir():
            names.update(entry.name for entry in run.iterdir())
        names |= cgroups.known(f"/gridsouk/{self._settings.instance}")
        return tuple(sorted(names))

    def _cgroup(self, paths: WorkPaths) -> Cgroup:
        return Cgroup(paths.cgroup, self._v2)

    def _edits(self, units: tuple[int, ...]) -> cdi.Edits:
        uuids = [self._uuids[unit] for unit in units if unit in self._uuids]
        return cdi.edits_for(uuids, self._settings.cdi_dirs) if uuids else cdi.Edits()

    def _load(self, paths: WorkPaths) -> tuple[Manifest, tuple[int, ...]]:
        try:
            data = paths.manifest.read_bytes()
            manifest = decode(Manifest, data, size_max=_MANIFEST_BYTES_MAX)
            return manifest, tuple(json.loads(paths.units.read_text()))
        except (OSError, CodecError, ValueError) as problem:
            raise SandboxError(f"the job {paths.state.name} is not prepared here") from problem

    async def _image(self, artifact: Artifact) -> images.Image:
        directory = self._settings.state_dir / "images" / artifact.hash.hex()
        async with self._image_lock:
            found = await _thread(images.find, directory)
            if found is not None:
                return found
            archive = self._staging_file(f"{artifact.hash.hex()}.tar")
            try:
                await images.lend_image(self._blobs, artifact, archive)
                await _thread(self._make_room)
                return await _thread(
                    partial(
                        images.unpack,
                        archive,
                        directory,
                        bytes_max=self._settings.image_bytes_max,
                        entries_max=self._settings.image_entries_max,
                    )
                )
            finally:
                disk.remove_tree(archive)

    def _make_room(self) -> None:
        used = set()
        for entry in (self._settings.state_dir / "works").iterdir():
            with contextlib.suppress(SandboxError):
                manifest, _ = self._load(paths_of(self._settings, entry.name))
                used.add(manifest.image.hash.hex())
        images.make_room(
            self._settings.state_dir / "images",
            self._settings.images_max,
            frozenset(used),
            self._settings.images_bytes_max,
        )

    def _staging_file(self, name: str) -> Path:
        return self._settings.state_dir / "staging" / name

    async def _stage_inputs(self, paths: WorkPaths, manifest: Manifest) -> None:
        for number, artifact in enumerate(manifest.inputs):
            parts = staging.input_parts(artifact.path)
            file = self._staging_file(f"{paths.state.name}.{number}")
            try:
                await self._blobs.export(artifact.hash, str(file))
                if artifact.path.endswith("/"):
                    room = self._settings.image_bytes_max
                    await _thread(staging.place_tree, paths, parts, file, room)
                else:
                    size = artifact.size_bytes
                    await _thread(staging.place_input, paths, parts, file, size)
            finally:
                file.unlink(missing_ok=True)

    async def _resume(
        self, paths: WorkPaths, layout: staging.Layout, workspace: Workspace, base: int
    ) -> None:
        manifest = workspace.manifest
        assert manifest.resume is not None
        file = self._staging_file(f"{paths.state.name}.resume")
        try:
            await self._blobs.export(manifest.resume.hash, str(file))
            room = (manifest.disk_mib or self._settings.disk_mib) * MIB
            await _thread(self._results.restore, paths, layout, manifest, file, base, room)
        finally:
            file.unlink(missing_ok=True)

    def _start(self, paths: WorkPaths) -> None:
        observed = self._observe(paths)
        if observed.state in (RunState.RUNNING, RunState.EXITED):
            return
        # A shim whose starter was killed at the gate gives up by itself; wait for that.
        if not launch.wait_released(paths, self._settings.start_timeout_s):
            raise SandboxError("an earlier start of this job hangs", hint="scrub the job")
        if self._observe(paths).state is not RunState.PREPARED:
            raise SandboxError(f"the job {paths.state.name} is not prepared here")
        manifest, units = self._load(paths)
        plan = self._plan(paths, manifest, units)
        cgroup = self._cgroup(paths)
        spec = launch.write_bundle(
            paths,
            cgroup,
            self._settings,
            bundle.configuration(plan),
            wall_s=manifest.max_duration_s or 2**31,
            grace_s=manifest.grace_s,
        )
        nodes = frozenset(f"{n.kind} {n.major}:{n.minor}" for n in plan.edits.nodes)
        quota = plan.cpus * bundle.CPU_PERIOD_US
        expected = Expected(plan.uid_base, plan.memory_bytes, plan.pids, quota, nodes)
        launch.launch(paths, cgroup, self._settings, spec, expected)

    def _plan(self, paths: WorkPaths, manifest: Manifest, units: tuple[int, ...]) -> bundle.Plan:
        settings, count = self._settings, max(1, len(units))
        image = images.find(settings.state_dir / "images" / manifest.image.hash.hex())
        if image is None:
            raise SandboxError("the job's image is gone", hint="prepare it again")
        edits = self._edits(units)
        memory = (manifest.memory_mib or settings.memory_mib * count) * MIB
        fixed = {"GRIDSOUK_INPUT": staging.INPUT, "GRIDSOUK_OUT": staging.OUT, "HOME": "/tmp"}
        if manifest.checkpoint_path:
            fixed["GRIDSOUK_CHECKPOINT"] = manifest.checkpoint_path
        secrets = tuple((k, v) for k, v in json.loads(paths.secrets.read_text()))
        given = tuple((env.name, env.value) for env in manifest.envs)
        volumes = staging.layout_of(manifest).volumes
        return bundle.Plan(
            command=manifest.command,
            envs=bundle.environment(image.envs, fixed, given, secrets, edits),
            cwd=staging.OUT if image.cwd in ("", "/") else image.cwd,
            hostname=f"gridsouk-{min(units, default=0)}",
            root=str(paths.root),
            cgroup=paths.cgroup,
            uid_base=uid_base_of(settings, units),
            memory_bytes=memory,
            cpus=manifest.cpus or settings.cpus * count,
            pids=settings.pids_max,
            files=_allowed(resource.RLIMIT_NOFILE, settings.files_max),
            locked_bytes=_allowed(resource.RLIMIT_MEMLOCK, memory),
            tmp_bytes=min(settings.tmp_mib * MIB, memory),
            volumes=tuple((str(paths.volume / name), inside) for inside, name in volumes),
            edits=edits,
            cgroup_namespace=Path("/proc/self/ns/cgroup").exists(),
        )

    def _observe(self, paths: WorkPaths) -> Observed:
        observed = look.look(paths, self._cgroup(paths))
        if observed.state is RunState.RUNNING and self._uuids:
            return replace(observed, gpu_ppm=self._gpu_ppm(paths))
        return observed

    def _gpu_ppm(self, paths: WorkPaths) -> int:
        _, units = self._load(paths)
        busy = [
            health.utilisation_ppm
            for health in self._devices.health()
            if health.index in units and health.utilisation_ppm is not None
        ]
        return sum(busy) // len(busy) if busy else 0

    async def _stop(self, paths: WorkPaths, grace_s: float) -> None:
        if not await _thread(launch.ask_to_stop, paths, grace_s):
            await _thread(self._end_rest, paths)
            return
        limit_s = max(0.0, grace_s) + _KILL_S
        shim = await _thread(launch.open_shim, paths)
        if shim is not None:
            try:
                with trio.move_on_after(limit_s):
                    await trio.lowlevel.wait_readable(shim)
            finally:
                os.close(shim)
        await _thread(self._end_rest, paths)

    def _end_rest(self, paths: WorkPaths) -> None:
        """Normally nothing is left. A stuck or killed shim leaves its container."""
        cgroup = self._cgroup(paths)
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

    def _clear(self, paths: WorkPaths) -> None:
        """Remove mounts, control groups and files, whether or not they are all there."""
        cgroup = self._cgroup(paths)
        if cgroup.pids():
            cgroup.kill()
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
                Cgroup(group, self._v2).remove()


def _allowed(limit: int, wanted: int) -> int:
    """A node without CAP_SYS_RESOURCE cannot give a job more than it has itself."""
    _, hard = resource.getrlimit(limit)
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)


def _same(paths: WorkPaths, workspace: Workspace) -> bool:
    if paths.manifest.read_bytes() != encode(workspace.manifest):
        return False
    return bool(json.loads(paths.units.read_text()) == list(workspace.units))


def _record(paths: WorkPaths, workspace: Workspace) -> None:
    """Last of all: from now on the job counts as prepared."""
    assert len(workspace.manifest.outputs) <= FILES_MAX
    paths.manifest.write_bytes(encode(workspace.manifest))
    paths.units.write_text(json.dumps(list(workspace.units)))
    paths.secrets.touch(mode=0o600)
    paths.secrets.write_text(json.dumps(list(workspace.secrets)))
    paths.prepared.touch()


async def _thread(function: Callable[..., T], *arguments: object) -> T:
    """Run something that blocks. A cancelled caller still waits for it: half done is worse."""
    run: Callable[..., Awaitable[T]] = trio.to_thread.run_sync
    return await run(function, *arguments)
