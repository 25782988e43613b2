"""Batches: optimal where greed is not, as many matched as possible, nothing given away twice."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from market.assignment import Assigned, assign, book_of, greedy
from market.constraints import misfit
from market.cost import expected_cost
from market.terms import Accelerator
from tests.bench import samples
from tests.bench.market import optimum_of
from tests.unit.offers import NOW, demand_of, needing, offer_of


def test_the_batch_spares_the_offer_that_only_one_can_use() -> None:
    """The picky demand needs the cheap offer; greed takes it away for a small saving."""
    book = book_of([offer_of(1, 500_000, num_gpus=1), offer_of(2, 510_000, num_gpus=1)], NOW)
    easy, picky = demand_of(1), demand_of(2, max_price_per_hour=505_000)
    assert [d.demand_id for d in greedy([easy, picky], book, NOW).unmatched] == [picky.demand_id]
    both = assign([easy, picky], book, NOW)
    assert [m.offer.price_per_hour for m in both.matches] == [510_000, 500_000]


def test_one_offer_serves_as_many_as_it_has_units() -> None:
    book = book_of([offer_of(1, num_gpus=3), offer_of(2, price=900_000, num_gpus=4)], NOW)
    batch = [needing({"RTX4090": 1}) for _ in range(4)]
    batch = [replace(d, demand_id=bytes([n]) * 16) for n, d in enumerate(batch)]
    found = assign(batch, book, NOW)
    assert Counter(m.offer.price_per_hour for m in found.matches) == {600_000: 3, 900_000: 1}
    spread = assign(batch, book, NOW, one_each=True)
    assert (len(spread.matches), len(spread.unmatched)) == (2, 2)


def units_used(found: Assigned) -> Counter[tuple[bytes, bytes]]:
    used: Counter[tuple[bytes, bytes]] = Counter()
    for match in found.matches:
        used[match.offer.peer, match.offer.offer_id] += match.units
    return used


def test_equals_the_optimum_and_never_oversells() -> None:
    random = Random(11)
    offers = [samples.offer(n, random) for n in range(200)]
    demands = [samples.demand(n, random) for n in range(40)]
    book = book_of(offers, samples.NOW)
    matrix = np.full((len(demands), len(offers) + len(demands)), 1e15)
    for row, demand in enumerate(demands):
        for column, offer in enumerate(offers):
            if misfit(demand, offer, samples.NOW) is None:
                matrix[row, column] = expected_cost(demand, offer, samples.NOW).total
    rows, columns = linear_sum_assignment(matrix)
    chosen = matrix[rows, columns]
    optimum = int(chosen[chosen < 1e15].sum())
    found = assign(demands, book, samples.NOW, one_each=True)
    assert (len(found.matches), found.total) == (int((chosen < 1e15).sum()), optimum)
    shared = assign(demands, book, samples.NOW)
    assert len(shared.matches) >= len(found.matches)
    for result in (found, shared, greedy(demands, book, samples.NOW)):
        for (peer, offer_id), units in units_used(result).items():
            offer = book.get(peer, offer_id)
            assert offer is not None
            assert units <= offer.num_gpus


def test_the_order_of_demands_does_not_matter_to_a_batch() -> None:
    random = Random(5)
    book = book_of([samples.offer(n, random) for n in range(100)], samples.NOW)
    demands = [samples.demand(n, random) for n in range(30)]
    assert assign(demands, book, samples.NOW) == assign(demands[::-1], book, samples.NOW)


@pytest.mark.parametrize("cells", [0, 4_000_000])
def test_lists_grow_where_all_want_the_same(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """Sixty want one model; with lists of four, most would come away empty-handed."""
    monkeypatch.setattr("market.assignment.PAIRS_MAX", 100)
    monkeypatch.setattr("market.assignment.LIST_MAX", 4)
    monkeypatch.setattr("market.assignment.CELLS_MAX", cells)
    random = Random(8)
    offers = [samples.offer(n, random) for n in range(120)]
    offers = [replace(o, gpu_name="RTX 4090", gpu_ram_mib=81_920) for o in offers]
    demands = [samples.demand(n, random) for n in range(60)]
    wanted = (Accelerator("RTX 4090", 1),)
    demands = [
        replace(
            d,
            requirements=replace(d.requirements, accelerators=wanted),
            max_price_per_hour=10_000_000,
        )
        for d in demands
    ]
    book = book_of(offers, samples.NOW)
    optimum, matched = optimum_of(demands, book)
    found = assign(demands, book, samples.NOW, one_each=True)
    assert len(found.matches) == matched > 50
    assert found.total <= optimum * 1.02
