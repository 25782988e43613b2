"""Image: builds the images that job files name, and looks after those of the node."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated, Any, Final

from cyclopts import App, Parameter

from market.errors import MarketError, SpecError
from market.image import parse_reference
from market.units import format_bytes
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines, write_table
from node.client.http import Node

PULL_S: Final = 6 * 3600.0
PROGRESS_S: Final = 1.0

image = App(name="image", help="Build, pull, list and prune images for jobs.")


@image.command
def build(
    name: str,
    *,
    package: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    out: Path | None = None,
    common: Common = DEFAULT,
) -> int:
    """Build an image from this machine's own Python, without a registry.

    Parameters
    ----------
    name
        What job files call it; `base` is the usual one.
    package
        A Python package to put in. May be repeated.
    out
        Write it there instead of among the node's images.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 64:
        raise SpecError(f"{name!r} is not a name", hint="letters, digits, - and _")
    target = out or common.settings().images_dir / f"{name}.tar"
    from node.adapters.oci.base_image import build_base_image  # brings a tar and a package tool

    target.parent.mkdir(parents=True, exist_ok=True)
    say(f"building {name}")
    build_base_image(target, *((package,) if package else ()))
    if common.as_json:
        write_json({"image": name, "file": str(target)})
    else:
        write_lines([str(target)])
    return 0


@image.command(name="list")
def list_(*, common: Common = DEFAULT) -> int:
    """List the images that the node has or has begun, the latest used first."""
    images = common.node().get("/api/images")["images"]
    if common.as_json:
        write_json({"images": images})
        return 0
    rows = [
        (
            row["digest"].removeprefix("sha256:")[:12],
            row["image"],
            format_bytes(row["size_bytes"]),
            "complete" if row["complete"] else f"{format_bytes(row['here_bytes'])} here",
            "a job" if row["in_use"] else "-",
        )
        for row in images
    ]
    columns = ("digest", "image", "size", "state", "needed by")
    write_table(columns, rows, none="no images; fetch one with: souk image pull NAME:TAG")
    return 0


@image.command
def pull(name: str, *, common: Common = DEFAULT) -> int:
    """Fetch an image of a registry, so that jobs with it start at once.

    Parameters
    ----------
    name
        Like docker.io/library/python:3.12 or ghcr.io/org/name@sha256:...
    """
    parse_reference(name)
    node = common.node()
    found: list[Any] = []

    def ask() -> None:
        try:
            found.append(node.post("/api/images/pull", {"image": name}, timeout_s=PULL_S))
        except MarketError as problem:
            found.append(problem)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    while asking.is_alive():
        asking.join(PROGRESS_S)
        if asking.is_alive():
            _say_progress(node)
    if isinstance(found[0], MarketError):
        raise found[0]
    if common.as_json:
        write_json(found[0])
    else:
        say(f"{format_bytes(found[0]['size_bytes'])}, checked")
        write_lines([found[0]["image"]])
    return 0


@image.command
def prune(*, common: Common = DEFAULT) -> int:
    """Let go of every image that no live job needs."""
    done = common.node().post("/api/images/prune", {})
    if common.as_json:
        write_json(done)
    else:
        write_lines(done["removed"])
        say(f"freed {format_bytes(done['freed_bytes'])}")
    return 0


def _say_progress(node: Node) -> None:
    for row in node.get("/api/images")["pulling"]:
        say(f"{format_bytes(row['here_bytes'])} of {format_bytes(row['size_bytes'])}")
