"""Asking: a price to propose for a unit-hour, and where it comes from."""

from __future__ import annotations

from decimal import Decimal
from statistics import median
from typing import Final

from market.errors import MarketError
from market.models import takes
from node.cli.options import Common

USUAL_PRICES: Final = {
    "RTX 3090": "0.17", "RTX 4090": "0.38", "RTX 5090": "0.50", "A100": "0.80", "H100": "2.00",
    "H200": "2.40", "B200": "4.70", "CPU": "0.05",
}  # fmt: skip
"""What a unit-hour was asked for on open markets in 2026, in dollars: a start, where nobody sells
such a unit here yet. Source: public asks, November 2026.
"""
COLLATERAL_HOURS: Final = 5  # what silence costs, in hours of the price


def propose(common: Common, unit_name: str) -> tuple[str, str]:
    """A price in whole tokens and why: the live market of others, else what is usual."""
    node = common.node()
    try:
        me = node.get("/api/status")["peer"]
        rows = [row for row in node.get("/api/offers") if row["peer"] != me]
    except MarketError:
        rows = []
    asks = [float(row["dph"]) for row in rows if takes(unit_name, row["gpu_name"])]
    if asks:
        price = f"{median(asks):.4f}".rstrip("0").rstrip(".")
        return price, f"median of {len(asks)} offers"
    usual = next((p for model, p in USUAL_PRICES.items() if takes(model, unit_name)), None)
    if usual is not None:
        return usual, "what is usual elsewhere; no such offer was heard here"
    return "0.20", "a guess: nobody sells such a unit yet"


def collateral(price: str) -> str:
    """What a unit's silence costs, in whole tokens."""
    return f"{Decimal(price) * COLLATERAL_HOURS:.2f}"
