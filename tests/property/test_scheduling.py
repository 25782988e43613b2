"""What must hold of scheduling for any queue, site and fleet."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from market.backfill import backfill
from market.fleet import Fleet, Machine, Shape
from market.fragmentation import gradient, stranded_milli, usual_mix
from market.placement import PLACEMENTS, Placer
from market.policy import POLICIES, fair, finish, priority
from market.policy.finish import Standing
from market.preemption import victims
from market.simulate.churn import Change, Supply
from market.simulate.jobs import Job
from market.simulate.moving import Reallocation, run_moving
from market.simulate.queueing import run_queue
from market.site import Queued, Running, Site
from market.slots import SLOT_POLICIES, choose_units
from market.units import UnixTime

NOW = UnixTime(5000.0)
NAMES = st.sampled_from([b"a", b"b", b"c", b"d"])


@st.composite
def queues(draw: st.DrawFn) -> tuple[Queued, ...]:
    count = draw(st.integers(0, 12))
    return tuple(
        Queued(
            number.to_bytes(2, "big"),
            draw(NAMES),
            UnixTime(draw(st.integers(0, 5000))),
            draw(st.integers(1, 9)),
            draw(st.integers(1, 500)),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 5)),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([0.0, 5100.0, 5400.0])),
        )
        for number in range(count)
    )


@st.composite
def sites(draw: st.DrawFn) -> Site:
    free, running = list(range(16)), []
    for number in range(draw(st.integers(0, 5))):
        count = min(draw(st.integers(1, 4)), len(free))
        units = sum(1 << free.pop() for _ in range(count))
        running.append(
            Running(
                bytes([number]),
                draw(NAMES),
                units,
                UnixTime(0.0),
                UnixTime(NOW + draw(st.integers(-5, 300))),
                draw(st.integers(0, 5)),
                draw(st.integers(0, 3)),
                draw(st.booleans()),
                draw(st.integers(0, 60)),
            )
        )
    return Site(16, tuple(one for one in running if one.units))


@given(queues(), sites(), st.sampled_from(sorted(POLICIES)), st.randoms())
def test_order_is_the_whole_queue_whatever_its_order(
    queue: tuple[Queued, ...], site: Site, policy: str, random: object
) -> None:
    ordered = POLICIES[policy](queue, site, NOW)
    assert sorted(ordered, key=lambda one: one.demand_id) == list(queue)
    shuffled = list(queue)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert POLICIES[policy](shuffled, site, NOW) == ordered


@given(queues(), st.integers(0, 255))
def test_ageing_lets_nobody_starve(queue: tuple[Queued, ...], level: int) -> None:
    old = Queued(b"old", b"z", UnixTime(0.0), 1, 1.0, priority=0)
    now = UnixTime(NOW + level * priority.AGE_S)
    fresh = [replace(one, arrived_at=now, priority=min(one.priority, level)) for one in queue]
    assert POLICIES["priority"]([*fresh, old], Site(16), now)[0] == old


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.integers(1, 12))
def test_fair_is_envy_free_and_shares_equally(counts: list[int], granted: int) -> None:
    """Equal demands: among requesters that still want more, no one is ahead by more than one.

    So each gets at least an equal part (sharing incentive), and nobody would swap (envy-freeness).
    """
    queue = [
        Queued(bytes([who, number]), bytes([who]), UnixTime(float(number)), 1, 1.0)
        for who, count in enumerate(counts)
        for number in range(count)
    ]
    got = [one.requester[0] for one in fair.order(queue, Site(16), NOW)[:granted]]
    wanting = [who for who, count in enumerate(counts) if got.count(who) < count]
    for who in wanting:
        assert (
            got.count(who) >= max((got.count(other) for other in range(len(counts))), default=0) - 1
        )


@given(st.integers(1, 5), st.integers(1, 5), st.integers(2, 20))
def test_fair_equalises_dominant_shares(cpu: int, memory: int, granted: int) -> None:
    """A wants cores, B memory: after each grant their dominant shares differ by one demand."""
    site = Site(1000, cpu_milli=9000, memory_mib=18_000)
    queue = [
        Queued(
            bytes([who, number]),
            bytes([who]),
            UnixTime(0.0),
            1,
            1.0,
            cpu_milli=cpu * 100 * (1 + 3 * who),
            memory_mib=memory * 100 * (4 - 3 * who),
        )
        for who in (0, 1)
        for number in range(20)
    ]
    held = {b"\x00": [0.0, 0.0, 0.0], b"\x01": [0.0, 0.0, 0.0]}
    largest = 0.0
    for one in fair.order(queue, site, NOW)[:granted]:
        step = (one.units, one.cpu_milli, one.memory_mib)
        held[one.requester] = [a + b for a, b in zip(held[one.requester], step, strict=True)]
        largest = max(largest, fair.dominant_share((*map(float, step),), site))  # type: ignore[arg-type]
    shares = [fair.dominant_share((a, b, c), site) for a, b, c in held.values()]
    assert abs(shares[0] - shares[1]) <= largest + 1e-9


@given(queues(), sites(), st.integers(0, 11))
def test_asking_for_more_never_brings_a_turn_forward(
    queue: tuple[Queued, ...], site: Site, index: int
) -> None:
    """Strategy-proofness: the exaggerator's own demands come no earlier than without."""
    if index >= len(queue):
        return
    liar = queue[index]
    inflated = [replace(one, units=one.units + 4) if one == liar else one for one in queue]
    before = [one.demand_id for one in fair.order(queue, site, NOW)]
    after = [one.demand_id for one in fair.order(inflated, site, NOW)]
    for one in queue:
        if one.requester == liar.requester:
            assert after.index(one.demand_id) >= before.index(one.demand_id)


@given(
    st.lists(
        st.tuples(st.integers(0, 20_000), st.integers(60, 9_000), st.floats(1.5, 6.0)),
        min_size=1,
        max_size=6,
    ),
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, 40_000)), max_size=30),
)
def test_uniform_progress_meets_every_deadline_whatever_comes_and_goes(
    drawn: list[tuple[int, int, float]], flips: list[tuple[int, int]]
) -> None:
    """With units that stay for all, and time for two restarts, no churn makes a job late."""
    there = {0, 1, 2, 3}
    changes = [Change(0.0, unit, up=True) for unit in range(4)]
    for unit, at in sorted(flips, key=lambda one: one[1]):
        changes.append(Change(float(at), unit, up=unit not in there))
        there ^= {unit}
    jobs = [
        Job(
            number,
            "r",
            float(at),
            1,
            float(long),
            float(long),
            9,
            deadline_s=at + patience * long + 400,
        )
        for number, (at, long, patience) in enumerate(drawn)
    ]
    supply = Supply(tuple(changes), 50_000.0)
    run = run_moving(jobs, supply, POLICIES["fcfs"], Reallocation.UNIFORM, units=4, dear=len(jobs))
    assert not run.failed
    for job in jobs:
        assert run.finish_s[job.job_id] <= job.deadline_s
        ran = sum(one.end_s - one.start_s for one in run.spans if one.job_id == job.job_id)
        assert ran >= job.duration_s - 1e-6
    for one in run.spans:
        for other in run.spans:
            if one is not other and one.start_s < other.end_s and other.start_s < one.end_s:
                assert not one.units & other.units


@given(queues(), sites())
def test_backfill_never_delays_the_head(queue: tuple[Queued, ...], site: Site) -> None:
    found = backfill(queue, site, NOW)
    assert sum(one.units for one in found.start) <= site.free
    if found.head is None:
        return
    index = queue.index(found.head)
    passed = [one for one in found.start if queue.index(one) > index]
    before = [one for one in found.start if queue.index(one) < index]
    ends = [(max(one.ends_at, NOW), one.unit_count) for one in site.running]
    ends += [(NOW + one.estimate_s, one.units) for one in before]
    alone = earliest(found.head.units, site.free - sum(one.units for one in before), ends)
    ends += [(NOW + one.estimate_s, one.units) for one in passed]
    beside = earliest(found.head.units, site.free - sum(one.units for one in found.start), ends)
    assert alone == beside == found.reserved_at


def earliest(units: int, free: int, ends: list[tuple[float, int]]) -> float:
    times = sorted({at for at, _ in ends})
    return next(at for at in times if free + sum(n for end, n in ends if end <= at) >= units)


@given(queues(), sites())
def test_victims_suffice_and_none_is_superfluous(queue: tuple[Queued, ...], site: Site) -> None:
    for head in queue:
        chosen = victims(head, site, NOW, UnixTime(NOW + 300))
        assert all(one.preemptible and one.priority <= head.priority for one in chosen)
        if chosen:
            room = site.free + sum(one.unit_count for one in chosen)
            assert room >= head.units
            assert all(room - one.unit_count < head.units for one in chosen)


@given(
    st.integers(0, 2**40 - 1),
    st.integers(1, 40),
    st.integers(1, 12),
    st.sampled_from([4, 8]),
    st.sampled_from(sorted(SLOT_POLICIES)),
)
def test_chosen_slots_are_free_and_whole(
    taken: int, total: int, count: int, group: int, policy: str
) -> None:
    chosen = choose_units(taken, total, count, group=group, policy=policy)
    free = ((1 << total) - 1) & ~taken
    if free.bit_count() < count:
        assert chosen == 0
        return
    assert chosen.bit_count() == count
    assert chosen & ~free == 0
    groups = [(free >> start) & ((1 << group) - 1) for start in range(0, total, group)]
    if any(one.bit_count() >= count for one in groups):
        parts = [(chosen >> start) & ((1 << group) - 1) for start in range(0, total, group)]
        assert sum(1 for one in parts if one) == 1


SHAPES = (
    Shape(4000, 0, 1),
    Shape(3000, 0, 1, 500),
    Shape(2000, 0, 1, 310, ("T4",)),
    Shape(9000, 0, 2),
    Shape(5000, 0, 0, 0),
)


@given(
    st.lists(st.tuples(st.sampled_from(SHAPES), st.booleans()), max_size=25),
    st.sampled_from(sorted(set(PLACEMENTS) - {"random"})),
)
def test_cached_scores_are_as_good_as_fresh_ones(
    steps: list[tuple[Shape, bool]], policy: str
) -> None:
    machines = [Machine("a", 16_000, 1, 2, "T4"), Machine("b", 24_000, 1, 4, "G2")] * 2
    fleet = Fleet(machines)
    mix = usual_mix(SHAPES, fleet, 1.0)
    cached = Placer(fleet, PLACEMENTS[policy], mix)
    placed = []
    for shape, leaves in steps:
        assert cached.best(shape) == Placer(fleet, PLACEMENTS[policy], mix).best(shape)
        new = cached.place(shape)
        if new is not None:
            placed.append(new)
        if leaves and placed:
            cached.free(placed.pop(0))
    held = sum(one.shape.gpu_milli for one in placed)
    assert fleet.allocated_milli == held == fleet.capacity_milli - int(fleet.gpu_left.sum())


@given(st.lists(st.sampled_from(SHAPES), max_size=8), st.sampled_from(SHAPES))
def test_the_gradient_is_the_difference_it_makes(before: list[Shape], shape: Shape) -> None:
    fleet = Fleet([Machine("a", 32_000, 1, 4, "T4"), Machine("b", 24_000, 1, 4, "G2")])
    mix = usual_mix(SHAPES, fleet, 1.0)
    one = Placer(fleet, PLACEMENTS["pack"], mix)
    for each in before:
        one.place(each)
    rows = np.flatnonzero(fleet.fits(shape))
    for row in rows:
        gain, unit = gradient(mix, fleet, shape, np.array([row]))
        now = stranded_milli(mix, fleet.cpu_left, fleet.gpu_left, fleet.model)[row]
        placed = fleet.take(shape, int(row), int(unit[0]))
        then = stranded_milli(mix, fleet.cpu_left, fleet.gpu_left, fleet.model)[row]
        fleet.free(placed)
        assert abs(gain[0] - (now - then)) < 1e-6


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 500)), min_size=1, max_size=9))
def test_a_round_fits_and_wastes_nothing(jobs: list[tuple[int, int]]) -> None:
    standing = [
        Standing(number, "r", 0.0, units, 100.0 + left, float(left), len(jobs))
        for number, (units, left) in enumerate(jobs)
    ]
    chosen = finish.plan(standing, 4, 50.0)
    used = sum(standing[one].units for one in chosen)
    assert used <= 4
    assert all(one.job_id in chosen or one.units > 4 - used for one in standing)


@given(
    st.floats(1, 1e6),
    st.floats(0, 1e7),
    st.floats(0.05, 0.9),
    st.floats(0, 0.09),
    st.floats(0, 1e5),
)
def test_what_is_left_grows_with_caution_and_never_ends(
    declared: float, ran: float, quantile: float, more: float, longer: float
) -> None:
    left = finish.left_s(declared, ran, quantile)
    assert 0 < left < float("inf")
    assert left <= finish.left_s(declared, ran, quantile + more) * (1 + 1e-9)
    # Having run longer never makes the whole job shorter.
    assert ran + left <= (ran + longer + finish.left_s(declared, ran + longer, quantile)) * 1.001


@given(
    st.lists(
        st.tuples(st.integers(0, 300), st.integers(1, 9), st.integers(1, 200)),
        min_size=1,
        max_size=15,
    ),
    st.sampled_from(sorted(POLICIES)),
    st.booleans(),
)
def test_simulated_jobs_all_run_and_never_share_a_unit(
    drawn: list[tuple[int, int, int]], policy: str, preempt: bool
) -> None:
    jobs = [
        Job(
            number,
            "r",
            float(at),
            units,
            float(long),
            long * 1.3,
            number % 3,
            1,
            number % 2,
            0.0,
            True,
        )
        for number, (at, units, long) in enumerate(drawn)
    ]
    run = run_queue(jobs, 8, POLICIES[policy], group=4, preempt=preempt)
    assert set(run.finish_s) == {job.job_id for job in jobs if job.units <= 8}
    assert run.refused == sum(1 for job in jobs if job.units > 8)
    for job in run.jobs:
        ran = sum(one.end_s - one.start_s for one in run.spans if one.job_id == job.job_id)
        assert ran >= job.duration_s - 1e-6
        assert run.first_start_s[job.job_id] >= job.arrival_s
    for one in run.spans:
        for other in run.spans:
            if one is not other and one.start_s < other.end_s and other.start_s < one.end_s:
                assert not one.units & other.units
