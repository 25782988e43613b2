"""Fees: what to bid for gas (EIP-1559). Pure arithmetic in wei per gas; knows no chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TIP_MIN_WEI: Final = 1_000_000  # a node drops what pays nothing at all
TIP_DEFAULT_WEI: Final = 1_000_000_000  # where the chain does not say what others pay
BUMP = (9, 8)  # x 1.125: geth replaces from 10 % more on, others from 12.5 %


@dataclass(frozen=True, slots=True)
class Fees:
    """`most` is paid per gas at most, `tip` of it to whoever makes the block."""

    most: int
    tip: int

    def __post_init__(self) -> None:
        assert 0 <= self.tip <= self.most, "the tip is a part of the whole"


def wanted(base_fee_wei: int, tip_wei: int, cap_wei: int) -> Fees | None:
    """Room for six full blocks (each may raise the base fee by an eighth: 1.125^6 = 2.03).

    None if even the next block costs more than the cap.
    """
    if base_fee_wei > cap_wei:
        return None
    tip = min(max(tip_wei, TIP_MIN_WEI), cap_wei)
    most = min(2 * base_fee_wei + tip, cap_wei)
    return Fees(most, min(tip, most))


def raised(fees: Fees, now: Fees, cap_wei: int) -> Fees | None:
    """Enough to replace a transaction that bid `fees`, and no less than `now`.

    None if the cap does not allow that.
    """
    least = Fees(_up(fees.most), _up(fees.tip))
    found = Fees(max(least.most, now.most, least.tip, now.tip), max(least.tip, now.tip))
    if found.most <= cap_wei:
        return found
    return Fees(cap_wei, min(least.tip, cap_wei)) if least.most <= cap_wei else None


def _up(wei: int) -> int:
    more, of = BUMP
    return -(-wei * more // of)
