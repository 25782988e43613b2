"""Matching: each constraint, who answers, which quote wins, second price, gangs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from market.book import Book
from market.constraints import Constraint, misfit
from market.errors import NoMatchError, RefusedError
from market.matching import (
    answers,
    answers_wanted,
    check_quote,
    check_terms,
    clearing_price,
    contend,
    deposit_max,
    gang,
    rank_quotes,
)
from market.messages import Quote
from market.terms import Coordinate, Demand, Offer, Terms
from tests.unit.offers import GIB, NOW, demand_of, key, needing, offer_of, quote_of

C = Constraint


def test_a_plain_offer_fits_a_plain_demand() -> None:
    assert misfit(demand_of(), offer_of(), NOW) is None


@pytest.mark.parametrize(
    ("constraint", "demand", "offer"),
    [
        (C.EXPIRED, demand_of(), offer_of(expires_at_s=int(NOW))),
        (C.EXCLUDED, demand_of(exclude=(key(1),)), offer_of(1)),
        (C.ACCELERATOR, needing({"H100": 1}), offer_of()),
        (C.COUNT, needing({"RTX4090": 8}), offer_of()),
        (C.VRAM, needing(vram_mib=25 * GIB), offer_of()),
        (C.CUDA, needing(cuda_vers=1205), offer_of()),
        (C.CPUS, needing(cpus=9), offer_of()),
        (C.MEMORY, needing(memory_mib=33 * GIB), offer_of()),
        (C.DISK, needing({"RTX4090": 2}, disk_mib=201 * GIB), offer_of()),
        (C.REGION, needing(regions=("US", "JP")), offer_of()),
        (C.RTT, needing(max_rtt_us=11_999), offer_of()),
        (C.RTT, needing(max_rtt_us=149_999), offer_of(coordinate=Coordinate())),
        (C.RELIABILITY, needing(min_reliability_ppm=990_001), offer_of()),
        (C.VERIFIED, needing(verified=True), offer_of(verified=False)),
        (C.REAL, needing(real=True), offer_of(declared=True)),
        (C.EGRESS, needing(egress=("data.example.org:443",)), offer_of()),
        (C.PREEMPTIBLE, demand_of(), offer_of(preemptible=True)),
        (C.DURATION, demand_of(), offer_of(max_duration_s=7199)),
        (C.DURATION, demand_of(), offer_of(min_duration_s=7201)),
        (C.SPEED, demand_of(estimate_s=100_000), offer_of()),
        (C.DEADLINE, demand_of(deadline_at_s=int(NOW) + 60), offer_of()),
        (C.PRICE, demand_of(), offer_of(price=1_000_001)),
    ],
    ids=lambda value: value.value if isinstance(value, Constraint) else "",
)
def test_each_constraint_removes(constraint: Constraint, demand: Demand, offer: Offer) -> None:
    found = misfit(demand, offer, NOW)
    assert found is not None
    assert found.constraint is constraint
    assert found.sentence


@pytest.mark.parametrize(
    ("demand", "offer"),
    [
        (needing(vram_mib=24 * GIB, cpus=8, memory_mib=32 * GIB, cuda_vers=1204), offer_of()),
        (needing({"RTX4090": 2}, disk_mib=200 * GIB), offer_of()),
        (needing(max_rtt_us=12_000, min_reliability_ppm=990_000), offer_of()),
        (needing({"H100": 1, "*": 4}, regions=("US", "EU")), offer_of()),
        (demand_of(preemptible=True), offer_of(preemptible=True)),
        (demand_of(), offer_of(price=1_000_000, min_duration_s=7200, max_duration_s=7200)),
    ],
)
def test_exactly_enough_is_enough(demand: Demand, offer: Offer) -> None:
    assert misfit(demand, offer, NOW) is None


# Who answers.


def market_of(count: int, **changes: object) -> tuple[Book, list[Offer]]:
    book, offers = Book(), []
    for number in range(1, count + 1):
        offer = offer_of(number, price=500_000 + number // 3, **changes)
        book.update(offer.peer, (offer,), 1, b"", NOW)
        offers.append(offer)
    return book, offers


def test_exactly_k_peers_answer() -> None:
    book, offers = market_of(50)
    who = {offer.peer for offer in offers if answers(demand_of(), book, offer, NOW, 8)}
    best = {candidate.offer.peer for candidate in book.top(demand_of(), 8, NOW)}
    assert who == best
    assert len(who) == 8


def test_one_peer_with_many_offers_takes_one_place() -> None:
    book, offers = market_of(12)
    for number in range(40):
        cheap = replace(offer_of(99, price=1), offer_id=bytes([number]) * 16)
        book.update(key(99), (cheap,), number + 1, b"", NOW)
    assert sum(answers(demand_of(), book, offer, NOW, 8) for offer in offers) == 7


def test_a_provider_counts_though_its_own_book_lacks_it() -> None:
    book, _ = market_of(20)
    assert answers(demand_of(), book, offer_of(77, price=1), NOW, 8)
    assert not answers(demand_of(), book, offer_of(77, price=900_000), NOW, 8)
    assert not answers(needing({"H100": 1}), book, offer_of(77, price=1), NOW, 8)


def test_later_rounds_and_gangs_ask_more() -> None:
    first = answers_wanted(demand_of())
    assert answers_wanted(demand_of(round=1)) == 2 * first
    assert answers_wanted(demand_of(num_nodes=64)) >= 64
    book, offers = market_of(30)
    who = [answers(demand_of(round=2), book, offer, NOW) for offer in offers]
    assert sum(who) == 3 * first


def test_ties_fall_differently_for_each_demand() -> None:
    book = Book()
    for number in range(1, 31):
        offer = offer_of(number)
        book.update(offer.peer, (offer,), 1, b"", NOW)
    winners = {book.top(demand_of(n), 1, NOW)[0].offer.peer for n in range(1, 21)}
    assert len(winners) > 5


# Quotes.


def test_a_correct_quote_may_be_accepted() -> None:
    demand = demand_of()
    quote = quote_of(demand, offer_of())
    check_quote(demand, quote, NOW)
    assert [r.quote for r in rank_quotes(demand, [quote], NOW)] == [quote]


def with_money(quote: Quote, **changes: int) -> Quote:
    return replace(quote, terms=replace(quote.terms, money=replace(quote.terms.money, **changes)))


def with_parties(quote: Quote, **changes: bytes) -> Quote:
    parties = replace(quote.terms.parties, **changes)
    return replace(quote, terms=replace(quote.terms, parties=parties))


def with_timing(quote: Quote, **changes: int) -> Quote:
    timing = replace(quote.terms.timing, **changes)
    return replace(quote, terms=replace(quote.terms, timing=timing))


X = bytes([9]) * 20


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda q: replace(q, demand_id=bytes(16)), "another demand"),
        (lambda q: with_parties(q, requester=X), "another requester"),
        (lambda q: with_parties(q, requester_signer=X), "key of the requester"),
        (lambda q: with_parties(q, provider=X), "another wallet"),
        (lambda q: with_parties(q, provider_signer=X), "another key than its offer"),
        (lambda q: with_parties(q, token=X), "another token"),
        (lambda q: with_parties(q, arbiter=X), "arbiter"),
        (lambda q: with_money(q, price_per_hour=1_000_001), "price cap"),
        (lambda q: replace(q, terms=replace(q.terms, units=0b11)), "number of units"),
        (lambda q: replace(q, terms=replace(q.terms, job=bytes(32))), "another job"),
        (lambda q: with_timing(q, duration_s=7199), "before max_duration"),
        (lambda q: with_timing(q, duration_s=7200 + 3601), "longer than the job"),
        (lambda q: with_money(q, deposit=deposit_max(q.terms) + 1), "more money"),
        (lambda q: with_money(q, collateral=99_999), "less collateral"),
        (lambda q: with_money(q, slash_bps=4999), "slashes less"),
        (lambda q: with_money(q, victim_share_bps=10_001), "more than all"),
    ],
)
def test_wrong_terms_are_refused(spoil: Callable[[Quote], Quote], why: str) -> None:
    demand = demand_of()
    quote = spoil(quote_of(demand, offer_of()))
    with pytest.raises(RefusedError, match=why):
        check_terms(demand, quote)
    assert rank_quotes(demand, [quote], NOW) == ()


def test_a_stale_hold_or_an_unfit_offer_is_refused() -> None:
    demand = demand_of()
    with pytest.raises(RefusedError, match="hold is over"):
        check_quote(demand, quote_of(demand, offer_of(), hold_until_s=int(NOW)), NOW)
    with pytest.raises(RefusedError, match="does not fit"):
        check_quote(demand, quote_of(demand, offer_of(preemptible=True)), NOW)
    far = needing(max_rtt_us=50_000)
    with pytest.raises(RefusedError, match="round trip"):
        check_quote(far, quote_of(far, offer_of()), NOW, rtt_us=60_000)


def test_a_quote_fits_though_its_own_hold_took_the_last_units() -> None:
    demand = needing({"RTX4090": 4})
    check_quote(demand, quote_of(demand, offer_of(num_gpus=0), units=4), NOW)


def test_quotes_rank_by_what_was_quoted() -> None:
    demand = demand_of()
    plain = quote_of(demand, offer_of(1))
    cached = quote_of(demand, offer_of(2), image_cached=True)
    later = quote_of(demand, offer_of(3), ready_in_ms=900_000)
    cheap = quote_of(demand, offer_of(4, price=300_000))
    ranked = rank_quotes(demand, [later, plain, cached, cheap], NOW)
    assert [r.quote for r in ranked] == [cheap, cached, plain, later]
    nearer = rank_quotes(demand, [plain, quote_of(demand, offer_of(5))], NOW, {key(5): 100})
    assert nearer[0].quote.offer.peer == key(5)


# Price.


def test_second_price() -> None:
    assert clearing_price(600, [], bid=900) == 600
    assert clearing_price(600, [700, 800], bid=900) == 800
    assert clearing_price(600, [500], bid=900) == 600
    assert clearing_price(600, [1000], bid=900) == 900


def test_contended_units_go_to_the_best_bids_at_the_best_losing_one() -> None:
    bids = (700_000, 1_000_000, 900_000, 800_000)
    demands = [demand_of(n, max_price_per_hour=bid) for n, bid in enumerate(bids)]
    awards = contend(demands, offer_of(num_gpus=2), NOW)
    assert [(a.demand.max_price_per_hour, a.price_per_hour) for a in awards] == [
        (1_000_000, 800_000),
        (900_000, 800_000),
    ]
    alone = contend(demands[:2], offer_of(num_gpus=2), NOW)
    assert [a.price_per_hour for a in alone] == [600_000, 600_000]


def test_bids_below_the_ask_do_not_contend() -> None:
    demands = [demand_of(1), demand_of(2, max_price_per_hour=599_999)]
    assert [a.price_per_hour for a in contend(demands, offer_of(num_gpus=1), NOW)] == [600_000]


# Gangs.


def test_a_gang_is_all_or_nothing_and_of_different_peers() -> None:
    book, _ = market_of(3)
    twin = replace(offer_of(1, price=1), offer_id=bytes([9]) * 16)
    book.update(key(1), (twin,), 2, b"", NOW)
    demand = demand_of(num_nodes=3)
    found = gang(demand, book.top(demand, 9, NOW))
    assert {m.offer.peer for m in found.members} == {key(1), key(2), key(3)}
    assert twin in [m.offer for m in found.members]
    with pytest.raises(NoMatchError, match="3 providers fit, the gang needs 4"):
        gang(demand_of(num_nodes=4), book.top(demand, 9, NOW))


def test_a_gang_waits_once_for_its_slowest() -> None:
    """A slow member costs its price only, unless the whole gang has to wait for it."""
    book = Book()
    for number, changes in enumerate(({}, {}, {"queue_wait_s": 3000, "price": 550_000}), start=1):
        offer = offer_of(number, **changes)
        book.update(offer.peer, (offer,), 1, b"", NOW)
    patient = demand_of(num_nodes=2, value_of_time_per_hour=0)
    hasty = demand_of(num_nodes=2, value_of_time_per_hour=1_000_000)
    assert key(3) in [m.offer.peer for m in gang(patient, book.top(patient, 9, NOW)).members]
    assert key(3) not in [m.offer.peer for m in gang(hasty, book.top(hasty, 9, NOW)).members]


def test_terms_know_their_largest_deposit() -> None:
    terms: Terms = quote_of(demand_of(), offer_of(price=1)).terms
    assert deposit_max(terms) == 3  # 7260 s at 1 per hour, rounded up
