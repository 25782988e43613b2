"""Events: what happened to jobs, a line each, oldest first; as it happens if asked."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Annotated, Any, Final

from cyclopts import Parameter

from node.cli.follow import job_path
from node.cli.options import DEFAULT, Common
from node.cli.output import write_json, write_lines
from node.client.http import Node

POLL_S: Final = 0.5


def events(
    job: str | None = None,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Print what happened to a job, or to every job that is not over.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    follow
        Go on until it is over (without a job: until Ctrl-C). With --json an object a line.
    """
    node = common.node()
    told: set[tuple[object, ...]] = set()
    found: list[dict[str, Any]] = []
    while True:
        shown = _jobs(node, job)
        for event in sorted(_events(shown), key=lambda event: event["at"]):
            key = tuple(event.values())
            if key in told:
                continue
            told.add(key)
            if common.as_json and not follow:
                found.append(event)
            elif common.as_json:
                write_json({"event": event})
            else:
                write_lines([_line(event)])
        if not follow or (job is not None and shown[0]["over"]):
            break
        time.sleep(POLL_S)
    if common.as_json and not follow:
        write_json({"events": found})
    return 0


def _jobs(node: Node, job: str | None) -> list[dict[str, Any]]:
    if job is not None:
        return [node.get(job_path(job))]
    return [node.get(job_path(row["id"])) for row in node.get("/api/jobs") if not row["over"]]


def _events(jobs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Each change of state."""
    for job in jobs:
        for line in job["history"]:
            yield {
                "at": line["at"], "job": job["id"], "name": job["name"], "kind": line["state"],
                "text": line["reason"],
            }  # fmt: skip


def _line(event: dict[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    return f"{at}  {event['job'][:12]}  {event['name']}  {event['kind']}  {event['text']}".rstrip()
