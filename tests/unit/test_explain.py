"""Explain: what each constraint removed, and the nearest relaxation, in words."""

from __future__ import annotations

from dataclasses import replace

from market.constraints import Constraint
from market.explain import explain
from tests.unit.offers import GIB, NOW, demand_of, needing, offer_of


def test_counts_what_each_constraint_removed() -> None:
    offers = [
        offer_of(1),
        offer_of(2, gpu_name="H100"),
        offer_of(3, price=1_100_000),
        offer_of(4, price=1_200_000, gpu_name="H100"),
    ]
    found = explain(demand_of(), offers, NOW)
    assert (found.considered, found.fitting) == (4, 1)
    assert {(r.constraint, r.offers, r.alone) for r in found.removed} == {
        (Constraint.ACCELERATOR, 2, 1),
        (Constraint.PRICE, 2, 1),
    }


def test_says_how_much_more_the_nearest_offers_cost() -> None:
    offers = [offer_of(1, price=1_060_000), offer_of(2, price=1_060_000), offer_of(3, 1_100_000)]
    found = explain(demand_of(), offers, NOW)
    assert [(r.value, r.offers) for r in found.relaxations] == [(1_060_000, 2)]
    assert "2 offers at +0.06/h, 3 at +0.12/h." in found.lines()


def test_says_which_vram_would_do() -> None:
    offers = [offer_of(n, gpu_ram_mib=gib * GIB) for n, gib in enumerate((20, 16, 20, 8), 1)]
    found = explain(needing(vram_mib=24 * GIB), offers, NOW)
    assert [(r.constraints, r.value, r.offers) for r in found.relaxations] == [
        ((Constraint.VRAM,), 20 * GIB, 2)
    ]
    assert found.lines()[-1] == "2 offers with vram >= 20 GiB."


def test_words_for_region_reliability_and_round_trip() -> None:
    offers = [
        offer_of(1, geolocation="JP"),
        offer_of(2, reliability_ppm=985_000),
    ]
    demand = needing(regions=("EU",), min_reliability_ppm=990_000)
    told = str(explain(demand, offers, NOW))
    assert "1 offer outside the named regions, most of them in JP." in told
    assert "1 offer with reliability >= 98.5 %." in told
    far = explain(needing(max_rtt_us=5_000), [offer_of(1)], NOW)
    assert far.lines()[-1] == "1 offer with max_rtt 12 ms."


def test_names_the_pair_where_every_offer_breaks_on_two() -> None:
    offers = [offer_of(n, price=2_000_000, verified=False) for n in (1, 2)]
    found = explain(needing(verified=True), offers, NOW)
    assert found.relaxations[0].constraints == (Constraint.VERIFIED, Constraint.PRICE)
    assert found.lines()[-1] == "2 offers if verified and price were relaxed."


def test_an_empty_book_says_so() -> None:
    assert "No offers are known" in str(explain(demand_of(), [], NOW))


def test_a_gang_is_told_how_many_providers_it_needs() -> None:
    pair = [replace(offer_of(1), offer_id=bytes([n]) * 16) for n in (1, 2)]
    found = explain(demand_of(num_nodes=3), [*pair, offer_of(2)], NOW)
    assert (found.fitting, found.providers, found.nodes) == (3, 2, 3)
    assert found.lines()[1] == "They are of 2 providers; the job needs 3."
    assert "providers" not in str(explain(demand_of(), pair, NOW))
