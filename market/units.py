"""Units: time, money and sizes, and how people write them. Integers inside, text at the edge.

Money is an integer count of the token's base units; a price is base units per unit-hour. Sizes are
MiB or bytes as the name says. Every parser refuses what it does not understand.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from typing import NewType

from market.errors import SpecError

UnixTime = NewType("UnixTime", float)
"""Wall-clock seconds since 1970, from the `Clock` port. Never monotonic time."""

HOUR_S = 3600
PPM = 1_000_000
BPS = 10_000
MIB = 1024 * 1024

_EXACT = Context(prec=64)  # Python counts 28 digits by itself; money has 29 and its decimals
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]i?B?|B)?", re.IGNORECASE)
_SECONDS = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86400),
    None: Decimal(1),
}
_SIZES = {"": 1, "B": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}


def parse_duration_s(text: str | float) -> int:
    """`90`, `"90s"`, `"1h30m"`, `"2d"` as whole seconds, rounded up.

    Raises SpecError for anything else, for zero and for negatives.
    """
    said = str(text).strip().lower()
    total, end = Decimal(0), 0
    for found in _DURATION.finditer(said):
        if said[end : found.start()].strip():
            break
        total += Decimal(found[1]) * _SECONDS[found[2]]
        end = found.end()
    if end != len(said) or total <= 0 or total > 10**9:
        raise SpecError(f"{text!r} is not a duration", hint="write it like 90s, 30m, 2h or 1h30m")
    return int(-(-total // 1))


def parse_size_mib(text: str | float, *, bare: str = "G") -> int:
    """`"24"`, `"24GB"`, `"512MiB"` as MiB, rounded up; a bare number counts in `bare` (GiB).

    Decimal and binary suffixes both mean binary, as container tools read them. Raises SpecError.
    """
    found = _SIZE.fullmatch(str(text).strip())
    if found is None:
        raise SpecError(f"{text!r} is not a size", hint="write it like 24, 24GB or 512MB")
    suffix = (found[2] or bare).upper().removesuffix("B").removesuffix("I")
    count = Decimal(found[1]) * _SIZES[suffix]
    if count > 2**31 * MIB:
        raise SpecError(f"{text!r} is more than any machine has", hint="write it like 24GB")
    return int(-(-count // MIB))


def parse_money(text: str | float, decimals: int) -> int:
    """A decimal amount of whole tokens as base units: `"0.60"` with 6 decimals is 600_000.

    Raises SpecError if it is negative, not a number, or finer than the token.
    """
    try:
        units = Decimal(str(text).strip()).scaleb(decimals, _EXACT)
    except ArithmeticError:
        raise SpecError(f"{text!r} is not an amount", hint="write it like 0.60") from None
    if not units.is_finite() or units < 0 or units >= 2**96:
        raise SpecError(f"{text!r} is not an amount between 0 and what the token can count")
    if units != units.to_integral_value():
        raise SpecError(f"{text!r} is finer than the token's {decimals} decimals")
    return int(units)


def format_money(amount: int, decimals: int) -> str:
    """Base units as whole tokens, exact and without padding: 600_000 with 6 decimals is `0.6`."""
    text = f"{Decimal(amount).scaleb(-decimals, _EXACT):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """Seconds as people say them: `42s`, `3m 10s`, `2h 05m`, `3d 4h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def format_bytes(count: int) -> str:
    """A byte count with a binary suffix: 1536 is `1.5 KiB`."""
    size = float(count)
    for suffix in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{count} B" if suffix == "B" else f"{size:.1f} {suffix}"
        size /= 1024
    return f"{size:.1f} TiB"
