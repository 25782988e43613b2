"""Staging: a job's places, from its manifest: which directories it may write, where inputs lie.

Decides paths (pure) and puts files there (blocking; called in threads). Knows no container.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from market.errors import SandboxError
from market.terms import Manifest
from node.adapters.oci import beneath, collect, disk
from node.adapters.oci.settings import INPUT, OUT, OciSettings, WorkPaths

_RESERVED = ("proc", "dev", "sys", "tmp", "run", "bin", "sbin", "lib", "lib64", "usr", "etc")
_SKELETON = ("proc", "dev", "tmp", "in", "out")


@dataclass(frozen=True, slots=True)
class Place:
    """A path on the volume: `inner` (or all) of its directory `name`, seen inside as `root`."""

    root: str
    name: str
    inner: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The job's writable directories: (path inside, name on its volume), none inside another."""

    volumes: tuple[tuple[str, str], ...]

    def place(self, path: str) -> Place:
        """Where a path of the job's is kept. Raises SandboxError if it cannot write there."""
        whole = "/" + "/".join(_parts(path))
        for inside, name in self.volumes:
            if whole == inside:
                return Place(inside, name, "")
            if whole.startswith(inside + "/"):
                return Place(inside, name, whole.removeprefix(inside + "/"))
        raise SandboxError(f"the job cannot write to {path}", hint="write to /out")


def layout_of(manifest: Manifest) -> Layout:
    """Where the job may write: /out, its checkpoint directory, and its outputs' directories.

    Raises SandboxError for a path that would shadow the system's own.
    """
    wanted = [OUT]
    if manifest.checkpoint_path:
        wanted.append("/" + "/".join(_parts(manifest.checkpoint_path)))
    for output in manifest.outputs:
        first = _parts(output)[0]
        if any(sign in first for sign in "*?["):
            raise SandboxError(f"the output {output} must begin with a directory's name")
        wanted.append(f"/{first}")
    roots: list[str] = []
    for path in sorted(set(wanted)):
        first = path.split("/")[1]
        if first in (*_RESERVED, "in"):
            raise SandboxError(
                f"a job cannot write to {path}", hint="write to /out, or to a directory of its own"
            )
        if not any(path == root or path.startswith(root + "/") for root in roots):
            roots.append(path)
    return Layout(tuple((root, f"v{index}") for index, root in enumerate(roots)))


def input_parts(path: str) -> tuple[str, ...]:
    """The path of an input from the root. Raises SandboxError if it leads elsewhere."""
    parts = _parts(path)
    if parts[0] in ("proc", "dev", "sys", "tmp"):
        raise SandboxError(f"an input cannot lie at {path}", hint="put inputs below /in")
    return parts


def _parts(path: str) -> tuple[str, ...]:
    parts = tuple(part for part in path.split("/") if part)
    if not path.startswith("/") or not parts or "." in parts or ".." in parts or "\0" in path:
        raise SandboxError(f"{path!r} is not an absolute path", hint="write it like /in/data.npz")
    return parts


def make_skeleton(paths: WorkPaths, layout: Layout, mounts: tuple[str, ...]) -> None:
    """The layer over the image: every mount point as a plain directory or file of ours.

    What the image has at those names, a link to elsewhere perhaps, is thereby hidden.
    """
    root = paths.skeleton
    root.mkdir(parents=True, exist_ok=True)
    root.chmod(0o755)
    for name in _SKELETON:
        (root / name).mkdir(exist_ok=True)
        (root / name).chmod(0o755)
    # The runtime gives a tmpfs the mode of the directory that it covers.
    (root / "tmp").chmod(0o1777)
    for inside, _ in layout.volumes:
        make_parents(root, (*_parts(inside), ""))
    for inside in mounts:
        target = make_parents(root, _parts(inside))
        target.touch()


def add_mount_points(paths: WorkPaths, image: Path, wanted: tuple[str, ...]) -> None:
    """Empty files, folders (named with a slash) or links (`path>target`) that an engine wants.

    It mounts its own over them. What the image has there is left to be seen.
    """
    for each in wanted:
        path, _, target = each.partition(">")
        parts = _parts(path)
        if os.path.lexists(image.joinpath(*parts)):
            continue
        folder = paths.skeleton
        for part in (*parts[:-1], *(parts[-1:] if path.endswith("/") else ())):
            if (image / folder.relative_to(paths.skeleton) / part).is_symlink():
                raise SandboxError(f"the image's {path} leads through a link")
            folder = folder / part
            folder.mkdir(exist_ok=True)
            folder.chmod(0o755)
        if target:
            (folder / parts[-1]).symlink_to(target)
        elif not path.endswith("/"):
            (folder / parts[-1]).touch()


def safe_cwd(image: Path, wanted: str) -> str:
    """The image's working directory, if it is a plain folder of its own, else /out.

    A runtime walks there while descriptors of the machine are open in /proc (CVE-2024-21626).
    """
    parts = [part for part in wanted.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or parts[0] in _SKELETON or parts[0] in ("sys", "run"):
        return OUT
    handle = os.open(image, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        flags = os.O_PATH | os.O_DIRECTORY
        os.close(beneath.open_strict(handle, "/".join(parts), flags))
    except OSError:
        return OUT
    finally:
        os.close(handle)
    return "/" + "/".join(parts)


def seen_inputs(paths: WorkPaths, manifest: Manifest) -> tuple[tuple[str, str], ...]:
    """(host path, path inside) of what to mount where the skeleton is no layer of the root."""
    below = f"{INPUT}/"
    others = {
        "/" + "/".join(_parts(artifact.path))
        for artifact in manifest.inputs
        if not artifact.path.startswith(below)
    }
    return tuple((str(paths.skeleton / path[1:]), path) for path in (INPUT, *sorted(others)))


def secrets_of(paths: WorkPaths) -> tuple[tuple[str, str], ...]:
    """The opened secret variables, until the job has begun. Raises SandboxError."""
    try:
        return tuple((name, value) for name, value in json.loads(paths.secrets.read_text()))
    except (OSError, ValueError) as problem:
        raise SandboxError("the job's variables are gone", hint="prepare it again") from problem


def make_parents(root: Path, parts: tuple[str, ...]) -> Path:
    """The path of a file below `root`, its directories made, readable for all."""
    current = root
    for part in parts[:-1]:
        current = current / part
        if current.exists() and not current.is_dir():
            raise SandboxError(f"{'/'.join(parts)} lies below another file")
        current.mkdir(exist_ok=True)
        current.chmod(0o755)
    return current / parts[-1] if parts[-1] else current


def place_input(paths: WorkPaths, parts: tuple[str, ...], source: Path, size: int) -> None:
    """Move an exported blob to where the job sees it."""
    if source.stat().st_size != size:
        raise SandboxError(f"the input /{'/'.join(parts)} has another size than the manifest says")
    source.chmod(
        0o555
    )  # the blob itself, perhaps; inputs carry no mode; a script among them should run
    source.rename(make_parents(paths.skeleton, parts))


def place_tree(paths: WorkPaths, parts: tuple[str, ...], source: Path, bytes_max: int) -> None:
    """Unpack a tar of inputs below the path."""
    directory = make_parents(paths.skeleton, (*parts, ""))
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with source.open("rb") as file:
            collect.unpack_files(file, handle, 0, bytes_max)
    finally:
        os.close(handle)
        source.unlink()


def mount_places(settings: OciSettings, paths: WorkPaths, manifest: Manifest, image: Path) -> None:
    """Root file system and volume, mounted."""
    disk.mount_memory(paths.run)
    for made, mode in ((paths.live, 0o700), (paths.root, 0o755), (paths.volume, 0o711)):
        made.mkdir(exist_ok=True)
        made.chmod(mode)
    disk.mount_root(paths.root, settings.state_dir, (paths.skeleton, image))
    disk.mount_volume(paths.volume_image, paths.volume, manifest.disk_mib or settings.disk_mib)


def own_volumes(paths: WorkPaths, layout: Layout, manifest: Manifest, uid: int) -> None:
    """The directories on the volume, the job's own: `uid` is who it is on this machine."""
    paths.volume.chmod(0o711)
    for _, name in layout.volumes:
        directory = paths.volume / name
        directory.mkdir(exist_ok=True)
        os.chown(directory, uid, uid)
    if manifest.checkpoint_path:
        place = layout.place(manifest.checkpoint_path)
        current = paths.volume / place.name
        for part in place.inner.split("/") if place.inner else ():
            current = current / part
            current.mkdir(exist_ok=True)
            os.chown(current, uid, uid)
