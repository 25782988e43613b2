"""Base image: this machine's own Python as a small OCI image, for where no registry is at hand.

Deterministic: the same Python and packages give the same bytes. One tar that is an OCI layout;
layers are not compressed, since they travel once and are unpacked at once.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from market.errors import SandboxError

PYTHON: Final = "opt/python"
_SKIPPED: Final = frozenset(
    [
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "turtledemo",
        "lib2to3",
        "ensurepip",
        "site-packages",
        "dist-packages",
        "__pycache__",
        "config",
    ]
)
_LIBRARY: Final = re.compile(r"(\S+) => (/\S+)")
_APPLETS: Final = [
    "sh",
    "cat",
    "ls",
    "cp",
    "mv",
    "rm",
    "mkdir",
    "sleep",
    "env",
    "echo",
    "test",
    "true",
    "false",
    "head",
    "tail",
    "grep",
    "sed",
    "awk",
    "tar",
    "sort",
    "wc",
    "date",
    "id",
    "du",
    "df",
    "ps",
    "kill",
    "find",
    "xargs",
    "tr",
    "cut",
    "touch",
    "ln",
    "chmod",
    "seq",
    "sha256sum",
    "gzip",
]


def build_base_image(
    out: Path, packages: tuple[str, ...] = ("numpy",), *, compiled: bool = True
) -> tuple[bytes, int]:
    """Write the image to `out`; returns its SHA-256 and size in bytes.

    What is not `compiled` is built sooner and starts later.
    Raises SandboxError if a package or busybox is not installed here.
    """
    busybox = shutil.which("busybox")
    if busybox is None:
        raise SandboxError("busybox is not installed", hint="apt-get install busybox-static")
    with tempfile.TemporaryDirectory(prefix="gridsouk-image-") as directory:
        root = Path(directory) / "root"
        _lay_out(root, Path(busybox), packages, compiled)
        layer = Path(directory) / "layer.tar"
        _tar(layer, root)
        digest, size = _write_layout(out, layer)
    return digest, size


def _lay_out(root: Path, busybox: Path, packages: tuple[str, ...], compiled: bool) -> None:
    for name in ("bin", "usr/bin", "etc", "tmp", "proc", "dev", f"{PYTHON}/bin"):
        (root / name).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    shutil.copy(busybox, root / "bin/busybox")
    for applet in _APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    interpreter = Path(sys.base_prefix, "bin", f"python{_version()}").resolve()
    if not interpreter.is_file():
        interpreter = Path(sys.executable).resolve()
    shutil.copy(interpreter, root / PYTHON / "bin" / f"python{_version()}")
    for alias in ("python3", "python"):
        (root / PYTHON / "bin" / alias).symlink_to(f"python{_version()}")
        (root / "usr/bin" / alias).symlink_to(f"/{PYTHON}/bin/python{_version()}")
    stdlib = root / PYTHON / "lib" / f"python{_version()}"
    _copy_python(Path(sysconfig.get_path("stdlib")), stdlib)
    for package in packages:
        _copy_package(package, stdlib)  # Debian's Python looks into no site-packages
    _copy_libraries(root, (root / PYTHON / "bin" / f"python{_version()}", *stdlib.rglob("*.so*")))
    if compiled:
        _compile(stdlib, root)


def _version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def _skip(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name in _SKIPPED or name.startswith("config-")]


def _copy_python(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=_skip, symlinks=False)


def _copy_package(name: str, site: Path) -> None:
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise SandboxError(f"the package {name} is not installed here")
    source = Path(next(iter(found.submodule_search_locations)))
    keep_tests = frozenset({"__pycache__", "tests"})
    for directory in (source, source.with_name(f"{name}.libs")):
        if directory.is_dir():
            shutil.copytree(
                directory, site / directory.name,
                ignore=lambda _, names: [each for each in names if each in keep_tests],
            )  # fmt: skip


def _copy_libraries(root: Path, programs: Iterable[Path]) -> None:
    """Every shared library that the programs need, where the loader looks by itself."""
    place: Path | None = None
    waiting: dict[str, Path] = {}
    for program in programs:
        for name, path in _needs(program):
            if not path.is_relative_to(root):
                waiting[name] = path
        loader = _loader(program)
        if loader is not None and not (root / loader.relative_to("/")).exists():
            (root / loader.relative_to("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(loader.resolve(), root / loader.relative_to("/"))
    libc = waiting.get("libc.so.6")
    place = root / (libc.parent.relative_to("/") if libc else Path("usr/lib"))
    place.mkdir(parents=True, exist_ok=True)
    for name, path in sorted(waiting.items()):
        if not (place / name).exists():
            shutil.copy(path.resolve(), place / name)


def _needs(program: Path) -> Iterator[tuple[str, Path]]:
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    for found in _LIBRARY.finditer(told.stdout):
        yield found[1].rsplit("/", 1)[-1], Path(found[2])


def _loader(program: Path) -> Path | None:
    told = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    found = re.search(r"^\s*(/\S*ld-\S+) \(", told.stdout, re.MULTILINE)
    return Path(found[1]) if found else None


_COMPILER: Final = """
import pathlib, py_compile, sys
root = sys.argv[1]
for source in sorted(pathlib.Path(sys.argv[2]).rglob("*.py")):
    try:
        py_compile.compile(
            str(source), dfile="/" + str(source.relative_to(root)), doraise=True, quiet=2,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    except py_compile.PyCompileError:
        pass  # a template or a sample of wrong code; it is kept as text
"""


def _compile(stdlib: Path, root: Path) -> None:
    """In a fresh process with a fixed hash seed: what Python writes depends on its own past."""
    subprocess.run(
        [sys.executable, "-S", "-c", _COMPILER, str(root), str(stdlib)],
        env={"PYTHONHASHSEED": "0"}, check=True,
    )  # fmt: skip


def _tar(target: Path, root: Path) -> None:
    with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as archive:
        for path in sorted(root.rglob("*")):
            entry = archive.gettarinfo(path, str(path.relative_to(root)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            entry.mode = 0o1777 if entry.name == "tmp" else (entry.mode & 0o755) | 0o444
            if entry.islnk():
                entry.type, entry.size = tarfile.REGTYPE, path.stat().st_size
            if entry.isreg():
                with path.open("rb") as content:
                    archive.addfile(entry, content)
            else:
                archive.addfile(entry)


def _write_layout(out: Path, layer: Path) -> tuple[bytes, int]:
    layer_digest = _digest(layer)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    config = _json(
        {
            "architecture": machine,
            "os": "linux",
            "config": {"Env": ["PATH=/usr/bin:/bin", "LANG=C.UTF-8"], "WorkingDir": "/"},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
        }
    )
    kind = "application/vnd.oci.image"
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": _descriptor(f"{kind}.config.v1+json", config),
            "layers": [
                {
                    "mediaType": f"{kind}.layer.v1.tar",
                    "digest": f"sha256:{layer_digest}",
                    "size": layer.stat().st_size,
                }
            ],
        }
    )
    index = _json(
        {"schemaVersion": 2, "manifests": [_descriptor(f"{kind}.manifest.v1+json", manifest)]}
    )
    with tarfile.open(out, "w", format=tarfile.GNU_FORMAT) as archive:
        _add(archive, "oci-layout", _json({"imageLayoutVersion": "1.0.0"}))
        _add(archive, "index.json", index)
        for data in (config, manifest):
            _add(archive, f"blobs/sha256/{hashlib.sha256(data).hexdigest()}", data)
        entry = tarfile.TarInfo(f"blobs/sha256/{layer_digest}")
        entry.size = layer.stat().st_size
        with layer.open("rb") as content:
            archive.addfile(entry, content)
    return bytes.fromhex(_digest(out)), out.stat().st_size


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _descriptor(kind: str, data: bytes) -> dict[str, object]:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return {"mediaType": kind, "digest": digest, "size": len(data)}


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


def _digest(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


if __name__ == "__main__":
    built, length = build_base_image(Path(sys.argv[1]))
    sys.stdout.write(f"sha256:{built.hex()} {length}\n")
