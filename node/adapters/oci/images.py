"""Images: an OCI layout, one tar or a directory of blobs, unpacked once into a read-only tree.

Everything in it is hostile: `layout` checks each blob before it is read, `tree` lays each entry
where the kernel says it lies inside the new tree. How much is kept is the business of `shelf`.
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
from node.adapters.oci import disk
from node.adapters.oci.layout import NESTING_MAX, UNREADABLE, open_layout, this_machine
from node.adapters.oci.shared import SharedFiles
from node.adapters.oci.shelf import DRAFT
from node.adapters.oci.tree import Tree
from node.ports import Blobs

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


def unpack(
    archive: Path, directory: Path, files: SharedFiles, *, bytes_max: int, entries_max: int
) -> Image:
    """Unpack into `directory`, in one step as others see it and a power cut leaves it.

    What other images hold alike is linked to. Raises IntegrityError for wrong digests, SandboxError
    for what is no image or not safe.
    """
    draft = directory.with_name(directory.name + DRAFT)
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "rootfs").mkdir(parents=True)
    (draft / "rootfs").chmod(0o755)
    try:
        with open_layout(archive) as layout:
            manifest = layout.manifest()
            configuration = layout.configuration(manifest.config)
            tree = Tree(draft / "rootfs", files, bytes_max, entries_max)
            try:
                for layer in manifest.layers:
                    with layout.layer(layer, tree.bytes_left) as stream:
                        tree.apply(stream)
            finally:
                tree.close()
        record = {**_visible(configuration), "bytes": bytes_max - tree.bytes_left}
        (draft / "image.json").write_text(json.dumps(record))
        disk.flush(draft)
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
