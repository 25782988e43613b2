"""Reallocation and reputation: when to move, how often, and who is believed."""

from __future__ import annotations

import pytest

from market.reallocation import (
    MOVES_MAX,
    REST_S,
    WINDOW_S,
    Kind,
    Move,
    Moves,
    Progress,
    Reason,
    Throughput,
    is_lost,
    measure,
    move_between,
    moved,
    should_move,
    uniform_progress,
)
from market.reputation import HALF_LIFE_S, PRIOR_PPM, Outcome, reliability_ppm
from market.units import PPM

NOW = 1_800_000_000.0
GOOD = Move(2.0, 1.0, 3600, 3600, 100, 100)  # saves 3600, costs 200
POOR = Move(1.05, 1.0, 3600, 3600, 100, 100)  # saves 180, costs 200
FAIR = Move(1.08, 1.0, 3600, 3600, 100, 100)  # saves 288, costs 200: not by half


def after(*samples: tuple[float, int]) -> Throughput:
    state = Throughput(0.0)
    for at, ppm in samples:
        state = measure(state, at, ppm)
    return state


def test_loss_takes_silence_and_failed_contacts() -> None:
    assert is_lost(30, 3, 30)
    assert not is_lost(30, 2, 30)
    assert not is_lost(29, 9, 30)


def test_degraded_only_after_the_whole_window() -> None:
    assert not after((0, 600_000), (WINDOW_S - 1, 600_000)).degraded
    assert after((0, 600_000), (WINDOW_S, 600_000)).degraded
    assert not after((0, 600_000), (200, 750_000), (WINDOW_S, 600_000)).degraded


def test_hysteresis_between_seventy_and_eighty_percent() -> None:
    low = [(0, 600_000), (WINDOW_S, 600_000)]
    assert after(*low, (400, 750_000)).degraded
    assert not after(*low, (400, 800_000)).degraded


def test_a_late_measurement_changes_nothing() -> None:
    state = after((0, 600_000), (WINDOW_S, 600_000))
    assert measure(state, 10, PPM) is state


@pytest.mark.parametrize(("move", "is_worth_it"), [(GOOD, True), (POOR, False), (FAIR, False)])
def test_a_better_offer_must_pay_for_the_move_and_half_again(move: Move, is_worth_it: bool) -> None:
    assert move.is_worth_it is is_worth_it
    expected = Reason.BETTER_OFFER if is_worth_it else None
    assert should_move(Moves(), NOW, better=move) is expected


def test_a_degraded_provider_is_left_without_the_margin_but_not_for_a_loss() -> None:
    bad = Throughput(0.0, 0.0, degraded=True)
    assert should_move(Moves(), NOW, throughput=bad, better=FAIR) is Reason.DEGRADED
    assert should_move(Moves(), NOW, throughput=bad, better=POOR) is None
    assert should_move(Moves(), NOW, throughput=bad) is None


def test_moves_are_bounded_and_spaced() -> None:
    once = moved(Moves(), NOW, Reason.BETTER_OFFER)
    assert should_move(once, NOW + REST_S - 1, better=GOOD) is None
    assert should_move(once, NOW + REST_S, better=GOOD) is Reason.BETTER_OFFER
    assert should_move(Moves(MOVES_MAX), NOW, better=GOOD) is None
    assert moved(once, NOW + 1, Reason.LOST) == once


def test_a_faster_place_saves_time_too() -> None:
    move = move_between(
        price_here=1_000_000, price_there=1_500_000, units=2, value_of_time_per_hour=500_000,
        remaining_s=7200, speed_ratio_ppm=2_000_000, lost_s=60, transfer_s=60,
    )  # fmt: skip
    assert move.saving == pytest.approx(2 * 2_500_000 - 3_500_000)
    assert move.cost == pytest.approx(3_500_000 / 3600 * 90)


@pytest.mark.parametrize(
    ("done_s", "gone_s", "current", "cheap_is_there", "expected"),
    [
        (0, 0, Kind.NOTHING, True, Kind.CHEAP),  # on the line: run cheaply
        (500, 900, Kind.CHEAP, False, Kind.NOTHING),  # ahead of 450: wait
        (400, 900, Kind.CHEAP, False, Kind.RELIABLE),  # behind: catch up
        (470, 900, Kind.RELIABLE, True, Kind.RELIABLE),  # ahead by less than two changes: stay
        (500, 900, Kind.RELIABLE, True, Kind.CHEAP),  # caught up
        (0, 985, Kind.CHEAP, True, Kind.RELIABLE),  # no slack left: the safety net
        (1000, 1200, Kind.RELIABLE, True, Kind.NOTHING),  # done
    ],
)
def test_uniform_progress(
    done_s: float, gone_s: float, current: Kind, cheap_is_there: bool, expected: Kind
) -> None:
    progress = Progress(done_s, work_s=1000, gone_s=gone_s, total_s=2000, restart_s=20)
    assert uniform_progress(progress, current, cheap_is_there=cheap_is_there) is expected


@pytest.mark.parametrize("up", [lambda t: True, lambda t: False, lambda t: t // 100 % 3 == 0])
def test_uniform_progress_meets_its_deadline_whatever_is_there(up: object) -> None:
    """Every second: run, lose 20 s per change of place; done in time in each world."""
    done, kind, restart_left = 0.0, Kind.NOTHING, 0.0
    for t in range(2000):
        there = up(t)  # type: ignore[operator]
        now = Kind.NOTHING if kind is Kind.CHEAP and not there else kind
        choice = uniform_progress(Progress(done, 1000, t, 2000, 20), now, cheap_is_there=there)
        if choice is not kind and choice is not Kind.NOTHING:
            restart_left = 20
        kind = choice
        if kind is not Kind.NOTHING:
            done, restart_left = (done, restart_left - 1) if restart_left else (done + 1, 0.0)
    assert done >= 1000


def test_a_newcomer_is_neither_trusted_nor_condemned() -> None:
    assert reliability_ppm([], NOW, usual_money=10**6) == PRIOR_PPM


def test_money_weighs_and_time_forgives() -> None:
    usual = 10**6
    big = [Outcome(int(NOW), 4 * usual, PPM)]
    tiny = [Outcome(int(NOW), usual // 1000, 0)] * 200
    assert reliability_ppm(big + tiny, NOW, usual_money=usual) < 400_000
    old = [Outcome(int(NOW) - 6 * HALF_LIFE_S, 4 * usual, PPM)]
    fresh = reliability_ppm(big, NOW, usual_money=usual)
    assert fresh < reliability_ppm(old, NOW, usual_money=usual) < PRIOR_PPM
