"""Images: an OCI layout in one tar, named by its SHA-256, unpacked once into a read-only tree.

Everything in it is hostile. Each blob is checked against its digest before it is read; each path
is resolved by the kernel inside the new tree, links and all; devices, FIFOs and climbing paths are
refused, setuid bits dropped, and size, count and depth bounded, also of what compression hides.
"""

from __future__ import annotations

import contextlib
import errno
import gzip
import hashlib
import json
import os
import platform
import shutil
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from market.errors import IntegrityError, SandboxError
from node.adapters.oci import beneath, tars

_JSON_BYTES_MAX = 4 * 1024 * 1024  # manifests and configurations are kilobytes
_LAYERS_MAX = 128  # overlay and every registry stop there too
_LAYOUT_ENTRIES_MAX = 1024
_DEPTH_MAX = 64
_CHUNK = 1024 * 1024
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"
_ENVS_MAX = 256


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
    return Image(directory / "rootfs", tuple(raw["envs"]), raw["cwd"])


def unpack(archive: Path, directory: Path, *, bytes_max: int, entries_max: int) -> Image:
    """Unpack into `directory`, in one step as others see it.

    Raises IntegrityError for wrong digests, SandboxError for what is no image or not safe.
    """
    draft = directory.with_name(directory.name + ".new")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "rootfs").mkdir(parents=True)
    (draft / "rootfs").chmod(0o755)
    try:
        with tarfile.open(archive, "r:", tarinfo=tars.StrictEntry) as tar:
            layout = _Layout(tar)
            manifest = layout.manifest()
            configuration = layout.document(manifest["config"])
            tree = _Tree(draft / "rootfs", bytes_max, entries_max)
            try:
                layers = manifest["layers"]
                if len(layers) > _LAYERS_MAX:
                    raise SandboxError(f"the image has more than {_LAYERS_MAX} layers")
                for layer in layers:
                    with layout.layer(layer, bytes_max) as stream:
                        tree.apply(stream)
            finally:
                tree.close()
        record = _visible(configuration)
        (draft / "image.json").write_text(json.dumps(record))
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError) as problem:
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


class _Layout:
    """The outer tar: index, manifests and layers by digest."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._members: dict[str, tarfile.TarInfo] = {}
        for member in tar:
            if len(self._members) >= _LAYOUT_ENTRIES_MAX:
                raise SandboxError("the image's layout has too many entries")
            if member.isreg():
                self._members[member.name.removeprefix("./")] = member

    def manifest(self) -> dict[str, Any]:
        """The manifest for this machine."""
        index = json.loads(self._bytes("index.json"))
        for _ in range(3):  # an index may name an index, once or twice
            entries = index["manifests"]
            wanted = _MACHINES.get(platform.machine(), platform.machine())
            fits = [
                entry
                for entry in entries
                if (entry.get("platform") or {}).get("architecture", wanted) == wanted
            ]
            if not fits:
                raise SandboxError(f"the image is not made for {wanted}")
            document = self.document(fits[0])
            if "layers" in document:
                return document
            index = document
        raise SandboxError("the image's index nests too deep")

    def document(self, descriptor: dict[str, Any]) -> dict[str, Any]:
        """A JSON blob, checked."""
        name = self._checked(descriptor)
        return cast(dict[str, Any], json.loads(self._bytes(name)))

    @contextlib.contextmanager
    def layer(self, descriptor: dict[str, Any], bytes_max: int) -> Iterator[IO[bytes]]:
        """A layer's tar, decompressed as it is read."""
        name = self._checked(descriptor)
        kind = str(descriptor.get("mediaType", ""))
        with self._open(name) as raw:
            if kind.endswith((".tar", "rootfs.diff.tar")):
                yield raw
            elif kind.endswith("gzip"):
                with gzip.GzipFile(fileobj=raw) as stream:
                    yield cast(
                        IO[bytes], _Bounded(cast(IO[bytes], stream), bytes_max + bytes_max // 4)
                    )
            else:
                raise SandboxError(
                    f"layers of type {kind!r} cannot be read", hint="use tar or tar+gzip"
                )

    def _checked(self, descriptor: dict[str, Any]) -> str:
        digest = str(descriptor["digest"])
        kind, _, value = digest.partition(":")
        if kind != "sha256" or len(value) != 64:
            raise SandboxError(f"{digest[:80]!r} is not a SHA-256 digest")
        name = f"blobs/sha256/{value}"
        hasher = hashlib.sha256()
        with self._open(name) as stream:
            while chunk := stream.read(_CHUNK):
                hasher.update(chunk)
        if hasher.hexdigest() != value:
            raise IntegrityError(f"the image's part {digest} has other bytes than it says")
        return name

    def _open(self, name: str) -> IO[bytes]:
        member = self._members.get(name)
        stream = self._tar.extractfile(member) if member else None
        if stream is None:
            raise SandboxError(f"the image lacks its part {name}")
        return stream

    def _bytes(self, name: str) -> bytes:
        with self._open(name) as stream:
            data = stream.read(_JSON_BYTES_MAX + 1)
        if len(data) > _JSON_BYTES_MAX:
            raise SandboxError(f"the image's {name} is too large")
        return data


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


class _Tree:
    """The root file system as it grows, layer by layer."""

    def __init__(self, root: Path, bytes_left: int, entries_left: int) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._bytes_left = bytes_left
        self._entries_left = entries_left

    def close(self) -> None:
        """Let go of the root."""
        os.close(self._root)

    def apply(self, stream: IO[bytes]) -> None:
        """Lay one layer over what is there."""
        with tars.stream(stream) as tar:
            for entry in tars.entries(tar):
                self._entries_left -= 1
                self._bytes_left -= entry.size if entry.isreg() else 0
                if self._entries_left < 0 or self._bytes_left < 0:
                    raise SandboxError("the image unpacks to more than this provider takes")
                parts = _parts(entry.name)
                if parts:
                    with self._directory(parts[:-1]) as parent:
                        self._place(tar, entry, parent, parts[-1])

    def _place(self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        if name == _OPAQUE:
            for child in os.listdir(parent):
                _remove(parent, child)
            return
        if name.startswith(_WHITEOUT):
            hidden = name.removeprefix(_WHITEOUT)
            if hidden in ("", ".", ".."):
                raise SandboxError(f"the image hides {hidden!r}")
            _remove(parent, hidden)
            return
        mode = entry.mode & 0o777  # setuid and setgid are no use in a job, nor to anyone
        if entry.isdir():
            _make_directory(parent, name, mode | 0o555)
            return
        _remove(parent, name)
        if entry.isreg():
            self._write(tar, entry, parent, name, mode | 0o444)
        elif entry.issym():
            os.symlink(entry.linkname, name, dir_fd=parent)
        elif entry.islnk():
            self._link(entry, parent, name)
        else:
            raise SandboxError(f"the image holds a device or FIFO: {entry.name[:200]!r}")

    @contextlib.contextmanager
    def _directory(self, parts: tuple[str, ...]) -> Iterator[int]:
        path = "/".join(parts) or "."
        flags = os.O_RDONLY | os.O_DIRECTORY
        resolve = beneath.IN_ROOT | beneath.NO_MAGICLINKS
        try:
            opened = beneath.open_at(self._root, path, flags, resolve)
        except FileNotFoundError:
            # Some tools leave parents out; they are made as an unpacker running inside would.
            with self._directory(parts[:-1]) as above:
                _make_directory(above, parts[-1], 0o755)
            opened = beneath.open_at(self._root, path, flags, resolve)
        try:
            yield opened
        finally:
            os.close(opened)

    def _write(
        self, tar: tarfile.TarFile, entry: tarfile.TarInfo, parent: int, name: str, mode: int
    ) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        source = tar.extractfile(entry)
        assert source is not None, "a regular entry has bytes"
        with os.fdopen(os.open(name, flags, 0o600, dir_fd=parent), "wb") as target:
            shutil.copyfileobj(source, target, _CHUNK)
            os.fchmod(target.fileno(), mode)

    def _link(self, entry: tarfile.TarInfo, parent: int, name: str) -> None:
        parts = _parts(entry.linkname)
        if not parts:
            raise SandboxError("the image links to its own root")
        with self._directory(parts[:-1]) as source:
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)


def _make_directory(parent: int, name: str, mode: int) -> None:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            _remove(parent, name)
            os.mkdir(name, 0o755, dir_fd=parent)
    os.chmod(name, mode, dir_fd=parent)


def _parts(name: str) -> tuple[str, ...]:
    if name.startswith("/") or "\0" in name:
        raise SandboxError(f"the image holds a path outside its root: {name[:200]!r}")
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if ".." in parts or len(parts) > _DEPTH_MAX:
        raise SandboxError(f"the image holds a path outside its root: {name[:200]!r}")
    return parts


def _remove(parent: int, name: str) -> None:
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
    except OSError as problem:
        if problem.errno not in (errno.EISDIR, errno.EPERM):
            raise
        shutil.rmtree(name, dir_fd=parent)
