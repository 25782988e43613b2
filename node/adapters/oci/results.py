"""Results: a job's checkpoints and outputs, from its volume into the blob store and back."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import trio

from market.errors import SandboxError
from market.limits import ARTIFACT_BYTES_MAX, FILES_MAX
from market.terms import Artifact, Manifest
from market.units import MIB
from node.adapters.oci import collect, look, staging
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.collect import Found
from node.adapters.oci.settings import OUT, PROGRESS, OciSettings, WorkPaths
from node.adapters.oci.staging import Place
from node.ports import Blobs

_Fingerprint = tuple[tuple[str, tuple[int, int, int, int]], ...]
_PATH_BYTES_MAX = 256  # of an artifact's path on the wire


class Results:
    """What comes out of jobs. Remembers the last checkpoint of each, so as not to repeat it."""

    def __init__(self, settings: OciSettings, blobs: Blobs) -> None:
        self._settings = settings
        self._blobs = blobs
        self._last: dict[str, tuple[_Fingerprint, Artifact]] = {}

    def forget(self, paths: WorkPaths) -> None:
        """The job is gone."""
        self._last.pop(str(paths.state), None)

    async def checkpoint(
        self, paths: WorkPaths, manifest: Manifest, cgroup: Cgroup
    ) -> Artifact | None:
        """The complete files of the checkpoint directory as one tar; None if there are none.

        The job is frozen only while its files are listed and linked, not while they are read.
        """
        if not manifest.checkpoint_path:
            return None
        place = staging.layout_of(manifest).place(manifest.checkpoint_path)
        held = await trio.to_thread.run_sync(self._hold, paths, manifest, place, cgroup)
        try:
            if not held:
                return None
            fingerprint = tuple((found.path, found.identity) for found in held)
            last = self._last.get(str(paths.state))
            if last and last[0] == fingerprint and await self._blobs.size(last[1].hash) is not None:
                return last[1]
            file = await trio.to_thread.run_sync(self._pack, paths, held)
            try:
                hash_, size = await self._blobs.put_file(str(file))
            finally:
                file.unlink()
            artifact = Artifact(manifest.checkpoint_path, hash_, size)
            self._last[str(paths.state)] = (fingerprint, artifact)
            return artifact
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._release, paths)

    async def collect(self, paths: WorkPaths, manifest: Manifest) -> tuple[Artifact, ...]:
        """Every output that is there. More than FILES_MAX become one tar each, its path ending /.

        Raises SandboxError for an output that is a link, too large or too many.
        """
        artifacts: list[Artifact] = []
        for output in manifest.outputs:
            room = FILES_MAX - len(artifacts)
            place = staging.layout_of(manifest).place(output)
            files = await trio.to_thread.run_sync(self._find, paths, manifest, place)
            long = any(len(f"{place.root}/{f.path}".encode()) > _PATH_BYTES_MAX for f in files)
            if len(files) > room // 2 or long:
                artifacts.append(await self._collect_tree(paths, place, files))
                continue
            for found in files:
                artifacts.append(await self._collect_file(paths, place, found))
        unique = {artifact.path: artifact for artifact in artifacts}
        return tuple(unique[path] for path in sorted(unique))

    def restore(
        self,
        paths: WorkPaths,
        layout: staging.Layout,
        manifest: Manifest,
        archive: Path,
        uid: int,
        bytes_max: int,
    ) -> None:
        """Unpack the checkpoint to resume from into the checkpoint directory."""
        if not manifest.checkpoint_path:
            raise SandboxError("there is a checkpoint to resume, but no checkpoint directory")
        place = layout.place(manifest.checkpoint_path)
        directory = paths.volume / place.name / place.inner
        with _opened(directory) as root, archive.open("rb") as source:
            collect.unpack_files(source, root, uid, bytes_max)

    def _hold(
        self, paths: WorkPaths, manifest: Manifest, place: Place, cgroup: Cgroup
    ) -> tuple[Found, ...]:
        with (
            _freezing(paths),
            _opened(paths.volume) as volume,
            _opened(paths.volume / place.name) as root,
        ):
            pids = cgroup.pids()
            paused = look.is_paused(paths)  # it stands still already, and is to stay so
            frozen = bool(pids) and not paused and cgroup.freeze()
            if pids and not (frozen or paused) and cgroup.pids():
                raise SandboxError("the job could not be frozen", hint="it is tried again")
            try:
                written = collect.being_written(cgroup.pids())
                found = collect.complete(collect.files_below(root, place.inner or "."), written)
                self._bound(manifest, found)
                if found:
                    collect.hold(volume, root, found)
            finally:
                if frozen:
                    cgroup.thaw()
        prefix = place.inner + "/" if place.inner else "./"
        return tuple(Found(f.path.removeprefix(prefix), f.size, f.identity) for f in found)

    def _pack(self, paths: WorkPaths, held: tuple[Found, ...]) -> Path:
        file = self._draft(paths)
        try:
            with _opened(paths.volume) as volume, file.open("wb") as target:
                collect.pack_held(volume, held, target)
        except BaseException:
            file.unlink()
            raise
        return file

    def _release(self, paths: WorkPaths) -> None:
        with _opened(paths.volume) as volume:
            collect.release(volume)

    def _find(self, paths: WorkPaths, manifest: Manifest, place: Place) -> tuple[Found, ...]:
        with _opened(paths.volume / place.name) as root:
            found = tuple(
                file for file in collect.matching(root, place.inner)
                if (place.root, file.path) != (OUT, PROGRESS)
            )  # fmt: skip
        self._bound(manifest, found)
        return found

    def _bound(self, manifest: Manifest, found: tuple[Found, ...]) -> None:
        """A sparse file claims more than the whole disk holds; reading it would never end."""
        room = min(ARTIFACT_BYTES_MAX, (manifest.disk_mib or self._settings.disk_mib) * 2 * MIB)
        total = sum(file.size for file in found)
        if total > room:
            raise SandboxError(
                f"the job's files claim {total} bytes, more than its disk holds",
                hint="do not leave sparse files behind",
            )

    async def _collect_file(self, paths: WorkPaths, place: Place, found: Found) -> Artifact:
        source = await trio.to_thread.run_sync(self._open, paths, place, found)
        with source:
            # The descriptor, not the name: what was checked is what is read.
            hash_, size = await self._blobs.put_file(f"/proc/self/fd/{source.fileno()}")
        return Artifact(f"{place.root}/{found.path}", hash_, size)

    async def _collect_tree(
        self, paths: WorkPaths, place: Place, files: tuple[Found, ...]
    ) -> Artifact:
        def pack() -> Path:
            file = self._draft(paths)
            with _opened(paths.volume) as volume, _opened(paths.volume / place.name) as root:
                collect.hold(volume, root, files)
                try:
                    with file.open("wb") as target:
                        collect.pack_held(volume, files, target)
                finally:
                    collect.release(volume)
            return file

        file = await trio.to_thread.run_sync(pack)
        try:
            hash_, size = await self._blobs.put_file(str(file))
        finally:
            file.unlink()
        return Artifact(f"{place.root}/", hash_, size)

    def _open(self, paths: WorkPaths, place: Place, found: Found) -> IO[bytes]:
        with _opened(paths.volume / place.name) as root:
            return collect.open_regular(root, found.path)

    def _draft(self, paths: WorkPaths) -> Path:
        made, path = tempfile.mkstemp(
            dir=self._settings.state_dir / "staging", prefix=f"{paths.state.name}."
        )
        os.close(made)
        return Path(path)


@contextmanager
def _freezing(paths: WorkPaths) -> Iterator[None]:
    """Held while the job is frozen by us: once it is free, the shim wakes what stands still."""
    handle = os.open(paths.freezing, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield handle
    finally:
        os.close(handle)
