"""Numbered: each GPU keeps its number over restarts, also while another one is lost.

Agreements name units by number. A driver that has lost a GPU when the node starts counts on without
it, and what one job rents would be taken for what another does. So the numbers are on the disk, by
UUID; a GPU that is not found keeps its own and is not well.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import structlog

from market.limits import UNITS_PER_PROVIDER
from node.ports import Devices, Unit, UnitHealth

log = structlog.get_logger("devices")
_FILE_BYTES_MAX = 1024 * 1024


class NumberedDevices:
    """Fills the `Devices` port with another's units, under numbers that stay."""

    def __init__(self, found: Devices, file: Path) -> None:
        """`file` has the units of earlier starts, and is written anew when there are others."""
        self._found = found
        here = {unit.uuid: unit for unit in found.units()}
        units = [replace(here.pop(old.uuid, old), index=old.index) for old in _read(file)]
        self._missing = {unit.uuid for unit in units} - {unit.uuid for unit in found.units()}
        free = iter(sorted(set(range(UNITS_PER_PROVIDER)) - {unit.index for unit in units}))
        for unit, index in zip(here.values(), free, strict=False):
            units.append(replace(unit, index=index))
        self._units = tuple(sorted(units, key=lambda unit: unit.index))
        for unit in self._units:
            if unit.uuid in self._missing:
                log.warning("a GPU is not found", unit=unit.index, gpu=unit.uuid, hint=(
                    f"if it was taken out for good, remove {file}"))  # fmt: skip
        if here:
            _write(file, self._units)

    def units(self) -> tuple[Unit, ...]:
        """Those that are here and those that were."""
        return self._units

    def health(self) -> tuple[UnitHealth, ...]:
        """One look at each."""
        seen = {
            unit.uuid: health
            for unit, health in zip(self._found.units(), self._found.health(), strict=True)
        }
        return tuple(
            replace(seen[unit.uuid], index=unit.index)
            if unit.uuid in seen
            else UnitHealth(unit.index, False, _GONE, None, None, None, None)
            for unit in self._units
        )


_GONE = "the GPU was not found when the node started; restart the machine"


def _read(file: Path) -> list[Unit]:
    """The units in the file; none from a file that is not ours."""
    try:
        with file.open("rb") as source:
            rows = json.loads(source.read(_FILE_BYTES_MAX))
        units = [Unit(**row) for row in rows]
        known = {unit.index for unit in units}
        sound = len(known) == len({unit.uuid for unit in units}) == len(units)
        if sound and known <= set(range(UNITS_PER_PROVIDER)):
            return units
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as problem:
        log.warning("the units' numbers cannot be read", file=str(file), problem=str(problem))
    return []


def _write(file: Path, units: tuple[Unit, ...]) -> None:
    draft = file.with_suffix(".new")
    with draft.open("w") as target:
        json.dump([asdict(unit) for unit in units], target, indent=1)
        target.flush()
        os.fsync(target.fileno())
    draft.rename(file)
