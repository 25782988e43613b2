"""Job file: read from disk, with the files it names. What its text means is `node/jobtext.py`'s."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from market.errors import MarketError, NotFoundError, SpecError
from market.image import parse_reference
from market.limits import ARTIFACT_BYTES_MAX, JOB_FILE_BYTES_MAX
from market.units import format_bytes
from node.cli.settings import Settings
from node.jobtext import line_of, read_job_text


@dataclass(frozen=True, slots=True)
class JobFile:
    """A job file's mapping, where it lay, and the line of each key (`resources.vram`: 7)."""

    name: str
    folder: Path
    raw: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)

    def located(self, problem: MarketError) -> MarketError:
        """The same error with file and line in front, if it begins with a key of this file."""
        line = line_of(problem, self.lines)
        if line is None:
            return problem
        better = SpecError(f"{self.name}:{line}: {problem}", hint=problem.hint)
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
    raw, lines = read_job_text(data, name)
    folder = Path.cwd() if name == "-" else path.absolute().parent
    return JobFile(name, folder, raw, lines)


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
