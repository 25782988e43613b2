"""Finish-time fairness: which jobs run in the next round, when jobs may pause between rounds.

The round-based face of `fair`. A job's fair finish is what it would have had on an equal part of
the site: its duration alone, times the contention it met (Themis, NSDI 2020). Nobody should pass
it, and the site should be done as soon as its longest work allows. Both are time budgets, and the
job that has used up the largest part of either runs first. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

STAY = 1.1  # a change costs a restart, a sixth of a round: near-equals keep their places
SPREAD = 0.5  # sigma of declared durations, log-normal: two in three are right within a factor 1.65
CAREFUL = (0.25, 0.75)  # of an unknown duration: its fair finish by the low, its work by the high
OVERRUN_MIN = 0.02  # what a job has at least left, as a share of what it ran: nobody is done yet
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Standing:
    """An unfinished job at the start of a round.

    `alone_s` estimates its duration on units of its own, `left_s` what of it remains. `met` counts
    the jobs, itself included, that were on the site at any time since it came. A job that is not
    `measured` yet is known only by what was declared.
    """

    job_id: int
    requester: str
    arrival_s: float
    units: int
    alone_s: float
    left_s: float
    met: int
    ran_last: bool = False
    measured: bool = True


def plan(standing: Sequence[Standing], units: int, now: float) -> tuple[int, ...]:
    """The jobs to run in this round, most urgent first, skipping what no longer fits.

    Jobs not yet measured go before all: one round says more of their speed than any declaration,
    and costs one restart. Who ran in the last round is taken as a little more urgent.
    """
    horizon = horizon_s(standing, units)

    def rank(one: Standing) -> tuple[bool, float, int]:
        stays = STAY if one.ran_last else 1.0
        return one.measured, -urgency(one, units, horizon, now) * stays, one.job_id

    return fill(sorted(standing, key=rank), units)


def fill(ranked: Sequence[Standing], units: int) -> tuple[int, ...]:
    """The ids of the first jobs that fit beside each other."""
    chosen, free = [], units
    for one in ranked:
        if one.units <= free:
            chosen.append(one.job_id)
            free -= one.units
    return tuple(chosen)


def urgency(one: Standing, units: int, horizon: float, now: float) -> float:
    """The larger of two used-up budgets; 1 means that not a second is left to wait.

    The job's: (time since arrival + work left) over its fair duration, that is, its finish-time
    fairness if it ran from now on. The site's: work left over the horizon.
    """
    contention = max(1.0, one.met / units)
    fair_s = max(1.0, one.alone_s) * contention
    return max((now - one.arrival_s + one.left_s) / fair_s, one.left_s / max(1.0, horizon))


def horizon_s(standing: Sequence[Standing], units: int) -> float:
    """The least time in which the site can finish: its longest job, or all work over all units."""
    work = sum(one.left_s * one.units for one in standing)
    longest = max((one.left_s for one in standing), default=0.0)
    return max(longest, work / units)


def left_s(declared_s: float, ran_s: float, quantile: float, spread: float = SPREAD) -> float:
    """How much longer a job runs that declared so much and ran so long, at a quantile, in seconds.

    For a job that reports no progress. True durations are taken to scatter log-normally around
    what is declared; that it still runs excludes all that are shorter, so an overrun is answered
    by a longer estimate and not by none. Far beyond it all that counts is attained service.
    """
    gone = _NORMAL.cdf(math.log(max(ran_s, 1e-9) / max(declared_s, 1e-9)) / spread)
    share = gone + (1.0 - gone) * quantile
    least_s = ran_s * OVERRUN_MIN
    if not 1e-12 < share < 1.0 - 1e-9:
        return max(least_s, 1.0)
    return max(declared_s * math.exp(spread * _NORMAL.inv_cdf(share)) - ran_s, least_s)
