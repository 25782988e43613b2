"""Image: what names a container image, and what its manifest says. Text and JSON, no network.

A job's image is either one archive, named by its own hash, or an image of a registry, named by the
digest of its manifest; then the artifact's path is the whole reference with `@sha256:`. What is
read here comes from strangers: sizes, counts, types and digests are checked before use.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any, Final

from market.errors import SandboxError, SpecError
from market.limits import (
    ARTIFACT_BYTES_MAX,
    IMAGE_LAYERS_MAX,
    INDEX_ENTRIES_MAX,
    MANIFEST_BYTES_MAX,
)
from market.terms import Artifact

DOCKER_HUB: Final = "docker.io"
MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
"""Python's name of a processor to the registries'."""

INDEX_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_PART: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME: Final = re.compile(rf"{_PART}(?:/{_PART})*")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_LAYER: Final = re.compile(
    r"application/vnd\.(?:oci\.image\.layer\.v1\.tar(?:\+gzip|\+zstd)?"
    r"|docker\.image\.rootfs\.diff\.tar(?:\.gzip|\.zstd)?)"
)


@dataclass(frozen=True, slots=True)
class Reference:
    """`host/name:tag@sha256:digest`; tag or digest may be missing, not both."""

    host: str
    name: str
    tag: str = ""
    digest: bytes = b""

    def __str__(self) -> str:
        """As it is written in a job file."""
        text = f"{self.host}/{self.name}" + (f":{self.tag}" if self.tag else "")
        return text + (f"@sha256:{self.digest.hex()}" if self.digest else "")

    def pinned(self, digest: bytes) -> Reference:
        """The same image by its digest, without the tag if that would be too long to travel."""
        named = replace(self, digest=digest)
        return named if len(str(named)) <= 256 else replace(named, tag="")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob that a manifest names: its type, SHA-256 and size."""

    media_type: str
    digest: bytes
    size_bytes: int


@dataclass(frozen=True, slots=True)
class ImageManifest:
    """One image for one kind of machine."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def parts(self) -> tuple[Descriptor, ...]:
        """Every blob of it once, in order; two layers may be the same bytes."""
        return tuple({part.digest: part for part in (self.config, *self.layers)}.values())


@dataclass(frozen=True, slots=True)
class Index:
    """The manifests of one image by the machine they are for: (architecture, manifest)."""

    entries: tuple[tuple[str, Descriptor], ...]

    def likeliest(self, architecture: str) -> Descriptor:
        """The manifest for that machine, or any: to guess a size, whoever will run it."""
        if not self.entries:
            raise SandboxError("the image is made for no machine that runs Linux")
        return dict(self.entries).get(architecture, self.entries[0][1])

    def choose(self, architecture: str) -> Descriptor:
        """The manifest for that machine. Raises SandboxError."""
        for name, descriptor in self.entries:
            if name == architecture:
                return descriptor
        known = ", ".join(sorted({name for name, _ in self.entries if name})) or "nothing"
        raise SandboxError(
            f"the image is made for {known[:100]}, not for {architecture}",
            hint="choose another tag, or a provider with such a machine",
        )


def parse_reference(text: str) -> Reference:
    """The image a job file names; `docker.io` and `library/` may be left out. Raises SpecError."""
    rest, at, digest_text = text.strip().partition("@")
    found = _DIGEST.fullmatch(digest_text)
    if at and found is None:
        raise SpecError(f"{text[:100]!r}: the digest is not sha256: and 64 hexadecimal digits")
    host, slash, name = rest.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, name = DOCKER_HUB, rest
    name, colon, tag = name.partition(":")
    if host == DOCKER_HUB and "/" not in name:
        name = f"library/{name}"
    hint = "write it like docker.io/library/python:3.12 or ghcr.io/org/name@sha256:..."
    if not _HOST.fullmatch(host) or len(host) > 100:
        raise SpecError(f"{text[:100]!r}: {host[:60]!r} is not a registry", hint=hint)
    if not _NAME.fullmatch(name) or len(name) > 180:
        raise SpecError(f"{text[:100]!r} does not name an image", hint=hint)
    if colon and not _TAG.fullmatch(tag):
        raise SpecError(f"{text[:100]!r}: {tag[:60]!r} is not a tag", hint=hint)
    digest = bytes.fromhex(found[1]) if found else b""
    if not tag and not digest:
        tag = "latest"
    return Reference(host.lower(), name, tag, digest)


def registry_reference(image: Artifact) -> Reference | None:
    """The reference of a job's image that lies in registries; None if it is an archive.

    Raises SpecError if what it is called and its hash do not agree.
    """
    if "@sha256:" not in image.path:
        return None
    reference = parse_reference(image.path)
    if reference.digest != image.hash:
        raise SpecError(f"the image {image.path[:100]!r} has another hash than its name says")
    return reference


def parse_manifest(data: bytes) -> Index | ImageManifest:
    """A manifest or an index of manifests. Raises SandboxError for what is not safe or not one."""
    if len(data) > MANIFEST_BYTES_MAX:
        raise SandboxError(f"the image's manifest has {len(data)} bytes")
    try:
        raw = json.loads(data)
        if not isinstance(raw, dict):
            raise SandboxError("the image's manifest is no JSON object")
        return _index(raw) if "manifests" in raw else _manifest(raw)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise SandboxError(f"this is not an image's manifest: {type(problem).__name__}") \
            from problem  # fmt: skip


def _index(raw: dict[str, Any]) -> Index:
    found = raw["manifests"]
    if not isinstance(found, list) or len(found) > INDEX_ENTRIES_MAX:
        raise SandboxError("the image's index has too many entries")
    entries = []
    for entry in found:
        platform = entry.get("platform") or {}
        if platform.get("os", "linux") != "linux":
            continue  # also the attestations of build tools, which call themselves "unknown"
        descriptor = _descriptor(entry, MANIFEST_BYTES_MAX)
        if descriptor.media_type and descriptor.media_type not in (*MANIFEST_TYPES, *INDEX_TYPES):
            continue
        entries.append((str(platform.get("architecture", ""))[:64], descriptor))
    return Index(tuple(entries))


def _manifest(raw: dict[str, Any]) -> ImageManifest:
    found = raw["layers"]
    if not isinstance(found, list) or len(found) > IMAGE_LAYERS_MAX:
        raise SandboxError(f"the image has more than {IMAGE_LAYERS_MAX} layers")
    config = _descriptor(raw["config"], MANIFEST_BYTES_MAX)
    layers = tuple(_descriptor(layer, ARTIFACT_BYTES_MAX) for layer in found)
    for layer in layers:
        if not _LAYER.fullmatch(layer.media_type):
            raise SandboxError(
                f"layers of type {layer.media_type[:100]!r} cannot be read",
                hint="use tar, tar+gzip or tar+zstd layers",
            )
    if sum(layer.size_bytes for layer in layers) > ARTIFACT_BYTES_MAX:
        raise SandboxError("the image is larger than this provider takes")
    return ImageManifest(config, layers)


def _descriptor(raw: dict[str, Any], size_max: int) -> Descriptor:
    digest, size = _DIGEST.fullmatch(str(raw["digest"])), raw["size"]
    if digest is None:
        raise SandboxError(f"{str(raw['digest'])[:80]!r} is not a SHA-256 digest")
    if type(size) is not int or not 0 <= size <= size_max:
        raise SandboxError(f"the image has a part of {str(size)[:30]} bytes")
    return Descriptor(str(raw.get("mediaType") or "")[:256], bytes.fromhex(digest[1]), size)
