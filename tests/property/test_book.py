"""The book equals a full scan, in any order of arrival, after any history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from market.book import Book
from market.constraints import misfit
from market.cost import expected_cost
from market.pairs import fitting_pairs
from market.rows import tie
from market.terms import Demand, Offer
from tests.property.strategies import NOW, demands, measured, offers

Rank = tuple[int, int, bytes, bytes]


def full_scan(
    demand: Demand, live: Sequence[Offer], rtt_us: Mapping[bytes, int] | None
) -> list[Rank]:
    """What the book should say, one offer at a time."""
    met = rtt_us or {}
    return sorted(
        (
            expected_cost(demand, offer, NOW, rtt_us=met.get(offer.peer)).total,
            tie(demand, offer),
            offer.peer,
            offer.offer_id,
        )
        for offer in live
        if misfit(demand, offer, NOW, met.get(offer.peer)) is None
    )


def newest(said: Sequence[Offer]) -> dict[tuple[bytes, bytes], Offer]:
    """The last word on each offer."""
    return {(offer.peer, offer.offer_id): offer for offer in said}


def filled(said: Sequence[Offer], block: int = 2) -> Book:
    """A book that heard these offers in this order."""
    book = Book(block=block)
    for sequence, offer in enumerate(said, start=1):
        book.update(offer.peer, (offer,), sequence, b"%d" % sequence, NOW)
    return book


@settings(max_examples=100)
@given(st.lists(offers(), min_size=20, max_size=70), demands, measured, st.integers(1, 6))
def test_top_is_a_full_scan(
    said: list[Offer], demand: Demand, rtt_us: dict[bytes, int] | None, k: int
) -> None:
    expected = full_scan(demand, list(newest(said).values()), rtt_us)
    found = filled(said).top(demand, k, NOW, rtt_us)
    assert [candidate.rank for candidate in found] == expected[:k]
    for candidate in found:
        met = (rtt_us or {}).get(candidate.offer.peer)
        assert candidate.cost == expected_cost(demand, candidate.offer, NOW, rtt_us=met)


@settings(max_examples=40)
@given(st.lists(offers(), max_size=40), demands, st.randoms(use_true_random=False))
def test_order_of_arrival_does_not_matter(
    said: list[Offer], demand: Demand, random: Random
) -> None:
    live = list(newest(said).values())
    other = live.copy()
    random.shuffle(other)
    assert filled(live).top(demand, 10, NOW) == filled(other).top(demand, 10, NOW)


@settings(max_examples=40)
@given(
    st.lists(offers(), min_size=10, max_size=60),
    st.lists(st.integers(0, 59), max_size=50),
    demands,
)
def test_a_book_that_forgot_answers_as_one_that_never_heard(
    said: list[Offer], gone: list[int], demand: Demand
) -> None:
    book = filled(said)
    live = newest(said)
    for place in gone:
        offer = said[place % len(said)]
        known = live.pop((offer.peer, offer.offer_id), None)
        assert book.withdraw(offer.peer, offer.offer_id) == (known is not None)
    book.expire(NOW + 60)
    live = {key: offer for key, offer in live.items() if offer.expires_at_s > NOW + 60}
    assert len(book) == len(live)
    assert list(book.offers()) == [live[key] for key in sorted(live)]
    ranks = [candidate.rank for candidate in book.top(demand, 8, NOW)]
    assert ranks == full_scan(demand, list(live.values()), None)[:8]


@settings(max_examples=40)
@given(st.lists(offers(), min_size=5, max_size=40), st.lists(demands, min_size=1, max_size=5))
def test_a_batch_prices_pairs_as_one_by_one(said: list[Offer], batch: list[Demand]) -> None:
    book = filled(said)
    pairs = fitting_pairs(batch, book, NOW)
    found = sorted(
        (row, book.at(slot).peer, book.at(slot).offer_id, int(total))
        for row, slot, total in zip(
            pairs.row.tolist(), pairs.slot.tolist(), pairs.total.tolist(), strict=True
        )
    )
    expected = sorted(
        (row, offer.peer, offer.offer_id, expected_cost(demand, offer, NOW).total)
        for row, demand in enumerate(batch)
        for offer in newest(said).values()
        if misfit(demand, offer, NOW) is None
    )
    assert found == expected
