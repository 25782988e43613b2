"""Results: the command that fetches what a finished job left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from market.units import format_bytes
from node.cli.follow import job_path
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines
from node.client.download import fetch_results


def get(job: str, directory: Path | None = None, *, common: Common = DEFAULT) -> int:
    """Fetch a job's results, checked by their hashes; prints the files.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    directory
        Where to; a new one named after the job if left out.
    """
    node = common.node()
    found = node.get(job_path(job))
    files = [str(file) for file in fetch_results(node, found, directory, _told)]
    if common.as_json:
        write_json({"job": found["id"], "files": files})
    else:
        write_lines(files)
    return 0


def _told(result: dict[str, Any]) -> None:
    say(f"fetching {result['path']}, {format_bytes(result['size_bytes'])}")
