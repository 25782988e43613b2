"""Images by one bit of their hash: a wrong guess never shows, few of them or many."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from market.book import Book
from market.constraints import misfit
from market.cost import expected_cost
from market.pairs import fitting_pairs
from market.rows import tie
from market.terms import Demand, Offer
from tests.property.strategies import IMAGES, NOW, asking, crowded, peer


def market_of(count: int) -> tuple[Book, list[Offer]]:
    """Offers of which half cache another image with the same bit."""
    random, book, offers = Random(3), Book(block=16), []
    for number in range(count):
        offer = replace(
            crowded(number),
            peer=peer(number % 250),
            offer_id=number.to_bytes(16, "big"),
            cached_images=random.choice(((), (IMAGES[0],), (IMAGES[3],), (IMAGES[3],))),
        )
        book.update(offer.peer, (offer,), 1, b"", NOW)
        offers.append(offer)
    return book, offers


def demand_of(seed: int) -> Demand:
    return replace(asking(seed), image=IMAGES[0], image_bytes=20_000_000_000)


@pytest.mark.parametrize(("count", "k"), [(60, 5), (1500, 5), (1500, 400)])
def test_ranks_as_if_every_hash_was_compared(count: int, k: int) -> None:
    book, offers = market_of(count)
    full = 0
    for seed in range(12):
        demand = demand_of(seed)
        expected = sorted(
            (expected_cost(demand, o, NOW).total, tie(demand, o), o.peer, o.offer_id)
            for o in offers
            if misfit(demand, o, NOW) is None
        )
        full += len(expected) >= k
        assert [found.rank for found in book.top(demand, k, NOW)] == expected[:k]
    assert full >= 3


def test_a_large_batch_compares_every_hash() -> None:
    book, offers = market_of(300)
    demands = [demand_of(seed) for seed in range(40)]
    pairs = fitting_pairs(demands, book, NOW)
    found = {
        (row, book.at(slot).offer_id): int(total)
        for row, slot, total in zip(
            pairs.row.tolist(), pairs.slot.tolist(), pairs.total.tolist(), strict=True
        )
    }
    expected = {
        (row, offer.offer_id): expected_cost(demand, offer, NOW).total
        for row, demand in enumerate(demands)
        for offer in offers
        if misfit(demand, offer, NOW) is None
    }
    assert len(expected) > 3000
    assert found == expected
