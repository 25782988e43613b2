"""Which units this machine rents out: those its owner declares, else those a driver finds."""

from __future__ import annotations

from pathlib import Path

from node.adapters.devices.declared import Declared, DeclaredDevices
from node.adapters.devices.numbered import NumberedDevices
from node.adapters.devices.nvml import find_gpus
from node.ports import Devices, Unit, UnitHealth


class NoDevices:
    """Fills the `Devices` port on a machine that has nothing to rent."""

    def units(self) -> tuple[Unit, ...]:
        """None."""
        return ()

    def health(self) -> tuple[UnitHealth, ...]:
        """None."""
        return ()


def discover(
    declared: Declared | tuple[Declared, ...] | None, numbers: Path | None = None
) -> Devices:
    """The machine's units; declared kinds are numbered one after the other.

    What a driver finds keeps the numbers that are in the file `numbers`.

    A declaration wins over the driver: several nodes may share one machine, as in a demonstration,
    and only their owner knows that a GPU found by each of them is the same one.
    """
    if declared is not None:
        return DeclaredDevices(*(declared if isinstance(declared, tuple) else (declared,)))
    found: Devices = find_gpus() or NoDevices()
    if numbers is None or not (found.units() or numbers.exists()):
        return found
    return NumberedDevices(found, numbers)
