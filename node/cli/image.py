"""Image: builds the images that job files name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from market.errors import SpecError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines

image = App(name="image", help="Build images for jobs.")


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
