"""Unit: the node as a systemd unit. Writes one file and says which commands come next."""

from __future__ import annotations

import importlib.resources
import os
import shutil
import sys
from pathlib import Path
from typing import Final

from cyclopts import App

from market.errors import RefusedError, SpecError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines

UNIT_DIR: Final = Path("/etc/systemd/system")
NAME: Final = "gridsouk.service"

service = App(name="service", help="Run the node under systemd.")


@service.command(name="show")
def show_unit(*, common: Common = DEFAULT) -> int:
    """Print the unit file."""
    text = unit_text()
    if common.as_json:
        write_json({"unit": text})
    else:
        print(text, end="")
    return 0


@service.command
def install(directory: Path = UNIT_DIR, *, common: Common = DEFAULT) -> int:
    """Write the unit file; an existing one of ours is replaced.

    Parameters
    ----------
    directory
        Where systemd looks.
    """
    place = _place(directory)
    if place.exists() and "gridsouk" not in place.read_text(errors="replace")[:200]:
        raise RefusedError(f"{place} is not ours", hint="move it away first")
    partial = place.with_suffix(".part")
    try:
        partial.write_text(unit_text())
        partial.chmod(0o644)
        partial.replace(place)
    except OSError as problem:
        raise RefusedError(f"{place}: {problem.strerror}", hint="run it as root") from None
    if common.as_json:
        write_json({"file": str(place)})
    else:
        write_lines([str(place)])
        say("settings: /etc/gridsouk/config.toml (souk provider init writes one)")
        say("then: systemctl daemon-reload && systemctl enable --now gridsouk")
    return 0


@service.command
def uninstall(directory: Path = UNIT_DIR, *, common: Common = DEFAULT) -> int:
    """Remove the unit file. Settings, keys and jobs stay.

    Parameters
    ----------
    directory
        Where systemd looks.
    """
    place = _place(directory)
    try:
        place.unlink()
    except FileNotFoundError:
        raise RefusedError(f"{place}: there is none", hint="nothing to remove") from None
    except OSError as problem:
        raise RefusedError(f"{place}: {problem.strerror}", hint="run it as root") from None
    if common.as_json:
        write_json({"file": str(place)})
    else:
        write_lines([str(place)])
        say("then: systemctl daemon-reload")
    return 0


def unit_text() -> str:
    """The unit file, with this program's path in it. Raises SpecError for a path with spaces."""
    found = shutil.which("souk") or str(Path(sys.executable).with_name("souk"))
    program = os.path.realpath(found)
    if any(letter.isspace() or letter in '%"' for letter in program):
        raise SpecError(
            f"{program}: systemd cannot run a path like this", hint="install it elsewhere"
        )
    text = importlib.resources.files("node.cli").joinpath(NAME).read_text()
    return text.replace("@SOUK@", program)


def _place(directory: Path) -> Path:
    if not directory.is_dir():
        raise SpecError(
            f"{directory}: there is no such directory", hint="is this a systemd machine?"
        )
    return directory / NAME
