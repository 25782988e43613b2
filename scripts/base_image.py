"""Base image: a small Linux with Python, made from this machine's own files. Content-addressed.

The interpreter that runs this script, its standard library, the shared libraries they need, a
static busybox and, if asked for, installed packages: as an OCI layout in one tar. The same machine
gives the same bytes, and so the same name. Layers are not compressed, which takes 2 s rather than
20. Usage: `python -m scripts.base_image OUT.tar --with numpy`.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import py_compile
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

_APPLETS = """
awk basename cat chmod cp cut date dd df dirname du echo env expr false find free grep gunzip gzip
head id kill ln ls md5sum mkdir mkfifo mktemp mv nproc od printf ps pwd readlink rm rmdir sed seq sh
sha256sum sleep sort stat sync tail tar tee test time timeout touch tr true uname uniq wc which
xargs yes
"""
_SKIPPED_MODULES = re.compile(
    r"(^|/)(test|tests|idlelib|turtledemo|tkinter|ensurepip|lib2to3|site-packages|dist-packages"
    r"|__pycache__|config-[^/]*)(/|$)"
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}
_PREFIX = "usr"  # where the image's Python lives; nothing of this machine's paths goes in


class Tree:
    """The files of one layer: path -> (mode, bytes) or link; written in order, without times."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, bytes]] = {}
        self._links: dict[str, str] = {}
        self._directories: dict[str, int] = {}

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """A regular file, and the directories above it."""
        self._files[path] = (mode, data)
        self._parents(path)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._links[path] = target
        self._parents(path)

    def directory(self, path: str, mode: int = 0o755) -> None:
        """An empty directory."""
        self._directories[path] = mode
        self._parents(path)

    def has(self, path: str) -> bool:
        """Whether something is there already."""
        return path in self._files or path in self._links

    def tar(self) -> bytes:
        """The layer: the same files give the same bytes."""
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for path in sorted({*self._directories, *self._files, *self._links}):
                entry = tarfile.TarInfo(path)
                if path in self._files:
                    entry.mode, data = self._files[path]
                    entry.size = len(data)
                    tar.addfile(entry, io.BytesIO(data))
                elif path in self._links:
                    entry.type, entry.linkname = tarfile.SYMTYPE, self._links[path]
                    tar.addfile(entry)
                else:
                    entry.type, entry.mode = tarfile.DIRTYPE, self._directories[path]
                    tar.addfile(entry)
        return target.getvalue()

    def _parents(self, path: str) -> None:
        parent = os.path.dirname(path)
        while parent:
            self._directories.setdefault(parent, 0o755)
            parent = os.path.dirname(parent)


def build_base_image(out: Path, packages: tuple[str, ...] = ()) -> tuple[bytes, int]:
    """Write the image to `out`; returns the SHA-256 of the file and its size in bytes."""
    layers = [_system(), _python()]
    layers += [_package(name) for name in packages]
    blobs = [layer.tar() for layer in layers if layer is not None]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    config = {
        "architecture": _MACHINES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {
            "Env": [
                "PATH=/usr/bin:/bin",
                f"PYTHONPATH=/{_PREFIX}/lib/python{version}/site-packages",
                "PYTHONDONTWRITEBYTECODE=1",
                "PYTHONNOUSERSITE=1",
                "LANG=C.UTF-8",
            ]
        },
        "rootfs": {"type": "layers", "diff_ids": [_digest(blob) for blob in blobs]},
    }
    _write_layout(out, json.dumps(config, sort_keys=True).encode(), blobs)
    return _file_digest(out)


def _write_layout(out: Path, config: bytes, layers: list[bytes]) -> None:
    kind = "application/vnd.oci.image"
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{kind}.manifest.v1+json",
        "config": _descriptor(f"{kind}.config.v1+json", config),
        "layers": [_descriptor(f"{kind}.layer.v1.tar", layer) for layer in layers],
    }
    body = json.dumps(manifest, sort_keys=True).encode()
    described = _descriptor(f"{kind}.manifest.v1+json", body)
    index = {"schemaVersion": 2, "manifests": [described]}
    tree = Tree()
    tree.file("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    tree.file("index.json", json.dumps(index, sort_keys=True).encode())
    for blob in (config, body, *layers):
        tree.file(f"blobs/sha256/{_digest(blob).removeprefix('sha256:')}", blob)
    out.write_bytes(tree.tar())


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _file_digest(path: Path) -> tuple[bytes, int]:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest(), path.stat().st_size


def _system() -> Tree:
    """A shell with the usual small programs, and the files that programs expect to find."""
    found = shutil.which("busybox") or "/bin/busybox"
    if not Path(found).exists() or _libraries(Path(found)):
        raise SystemExit("a static busybox is needed: install the package busybox-static")
    tree = Tree()
    tree.file("bin/busybox", Path(found).read_bytes(), 0o755)
    for applet in _APPLETS.split():
        tree.link(f"bin/{applet}", "busybox")
    tree.link("usr/bin/env", "../../bin/busybox")
    tree.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n")
    tree.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    tree.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n")
    tree.file("etc/nsswitch.conf", b"hosts: files\n")
    for path in ("proc", "dev", "in", "out", "root"):
        tree.directory(path)
    tree.directory("tmp", 0o1777)
    return tree


def _python() -> Tree:
    """The interpreter, its standard library and what both are linked with."""
    tree = Tree()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    home = f"{_PREFIX}/lib/python{version}"
    binary = Path(os.path.realpath(sys.executable))
    tree.file(f"{_PREFIX}/bin/python{version}", binary.read_bytes(), 0o755)
    for name in ("python", "python3"):
        tree.link(f"{_PREFIX}/bin/{name}", f"python{version}")
    needed = [binary]
    standard = Path(sysconfig.get_path("stdlib"))
    needed += _add_directory(tree, standard, home, lambda path: not _SKIPPED_MODULES.search(path))
    extensions = Path(sysconfig.get_config_var("DESTSHARED") or standard / "lib-dynload")
    if extensions.is_dir() and standard not in extensions.parents:
        needed += _add_directory(tree, extensions, f"{home}/lib-dynload", lambda path: True)
    _add_libraries(tree, needed)
    return tree


def _package(name: str) -> Tree:
    """One installed package with the shared libraries that came with it."""
    tree = Tree()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    target = f"{_PREFIX}/lib/python{version}/site-packages"
    try:
        distribution = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit(f"{name} is not installed beside this Python") from None
    root = Path(str(distribution.locate_file("")))
    tops = {file.parts[0] for file in distribution.files or () if ".." not in file.parts}
    needed: list[Path] = []
    for top in sorted(tops):
        source = root / top
        if source.is_dir() and not top.endswith(".dist-info"):
            needed += _add_directory(
                tree, source, f"{target}/{top}", lambda path: not _skipped_in_package(path)
            )
        elif top.endswith(".py"):
            _add_module(tree, source, f"{target}/{top}")
    _add_libraries(tree, needed)
    return tree


def _skipped_in_package(path: str) -> bool:
    parts = path.split("/")
    return "tests" in parts or "__pycache__" in parts or path.endswith((".pyi", ".a", ".h", ".lib"))


def _add_directory(
    tree: Tree, source: Path, target: str, wanted: Callable[[str], bool]
) -> list[Path]:
    """Copy a directory; modules come with their bytecode. Returns the shared objects in it."""
    objects = []
    for directory, names, files in os.walk(source):
        relative = os.path.relpath(directory, source)
        base = "" if relative == "." else f"{relative}/"
        names[:] = sorted(name for name in names if wanted(f"{base}{name}"))
        for name in sorted(files):
            path = Path(directory, name)
            inside = f"{base}{name}"
            if not wanted(inside) or not path.is_file() or name.endswith((".pyc", ".a", ".o")):
                continue
            if name.endswith(".py"):
                _add_module(tree, path, f"{target}/{inside}")
                continue
            if re.search(r"\.so(\.|$)", name):
                objects.append(path)
            executable = path.stat().st_mode & stat.S_IXUSR
            tree.file(f"{target}/{inside}", path.read_bytes(), 0o755 if executable else 0o644)
    return objects


def _add_module(tree: Tree, source: Path, target: str) -> None:
    """A module and its bytecode, which names the image's path and is never checked against it.

    Compiling at every start costs a job two seconds; a time in it would differ at every build.
    """
    data = source.read_bytes()
    tree.file(target, data)
    directory, name = os.path.split(target)
    tag = sys.implementation.cache_tag
    cached = f"{directory}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc"
    key = hashlib.sha256(target.encode() + b"\0" + data).hexdigest()
    store = Path(tempfile.gettempdir()) / f"gridsouk-pyc-{os.getuid()}-{tag}"
    kept = store / f"{key}.pyc"
    if not kept.exists():
        store.mkdir(mode=0o700, exist_ok=True)
        if store.stat().st_uid != os.getuid():
            raise SystemExit(f"{store} belongs to somebody else; remove it")
        draft = store / f"{key}.{os.getpid()}"
        try:
            py_compile.compile(
                str(source),
                cfile=str(draft),
                dfile=f"/{target}",
                doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
        except py_compile.PyCompileError:
            return  # a few files of the standard library are broken on purpose
        draft.rename(kept)
    tree.file(cached, kept.read_bytes())


def _add_libraries(tree: Tree, objects: Iterable[Path]) -> None:
    """Everything the objects are linked with, at the paths where the loader looks."""
    for path in _closure(objects):
        name = path.name
        if name.startswith("ld-"):
            inside = f"lib64/{name}" if platform.machine() == "x86_64" else f"lib/{name}"
        else:
            inside = f"lib/{platform.machine()}-linux-gnu/{name}"
        if not tree.has(inside):
            tree.file(inside, Path(os.path.realpath(path)).read_bytes(), 0o755)
    # The resolver is loaded by name at run time, so that no list of needs shows it.


def _closure(objects: Iterable[Path]) -> list[Path]:
    found: dict[str, Path] = {}
    batch = [str(path) for path in objects]
    for start in range(0, len(batch), 200):
        for path in _libraries(*(Path(name) for name in batch[start : start + 200])):
            found.setdefault(path.name, path)
    # A library that came along in its package's own directory is found by its run path.
    own = {os.path.realpath(name) for name in batch}
    return [found[name] for name in sorted(found) if os.path.realpath(found[name]) not in own]


def _libraries(*objects: Path) -> list[Path]:
    done = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, check=False)
    found = []
    for line in done.stdout.splitlines():
        match = re.match(r"\s+(?:\S+ => )?(/\S+) \(0x", line)
        if match:
            found.append(Path(match[1]))
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Build gridsouk's base image.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--with", dest="packages", action="append", default=[], metavar="PACKAGE")
    given = parser.parse_args()
    hash_, size = build_base_image(given.out, tuple(given.packages))
    print(f"sha256:{hash_.hex()} {size}")


if __name__ == "__main__":
    main()
