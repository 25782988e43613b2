"""Job file: YAML read from disk, with the line of every key, and the files it names.

Scalars stay text (`0.60`, `12.10` and `007` mean what they say) but for true, false and null. The
market's own rules are in `market/spec.py`.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from market.errors import MarketError, NotFoundError, SpecError
from market.image import parse_reference
from market.limits import ARTIFACT_BYTES_MAX, JOB_FILE_BYTES_MAX
from market.units import format_bytes
from node.cli.settings import Settings

NODES_MAX: Final = 4096  # of the YAML document
_KEY: Final = re.compile(r"[A-Za-z_][\w.]*")
_WORDS: Final = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file's mapping, where it lay, and the line of each key (`resources.vram`: 7)."""

    name: str
    folder: Path
    raw: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def located(self, problem: MarketError) -> MarketError:
        """The same error with file and line in front, if it begins with a key of this file."""
        message = str(problem)
        found = _KEY.match(message)
        key = found[0] if found else ""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        if not key:
            return problem
        better = SpecError(f"{self.name}:{self.lines[key]}: {message}", hint=problem.hint)
        return better if problem.exit_code == 2 else problem


@dataclass(frozen=True, slots=True)
class LocalBlob:
    """A file of this machine under the path that the job sees."""

    path: str
    file: Path
    sha256: str
    size_bytes: int

    def named(self) -> dict[str, Any]:
        """As the API wants it."""
        return {"path": self.path, "sha256": self.sha256, "size_bytes": self.size_bytes}


def read_job_file(path: Path) -> JobFile:
    """The job file at `path`, `-` for standard input. Raises SpecError with file and line."""
    name = str(path)
    try:
        if name == "-":
            data = sys.stdin.buffer.read(JOB_FILE_BYTES_MAX + 1)
        else:
            with path.open("rb") as file:
                data = file.read(JOB_FILE_BYTES_MAX + 1)
    except OSError as problem:
        raise SpecError(f"{name}: {problem.strerror}", hint="give the path of a job file") from None
    if len(data) > JOB_FILE_BYTES_MAX:
        raise SpecError(f"{name}: larger than {format_bytes(JOB_FILE_BYTES_MAX)}",
                        hint="put data into files and name them in file_mounts")  # fmt: skip
    try:
        text = data.decode()
        root = _compose(text, name)
        lines: dict[str, int] = {}
        raw = None if root is None else _plain(root, name, "", lines)
    except UnicodeDecodeError:
        raise SpecError(f"{name}: not UTF-8 text", hint="is this the job file?") from None
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise SpecError(f"{where}: {problem.problem or problem.context}",
                        hint="check the indentation and the quotes") from None  # fmt: skip
    except yaml.YAMLError as problem:
        raise SpecError(f"{name}: {str(problem).splitlines()[0]}") from None
    if not isinstance(raw, dict):
        raise SpecError(f"{name}:1: a job file is a mapping", hint="start with: name: my-job")
    folder = Path.cwd() if name == "-" else path.absolute().parent
    return JobFile(name, folder, raw, lines)


def _compose(text: str, name: str) -> yaml.Node | None:
    depth = 0
    # Events first: they cost no recursion, and no alias is followed before it is refused.
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise SpecError(f"{name}:{line}: anchors and aliases are not read", hint="write it out")
        if count > NODES_MAX or depth > 16:
            raise SpecError(f"{name}:{line}: too much of it", hint="a job file is a page long")
    return yaml.compose(text, Loader=yaml.SafeLoader)


def _plain(node: yaml.Node, name: str, where: str, lines: dict[str, int]) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, name, where, lines) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise SpecError(f"{name}:{line}: a key must be text")
            key = str(key_node.value)
            if key in found:
                raise SpecError(f"{name}:{line}: {key} is there twice", hint="remove one of them")
            path = f"{where}.{key}" if where else key
            lines[path] = line
            found[key] = _plain(value, name, path, lines)
        return found
    text = str(node.value)
    # Variables are text to the job: `DEBUG: true` means the word.
    if getattr(node, "style", None) is None and not where.startswith("envs.") and text in _WORDS:
        return _WORDS[text]
    return text


def find_image(job: JobFile, settings: Settings) -> Path | None:
    """The image's file: beside the job file, or one that was built here; None for a registry's.

    Raises SpecError.
    """
    said = job.raw.get("image")
    if not isinstance(said, str) or not said or "\0" in said:
        raise job.located(SpecError("image: missing", hint="add a line like: image: base"))
    beside = job.folder / Path(said).expanduser()
    if beside.is_file():
        return beside
    built = settings.images_dir / f"{said}.tar"
    if "/" not in said and built.is_file():
        return built
    if "/" in said or ":" in said:
        try:
            parse_reference(said)
        except SpecError as problem:
            hint = problem.hint or "name a file, a built image, or one of a registry"
            raise job.located(SpecError(f"image: {problem}", hint=hint)) from None
        return None
    hint = f"build it with: souk image build {said}, or write docker.io/library/{said}:TAG"
    raise job.located(SpecError(f"image: there is no {said}", hint=hint))


def local_blob(label: str, file: Path) -> LocalBlob:
    """Hash a file. Raises NotFoundError or SpecError."""
    if file.is_dir():
        raise SpecError(f"file_mounts: {file} is a directory", hint="mount a tar file of it")
    digest = hashlib.sha256()
    size = 0
    try:
        with file.open("rb") as opened:
            while part := opened.read(1024 * 1024):
                digest.update(part)
                size += len(part)
    except OSError as problem:
        raise NotFoundError(f"file_mounts: {file}: {problem.strerror}",
                            hint="paths are relative to the job file") from None  # fmt: skip
    if size > ARTIFACT_BYTES_MAX:
        raise SpecError(f"{file}: larger than {format_bytes(ARTIFACT_BYTES_MAX)}")
    return LocalBlob(label, file, digest.hexdigest(), size)


def mounts_of(job: JobFile, mounts: dict[str, str]) -> Iterator[LocalBlob]:
    """The files of `file_mounts`, as the node's plan names them."""
    for target, source in mounts.items():
        yield local_blob(target, job.folder / Path(source).expanduser())
