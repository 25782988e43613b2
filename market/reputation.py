"""Reputation: who has kept their word, by closed and slashed agreements read on chain.

No central score: each node computes its own. Evidence is weighted by the money that was at stake,
so that a thousand tiny agreements with oneself count little, and decays, so that a rig can recover.
Knows no chain, book or clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from market.codec import U32, U40, U96
from market.units import PPM

HALF_LIFE_S = 30 * 24 * 3600  # a month: long enough to remember, short enough to forgive
PRIOR_WEIGHT = 2.0  # a newcomer counts as two agreements of the usual money ...
PRIOR_PPM = 900_000  # ... of which nine in ten were kept
WEIGHT_MAX = 4.0  # no single agreement says more than four of the usual money
HISTORY_MAX = 256  # outcomes per provider that are looked at: the newest


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one agreement ended: when, what it weighs in money, and what share was slashed.

    `money` is what was paid if it was closed in order, what could have been (the deposit) if it was
    slashed: work never done earns no trust. `slashed_ppm` is 0 for an agreement that was closed in
    order, PPM for all of the collateral.
    """

    at_s: U40
    money: U96
    slashed_ppm: U32


def reliability_ppm(outcomes: Iterable[Outcome], now: float, *, usual_money: int) -> int:
    """The chance, in ppm, that the provider ends its next agreement in order; rounded down.

    A weighted mean of outcomes and a newcomer's prior. An outcome weighs its money in units of
    `usual_money` (the median of the class, say), at most WEIGHT_MAX, halved every HALF_LIFE_S.
    Outcomes dated in the future weigh as if they were of now.
    """
    newest = sorted(outcomes, key=lambda o: (-o.at_s, -o.slashed_ppm, -o.money))[:HISTORY_MAX]
    weight, kept = PRIOR_WEIGHT, PRIOR_WEIGHT * PRIOR_PPM
    for outcome in newest:
        age_s = max(0.0, now - outcome.at_s)
        stake = min(WEIGHT_MAX, outcome.money / max(1, usual_money))
        share = stake * 0.5 ** (age_s / HALF_LIFE_S)
        weight += share
        kept += share * (PPM - min(PPM, outcome.slashed_ppm))
    return int(kept / weight)
