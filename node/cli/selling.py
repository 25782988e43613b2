"""Selling: the `[provider]` table of the configuration as what a node sells. Knows no file."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Final

from market.units import parse_money

if TYPE_CHECKING:
    from node.config import Selling

AMOUNTS: Final = ("price_per_hour", "collateral_per_unit", "preemptible_price_per_hour")


@dataclass(frozen=True, slots=True)
class UnitGroup:
    """Units the owner declares: `count` slots called `name`, each with `ram_mib`.

    Amounts in whole tokens; None takes the provider's.
    """

    name: str
    count: int
    ram_mib: int
    price_per_hour: str | None = None
    collateral_per_unit: str | None = None
    preemptible_price_per_hour: str | None = None


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """What this node sells. Amounts in whole tokens; the rest per unit."""

    price_per_hour: str
    collateral_per_unit: str
    cpu_cores: int = 1
    cpu_ram_mib: int = 2048
    disk_space_mib: int = 10_240
    inet_up_kbps: int = 0  # 0: as measured
    inet_down_kbps: int = 0
    geolocation: str = ""
    min_duration_s: int = 1
    max_duration_s: int = 7 * 24 * 3600
    policy: str = "fcfs"
    preemptible: bool = False
    preemptible_price_per_hour: str = "0"
    grace_s: int = 10
    placement: str = "fgd"
    units: tuple[UnitGroup, ...] = ()
    egress: tuple[str, ...] = ()
    egress_mib_max: int = 10_240


def to_selling(sold: ProviderSettings, decimals: int) -> Selling:
    """Whole tokens become base units of a token with so many decimals. Raises SpecError."""
    from node.config import Selling, UnitPrice

    prices = tuple(
        UnitPrice(
            group.name,
            group.ram_mib,
            **{
                name: parse_money(text, decimals)
                for name in AMOUNTS
                if (text := getattr(group, name)) is not None
            },
        )
        for group in sold.units
    )
    same = {
        field.name: getattr(sold, field.name)
        for field in fields(Selling)
        if field.name not in AMOUNTS and field.name != "prices"
    }
    same |= {name: parse_money(getattr(sold, name), decimals) for name in AMOUNTS}
    return Selling(**same, prices=prices)
