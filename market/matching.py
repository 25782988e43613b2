"""Matching: who answers a demand, which quote is best, what is paid when several want the same.

Pure rules over values and a book; every node that holds the same book decides the same. Knows no
network, clock or signature: who wrote a quote was verified before it gets here.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from market.book import Book
from market.constraints import Constraint, Misfit, lacking, misfit, misfits
from market.cost import Cost, expected_cost, needed_units
from market.errors import MarketError, NoMatchError, RefusedError
from market.limits import ANSWERS_MAX, QUOTES_PER_DEMAND_MAX
from market.messages import Quote
from market.models import takes
from market.rows import tie
from market.terms import NOBODY, Demand, Offer, Terms
from market.units import BPS, HOUR_S

__all__ = [
    "Award", "Constraint", "Gang", "Misfit", "RankedQuote", "answers", "answers_wanted",
    "check_quote", "check_terms", "clearing_price", "contend", "deposit_max", "gang",
    "misfit", "misfits", "needed_units", "rank_quotes",
]  # fmt: skip

DURATION_SLACK_S = 3600  # what terms may add to max_duration for staging and grace


@dataclass(frozen=True, slots=True)
class RankedQuote:
    """A quote that may be accepted, and what it should cost in all."""

    quote: Quote
    cost: Cost
    tie: int

    @property
    def offer(self) -> Offer:
        """What is quoted."""
        return self.quote.offer

    @property
    def rank(self) -> tuple[int, int, bytes, bytes]:
        """What quotes are sorted by, as candidates are."""
        return self.cost.total, self.tie, self.offer.peer, self.offer.offer_id


@dataclass(frozen=True, slots=True)
class Award:
    """A demand that wins units, and the price per unit-hour it pays."""

    demand: Demand
    units: int
    price_per_hour: int


class Member(Protocol):
    """What may be a node of a gang: a live offer (`Candidate`) or a quote (`RankedQuote`)."""

    @property
    def offer(self) -> Offer:
        """Whose it is."""

    @property
    def cost(self) -> Cost:
        """What it should cost."""

    @property
    def rank(self) -> tuple[int, int, bytes, bytes]:
        """Cheapest first, ties by id."""


M = TypeVar("M", bound=Member)


@dataclass(frozen=True, slots=True)
class Gang(Generic[M]):
    """One candidate per node of a demand, all of different peers, and what they cost together."""

    members: tuple[M, ...]
    total: int
    ready_s: float  # when the slowest member's results are back


# Who answers.


def answers(demand: Demand, book: Book, offer: Offer, now: float, k: int | None = None) -> bool:
    """Whether the provider of `offer` is among the best `k` peers for the demand.

    One peer counts once, with its best offer: many small offers do not crowd others out. `offer`
    itself is judged as it is given here, whatever older version the book holds. Only what every
    node knows is used (coordinates, no measured round trips), so equal books agree.
    """
    if misfit(demand, offer, now) is not None:
        return False
    places = answers_wanted(demand) if k is None else k
    mine = (expected_cost(demand, book.believed(offer), now).total, tie(demand, offer),
            offer.peer, offer.offer_id)  # fmt: skip
    better: set[bytes] = set()
    wanted = places + 1
    while True:
        found = book.top(demand, wanted, now)
        for candidate in found:
            if candidate.rank >= mine:
                return len(better) < places
            if candidate.offer.peer != offer.peer:
                better.add(candidate.offer.peer)
            if len(better) >= places:
                return False
        if len(found) < wanted:
            return True
        wanted *= 2


def answers_wanted(demand: Demand) -> int:
    """How many peers should answer: K, twice the nodes of a gang, and more in each later round.

    A round that ended without an agreement was met by offers that are gone: the next one asks
    further down the list.
    """
    places = max(ANSWERS_MAX, 2 * demand.num_nodes) * (1 + demand.round)
    return min(places, QUOTES_PER_DEMAND_MAX)


# Which quote.


def rank_quotes(
    demand: Demand,
    quotes: Sequence[Quote],
    now: float,
    rtt_us: Mapping[bytes, int] | None = None,
) -> tuple[RankedQuote, ...]:
    """The quotes that may be accepted now, best first; the others are left out.

    The cost is that of the quoted terms: their price and units, `ready_in_ms` for queue and
    start-up together, and `image_cached`. `rtt_us` has measured round trips by peer. For the
    reason why one was left out, call `check_quote`.
    """
    ranked = []
    for quote in quotes:
        measured = (rtt_us or {}).get(quote.offer.peer)
        try:
            check_quote(demand, quote, now, rtt_us=measured)
        except MarketError:
            continue
        cost = expected_cost(demand, _as_quoted(demand, quote), now, rtt_us=measured)
        ranked.append(RankedQuote(quote, cost, tie(demand, quote.offer)))
    return tuple(
        sorted(
            ranked,
            key=lambda r: r.rank,
        )
    )


def check_quote(demand: Demand, quote: Quote, now: float, *, rtt_us: int | None = None) -> None:
    """Raise RefusedError unless the quote may be accepted now: its terms, its hold, its offer."""
    check_terms(demand, quote)
    if quote.hold_until_s <= now or quote.terms.timing.open_by_s <= now:
        raise RefusedError("the quote's hold is over", hint="it is replaced in the next round")
    problem = misfit(demand, _as_quoted(demand, quote), now, rtt_us)
    if problem is not None:
        raise RefusedError(f"the quoted offer does not fit: {problem.sentence}")
    if missing := lacking(demand, quote.offer):
        raise RefusedError(f"the quoted offer does not reach {missing[0]}")


def check_terms(demand: Demand, quote: Quote) -> None:
    """Raise RefusedError unless the quoted terms are what the demand asked for.

    Parties, token, price cap, units, job, duration, deposit, collateral and slash share. The
    sentence names the first that is wrong; each is the provider's fault.
    """
    terms, offer = quote.terms, quote.offer
    parties, money, timing = terms.parties, terms.money, terms.timing
    counts = _counts(demand, offer)
    wrong = (
        (quote.demand_id != demand.demand_id, "answers another demand"),
        (parties.requester != demand.requester, "names another requester"),
        (parties.requester_signer != demand.operator, "names another key of the requester"),
        (parties.provider != offer.provider, "pays another wallet than its offer names"),
        (parties.provider_signer != offer.operator, "is signed by another key than its offer's"),
        (parties.token != demand.token, "is in another token"),
        (parties.arbiter != NOBODY, "names an arbiter that nobody asked for"),
        (money.price_per_hour > demand.max_price_per_hour, "costs more than the price cap"),
        (terms.unit_count not in counts, "sells another number of units"),
        (terms.job != demand.job, "is for another job"),
        (timing.duration_s < demand.max_duration_s, "ends before max_duration"),
        (
            timing.duration_s > demand.max_duration_s + DURATION_SLACK_S,
            "locks money for longer than the job may take",
        ),
        (money.deposit > deposit_max(terms), "locks more money than it can cost"),
        (
            money.collateral < offer.collateral_per_unit * terms.unit_count,
            "backs less collateral than its offer says",
        ),
        (money.slash_bps < demand.slash_bps, "slashes less than was asked"),
        (max(money.victim_share_bps, money.equivocation_bps) > BPS, "shares out more than all"),
    )
    for is_wrong, sentence in wrong:
        if is_wrong:
            raise RefusedError(f"the quote {sentence}")


def deposit_max(terms: Terms) -> int:
    """The most that the terms can ever cost: every unit for every second, rounded up."""
    total = terms.money.price_per_hour * terms.unit_count * terms.timing.duration_s
    return -(-total // HOUR_S)


def _counts(demand: Demand, offer: Offer) -> frozenset[int]:
    return frozenset(
        max(1, choice.count)
        for choice in demand.requirements.accelerators
        if takes(choice.name, offer.gpu_name)
    )


def _as_quoted(demand: Demand, quote: Quote) -> Offer:
    """The offer with the terms' price, its held units free for us, and the quote's readiness.

    `ready_in_ms` counts queue and start-up, without transfers; a queue is rounded up to seconds.
    """
    cached = (demand.image,) if quote.image_cached else ()
    return replace(
        quote.offer,
        price_per_hour=quote.terms.money.price_per_hour,
        num_gpus=quote.terms.unit_count,
        queue_wait_s=quote.ready_in_ms // 1000,
        start_up_ms=quote.ready_in_ms % 1000,
        cached_images=cached,
    )


# What is paid.


def clearing_price(ask: int, losing_bids: Iterable[int], *, bid: int) -> int:
    """What the winner of contended units pays per unit-hour: second price, never below the ask.

    The best losing bid (Vickrey 1961), at most the winner's own `bid`. Without contention that is
    the ask.
    """
    return min(bid, max([ask, *losing_bids]))


def contend(demands: Sequence[Demand], offer: Offer, now: float) -> tuple[Award, ...]:
    """Who of several demands that want an offer's units at one time gets them, and at what price.

    Demands are served by bid (the price cap; of equals by priority, then tie) while units last; all
    winners pay the best bid that lost, never below the ask. Demands that do not fit are left out.
    """
    fitting = [d for d in demands if misfit(d, offer, now) is None]
    fitting.sort(key=lambda d: (-d.max_price_per_hour, -d.priority, tie(d, offer), d.demand_id))
    left = offer.num_gpus
    won: list[tuple[Demand, int]] = []
    lost: list[int] = []
    for demand in fitting:
        units = needed_units(demand, offer)
        if units <= left:
            left -= units
            won.append((demand, units))
        else:
            lost.append(demand.max_price_per_hour)
    return tuple(
        Award(d, units, clearing_price(offer.price_per_hour, lost, bid=d.max_price_per_hour))
        for d, units in won
    )


# Gangs.


def gang(demand: Demand, candidates: Sequence[M]) -> Gang[M]:
    """The cheapest set of `num_nodes` candidates of different peers; all of them or none.

    A gang is as slow as its slowest member, which is waited for once: its cost is the members'
    price and risk, and the value of time until the last is ready. Exact: for each possible slowest
    member the cheapest of those no slower. Raises NoMatchError if there are too few peers.
    """
    count = max(1, demand.num_nodes)
    value_per_s = demand.value_of_time_per_hour / HOUR_S
    best: tuple[int, float] | None = None
    chosen: dict[bytes, M] = {}
    members: tuple[M, ...] = ()
    for candidate in sorted(candidates, key=lambda c: (c.cost.ready_s, c.rank)):
        peer = candidate.offer.peer
        if peer in chosen and _alone(chosen[peer]) <= _alone(candidate):
            continue
        chosen[peer] = candidate
        if len(chosen) < count:
            continue
        cheapest = heapq.nsmallest(count, chosen.values(), key=_alone)
        ready_s = max(member.cost.ready_s for member in cheapest)
        total = sum(m.cost.price + m.cost.risk for m in cheapest) + round(ready_s * value_per_s)
        if best is None or (total, ready_s) < best:
            best = (total, ready_s)
            members = tuple(sorted(cheapest, key=lambda c: c.rank))
    if best is None:
        raise NoMatchError(
            f"{len(chosen)} providers fit, the gang needs {count}",
            hint="ask for fewer nodes, or relax a requirement (souk explain)",
        )
    return Gang(members, best[0], best[1])


def _alone(candidate: Member) -> tuple[int, tuple[int, int, bytes, bytes]]:
    return candidate.cost.price + candidate.cost.risk, candidate.rank
