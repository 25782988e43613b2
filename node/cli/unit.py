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
from node.cli.settings import config_path, load

UNIT_DIR: Final = Path("/etc/systemd/system")
NAME: Final = "gridsouk.service"
SERVICE_CONFIG: Final = Path("/etc/gridsouk/config.toml")

service = App(name="service", help="Run the node under systemd.")


@service.command(name="show")
def show_unit(*, common: Common = DEFAULT) -> int:
    """Print the unit file."""
    text = unit_text(common)
    if common.as_json:
        write_json({"unit": text})
    else:
        print(text, end="")
    return 0


@service.command
def install(directory: Path = UNIT_DIR, *, common: Common = DEFAULT) -> int:
    """Write the unit file, for the settings in use here; an existing one of ours is replaced.

    Parameters
    ----------
    directory
        Where systemd looks.
    """
    place = write_unit(directory, common)
    if common.as_json:
        write_json({"file": str(place)})
    else:
        write_lines([str(place)])
        say(f"settings: {_config(common)} (souk provider init writes one)")
        say("then: systemctl daemon-reload && systemctl enable --now gridsouk")
    return 0


def write_unit(directory: Path, common: Common) -> Path:
    """The unit file, whole or not at all. Raises RefusedError, SpecError."""
    place = _place(directory)
    text = unit_text(common)
    if place.exists() and "gridsouk" not in place.read_text(errors="replace")[:200]:
        raise RefusedError(f"{place} is not ours", hint="move it away first")
    partial = place.with_suffix(".part")
    try:
        partial.write_text(text)
        partial.chmod(0o644)
        partial.replace(place)
    except OSError as problem:
        raise RefusedError(f"{place}: {problem.strerror}", hint="run it as root") from None
    return place


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


def unit_text(common: Common = DEFAULT) -> str:
    """The unit file, with this program and these settings in it.

    Raises SpecError for a path that systemd cannot take, SettingsError.
    """
    found = shutil.which("souk") or str(Path(sys.executable).with_name("souk"))
    config = _config(common)
    data = common.data_dir or load(config if config.exists() else None).data_dir
    text = importlib.resources.files("node.cli").joinpath(NAME).read_text()
    paths = {"@SOUK@": os.path.realpath(found), "@CONFIG@": str(config), "@DATA@": str(data)}
    for word, path in paths.items():
        if any(letter.isspace() or letter in '%"' for letter in path):
            raise SpecError(f"{path}: systemd cannot take such a path", hint="choose another place")
        text = text.replace(word, path)
    return text


def _config(common: Common) -> Path:
    """The settings of this user if there are any, else where a service's would be."""
    found = (common.config or config_path()).absolute()
    return found if common.config is not None or found.exists() else SERVICE_CONFIG


def _place(directory: Path) -> Path:
    if not directory.is_dir():
        raise SpecError(
            f"{directory}: there is no such directory", hint="is this a systemd machine?"
        )
    return directory / NAME
