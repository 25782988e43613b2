"""Runtime: containers made by Docker or Podman, held by our shim like any other.

Podman takes the root file system that the sandbox has mounted. Docker takes images only: it is
given the tree that our own unpacking has made safe. Either puts the container into a group of ours,
whose limits hold whatever the engine makes of those that it is told.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import trio

from market.errors import SandboxError
from node.adapters.engine import dialect
from node.adapters.engine.client import Client, refused
from node.adapters.engine.dialect import DOCKER_API, PODMAN_API, Engine, Kind, Named
from node.adapters.engine.execute import execute
from node.adapters.engine.hold import EngineError, ask
from node.adapters.oci import bundle, cgroups, seccomp
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.images import Image
from node.adapters.oci.runtime import refuse_gvisor
from node.adapters.oci.settings import USER, Identity, OciSettings, WorkPaths, identity_of
from node.ports import Check, Execution, Terminal

_EVERYTHING = 2**32 - 1  # how many ids the machine's own map has
_MOUNT_POINTS = (
    "/sys/",
    "/run/.containerenv",
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/hostname",
    "/etc/mtab>/proc/mounts",
)
_CHUNK = 256 * 1024


class EngineRuntime:
    """Fills the sandbox's `Runtime`."""

    def __init__(self, settings: OciSettings) -> None:
        """Asks the engine who it is. Raises SandboxError if it does not say. Blocking."""
        self._settings = settings
        self._client = Client(settings.socket)
        self.engine = recognise(settings.socket)
        wanted = Path(settings.runtime).name
        if self.engine.kind is Kind.PODMAN and wanted not in ("", self.engine.runtime):
            raise SandboxError(
                f"this Podman runs containers with {self.engine.runtime}, not {wanted}",
                hint=f"start it as: podman --runtime {settings.runtime} system service",
            )
        refuse_gvisor(wanted or self.engine.runtime)

    @property
    def shim(self) -> str:
        """Its own."""
        return "node.adapters.engine.shim"

    def identity(self, units: tuple[int, ...]) -> Identity:
        """Podman maps each slot to a range of its own. Docker maps all containers alike, or none:

        there each slot is a user of its own, who is nobody on this machine.
        """
        own = identity_of(self._settings, units)
        if self.engine.kind is Kind.PODMAN:
            return own
        if not self.engine.remapped:
            return Identity(own.host, own.host, 0, _EVERYTHING)
        first = self.engine.remapped
        inside = USER - 1 - min(units, default=0)
        return Identity(inside, first + inside, first, 65536)

    def cgroup(self, paths: WorkPaths) -> Cgroup:
        """Ours, with the engine's below it; or where systemd puts it for the engine."""
        try:
            path = (paths.live / "cgroup").read_text()
        except OSError:
            path = paths.cgroup
        return Cgroup(path, cgroups.is_v2())

    def before_shim(self, paths: WorkPaths) -> tuple[str, ...]:
        """Nothing: the engine's own group is where the engine puts it."""
        return ()

    def mount_points(self) -> tuple[str, ...]:
        """Podman mounts files of its own and makes no places for them; Docker does."""
        return _MOUNT_POINTS if self.engine.kind is Kind.PODMAN else ()

    async def stage(self, paths: WorkPaths, image: Image, hash_: bytes) -> None:
        """Docker imports the tree, once for each image."""
        if self.engine.kind is Kind.PODMAN:
            return
        tag = f"{self._repository}:{hash_.hex()}"
        try:
            await self._client.ask("GET", f"{DOCKER_API}/images/{quote(tag, safe='')}/json")
        except EngineError as problem:
            if problem.status != 404:
                raise refused(problem, "look for the image") from problem
            url = f"{DOCKER_API}/images/create?fromSrc=-&repo={self._repository}&tag={hash_.hex()}"
            try:
                await self._client.upload(url, _tar(image.root))
            except EngineError as refusal:
                raise refused(refusal, "import the image") from refusal

    async def make(self, paths: WorkPaths, plan: bundle.Plan) -> dict[str, Any]:
        """The container, not yet started, in a group with our limits."""
        await self.remove(paths)
        named = Named(
            container=paths.container,
            instance=self._settings.instance,
            work=paths.state.name,
            parent=self._parent(paths),
            seccomp_file=str(paths.live / "seccomp.json"),
            image=f"{self._repository}:{plan.image}",
            runtime=self._settings.runtime,
        )
        await trio.to_thread.run_sync(self._make_group, paths, plan)
        url, body = dialect.create(self.engine, plan, named)
        try:
            made = await self._client.ask("POST", url, body)
        except EngineError as problem:
            raise refused(problem, "make the container") from problem
        name = str(made["Id"])
        if self.engine.systemd:
            await trio.to_thread.run_sync(self._expect_scope, paths, name)
        at = f"{DOCKER_API}/containers/{name}"
        start = f"{at}/start"
        if self.engine.kind is Kind.PODMAN:
            start = f"{PODMAN_API}/containers/{name}/start"
        return {
            "engine": {
                "socket": str(self._settings.socket),
                "attach": f"{at}/attach?stream=1&stdin=1&stdout=1&stderr=1",
                "start": start,
                "inspect": f"{at}/json",
                "remove": dialect.removal(self.engine, name),
            }
        }

    def made(self, paths: WorkPaths) -> None:
        """The engine keeps what it needs by itself."""

    def execute(
        self, paths: WorkPaths, plan: bundle.Plan, argv: tuple[str, ...], terminal: Terminal | None
    ) -> AbstractAsyncContextManager[Execution]:
        """By the engine's exec."""
        group = self.cgroup(paths).path
        return execute(self._client, paths.container, group, plan, argv, terminal)

    async def remove(self, paths: WorkPaths) -> None:
        """By its name, which is the job's."""
        try:
            await self._client.ask("DELETE", dialect.removal(self.engine, paths.container))
        except EngineError as problem:
            if problem.status != 404:
                raise refused(problem, "remove the container") from problem

    async def known(self) -> frozenset[str]:
        """By our label."""
        label = f"{dialect.INSTANCE_LABEL}={self._settings.instance}"
        filters = quote(json.dumps({"label": [label]}))
        found = await self._client.ask(
            "GET", f"{DOCKER_API}/containers/json?all=1&filters={filters}"
        )
        labels = [each.get("Labels") or {} for each in found or ()]
        return frozenset(str(each.get(dialect.WORK_LABEL, "")) for each in labels) - {""}

    async def forget_images(self, kept: frozenset[str]) -> None:
        """Docker's copies of images that are not unpacked here any more."""
        if self.engine.kind is Kind.PODMAN:
            return
        filters = quote(json.dumps({"reference": [f"{self._repository}:*"]}))
        for each in await self._client.ask("GET", f"{DOCKER_API}/images/json?filters={filters}"):
            for tag in each.get("RepoTags") or ():
                if tag.rpartition(":")[2] not in kept:
                    try:
                        url = f"{DOCKER_API}/images/{quote(tag, safe='')}"
                        await self._client.ask("DELETE", url)
                    except EngineError:
                        continue  # some container still uses it; the next image asks again

    async def checks(self) -> tuple[Check, ...]:
        """It answers, as whom, and whether it separates the users of slots by a namespace."""
        name = "engine"
        try:
            engine = await trio.to_thread.run_sync(recognise, self._settings.socket)
        except SandboxError as problem:
            return (Check(name, False, True, str(problem), problem.hint),)
        said = f"{engine.kind.value} {engine.version} on {self._settings.socket}"
        checks = [Check(name, True, True, said)]
        if engine.kind is Kind.DOCKER and not engine.remapped:
            sentence = "this Docker has no user namespaces: each slot is an unprivileged user"
            fix = '"userns-remap": "default" in daemon.json, or [sandbox] driver = "oci"'
            checks.append(Check("user namespace", False, False, sentence, fix))
        return tuple(checks)

    @property
    def _repository(self) -> str:
        return f"gridsouk-{self._settings.instance}"

    def _parent(self, paths: WorkPaths) -> str:
        if not self.engine.systemd:
            return paths.cgroup
        return f"gridsouk-{self._settings.instance.replace('-', '_')}.slice"

    def _make_group(self, paths: WorkPaths, plan: bundle.Plan) -> None:
        (paths.live / "seccomp.json").write_text(json.dumps(seccomp.profile()))
        if self.engine.systemd:
            return
        group = Cgroup(paths.cgroup, cgroups.is_v2())
        quota = plan.cpus * bundle.CPU_PERIOD_US
        try:
            group.make(plan.memory_bytes, plan.pids, quota, bundle.CPU_PERIOD_US)
        except OSError as problem:
            raise SandboxError(
                f"the control group {paths.cgroup} cannot be made: {problem}",
                hint="run the node as root; see: souk provider doctor",
            ) from problem

    def _expect_scope(self, paths: WorkPaths, name: str) -> None:
        """Where systemd will put it."""
        scope = "libpod" if self.engine.kind is Kind.PODMAN else "docker"
        parent = self._parent(paths)
        (paths.live / "cgroup").write_text(f"/gridsouk.slice/{parent}/{scope}-{name}.scope")


def recognise(socket: Path) -> Engine:
    """Who answers on the socket. Raises SandboxError. Blocking."""
    try:
        version = ask(str(socket), "GET", "/version")
        info = ask(str(socket), "GET", f"{DOCKER_API}/info")
    except EngineError as problem:
        raise SandboxError(
            str(problem),
            hint="start Docker or `podman system service`, or set [sandbox] socket",
        ) from problem
    return dialect.recognise(version, info)


async def _tar(root: Path) -> AsyncIterator[bytes]:
    """The tree as an archive, as it is read."""
    command = ["tar", "-C", str(root), "--numeric-owner", "-cf", "-", "."]
    process = await trio.lowlevel.open_process(command, stdout=-1)
    assert process.stdout is not None
    try:
        while data := await process.stdout.receive_some(_CHUNK):
            yield bytes(data)
        if await process.wait():
            raise SandboxError("the image cannot be read back", hint="see the node's log")
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
