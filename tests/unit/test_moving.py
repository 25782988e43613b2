"""Moving: a job's numbers in reallocation's words, and how fast it gets on. expected == actual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from market.agreement import Agreement
from market.cost import Cost
from market.job import Attempt, Job
from market.moving import done_s, kind_wanted, move_to, why_leave
from market.progress import Meter, left_s, sample, slowdown
from market.reallocation import MOVES_MAX, REST_S, Kind, Reason
from market.units import UnixTime
from tests.samples import AGREEMENT_ID, OTHER, START_S, artifact, demand, job, running_requester

NOW = UnixTime(START_S + 100)
ASKED = replace(demand(), max_duration_s=3000, estimate_s=1000)


def meter(*said: tuple[float, int], run_s: int = 0, since: Meter | None = None) -> Meter:
    """After these (seconds, ppm done) under one agreement."""
    value = since or Meter()
    for at_s, done_ppm in said:
        value = sample(value, AGREEMENT_ID, int(at_s * 1000), done_ppm, run_s)
    return value


# How fast it gets on.


def test_a_job_that_says_nothing_is_not_measured() -> None:
    value = Meter()
    assert sample(value, AGREEMENT_ID, 1000, 0, 100) is value
    assert left_s(value, AGREEMENT_ID) is None


def test_a_sample_takes_its_time() -> None:
    begun = meter((1000, 100_000))
    assert sample(begun, AGREEMENT_ID, 1_029_999, 200_000, 0) is begun
    done = meter((1000, 100_000), (1030, 200_000))
    assert done.rate == 100_000 * 3600 // 30
    assert left_s(done, AGREEMENT_ID) == pytest.approx(800_000 / done.rate * 3600)
    assert left_s(done, OTHER) is None


def test_slower_than_estimated_for_a_whole_window_is_degraded() -> None:
    # All of it in 1000 s is 1000 ppm a second; it does 600.
    steps = [(1000 + 30 * n, 1 + 18_000 * n) for n in range(14)]
    early, late = meter(*steps[:11], run_s=1000), meter(*steps[:12], run_s=1000)
    assert (early.degraded, late.degraded) == (False, True)
    assert slowdown(early, AGREEMENT_ID) == 1
    assert slowdown(late, AGREEMENT_ID) == pytest.approx(1 / 0.6, rel=1e-3)
    sound = [(1000 + 30 * n, 1 + 22_000 * n) for n in range(14)]
    assert not meter(*sound, run_s=1000).degraded


def test_without_an_estimate_it_is_compared_with_its_own_best() -> None:
    quick = [(1000 + 30 * n, 1 + 30_000 * n) for n in range(3)]
    slow = [(1060 + 30 * n, 60_001 + 15_000 * n) for n in range(1, 13)]
    assert meter(*quick, *slow).degraded
    assert not meter(*quick, *slow[:8]).degraded


def test_an_estimate_that_the_first_place_could_not_keep_does_not_blame_the_second() -> None:
    slow = [(1000 + 30 * n, 1 + 15_000 * n) for n in range(13)]
    first = meter(*slow, run_s=1000)
    assert first.degraded
    value = first
    for n in range(13):
        value = sample(value, OTHER, 2_000_000 + 30_000 * n, 200_000 + 15_000 * n, 1000)
    assert (value.agreement, value.proven_ppm, value.degraded) == (OTHER, 500_000, False)


# Whether to leave.


def placed(**changes: Any) -> Job:
    value = replace(
        job(), gang=(AGREEMENT_ID,), attempts=(Attempt((AGREEMENT_ID,), run_s=1000),),
        checkpoint=artifact("/ckpt"),
    )  # fmt: skip
    bid = replace(
        value.bid, value_of_time_per_hour=0, max_duration_s=3000, estimate_s=1000
    )  # fmt: skip
    return replace(value, bid=bid, **changes)


def cost(run_s: float, setup_s: float = 10) -> Cost:
    return Cost(0, 0, 0, 0, 1, 0.0, 0.0, 0.0, run_s, run_s + setup_s)


def here(metered_s: int = 100) -> Agreement:
    return running_requester(metered_s=metered_s)


def test_price_speed_and_what_is_lost_are_weighed() -> None:
    move = move_to(placed(), here(), ASKED, cost(500), 1800)
    assert (move.here, move.there) == (1.0, 0.5)
    assert (move.remaining_here_s, move.remaining_there_s) == (900, 450)
    assert (move.lost_s, move.transfer_s) == (5, 10)
    bare = move_to(replace(placed(), checkpoint=None), here(), ASKED, cost(1000), 1800)
    assert bare.lost_s == 100, "without a checkpoint all of it is done again"


@pytest.mark.parametrize(
    ("price", "reason"), [(1800, Reason.BETTER_OFFER), (3500, None), (7200, None)]
)
def test_only_what_pays_for_itself_and_half_more(price: int, reason: Reason | None) -> None:
    assert why_leave(placed(), here(), NOW, ASKED, cost(1000), price) is reason


def test_a_guess_of_the_work_is_not_trusted_beyond_what_is_paid_for() -> None:
    short = placed()
    short = replace(short, bid=replace(short.bid, max_duration_s=300))
    assert move_to(short, here(), ASKED, cost(1000), 1800).remaining_here_s == 200


def test_nobody_moves_on_a_guess() -> None:
    blind = placed()
    blind = replace(blind, bid=replace(blind.bid, estimate_s=0))
    assert why_leave(blind, here(), NOW, ASKED, cost(1000), 1) is None
    told = replace(blind, meter=Meter(AGREEMENT_ID, 1, 400_000, rate=3_600_000))
    assert why_leave(told, here(), NOW, ASKED, cost(1000), 1) is Reason.BETTER_OFFER


def test_a_moved_job_rests_and_its_moves_are_counted() -> None:
    moved = placed(moves=1, move_at_ms=int(NOW * 1000))
    soon, later = UnixTime(NOW + REST_S - 1), UnixTime(NOW + REST_S)
    assert why_leave(moved, here(), soon, ASKED, cost(1000), 1) is None
    assert why_leave(moved, here(), later, ASKED, cost(1000), 1) is Reason.BETTER_OFFER
    tired = replace(moved, moves=MOVES_MAX)
    assert why_leave(tired, here(), later, ASKED, cost(1000), 1) is None


def test_a_degraded_provider_is_left_without_the_margin() -> None:
    slow = Meter(AGREEMENT_ID, int(NOW * 1000), 400_000, rate=1_800_000, best=1_800_000,
                 reference=3_600_000, below_since_ms=1, degraded=True)  # fmt: skip
    value = placed(meter=slow)
    # Left: 1200 s at half the speed; there 600 s at 1.9 of the price: hardly a saving.
    assert why_leave(value, here(), NOW, ASKED, cost(1000), 6840) is Reason.DEGRADED
    assert why_leave(value, here(), NOW, ASKED, cost(1000), 7200) is None
    sound = replace(slow, degraded=False)
    assert why_leave(placed(meter=sound), here(), NOW, ASKED, cost(1000), 6840) is None


# Deadlines.


def test_what_is_done_is_what_the_job_says_else_how_long_it_ran() -> None:
    value = replace(job(), used_s=50)
    assert done_s(value, 100) == 150
    assert done_s(value, 900) == 300, "no more than all of the work"
    assert done_s(replace(value, meter=Meter(done_ppm=500_000)), 100) == 150


@pytest.mark.parametrize(
    ("preemptible", "deadline_s", "used_s", "cheap", "kind"),
    [
        (False, 1000, 0, True, Kind.RELIABLE),
        (True, 0, 0, True, Kind.CHEAP),
        (True, 1000, 90, True, Kind.CHEAP),
        (True, 1000, 90, False, Kind.NOTHING),
        (True, 1000, 0, False, Kind.RELIABLE),
        (True, 380, 0, True, Kind.RELIABLE),
    ],
    ids=["firm", "no deadline", "ahead", "ahead, none there", "behind", "no slack"],
)
def test_uniform_progress_chooses_the_kind(
    preemptible: bool, deadline_s: int, used_s: int, cheap: bool, kind: Kind
) -> None:
    deadline = START_S + deadline_s if deadline_s else 0
    bid = replace(job().bid, preemptible=preemptible, deadline_at_s=deadline)
    value = replace(job(), bid=bid, used_s=used_s)
    assert kind_wanted(value, 0, NOW, cheap_is_there=cheap) is kind
