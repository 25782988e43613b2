"""Units that come and go: the logs, and what each reallocation rule makes of them."""

from __future__ import annotations

from itertools import islice, pairwise
from random import Random

import pytest

from market.errors import SpecError
from market.policy import POLICIES
from market.reallocation import MOVES_MAX
from market.simulate.churn import Change, Supply, read_churn
from market.simulate.jobs import Job, generated
from market.simulate.metrics import of_queue
from market.simulate.moving import CHECKPOINT_S, NOTICED_S, RESTART_S, Reallocation, run_moving
from market.simulate.queueing import QueueRun

NODES = "0,add,a\n0,add,b\n5000,remove,a\n6000,add,c\n9000,remove,b\n"
COUNTS = "2021-12-11, 11:00:00, 2\n2021-12-11, 11:01:00, 1\n2021-12-11, 11:02:00, 3\n"


def test_a_new_node_takes_the_lowest_free_unit() -> None:
    assert read_churn(NODES).changes == (
        Change(0.0, 0, up=True),
        Change(0.0, 1, up=True),
        Change(5.0, 0, up=False),
        Change(6.0, 0, up=True),
        Change(9.0, 1, up=False),
    )


def test_counts_become_units() -> None:
    supply = read_churn(COUNTS)
    assert (supply.units, supply.length_s) == (3, 120.0)
    assert [(one.at_s, one.unit, one.up) for one in supply.changes[2:]] == [
        (60.0, 0, False),
        (120.0, 0, True),
        (120.0, 2, True),
    ]


@pytest.mark.parametrize("text", [NODES, COUNTS, "480000,add,a\n490000,remove,a\n"])
def test_a_log_without_end_only_says_what_changes(text: str) -> None:
    there: set[int] = set()
    last = 0.0
    for change in islice(read_churn(text).endless(), 40):
        assert change.at_s >= last
        assert (change.unit in there) != change.up
        (there.add if change.up else there.remove)(change.unit)
        last = change.at_s


def test_a_log_in_which_nothing_changes_ends() -> None:
    assert len(list(read_churn("0,add,a\n").endless())) == 1


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("x", "line 1"),
        ("0,add,a\nnan,add,b", "line 2"),
        ("0,add,a\n-5,remove,a", "line 2"),
        ("0,add,a\n0,add,a", "a second time"),
        ("0,remove,a", "not there"),
        ("2021-12-11, 11:00:00, 2\n2021-13-11, 11:00:00, 2", "line 2"),
        ("2021-12-11, 11:00:00, 999999", "line 1"),
        ("2021-12-11, 11:00:00, 0", "no machine ever comes"),
    ],
)
def test_a_broken_log_is_said_to_be_broken(text: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        read_churn(text)


def one_job(duration_s: float, deadline_s: float = 0.0, units: int = 1) -> Job:
    return Job(0, "r", 0.0, units, duration_s, duration_s, 3_600_000, 0, 0, deadline_s)


def drops(*times: float, back_s: float = 100.0) -> Supply:
    """One unit that goes at these times and is back a little later."""
    changes = [Change(0.0, 0, up=True)]
    for at in times:
        changes += [Change(at, 0, up=False), Change(at + back_s, 0, up=True)]
    return Supply(tuple(changes), 1e9)


def moving(rule: Reallocation, supply: Supply, *jobs: Job, dear: int = 1) -> QueueRun:
    return run_moving(jobs, supply, POLICIES["fcfs"], rule, units=8, dear=dear)


def test_what_a_lost_unit_costs_by_rule() -> None:
    """Lost after 1,500 s: two checkpoints are there, 300 s are lost, or all of it."""
    job, supply = one_job(3000.0), drops(1500.0)
    kept = 2 * CHECKPOINT_S
    recover = moving(Reallocation.RECOVER, supply, job)
    assert recover.lost_unit_s == 300.0
    assert recover.finish_s[0] == 1600.0 + RESTART_S + 3000.0 - kept
    restart = moving(Reallocation.RESTART, supply, job)
    assert restart.lost_unit_s == 1500.0
    assert restart.finish_s[0] == 1600.0 + RESTART_S + 3000.0
    # On units that stay it goes on as soon as the loss is noticed.
    better = moving(Reallocation.BETTER, drops(1500.0, back_s=1e6), job)
    assert better.finish_s[0] == 1500.0 + NOTICED_S + RESTART_S + 3000.0 - kept
    assert moving(Reallocation.RELIABLE, supply, job).finish_s[0] == 3000.0
    assert [one.preemptions for one in (recover, restart, better)] == [1, 1, 1]


def test_cheap_units_cost_less_and_waste_is_paid() -> None:
    job, supply = one_job(3600.0), drops()
    cost = {
        rule: of_queue("", moving(rule, supply, job)).cost
        for rule in (Reallocation.RECOVER, Reallocation.RELIABLE)
    }
    assert cost == {Reallocation.RECOVER: 1_440_000, Reallocation.RELIABLE: 3_600_000}
    wasted = of_queue("", moving(Reallocation.RECOVER, drops(500.0), job)).cost
    assert wasted == int(1000 * 0.4 * (500 + RESTART_S + 3600))


def test_uniform_progress_saves_the_deadline_that_recovery_misses() -> None:
    job, supply = one_job(3000.0, deadline_s=6000.0), drops(1500.0, back_s=50_000.0)
    late = moving(Reallocation.RECOVER, supply, job)
    safe = moving(Reallocation.UNIFORM, supply, job)
    assert late.finish_s[0] > 6000.0 >= safe.finish_s[0]
    assert of_queue("", safe).slo_pct == 100.0
    # And it is cheaper than never to have tried the cheap unit.
    dear = of_queue("", moving(Reallocation.RELIABLE, supply, job)).cost
    assert of_queue("", safe).cost < dear


def test_a_job_that_always_loses_its_unit_fails_or_is_saved() -> None:
    supply = drops(*[float(at) for at in range(300, 40_000, 400)])
    job = one_job(2000.0, deadline_s=90_000.0)
    given_up = moving(Reallocation.RECOVER, supply, job, dear=1)
    assert (given_up.jobs, given_up.failed) == ((), (job,))
    assert of_queue("", given_up).slo_pct == 0.0
    saved = moving(Reallocation.BETTER, supply, job)
    assert [one.job_id for one in saved.jobs] == [0]


def test_voluntary_moves_are_bounded() -> None:
    supply = drops(*[float(at) for at in range(700, 90_000, 1400)], back_s=600.0)
    job = one_job(40_000.0)
    run = moving(Reallocation.BETTER, supply, job)
    spans = sorted(run.spans, key=lambda span: span.start_s)
    back = sum(1 for before, after in pairwise(spans) if before.price_ppm > after.price_ppm)
    assert 1 <= back <= MOVES_MAX


def test_wider_than_its_rule_may_use_is_refused() -> None:
    wide = one_job(100.0, units=2)
    assert moving(Reallocation.RECOVER, drops(), wide, dear=4).refused == 1
    assert moving(Reallocation.BETTER, drops(), wide, dear=4).finish_s == {0: 100.0}


def test_every_rule_differs_from_another_on_one_market() -> None:
    log = "".join(f"0,add,n{n}\n" for n in range(8)) + "".join(
        f"{(600 + 700 * turn) * 1000},remove,n{turn}\n{(900 + 700 * turn) * 1000},add,n{turn + 8}\n"
        for turn in range(60)
    )
    supply, jobs = read_churn(log), generated(40, 8, Random(2))
    found = {
        rule: of_queue("", run_moving(jobs, supply, POLICIES["fcfs"], rule, units=8, dear=8))
        for rule in Reallocation
    }
    assert len({repr(one) for one in found.values()}) == len(Reallocation)
    assert found[Reallocation.RESTART].lost_gpu_h > found[Reallocation.RECOVER].lost_gpu_h > 0
    assert found[Reallocation.RELIABLE].cost > found[Reallocation.UNIFORM].cost
    again = run_moving(jobs, supply, POLICIES["fcfs"], Reallocation.UNIFORM, units=8, dear=8)
    assert of_queue("", again) == found[Reallocation.UNIFORM]
