"""Images: an OCI layout, one tar or a directory of blobs, unpacked once into a read-only tree.

Everything in it is hostile: `layout` checks each blob before it is read, `tree` lays each entry
where the kernel says it lies inside the new tree. What is unpacked is bounded in number and bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from market.errors import IntegrityError, SandboxError
from market.image import ImageManifest, parse_manifest, registry_reference
from market.limits import MANIFEST_BYTES_MAX
from market.terms import Artifact
from node.adapters.oci.layout import NESTING_MAX, UNREADABLE, open_layout, this_machine
from node.adapters.oci.tree import Tree
from node.ports import Blobs

_DRAFT: Final = ".new"
_ENVS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Image:
    """An unpacked image: its tree and the part of its configuration that jobs see."""

    root: Path
    envs: tuple[str, ...]
    cwd: str


def find(directory: Path) -> Image | None:
    """The image unpacked in `directory`, if it is complete."""
    try:
        raw = json.loads((directory / "image.json").read_text())
    except (OSError, ValueError):
        return None
    os.utime(directory)
    return Image(directory / "rootfs", tuple(raw["envs"]), raw["cwd"])


def make_room(
    parent: Path, images_max: int, used: frozenset[str], bytes_max: int | None = None
) -> None:
    """Remove the images unused for longest until one more fits; those named in `used` stay.

    All of them together, unpacked, have at most `bytes_max` bytes.
    """
    entries = [entry for entry in parent.iterdir() if entry.suffix != _DRAFT]
    spare = sorted(
        (entry for entry in entries if entry.name not in used),
        key=lambda entry: (entry.stat().st_mtime_ns, entry.name),
    )
    count = len(entries) + 1 - images_max
    left = 0 if bytes_max is None else sum(map(_unpacked_bytes, entries)) - bytes_max
    for entry in spare:
        if count <= 0 and left <= 0:
            return
        count, left = count - 1, left - _unpacked_bytes(entry)
        shutil.rmtree(entry)


def _unpacked_bytes(directory: Path) -> int:
    try:
        return int(json.loads((directory / "image.json").read_text()).get("bytes", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0


def sweep(parent: Path) -> None:
    """Remove what an unpacking that was cut short left behind."""
    for entry in parent.glob(f"*{_DRAFT}"):
        shutil.rmtree(entry)


async def lend_image(blobs: Blobs, image: Artifact, target: Path) -> None:
    """An image's bytes at `target`, for `unpack`: its archive, or an OCI layout in a directory.

    Raises NotFoundError if a part is not here; SandboxError, SpecError for what is no image.
    """
    if registry_reference(image) is None:
        await blobs.lend(image.hash, str(target))
        return
    parts = target / "blobs" / "sha256"
    parts.mkdir(parents=True)
    digest = image.hash
    for _ in range(NESTING_MAX):
        file = parts / digest.hex()
        await blobs.lend(digest, str(file))
        if file.stat().st_size > MANIFEST_BYTES_MAX:
            raise SandboxError("the image's manifest is too large")
        manifest = parse_manifest(file.read_bytes())
        if isinstance(manifest, ImageManifest):
            break
        digest = manifest.choose(this_machine()).digest
    else:
        raise SandboxError("the image's index nests too deep")
    for part in manifest.parts:
        await blobs.lend(part.digest, str(parts / part.digest.hex()))
    size = (parts / image.hash.hex()).stat().st_size
    named = {"digest": f"sha256:{image.hash.hex()}", "size": size}
    (target / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [named]}))
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def unpack(archive: Path, directory: Path, *, bytes_max: int, entries_max: int) -> Image:
    """Unpack into `directory`, in one step as others see it.

    Raises IntegrityError for wrong digests, SandboxError for what is no image or not safe.
    """
    draft = directory.with_name(directory.name + _DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "rootfs").mkdir(parents=True)
    (draft / "rootfs").chmod(0o755)
    try:
        with open_layout(archive) as layout:
            manifest = layout.manifest()
            configuration = layout.configuration(manifest.config)
            tree = Tree(draft / "rootfs", bytes_max, entries_max)
            try:
                for layer in manifest.layers:
                    with layout.layer(layer, tree.bytes_left) as stream:
                        tree.apply(stream)
            finally:
                tree.close()
        record = {**_visible(configuration), "bytes": bytes_max - tree.bytes_left}
        (draft / "image.json").write_text(json.dumps(record))
    except (tarfile.TarError, EOFError, zlib.error, *UNREADABLE) as problem:
        shutil.rmtree(draft, ignore_errors=True)
        raise SandboxError(f"this is not an image: {problem}") from problem
    except OSError as problem:
        shutil.rmtree(draft, ignore_errors=True)
        raise SandboxError(f"the image cannot be unpacked: {problem}") from problem
    except (SandboxError, IntegrityError):
        shutil.rmtree(draft, ignore_errors=True)
        raise
    shutil.rmtree(directory, ignore_errors=True)
    draft.rename(directory)
    return Image(directory / "rootfs", tuple(record["envs"]), record["cwd"])


def _visible(configuration: dict[str, Any]) -> dict[str, Any]:
    inner = configuration.get("config") or {}
    envs = [str(env) for env in inner.get("Env") or () if "\0" not in str(env)]
    cwd = str(inner.get("WorkingDir") or "")
    if not cwd.startswith("/") or ".." in cwd.split("/") or "\0" in cwd:
        cwd = ""
    return {"envs": envs[:_ENVS_MAX], "cwd": cwd}
