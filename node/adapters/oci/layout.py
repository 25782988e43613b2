"""Layout: an OCI image layout, in one tar or in a directory, with each blob checked before use.

Digest, size and type come from strangers: the manifest is read by `market/image`, a blob's bytes
are hashed before the first of them is used, and what compression hides is bounded as it appears.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import platform
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final, Protocol, cast

import zstandard

from market.errors import IntegrityError, SandboxError
from market.image import MACHINES, Descriptor, ImageManifest, parse_manifest
from market.limits import MANIFEST_BYTES_MAX
from node.adapters.oci import tars

NESTING_MAX: Final = 3  # an index may name an index, once or twice
ENTRIES_MAX: Final = 1024
UNREADABLE: Final = (ValueError, KeyError, TypeError, AttributeError, RecursionError,
                     zstandard.ZstdError)  # fmt: skip
_CHUNK: Final = 1024 * 1024
_WINDOW_BYTES_MAX: Final = 128 * 1024 * 1024  # what zstd may ask of memory; its default at most


def this_machine() -> str:
    """Its processor, as images call it."""
    return MACHINES.get(platform.machine(), platform.machine())


class _Files(Protocol):
    """Where a layout's files lie."""

    def open(self, name: str) -> IO[bytes]:
        """A file of the layout. Raises SandboxError if it lacks it."""


@contextlib.contextmanager
def open_layout(path: Path) -> Iterator[Layout]:
    """The layout in a tar or a directory. Raises SandboxError, tarfile.TarError, OSError."""
    if path.is_dir():
        yield Layout(_Folder(path))
        return
    with tarfile.open(path, "r:", tarinfo=tars.StrictEntry) as tar:
        yield Layout(_Tar(tar))


class Layout:
    """Manifest, configuration and layers of one image."""

    def __init__(self, files: _Files) -> None:
        """Made by `open_layout`."""
        self._files = files

    def manifest(self) -> ImageManifest:
        """The manifest for this machine."""
        found = parse_manifest(self._small("index.json"))
        for _ in range(NESTING_MAX):
            if isinstance(found, ImageManifest):
                return found
            found = parse_manifest(self._small(self._checked(found.choose(_fit(found)))))
        if isinstance(found, ImageManifest):
            return found
        raise SandboxError("the image's index nests too deep")

    def configuration(self, descriptor: Descriptor) -> dict[str, Any]:
        """The image's configuration, checked."""
        found = json.loads(self._small(self._checked(descriptor)))
        if not isinstance(found, dict):
            raise SandboxError("the image's configuration is no JSON object")
        return found

    @contextlib.contextmanager
    def layer(self, descriptor: Descriptor, bytes_max: int) -> Iterator[IO[bytes]]:
        """A layer's tar, decompressed as it is read; headers and padding are a quarter at most."""
        name, kind = self._checked(descriptor), descriptor.media_type
        limit = bytes_max + bytes_max // 4 + _CHUNK
        with self._files.open(name) as raw:
            if kind.endswith("gzip"):
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield _bounded(stream, limit)
            elif kind.endswith("zstd"):
                reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES_MAX)
                with reader.stream_reader(raw, read_across_frames=True) as stream:
                    yield _bounded(stream, limit)
            else:
                yield _bounded(raw, limit)

    def _checked(self, descriptor: Descriptor) -> str:
        value = descriptor.digest.hex()
        name = f"blobs/sha256/{value}"
        hasher, size = hashlib.sha256(), 0
        with self._files.open(name) as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
                size += len(chunk)
        if hasher.hexdigest() != value:
            raise IntegrityError(f"the image's part {value[:12]} has other bytes than it says")
        if size != descriptor.size_bytes:
            raise IntegrityError(f"the image's part {value[:12]} has {size} bytes, not "
                                 f"{descriptor.size_bytes}")  # fmt: skip
        return name

    def _small(self, name: str) -> bytes:
        with self._files.open(name) as stream:
            data = stream.read(MANIFEST_BYTES_MAX + 1)
        if len(data) > MANIFEST_BYTES_MAX:
            raise SandboxError(f"the image's {name} is too large")
        return data


def _fit(index: Any) -> str:
    """An entry for any machine fits this one."""
    names = {name for name, _ in index.entries}
    return "" if names == {""} else this_machine()


class _Tar:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            if len(self._members) >= ENTRIES_MAX:
                raise SandboxError("the image's layout has too many entries")
            if member.isreg():
                self._members[member.name.removeprefix("./")] = member

    def open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        stream = self._tar.extractfile(member) if member else None
        if stream is None:
            raise SandboxError(f"the image lacks its part {name}")
        return stream


class _Folder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> IO[bytes]:
        try:
            return (self._path / name).open("rb")
        except FileNotFoundError:
            raise SandboxError(f"the image lacks its part {name}") from None


def _bounded(stream: Any, limit: int) -> IO[bytes]:
    return cast(IO[bytes], _Bounded(cast(IO[bytes], stream), limit))


class _Bounded:
    """A stream that refuses to give more than it may: what compression hides counts too."""

    def __init__(self, stream: IO[bytes], left: int) -> None:
        self._stream = stream
        self._left = left

    def read(self, size: int = -1) -> bytes:
        """As a file's read."""
        data = self._stream.read(size if size >= 0 else self._left + 1)
        self._left -= len(data)
        if self._left < 0:
            raise SandboxError("the image unpacks to more than this provider takes")
        return data
