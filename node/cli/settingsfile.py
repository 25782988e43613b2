"""Settings file: our keys and our [provider] table written into what the file says already.

Comments, other keys and other tables stay as they are; the text before is kept beside it.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path

from market.errors import RefusedError
from node.cli.inventory import Machine


def with_keys(text: str, keys: Mapping[str, object]) -> str:
    """The text with these top-level keys (texts, or lists of texts) set.

    Raises RefusedError if that cannot be done without changing what else it says.
    """
    lines = text.rstrip("\n").split("\n") if text.strip() else []
    cut = next((i for i, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    top, rest = lines[:cut], lines[cut:]
    for key, value in keys.items():
        line = f"{key} = {_value(value)}"
        at = next((i for i, old in enumerate(top) if old.partition("=")[0].strip() == key), None)
        if at is None:
            while top and not top[-1].strip():
                top.pop()
            top.append(line)
        else:
            top[at : _end(top, at)] = [line]
    between = [""] if rest and top and top[-1].strip() else []
    edited = "\n".join([*top, *between, *rest]).rstrip("\n") + "\n"
    try:
        unchanged = {**tomllib.loads(text), **keys} == tomllib.loads(edited)
    except tomllib.TOMLDecodeError:
        unchanged = False
    if not unchanged:
        told = "; ".join(f"{key} = {_value(value)}" for key, value in keys.items())
        raise RefusedError("the settings are written in a way of their own", hint=f"add {told}")
    return edited


def without_table(text: str) -> str:
    """The text without its [provider] and [[provider....]] tables."""
    kept: list[str] = []
    inside = False
    for line in text.split("\n"):
        if line.startswith("["):
            inside = line.startswith(("[provider]", "[provider.", "[[provider."))
        if not inside:
            kept.append(line)
    return "\n".join(kept).rstrip("\n") + "\n"


def table(found: Machine, price: str, collateral: str, where: str) -> str:
    """What is sold, as a [provider] table."""
    lines = [
        "[provider]",
        f'price_per_hour      = "{price}"      # whole tokens, per unit',
        f'collateral_per_unit = "{collateral}"      # what silence costs you',
        f"cpu_cores  = {found.cores}                  # per unit, like the sizes",
        f'cpu_ram    = "{found.ram_gib}GB"',
        f'disk_space = "{found.disk_gib}GB"',
        f"geolocation = {_value(where)}" if where else '# geolocation = "DE"',
        'policy     = "fcfs"             # fcfs priority fair load cost latency',
    ]
    if found.units[0].declared:
        lines += [
            "[[provider.units]]",
            'name  = "CPU"',
            f"count = {len(found.units)}",
            'ram   = "0"',
        ]
    return "\n".join(lines) + "\n"


def read(place: Path) -> str:
    """What the file says; nothing if there is none. `settings.load` has found it readable."""
    return place.read_text() if place.exists() else ""


def keys_in(place: Path) -> frozenset[str]:
    """The top-level keys that the file has; likewise."""
    return frozenset(tomllib.loads(read(place)))


def write(place: Path, text: str) -> None:
    """Whole or not at all; what was there before is kept. Raises RefusedError."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.exists():
            place.with_suffix(".before").write_text(place.read_text())
        partial = place.with_suffix(".part")
        partial.write_text(text)
        partial.replace(place)
    except OSError as problem:
        raise RefusedError(f"{place}: {problem.strerror}", hint="give --config") from None


def _value(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)  # a basic string of TOML


def _end(lines: list[str], at: int) -> int:
    """Where the value that begins in this line ends: a list may go over several."""
    for end in range(at + 1, len(lines) + 1):
        try:
            tomllib.loads("\n".join(lines[at:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return at + 1
