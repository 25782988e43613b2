"""Reallocation: when a running job should move: loss, degradation, a better offer, a deadline.

Pure rules over numbers; who measures them and who acts is elsewhere. Every voluntary move pays for
itself with a margin, and the moves of one job are bounded: a market that flaps does no work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from market.limits import ATTEMPTS_MAX, LOST_CONTACTS
from market.units import HOUR_S, PPM

DEGRADED_PPM = 700_000  # below 70 % of its certificate a unit is not what was sold
RECOVERED_PPM = 800_000  # and it is again at 80 %: between the two nothing changes
WINDOW_S = 300.0  # so long below before it counts: a checkpoint or an evaluation phase is shorter
MARGIN = 1.5  # a move must save this multiple of what it costs
MOVES_MAX = 3  # voluntary moves per job; recoveries from loss have ATTEMPTS_MAX
REST_S = 600.0  # between voluntary moves


class Reason(Enum):
    """Why a job moves."""

    LOST = "lost"
    DEGRADED = "degraded"
    BETTER_OFFER = "better-offer"
    BEHIND = "behind"  # it would miss its deadline where it is


# Loss.


def is_lost(silent_s: float, failed_contacts: int, lost_after_s: float) -> bool:
    """Lost means silence AND failed direct contacts: one hiccup kills no agreement."""
    return silent_s >= lost_after_s and failed_contacts >= LOST_CONTACTS


# Degradation.


@dataclass(frozen=True, slots=True)
class Throughput:
    """The measured throughput of an agreement. `below_since` is None while it is as sold."""

    at: float
    below_since: float | None = None
    degraded: bool = False


def measure(state: Throughput, now: float, measured_ppm: int) -> Throughput:
    """The state after one measurement, in ppm of the certified throughput.

    Degraded once it stayed below DEGRADED_PPM for WINDOW_S; as sold again at RECOVERED_PPM. A
    measurement older than the last changes nothing.
    """
    if now < state.at:
        return state
    if measured_ppm >= RECOVERED_PPM:
        return Throughput(now)
    if measured_ppm >= DEGRADED_PPM:
        # Better than the threshold ends a spell that has not yet become a degradation.
        return replace(state, at=now, below_since=state.below_since if state.degraded else None)
    since = now if state.below_since is None else state.below_since
    return Throughput(now, since, state.degraded or now - since >= WINDOW_S)


# A better offer.


@dataclass(frozen=True, slots=True)
class Move:
    """What moving would cost and save, in base units and seconds of this job.

    `here` and `there` are base units per second of running (price and value of time); the remaining
    seconds differ with the speed. `lost_s` is work since the last checkpoint, `transfer_s` the time
    to write, pull and start again.
    """

    here: float
    there: float
    remaining_here_s: float
    remaining_there_s: float
    lost_s: float
    transfer_s: float

    @property
    def saving(self) -> float:
        """Base units saved over the remaining work, before the cost of moving."""
        return self.here * self.remaining_here_s - self.there * self.remaining_there_s

    @property
    def cost(self) -> float:
        """Base units that moving itself costs: the lost work done again there, and the waiting."""
        return self.there * (self.lost_s + self.transfer_s)

    @property
    def is_worth_it(self) -> bool:
        """Whether the saving exceeds the cost by the margin."""
        return self.saving > self.cost * MARGIN


@dataclass(frozen=True, slots=True)
class Moves:
    """How often a job has moved of its own will, and when last."""

    count: int = 0
    last_at: float = float("-inf")


def should_move(
    moves: Moves, now: float, *, throughput: Throughput | None = None, better: Move | None = None
) -> Reason | None:
    """Why a job whose provider is not lost should move now; None to stay.

    `better` is the best other place; a degraded provider is left for it when that costs no more
    than staying, without the margin: it is the provider that broke its word.
    """
    if moves.count >= MOVES_MAX or now - moves.last_at < REST_S or better is None:
        return None
    if throughput is not None and throughput.degraded and better.saving > better.cost:
        return Reason.DEGRADED
    return Reason.BETTER_OFFER if better.is_worth_it else None


def moved(moves: Moves, now: float, reason: Reason) -> Moves:
    """The count after a move; recoveries from loss are not counted against the job."""
    return moves if reason is Reason.LOST else Moves(moves.count + 1, now)


def may_recover(attempts: int) -> bool:
    """Whether a job that lost its provider may be matched again."""
    return attempts < ATTEMPTS_MAX


# Deadlines.


class Kind(Enum):
    """What a job with a deadline should run on."""

    CHEAP = "cheap"  # unreliable
    RELIABLE = "reliable"
    NOTHING = "nothing"  # wait for a cheap one


@dataclass(frozen=True, slots=True)
class Progress:
    """A job with a deadline: seconds of work done and in all, of time gone and in all.

    `restart_s` is what one change of place costs.
    """

    done_s: float
    work_s: float
    gone_s: float
    total_s: float
    restart_s: float

    @property
    def slack_s(self) -> float:
        """How long it could still do nothing and finish in time on a reliable place."""
        return (self.total_s - self.gone_s) - (self.work_s - self.done_s)


def uniform_progress(progress: Progress, current: Kind, *, cheap_is_there: bool) -> Kind:
    """Where to run now so that the deadline is met at the least cost.

    Uniform Progress of "Can't Be Late" (Wu et al., NSDI 2024): keep `done(t) >= t * C / R` with C
    the work and R the time; behind the line run reliably, until caught up. On the reliable place
    stay until ahead by two changes (hysteresis). Safety net: with slack for no more than two
    changes, run reliably to the end.
    """
    if progress.done_s >= progress.work_s:
        return Kind.NOTHING
    if progress.slack_s <= 2 * progress.restart_s:
        return Kind.RELIABLE
    line_s = progress.gone_s * progress.work_s / progress.total_s
    ahead_s = progress.done_s - line_s
    if current is Kind.RELIABLE and ahead_s < 2 * progress.restart_s:
        return Kind.RELIABLE
    if cheap_is_there:
        return Kind.CHEAP
    return Kind.RELIABLE if ahead_s < 0 else Kind.NOTHING


def move_between(
    *,
    price_here: int,
    price_there: int,
    units: int,
    value_of_time_per_hour: int,
    remaining_s: float,
    speed_ratio_ppm: int,
    lost_s: float,
    transfer_s: float,
) -> Move:
    """A `Move` from prices per unit-hour and the new place's speed, in ppm of the old one's."""
    rate_here = (price_here * units + value_of_time_per_hour) / HOUR_S
    rate_there = (price_there * units + value_of_time_per_hour) / HOUR_S
    ratio = max(1, speed_ratio_ppm) / PPM
    return Move(
        here=rate_here,
        there=rate_there,
        remaining_here_s=remaining_s,
        remaining_there_s=remaining_s / ratio,
        lost_s=lost_s / ratio,
        transfer_s=transfer_s,
    )
