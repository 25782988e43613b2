"""Placement: each policy has a fleet on which it chooses otherwise than another."""

from __future__ import annotations

import numpy as np
import pytest

from market.defrag import Mover
from market.errors import LimitError
from market.fleet import Fleet, Machine, Shape
from market.fragmentation import stranded_milli, usual_mix
from market.placement import PLACEMENTS, Placer

WHOLE = Shape(4000, 1000, 1)
HALF = Shape(4000, 1000, 1, 500)
PAIR = Shape(8000, 1000, 2)
CORES = Shape(8000, 1000, 0, 0)


def machine(name: str, units: int = 2, cpu: int = 32_000, model: str = "G2") -> Machine:
    return Machine(name, cpu, 64_000, units, model)


def placer(policy: str, fleet: Fleet, usual: tuple[Shape, ...] = (WHOLE,)) -> Placer:
    generator = np.random.default_rng(1) if policy == "random" else None
    return Placer(fleet, PLACEMENTS[policy], usual_mix(usual, fleet, 1.0), generator)


def chosen(policy: str, fleet: Fleet, shape: Shape, usual: tuple[Shape, ...] = (WHOLE,)) -> int:
    placed = placer(policy, fleet, usual).place(shape)
    assert placed is not None
    return placed.machine


def partly_used() -> Fleet:
    """Machine 0 idle, 1 with half a unit left on one, 2 with one unit taken."""
    fleet = Fleet([machine("a"), machine("b"), machine("c", 4)])
    fleet.take(HALF, 1)
    fleet.take(WHOLE, 2)
    return fleet


def test_pack_fills_used_units_and_spread_avoids_them() -> None:
    assert chosen("pack", partly_used(), HALF) == 1
    assert chosen("spread", partly_used(), HALF) == 0


def test_bestfit_leaves_the_least() -> None:
    fleet = Fleet([machine("a", 8, 96_000), machine("b", 4, 96_000), machine("c", 8, 96_000)])
    assert chosen("bestfit", fleet, WHOLE) == 1
    assert chosen("spread", fleet, WHOLE) == 0


def widths() -> Fleet:
    fleet = Fleet([machine("a", 4), machine("b", 4)])
    fleet.take(WHOLE, 0)
    fleet.take(PAIR, 1)
    return fleet


def test_clustering_keeps_widths_together() -> None:
    assert chosen("clustering", widths(), PAIR) == 1
    assert chosen("clustering", widths(), WHOLE) == 0
    assert chosen("bestfit", widths(), WHOLE) == 1


def test_dotprod_wants_the_emptiest_product_least() -> None:
    fleet = Fleet([machine("a", 8, 64_000), machine("b", 2, 16_000)])
    assert chosen("dotprod", fleet, WHOLE) == 1
    assert chosen("spread", fleet, WHOLE) == 0


def test_fgd_uses_up_what_nobody_else_can() -> None:
    # b has half a unit that only halves can use; the usual job wants a whole one.
    fleet = Fleet([machine("a", 1), machine("b", 1)])
    fleet.take(HALF, 1)
    assert chosen("fgd", fleet, HALF, (WHOLE, WHOLE, HALF)) == 1
    assert chosen("spread", fleet, HALF, (WHOLE, WHOLE, HALF)) == 0


def test_balanced_sends_cores_where_they_are_to_spare() -> None:
    # Both host it and strand nothing yet, so fgd sees a tie; a has just the cores for its GPUs.
    fleet = Fleet([machine("a", 8, 32_000), machine("b", 8, 96_000)])
    assert chosen("fgd", fleet, CORES) == 0
    assert chosen("balanced", fleet, CORES) == 1


def test_random_is_by_its_generator() -> None:
    fleet = Fleet([machine(str(number)) for number in range(50)])
    one = placer("random", fleet)
    rows = {found[0] for found in (one.best(WHOLE) for _ in range(20)) if found}
    assert len(rows) > 10


def test_ties_fall_to_the_lowest_rank() -> None:
    for policy in PLACEMENTS:
        if policy != "random":
            assert chosen(policy, Fleet([machine("b"), machine("a")]), WHOLE) == 0


def test_models_cores_and_memory_are_hard() -> None:
    fleet = Fleet([machine("a", model="T4"), machine("b", cpu=1000), machine("c", model="G3")])
    assert list(fleet.fits(Shape(4000, 1000, 1, models=("G2", "G3")))) == [False, False, True]
    assert not fleet.fits(Shape(0, 65_000, 0, 0)).any()
    assert placer("fgd", fleet).place(Shape(0, 0, 3)) is None


def test_stranded_is_what_the_usual_mix_cannot_use() -> None:
    fleet = Fleet([machine("a", 2)])
    mix = usual_mix([WHOLE, HALF, HALF, CORES], fleet, 1.0)
    model = np.array([0])
    left = np.array([[1000, 400]])
    # whole: 400 left over; half: 400 twice; cores want no GPU, so all 1,400.
    found = stranded_milli(mix, np.array([32_000]), left, model)
    assert found[0] == pytest.approx(0.25 * 400 + 0.5 * 400 + 0.25 * 1400)
    assert stranded_milli(mix, np.array([0]), left, model)[0] == pytest.approx(1400)


def test_a_unit_is_never_sold_twice() -> None:
    fleet = Fleet([machine("a", 1)])
    placed = fleet.take(WHOLE, 0)
    with pytest.raises(AssertionError, match="does not fit"):
        fleet.take(WHOLE, 0)
    fleet.free(placed)
    with pytest.raises(AssertionError, match="never sold twice"):
        fleet.free(placed)


def test_fleets_are_bounded() -> None:
    with pytest.raises(LimitError, match="17 units"):
        Fleet([machine("a", 17)])


def test_a_full_log_of_changes_costs_time_not_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("market.placement.LOG_MAX", 3)
    one = placer("pack", Fleet([machine("a", 4, 96_000), machine("b", 4, 96_000)]))
    rows = [placed.machine for placed in (one.place(WHOLE) for _ in range(8)) if placed]
    assert rows == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (one.place(WHOLE), one.changes) == (None, 8)


def test_one_move_makes_room() -> None:
    fleet = Fleet([machine("a", 2, 16_000), machine("b", 2, 64_000)])
    one = placer("pack", fleet)
    mover = Mover(one)
    for row in (0, 1):
        mover.add(one.put(WHOLE, row))
    assert one.place(PAIR) is None
    found = mover.make_room(PAIR)
    assert found is not None
    assert mover.moves == 1
    assert sorted(int(left) for left in fleet.gpu_left.sum(axis=1)) == [0, 0]
    assert len({(one.machine, unit) for one in mover.placed for unit in one.units}) == 4


def test_no_move_helps_where_nothing_fits_elsewhere() -> None:
    fleet = Fleet([machine("a", 1), machine("b", 1)])
    one = placer("pack", fleet)
    mover = Mover(one)
    for row in (0, 1):
        mover.add(one.put(HALF, row))
    mover.add(one.put(HALF, 0))
    before = fleet.gpu_left.copy()
    assert mover.make_room(PAIR) is None
    assert (fleet.gpu_left == before).all()
    assert mover.moves == 0
