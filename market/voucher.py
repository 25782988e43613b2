"""Voucher: all the money arithmetic of an agreement. Integers in base units; every rounding named.

The contract computes the same in Solidity; `tests/golden/money.json` holds both to one answer.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.terms import Money, Terms
from market.units import BPS, HOUR_S


def owed(terms: Terms, seconds: int) -> int:
    """Base units for `seconds` of all units: rounded down (for the requester), at most the deposit.

    The rounding loses the provider less than one base unit per agreement, for it is cumulative.
    """
    assert seconds >= 0, "time runs forward"
    accrued = terms.money.price_per_hour * terms.unit_count * seconds // HOUR_S
    return min(accrued, terms.money.deposit)


def seconds_covered(terms: Terms, amount: int) -> int:
    """How many whole seconds `amount` pays for: rounded down (for the provider)."""
    rate = terms.money.price_per_hour * terms.unit_count
    if rate == 0 or amount >= terms.money.deposit:
        return terms.timing.duration_s
    # The largest s with rate * s // 3600 <= amount.
    return min(((amount + 1) * HOUR_S - 1) // rate, terms.timing.duration_s)


def offline_worth(terms: Terms, vouched: int, metered_s: int) -> int:
    """What a heartbeat may draw in all beside vouchers for `vouched`: the contract's arithmetic.

    Metered seconds, but at most the terms' allowance beyond what is vouched for; rounded down.
    """
    return min(owed(terms, metered_s), vouched + owed(terms, terms.timing.offline_allowance_s))


def deposit_for(price_per_hour: int, units: int, duration_s: int) -> int:
    """The deposit that covers the whole duration: rounded up (for the provider)."""
    return -(-price_per_hour * units * duration_s // HOUR_S)


def paid_up(terms: Terms, elapsed_s: int) -> int:
    """What must have been promised, `elapsed_s` after opening, before a challenge is allowed."""
    return owed(terms, max(0, elapsed_s - terms.timing.start_grace_s))


@dataclass(frozen=True, slots=True)
class SlashSplit:
    """Where the collateral goes; the parts sum to the collateral exactly."""

    to_victim: int
    burned: int
    returned: int


def slash_split(money: Money) -> SlashSplit:
    """The division of the collateral by a slash: shares rounded down, what is left is burned."""
    slashed = money.collateral * money.slash_bps // BPS
    to_victim = slashed * money.victim_share_bps // BPS
    return SlashSplit(to_victim, slashed - to_victim, money.collateral - slashed)
