"""The book: what it takes, forgets and relays, and its bounds."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from market.book import Book
from market.errors import RefusedError
from market.rows import tie
from tests.unit.offers import NOW, demand_of, key, offer_of


def heard(*numbers: int, **changes: object) -> Book:
    book = Book()
    for number in numbers:
        offer = offer_of(number, **changes)
        book.update(offer.peer, (offer,), 1, b"raw %d" % number, NOW)
    return book


def test_the_newest_word_wins() -> None:
    book = heard(1)
    cheaper = offer_of(1, price=500_000)
    assert book.update(key(1), (cheaper,), 3, b"new", NOW)
    assert not book.update(key(1), (offer_of(1, price=1),), 2, b"late", NOW)
    assert book.get(key(1), cheaper.offer_id) == cheaper
    assert book.top(demand_of(), 1, NOW)[0].offer == cheaper
    assert len(book) == 1


def test_an_offer_of_somebody_else_is_refused_and_nothing_changes() -> None:
    book = Book()
    with pytest.raises(RefusedError, match="another peer"):
        book.update(key(2), (offer_of(2), offer_of(1)), 1, b"", NOW)
    assert len(book) == 0


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"num_gpus": 5}, "more free units"), ({"expires_at_s": int(NOW) + 3700}, "an hour")],
)
def test_nonsense_is_refused(changes: dict[str, object], why: str) -> None:
    with pytest.raises(RefusedError, match=why):
        Book().update(key(1), (offer_of(1, **changes),), 1, b"", NOW)


def test_withdrawn_offers_do_not_come_back_with_a_late_envelope() -> None:
    book = heard(1)
    book.update(key(1), (), 9, b"", NOW)
    assert book.withdraw_before(key(1), 9) == 1
    assert not book.update(key(1), (offer_of(1),), 5, b"late", NOW)
    assert book.offers_of(key(1)) == ()


def test_what_expires_is_forgotten() -> None:
    book = heard(1, 2)
    book.update(key(3), (offer_of(3, expires_at_s=int(NOW) + 5),), 1, b"", NOW)
    assert [c.offer.peer for c in book.top(demand_of(), 9, NOW + 5)].count(key(3)) == 0
    assert book.expire(NOW + 5) == 1
    assert [offer.peer for offer in book.offers()] == [key(1), key(2)]


def test_one_peer_costs_at_most_its_bound() -> None:
    book = Book(per_peer_max=3)
    for number in range(5):
        offer = replace(offer_of(1), offer_id=bytes([number]) * 16)
        book.update(key(1), (offer,), number + 1, b"", NOW)
    assert [offer.offer_id[0] for offer in book.offers_of(key(1))] == [2, 3, 4]


def test_a_flood_evicts_its_own_peer_first() -> None:
    book = Book(offers_max=4)
    book.update(key(1), (offer_of(1),), 1, b"", NOW)
    for number in range(8):
        offer = replace(offer_of(2), offer_id=bytes([number]) * 16)
        book.update(key(2), (offer,), number + 1, b"", NOW)
    book.update(key(3), (offer_of(3),), 1, b"", NOW)
    assert len(book) == 4
    assert len(book.offers_of(key(1))) == len(book.offers_of(key(3))) == 1
    assert book.statistics()["evicted"] == 6


def test_a_full_book_of_single_offers_stays_bounded() -> None:
    book = Book(offers_max=4)
    for number in range(1, 9):
        book.update(key(number), (offer_of(number),), 1, b"", NOW)
    assert len(book) == 4


def test_relays_what_the_other_lacks() -> None:
    book = heard(1, 2)
    known = hashlib.sha256(b"raw 1").digest()
    assert known in book.digests()
    assert book.raw_for([known]) == (b"raw 2",)
    book.withdraw(key(2), offer_of(2).offer_id)
    assert book.raw_for([]) == (b"raw 1",)


def test_an_envelope_is_kept_while_one_of_its_offers_lives() -> None:
    book = Book()
    pair = tuple(replace(offer_of(1), offer_id=bytes([n]) * 16) for n in (1, 2))
    book.update(key(1), pair, 1, b"both", NOW)
    book.withdraw(key(1), pair[0].offer_id)
    assert book.raw_for([]) == (b"both",)
    book.withdraw(key(1), pair[1].offer_id)
    assert book.raw_for([]) == ()


def test_a_judged_peer_is_believed_no_more_than_that() -> None:
    book = heard(1, 2, reliability_ppm=1_000_000)
    first = book.top(demand_of(), 2, NOW)[0].offer
    book.judge(first.peer, 200_000)
    best, other = book.top(demand_of(), 2, NOW)
    assert other.offer == first
    assert best.cost.risk < other.cost.risk
    book.judge(first.peer, None)
    assert book.top(demand_of(), 2, NOW)[0].offer == first


def test_a_flood_of_gpu_names_is_refused_not_kept() -> None:
    book = Book()
    for number in range(1100):
        peer = number.to_bytes(32, "big")
        offer = replace(offer_of(1), peer=peer, gpu_name=f"Fake {number}")
        book.update(peer, (offer,), 1, b"", NOW)
    statistics = book.statistics()
    assert (statistics["models"], statistics["refused"]) == (1024, 76)
    assert book.update(key(1), (offer_of(1, gpu_name="Fake 3"),), 1, b"", NOW)


def test_ties_are_settled_over_all_blocks() -> None:
    """Forty equal offers in twenty blocks: no block may be left out because it is no better."""
    book = Book(block=2)
    for number in range(1, 41):
        book.update(key(number), (offer_of(number),), 1, b"", NOW)
    for number in range(1, 9):
        demand = demand_of(number, value_of_time_per_hour=0)
        expected = sorted(tie(demand, offer) for offer in book.offers())[:5]
        assert [found.tie for found in book.top(demand, 5, NOW)] == expected
