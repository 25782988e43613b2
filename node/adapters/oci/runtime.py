"""Runtime: what makes containers for the sandbox. The OCI one is here; engines are next door.

All else (disks, inputs, shims, meters, logs, results) is the same whoever makes the container.
"""

from __future__ import annotations

import json
import shutil
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import trio

from market.errors import SandboxError
from node.adapters.oci import bundle, cgroups, execute, scopes
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.images import Image
from node.adapters.oci.settings import Identity, OciSettings, WorkPaths, identity_of
from node.ports import Check, Execution, Terminal

_HIDE_V2 = 'umount /sys/fs/cgroup/unified; exec "$0" "$@"'
_VERSION_S = 20.0
_GVISOR = "runsc"
# What /proc shows of its containers is gVisor's own process: other users, capabilities, no root of
# the job's. So nothing of what `verify` looks at before a job begins could be seen.
_UNSEEN = "the programs of gVisor's jobs are no processes of this machine; they cannot be verified"
_OTHER = 'set [sandbox] runtime = "runc" or "crun"'


class Runtime(Protocol):
    """Makes, enters and removes the container of a job. Each call is safe to repeat."""

    @property
    def shim(self) -> str:
        """The module whose `main` holds such a container."""

    def identity(self, units: tuple[int, ...]) -> Identity:
        """Who a job on these units is."""

    def cgroup(self, paths: WorkPaths) -> Cgroup:
        """The job's control group."""

    def before_shim(self, paths: WorkPaths) -> tuple[str, ...]:
        """What the command of the job's shim begins with."""

    def mount_points(self) -> tuple[str, ...]:
        """What it wants to find in the root file system; see `staging.add_mount_points`."""

    async def stage(self, paths: WorkPaths, image: Image, hash_: bytes) -> None:
        """Make the image known to it. Raises SandboxError."""

    async def make(self, paths: WorkPaths, plan: bundle.Plan) -> dict[str, Any]:
        """Everything up to the shim; returns what the shim must know. Raises SandboxError."""

    def made(self, paths: WorkPaths) -> None:
        """The job has begun: remove what held its variables. Blocking."""

    def execute(
        self, paths: WorkPaths, plan: bundle.Plan, argv: tuple[str, ...], terminal: Terminal | None
    ) -> AbstractAsyncContextManager[Execution]:
        """A program in the running container."""

    async def remove(self, paths: WorkPaths) -> None:
        """Whatever is left of the container. Raises SandboxError if it cannot be removed."""

    async def known(self) -> frozenset[str]:
        """The jobs of which it still has a container."""

    async def forget_images(self, kept: frozenset[str]) -> None:
        """Remove images of ours whose hash, in hex, is not among these."""

    async def checks(self) -> tuple[Check, ...]:
        """Whether it is there and can be used."""


@dataclass(frozen=True, slots=True)
class OciRuntime:
    """runc, or a program that speaks like it, as crun does."""

    settings: OciSettings

    @property
    def shim(self) -> str:
        """Its own."""
        return "node.adapters.oci.shim"

    @property
    def command(self) -> tuple[str, ...]:
        """How it is called.

        crun refuses a machine with both versions of control groups. It is shown the first only,
        in a mount namespace of its own.
        """
        name = self.settings.runtime
        hybrid = not cgroups.is_v2() and (cgroups.ROOT / "unified").is_dir()
        if hybrid and Path(name).name.startswith("crun"):
            return ("unshare", "-m", "--propagation", "slave", "sh", "-c", _HIDE_V2, name)
        return (name,)

    def identity(self, units: tuple[int, ...]) -> Identity:
        """`nobody` of a user namespace with a range of its own."""
        return identity_of(self.settings, units)

    def cgroup(self, paths: WorkPaths) -> Cgroup:
        """Made by the runtime, and gone with the container; in a scope where systemd wants that."""
        try:
            path = (paths.live / "cgroup").read_text()
        except OSError:
            path = scopes.groups(self.settings.instance).get(paths.state.name, paths.cgroup)
        return Cgroup(path, cgroups.is_v2())

    def before_shim(self, paths: WorkPaths) -> tuple[str, ...]:
        """The making of its scope."""
        return scopes.command(self.cgroup(paths).path)

    def mount_points(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def stage(self, paths: WorkPaths, image: Image, hash_: bytes) -> None:
        """It takes a root file system, which is mounted already."""

    async def make(self, paths: WorkPaths, plan: bundle.Plan) -> dict[str, Any]:
        """The bundle, in memory."""
        group = paths.cgroup
        if scopes.are_used():
            group = scopes.new(self.settings.instance, paths.state.name)
        folder = paths.live / "bundle"
        config = bundle.configuration(replace(plan, cgroup=group))
        await trio.to_thread.run_sync(_write_bundle, folder, config)
        await trio.to_thread.run_sync((paths.live / "cgroup").write_text, group)
        return {
            "scope": str(scopes.folder(group) or ""),
            "id": paths.container,
            "runtime": list(self.command),
            "runtime_root": str(paths.live / "runtime"),
            "runtime_log": str(paths.live / "runtime.log"),
            "bundle": str(folder),
        }

    def made(self, paths: WorkPaths) -> None:
        """Secrets need not lie about for the job's whole life."""
        (paths.live / "bundle" / "config.json").unlink(missing_ok=True)

    def execute(
        self, paths: WorkPaths, plan: bundle.Plan, argv: tuple[str, ...], terminal: Terminal | None
    ) -> AbstractAsyncContextManager[Execution]:
        """By the runtime's `exec`."""
        group = self.cgroup(paths).path
        return execute.execute(self.command, paths, group, plan, argv, terminal)

    async def remove(self, paths: WorkPaths) -> None:
        """Its shim has removed it; what a killed shim left lies in the job's own folders."""

    async def known(self) -> frozenset[str]:
        """Told from the control groups."""
        return frozenset(scopes.groups(self.settings.instance))

    async def forget_images(self, kept: frozenset[str]) -> None:
        """It keeps none."""

    async def checks(self) -> tuple[Check, ...]:
        """Installed, and which version."""
        name = self.settings.runtime
        if shutil.which(name) is None:
            return (
                Check("runtime", False, True, f"{name} is not installed", _install(name)),
            )  # fmt: skip
        try:
            with trio.fail_after(_VERSION_S):
                said = await trio.run_process([name, "--version"], capture_stdout=True, check=False)
        except (OSError, trio.TooSlowError) as problem:
            return (
                Check("runtime", False, True, f"{name} does not run: {problem}", _install(name)),
            )
        first = (said.stdout.decode(errors="replace").splitlines() or [name])[0]
        if first.startswith(_GVISOR):
            return (Check("runtime", False, True, f"{first}: {_UNSEEN}", _OTHER),)
        return (Check("runtime", True, True, first),)


def _install(name: str) -> str:
    return f"install the package {Path(name).name}, or set another [sandbox] runtime"


def need(settings: OciSettings) -> None:
    """Raises SandboxError if the runtime's program is not here, or one that cannot be used."""
    refuse_gvisor(settings.runtime)
    if shutil.which(settings.runtime) is None:
        raise SandboxError(
            f"{settings.runtime} is not installed", hint=_install(settings.runtime)
        )  # fmt: skip


def refuse_gvisor(name: str) -> None:
    """Raises SandboxError for gVisor's runtime."""
    if Path(name).name.startswith(_GVISOR):
        raise SandboxError(f"{name}: {_UNSEEN}", hint=_OTHER)


def _write_bundle(folder: Path, config: dict[str, Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
