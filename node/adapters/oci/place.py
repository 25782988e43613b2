"""Place: put what a job needs on this machine: its image, its inputs, the checkpoint to resume.

Bytes come out of the blob store; trees and mounts are made by the rooms below. Runs no container.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio

from market.codec import decode, encode
from market.errors import CodecError, SandboxError
from market.limits import ENV_BYTES_MAX, ENVS_MAX, FILES_MAX
from market.terms import Artifact, Manifest
from market.units import MIB
from node.adapters.oci import disk, images, staging
from node.adapters.oci.cdi import Edits
from node.adapters.oci.results import Results
from node.adapters.oci.runtime import Runtime
from node.adapters.oci.settings import OciSettings, WorkPaths, paths_of
from node.adapters.oci.shelf import Shelf
from node.ports import Blobs, Workspace

_MANIFEST_BYTES_MAX = 2 * ENVS_MAX * ENV_BYTES_MAX

T = TypeVar("T")


class Placing:
    """Prepares jobs. One at a time works on an image; each job is under its own lock already."""

    def __init__(
        self, settings: OciSettings, blobs: Blobs, results: Results, runtime: Runtime
    ) -> None:
        """Sweeps up what earlier preparations left unfinished."""
        self._settings = settings
        self._blobs = blobs
        self._results = results
        self._runtime = runtime
        self._image_lock = trio.Lock()
        self._coming: Counter[str] = Counter()  # images of jobs that are not on the disk yet
        for name in ("works", "staging"):
            (settings.state_dir / name).mkdir(parents=True, exist_ok=True)
        self._shelf = Shelf(self._images, settings.images_max, settings.images_bytes_max)
        self._shelf.open()
        for left in (settings.state_dir / "staging").iterdir():
            disk.remove_tree(left)

    @property
    def _images(self) -> Path:
        return self._settings.state_dir / "images"

    async def place(self, paths: WorkPaths, workspace: Workspace, edits: Edits) -> None:
        """Everything in its place; the folders of the job must not be there yet. SandboxError."""
        name = workspace.manifest.image.hash.hex()
        self._coming[name] += 1
        try:
            await self._place(paths, workspace, edits)
        finally:
            self._coming[name] -= 1

    async def prune(self) -> int:
        """Remove every unpacked image that no job here uses; returns the bytes that are free."""
        async with self._image_lock:
            freed = await thread(self._shelf.prune, await thread(self._used))
            await self._runtime.forget_images(await thread(self._shelf.names))
            return freed

    async def _place(self, paths: WorkPaths, workspace: Workspace, edits: Edits) -> None:
        manifest = workspace.manifest
        layout = staging.layout_of(manifest)
        await thread(partial(paths.state.mkdir, parents=True, mode=0o700))
        image = await self._image(manifest.image)
        inside = tuple(path for _, path in edits.mounts)
        await thread(staging.make_skeleton, paths, layout, inside)
        await thread(staging.add_mount_points, paths, image.root, self._runtime.mount_points())
        await self._stage_inputs(paths, manifest)
        await thread(staging.mount_places, self._settings, paths, manifest, image.root)
        uid = self._runtime.identity(workspace.units).host
        await thread(staging.own_volumes, paths, layout, manifest, uid)
        if manifest.resume is not None:
            await self._resume(paths, layout, manifest, uid)
        await self._runtime.stage(paths, image, manifest.image.hash)
        await thread(_record, paths, workspace)

    def image_of(self, manifest: Manifest) -> images.Image:
        """The job's image, unpacked here. Raises SandboxError. Blocking."""
        image = images.find(self._images / manifest.image.hash.hex())
        if image is None:
            raise SandboxError("the job's image is gone", hint="prepare it again")
        return image

    def load(self, paths: WorkPaths) -> tuple[Manifest, tuple[int, ...]]:
        """What was prepared: the manifest and the units. Raises SandboxError. Blocking."""
        try:
            data = paths.manifest.read_bytes()
            manifest = decode(Manifest, data, size_max=_MANIFEST_BYTES_MAX)
            return manifest, tuple(json.loads(paths.units.read_text()))
        except (OSError, CodecError, ValueError) as problem:
            raise SandboxError(f"the job {paths.state.name} is not prepared here") from problem

    def address(self, paths: WorkPaths) -> str:
        """The address it was prepared with, or nothing. Raises SandboxError. Blocking."""
        try:
            return paths.address.read_text()
        except OSError as problem:
            raise SandboxError(f"the job {paths.state.name} is not prepared here") from problem

    async def _image(self, artifact: Artifact) -> images.Image:
        directory = self._images / artifact.hash.hex()
        async with self._image_lock:
            found = await thread(images.find, directory)
            if found is not None:
                return found
            archive = self._staging_file(f"{artifact.hash.hex()}.tar")
            try:
                await images.lend_image(self._blobs, artifact, archive)
                await thread(self._shelf.make_room, await thread(self._used))
                made = await thread(
                    partial(
                        images.unpack,
                        archive,
                        directory,
                        self._shelf.files,
                        bytes_max=self._settings.image_bytes_max,
                        entries_max=self._settings.image_entries_max,
                    )
                )
            finally:
                await thread(disk.remove_tree, archive)
            # How large it is shows only now.
            await thread(self._shelf.make_room, await thread(self._used), 0)
            await self._runtime.forget_images(await thread(self._shelf.names))
            return made

    def _used(self) -> frozenset[str]:
        used = {name for name, count in self._coming.items() if count}
        for entry in (self._settings.state_dir / "works").iterdir():
            with contextlib.suppress(SandboxError):
                manifest, _ = self.load(paths_of(self._settings, entry.name))
                used.add(manifest.image.hash.hex())
        return frozenset(used)

    def _staging_file(self, name: str) -> Path:
        return self._settings.state_dir / "staging" / name

    async def _stage_inputs(self, paths: WorkPaths, manifest: Manifest) -> None:
        for number, artifact in enumerate(manifest.inputs):
            parts = staging.input_parts(artifact.path)
            file = self._staging_file(f"{paths.state.name}.{number}")
            try:
                await self._blobs.lend(artifact.hash, str(file))
                if artifact.path.endswith("/"):
                    room = self._settings.image_bytes_max
                    await thread(staging.place_tree, paths, parts, file, room)
                else:
                    size = artifact.size_bytes
                    await thread(staging.place_input, paths, parts, file, size)
            finally:
                file.unlink(missing_ok=True)

    async def _resume(
        self, paths: WorkPaths, layout: staging.Layout, manifest: Manifest, uid: int
    ) -> None:
        assert manifest.resume is not None
        file = self._staging_file(f"{paths.state.name}.resume")
        try:
            await self._blobs.lend(manifest.resume.hash, str(file))
            room = (manifest.disk_mib or self._settings.disk_mib) * MIB
            await thread(self._results.restore, paths, layout, manifest, file, uid, room)
        finally:
            file.unlink(missing_ok=True)


def same(paths: WorkPaths, workspace: Workspace) -> bool:
    """Whether exactly this was prepared. Blocking."""
    if paths.manifest.read_bytes() != encode(workspace.manifest):
        return False
    if paths.address.read_text() != workspace.address:
        return False
    return bool(json.loads(paths.units.read_text()) == list(workspace.units))


def _record(paths: WorkPaths, workspace: Workspace) -> None:
    """Last of all: from now on the job counts as prepared."""
    assert len(workspace.manifest.outputs) <= FILES_MAX
    paths.manifest.write_bytes(encode(workspace.manifest))
    paths.units.write_text(json.dumps(list(workspace.units)))
    paths.address.write_text(workspace.address)
    paths.secrets.touch(mode=0o600)
    paths.secrets.write_text(json.dumps(list(workspace.secrets)))
    paths.prepared.touch()


async def thread(function: Callable[..., T], *arguments: object) -> T:
    """Run something that blocks. A cancelled caller still waits for it: half done is worse."""
    run: Callable[..., Awaitable[T]] = trio.to_thread.run_sync
    return await run(function, *arguments)
