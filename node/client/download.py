"""Download: what a finished job left, fetched, checked and written where it cannot do harm.

Paths come from a stranger's job: each is taken apart and must stay below the directory asked for;
links on the way are refused. Nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from market.errors import IntegrityError, NotFoundError, RefusedError
from node.client.http import Node

Told = Callable[[dict[str, Any]], None]


def fetch_results(
    node: Node,
    job: dict[str, Any],
    directory: str | Path | None,
    told: Told = lambda _: None,
) -> list[Path]:
    """Write a job's results below `directory` (None: a new one named after it); the files.

    `told` hears of each result before it is fetched. Raises NotFoundError if there are none,
    RefusedError for names that would do harm, IntegrityError for wrong bytes.
    """
    results = job["results"]
    if not results:
        more = "it left none" if job["over"] else "it is not over"
        hint = f"souk show {job['id'][:12]}"
        raise NotFoundError(f"{job['name']} has no results: {more}", hint=hint)
    target = Path(directory) if directory else Path(f"{job['name']}-{job['id'][:8]}")
    places = [(result, safe_place(target, result["path"])) for result in results]
    if len({place for _, place in places}) != len(places):
        raise RefusedError("two results have one name", hint="rename the job's outputs")
    target.mkdir(parents=True, exist_ok=True)
    for result, place in places:
        told(result)
        _fetch(node, result, place, target)
    return [place for _, place in places]


def safe_place(directory: Path, path: str) -> Path:
    """Where a result goes: below `directory`, whatever its path says. Raises RefusedError."""
    parts = [part for part in PurePosixPath(path).parts if part not in ("/", "//", ".")]
    if not parts or ".." in parts or any(not part.isprintable() for part in parts):
        raise RefusedError(f"{path!r} is no name for a file", hint="change the job's outputs")
    return directory.joinpath(*parts)


def _fetch(node: Node, result: dict[str, Any], place: Path, directory: Path) -> None:
    _make_folder(place.parent, directory)
    if place.is_symlink() or place.is_dir():
        raise RefusedError(f"{place} is in the way", hint="choose another directory")
    partial = place.with_name(f".{place.name}.part")
    digest = hashlib.sha256()
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            for part in node.read_blob(result["sha256"]):
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != result["sha256"]:
            raise IntegrityError(f"{result['path']}: its bytes are wrong", hint="try again")
        partial.replace(place)
    finally:
        partial.unlink(missing_ok=True)


def _make_folder(folder: Path, directory: Path) -> None:
    step = directory
    for part in folder.relative_to(directory).parts:
        step = step / part
        if step.is_symlink() or (step.exists() and not step.is_dir()):
            raise RefusedError(f"{step} is in the way", hint="choose another directory")
        step.mkdir(exist_ok=True)
