"""Selling: the `[provider]` table of the configuration as what a node sells. Knows no file."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Final

from market.units import parse_money

if TYPE_CHECKING:
    from node.cli.settings import ProviderSettings
    from node.config import Selling

AMOUNTS: Final = ("price_per_hour", "collateral_per_unit", "preemptible_price_per_hour")


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
