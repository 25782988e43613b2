"""Submission: a job file made ready, its bytes sent, the job handed in. Knows the API, asks nobody.

For the commands and for notebooks alike: what a person is asked, or shown, is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from market.errors import MarketError, SpecError
from node.cli.settings import Settings
from node.client.http import Node
from node.client.jobfile import JobFile, LocalBlob, find_image, local_blob, mounts_of, read_job_file

Progress = Callable[[LocalBlob, int], None]
"""A blob and how many of its bytes the node has by now."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job file that the node found in order, its plan, and the files that go with it."""

    file: JobFile
    plan: dict[str, Any]
    image: LocalBlob | None  # None: it lies in a registry
    mounts: tuple[LocalBlob, ...]


def ask(node: Node, path: str, file: JobFile, **more: Any) -> Any:
    """What the node says of a job file; its complaints name the file's line. Raises MarketError."""
    try:
        return node.post(path, {"spec": file.raw, **more})
    except MarketError as problem:
        raise file.located(problem) from None


def prepare(node: Node, file: JobFile, settings: Settings, secrets: Mapping[str, str]) -> Prepared:
    """Check the file with the node and find what it names here. Raises SpecError and others."""
    plan = ask(node, "/api/validate", file)
    missing = [name for name in plan["secrets"] if name not in secrets]
    if missing:
        raise SpecError(
            f"secrets: {missing[0]} has no value",
            hint=f"set it in the environment and give --secret {missing[0]}",
        )
    archive = find_image(file, settings)
    image = local_blob(plan["image"], archive) if archive is not None else None
    mounts = tuple(mounts_of(file, plan["mounts"]))
    named = image.named() if image is not None else None
    sized = {"image": named, "inputs": [mount.named() for mount in mounts]}
    return Prepared(file, ask(node, "/api/plan", file, **sized), image, mounts)


def send(node: Node, prepared: Prepared, progress: Progress) -> None:
    """Give the node the bytes that it lacks, from where an earlier try ended."""
    image = (prepared.image,) if prepared.image is not None else ()
    for blob in (*image, *prepared.mounts):
        offset = node.missing_from(blob.sha256)
        if offset is None:
            continue
        offset = offset if offset <= blob.size_bytes else 0
        progress(blob, offset)
        sent = partial(progress, blob)
        node.send_blob(blob.file, blob.sha256, blob.size_bytes, offset, sent=sent)


def submit(node: Node, prepared: Prepared, secrets: Mapping[str, str], key: str = "") -> str:
    """Hand the job in; returns its id. One `key`, one job, however often it is handed in.

    Raises MarketError, with the file's line if it has one.
    """
    body = {
        "spec": prepared.file.raw,
        "image": prepared.image.named() if prepared.image is not None else None,
        "inputs": [mount.named() for mount in prepared.mounts],
        "secrets": dict(secrets),
    }
    try:
        return str(node.post("/api/jobs", body, key=key)["id"])
    except MarketError as problem:
        raise prepared.file.located(problem) from None


def job_file(given: str | Path | Mapping[str, Any]) -> JobFile:
    """A job file from a path, or from a mapping as a notebook writes it (paths from here)."""
    if isinstance(given, Mapping):
        return JobFile("the job", Path.cwd(), _texts(dict(given)))
    return read_job_file(Path(given))


def _texts(value: Any) -> Any:
    """Numbers as the text that a file would hold."""
    if isinstance(value, Mapping):
        return {str(key): _texts(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    if isinstance(value, bool) or value is None:
        return value
    return str(value)
