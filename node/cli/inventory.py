"""Inventory: what this machine could sell, per unit. Looks, and changes nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from market.errors import RefusedError
from node.cli.settings import Settings

if TYPE_CHECKING:
    from node.ports import Unit


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found here; the sizes are for each unit."""

    units: tuple[Unit, ...]
    cores: int
    ram_gib: int
    disk_gib: int


def look(settings: Settings, cpu_units: int) -> Machine:
    """The GPUs of the driver, or so many CPU units. Raises RefusedError if there is nothing."""
    from node.adapters.devices.declared import Declared
    from node.adapters.devices.discover import discover

    declared: tuple[Declared, ...] = (Declared(cpu_units, "CPU", 0),) if cpu_units else ()
    sold = settings.provider
    if not declared and sold is not None and sold.units:
        declared = tuple(Declared(one.count, one.name, one.ram_mib) for one in sold.units)
    units = discover(declared).units()
    if not units:
        raise RefusedError(
            "the NVIDIA driver finds no GPU here",
            hint="install the driver, or sell CPU units with --cpu-units 2",
        )
    count = len(units)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return Machine(
        units=units,
        cores=max(1, (os.cpu_count() or 1) // count),
        ram_gib=max(1, int(pages * 0.8 / 2**30 / count)),  # a fifth stays with the machine
        disk_gib=max(1, int(disk.f_bavail * disk.f_frsize * 0.7 / 2**30 / count)),
    )


def words(found: Machine) -> str:
    """The units by kind, and what goes with each."""
    counts: dict[str, int] = {}
    for unit in found.units:
        name = f"{unit.name} {unit.ram_mib / 1024:g} GiB" if unit.ram_mib else unit.name
        counts[name] = counts.get(name, 0) + 1
    listed = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return (
        f"{listed}; per unit {found.cores} cores, {found.ram_gib} GiB of memory, "
        f"{found.disk_gib} GiB of disk"
    )
