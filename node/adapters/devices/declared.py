"""Units that their owner typed in: CPU slots, or pretended GPUs on a development network.

Marked as declared in every offer, so that nobody buys one for a real GPU. Knows no driver.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.errors import SpecError
from market.limits import UNITS_PER_PROVIDER
from node.ports import Unit, UnitHealth


@dataclass(frozen=True, slots=True)
class Declared:
    """What the owner declares: so many equal units, their model and memory each in MiB."""

    count: int
    name: str = "CPU"
    ram_mib: int = 0

    def __post_init__(self) -> None:
        """Raise SpecError for what no offer can carry."""
        if not 0 < self.count <= UNITS_PER_PROVIDER:
            raise SpecError(f"declare between 1 and {UNITS_PER_PROVIDER} units, not {self.count}")
        if not 0 < len(self.name.encode()) <= 64:
            raise SpecError("a declared unit's name has between 1 and 64 letters")
        if not 0 <= self.ram_mib < 2**32:
            raise SpecError("a declared unit's memory is a number of MiB")


class DeclaredDevices:
    """Fills the `Devices` port with declared units: always healthy, never measured."""

    def __init__(self, *kinds: Declared) -> None:
        """The units never change while the node runs. Raises SpecError for more than 256."""
        equal = [kind for kind in kinds for _ in range(kind.count)]
        if len(equal) > UNITS_PER_PROVIDER:
            raise SpecError(f"declare at most {UNITS_PER_PROVIDER} units, not {len(equal)}")
        self._units = tuple(
            Unit(index, kind.name, "", kind.ram_mib, declared=True)
            for index, kind in enumerate(equal)
        )

    def units(self) -> tuple[Unit, ...]:
        """All rentable slots, by index."""
        return self._units

    def health(self) -> tuple[UnitHealth, ...]:
        """Healthy, and nothing else is known."""
        return tuple(
            UnitHealth(unit.index, True, "", None, None, None, None) for unit in self._units
        )
