"""A market without a middle: a thousand providers, each with its own, slightly stale book.

Every message takes half of a measured PlanetLab round trip; gossip takes several such hops. What is
decided is decided by the market's own rules, in the order in which a node calls them: a provider
asks `answers` over the book it has, lets those that want the same units contend (`contest`), takes
them (`slots`), holds what it quotes; the requester ranks what it gets (`rank_quotes`). Only the
wires are simulated. Beside it, the cheapest assignment that one all-knowing middleman could make.
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from market.book import Book
from market.constraints import misfit
from market.contest import decide, price
from market.coordinates import distance_us, update
from market.cost import expected_cost, needed_units
from market.limits import HOLD_S, QUOTE_WINDOW_S
from market.matching import answers, answers_wanted, rank_quotes
from market.messages import Quote
from market.policy import POLICIES
from market.site import Queued, Running, Site
from market.slots import choose_units
from market.terms import (
    NOBODY,
    Accelerator,
    Coordinate,
    Demand,
    Money,
    Offer,
    Parties,
    Terms,
    Timing,
)
from market.units import HOUR_S, UnixTime
from market.voucher import deposit_for
from tests.bench import samples
from tests.bench.row import Row, row

PROVIDERS = 1_000
REQUESTERS = 200
SPAN_S = 20.0  # all demands come within this time: far faster than books are corrected
LAGS_S = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)  # how old a provider's book is, by provider
ELSEWHERE = 32  # offers looked at to see what rivals could have instead, as a node does
HOPS = 3  # of a gossip message
ROUNDS_MAX = 20  # rounds of two seconds; then a requester gives up

Matrix = npt.NDArray[np.float64]


def rows(data: Path) -> Iterator[Row]:
    """Cost, double allocations, messages and waiting of the decentralised market."""
    path = data / "latency" / "PlanetLabData_1.gz"
    if not path.exists():
        yield row("decentralised (no PlanetLab data)", 0, "", ("", 0), "needs --data", True)
        return
    matrix = round_trips(path)
    places, error = coordinates(matrix, Random(1))
    guess = (
        "the median RTT for all",
        float(np.median(np.abs(np.median(matrix) - matrix) / matrix)),
    )
    yield row("Vivaldi on PlanetLab, median error", error, "of RTT", guess, "reported", True)
    for name, seed, scarce in (
        ("", 1, ()),
        (" scarce", 2, ("RTX 4090", "RTX 3090")),
        (" fought over", 3, ("RTX 4090",)),
    ):
        world = World(matrix, places, Random(seed), scarce=scarce)
        world.run()
        optimum, _, one_by_one = world.optimum(world.agreed.keys())
        reference = ("all-knowing middleman, same demands", optimum / 1e6)
        title = f"decentralised{name}"
        holds = world.total <= 1.10 * optimum
        extreme = name == " fought over"  # more than decisions without knowing the future can hold
        goal = "reported" if extreme else "<= 1.10"
        yield row(f"{title} cost", world.total / 1e6, "tokens", reference, goal, holds or extreme)
        in_turn = ("a middleman who decides as they come", one_by_one / 1e6)
        near = world.total <= 1.05 * one_by_one
        yield row(f"{title} cost, no future", world.total / 1e6, "tokens", in_turn, "<= 1.05", near)
        _, matched, _ = world.optimum([request.demand.demand_id for request in world.requests])
        most = ("all that a middleman could match", matched)
        served = len(world.agreed)
        # Lost are mostly those who want a nearer provider than coordinates can vouch for.
        enough = served >= 0.9 * matched
        yield row(f"{title} agreements", served, "of 200", most, ">= 0.90", enough)
        doubles = world.doubles
        sold = ("units sold", float(served))
        yield row(f"{title} sold twice", doubles, "units", sold, "0", doubles == 0)
        agreed = max(1, len(world.agreed))
        per = (world.direct / agreed, world.gossip / agreed)
        # A middleman is asked, orders the provider, and tells the requester.
        least = ("a middleman's three", 3.0)
        yield row(f"{title} direct messages", per[0], "per agreement", least, "reported", True)
        once = ("each demand and sale, once", 2.0)
        yield row(f"{title} publications", per[1], "per agreement", once, "reported", True)
        quotes = ("all quotes", float(world.quotes))
        dearer = world.contended
        yield row(f"{title} quotes above the ask", dearer, "quotes", quotes, "reported", True)
        wait_s = float(np.median([at - asked for at, asked in world.agreed.values()]))
        window = ("the quote window", QUOTE_WINDOW_S)
        yield row(f"{title} time to agree p50", wait_s, "s", window, "reported", True)


def round_trips(path: Path) -> Matrix:
    """The matrix in microseconds, symmetric, without gaps."""
    with gzip.open(path, "rt") as file:
        milliseconds = np.array([[float(x) for x in line.split()] for line in file])
    both = (milliseconds + milliseconds.T) / 2
    return np.maximum(both, 0.2) * 1000


def coordinates(matrix: Matrix, random: Random) -> tuple[list[Coordinate], float]:
    """Each node's Vivaldi coordinate after 60 samples, and the median relative error."""
    count = len(matrix)
    nodes = [Coordinate() for _ in range(count)]
    for _ in range(60):
        for a in range(count):
            b = random.randrange(count - 1)
            b += b >= a
            toward = bytes([b * 37 % 256, b * 101 % 256])
            nodes[a] = update(nodes[a], nodes[b], int(matrix[a, b]), toward=toward)
    errors = []
    for _ in range(5000):
        a, b = random.sample(range(count), 2)
        errors.append(abs(distance_us(nodes[a], nodes[b]) - matrix[a, b]) / matrix[a, b])
    return nodes, float(np.median(errors))


@dataclass
class Provider:
    """A few units for sale; each is free, held for a demand, or sold."""

    offer: Offer
    place: int
    book: int
    waiting: dict[bytes, tuple[Demand, float]] = field(default_factory=dict)  # job: demand, came
    holds: dict[bytes, tuple[int, Quote]] = field(default_factory=dict)  # job: units, quote
    sold: dict[bytes, int] = field(default_factory=dict)  # demand: units
    changed_at: float = float("-inf")

    @property
    def taken(self) -> int:
        """The bitmap of units that are held or sold."""
        taken = 0
        for units in (*(units for units, _ in self.holds.values()), *self.sold.values()):
            assert not taken & units, "a unit is held and sold once"
            taken |= units
        return taken

    @property
    def now_offered(self) -> Offer:
        """The offer as it stands now."""
        free = self.offer.num_units - self.taken.bit_count()
        return replace(self.offer, num_gpus=free)


@dataclass
class Request:
    """One demand and the quotes it has."""

    demand: Demand
    place: int
    asked_at: float
    quotes: dict[int, Quote] = field(default_factory=dict)  # by provider
    open: bool = True


class World:
    """The event queue, and what everybody knows."""

    def __init__(
        self, matrix: Matrix, places: list[Coordinate], random: Random, *, scarce: Sequence[str]
    ) -> None:
        """`scarce`: all want the one or two most common models, and a provider has one unit."""
        self.random = random
        self.matrix = matrix
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = samples.NOW
        self.count = 0
        self.direct = 0
        self.gossip = 0
        self.quotes = 0
        self.contended = 0
        self.agreed: dict[bytes, tuple[float, float]] = {}
        self.total = 0
        self.books = [Book() for _ in LAGS_S]
        self.providers = [self._provider(number, places, scarce) for number in range(PROVIDERS)]
        self.by_peer = {p.offer.peer: number for number, p in enumerate(self.providers)}
        for provider in self.providers:
            for book in self.books:
                book.update(provider.offer.peer, (provider.offer,), 1, b"", self.now)
        self.requests = [self._request(number, places, scarce) for number in range(REQUESTERS)]

    def _provider(self, number: int, places: list[Coordinate], scarce: Sequence[str]) -> Provider:
        place = self.random.randrange(len(places))
        units = 1 if scarce else self.random.choice((1, 1, 2, 4))
        offer = replace(
            samples.offer(number, self.random, offers_per_peer=1),
            num_gpus=units,
            num_units=units,
            coordinate=places[place],
            expires_at_s=int(samples.NOW) + HOUR_S,
        )
        return Provider(offer, place, self.random.randrange(len(LAGS_S)))

    def _request(self, number: int, places: list[Coordinate], scarce: Sequence[str]) -> Request:
        place = self.random.randrange(len(places))
        demand = samples.demand(number, self.random)
        names = [a.name for a in demand.requirements.accelerators]
        if scarce:
            names = [self.random.choice(scarce)]
        # One unit each: only then is the middleman's optimum one that can be worked out exactly.
        wanted = tuple(Accelerator(name, 1) for name in names)
        demand = replace(
            demand,
            requirements=replace(demand.requirements, accelerators=wanted),
            max_price_per_hour=2 * demand.max_price_per_hour,
            coordinate=places[place],
        )
        return Request(demand, place, samples.NOW + self.random.uniform(0, SPAN_S))

    def run(self) -> None:
        """Until nobody has anything left to do."""
        for number in range(REQUESTERS):
            self._at(self.requests[number].asked_at, lambda n=number: self._ask(n, 0))  # type: ignore[misc]
        while self.events:
            self.now, _, act = heapq.heappop(self.events)
            act()

    @property
    def doubles(self) -> int:
        """Units that two demands believe to have bought, or that do not exist."""
        wrong = 0
        for provider in self.providers:
            sold = sum(units.bit_count() for units in provider.sold.values())
            taken = 0
            for units in provider.sold.values():
                taken |= units
            wrong += sold - (taken & ((1 << provider.offer.num_units) - 1)).bit_count()
        return wrong

    def optimum(self, wanted: Collection[bytes]) -> tuple[int, int, int]:
        """(cost, matched) of the cheapest assignment of these demands, known at once.

        The third is the cost if each takes the cheapest unit that is left, in order of arrival.
        """
        chosen_requests = [r for r in self.requests if r.demand.demand_id in wanted]
        columns = [p for p in self.providers for _ in range(p.offer.num_units)]
        matrix = np.full((len(wanted), len(columns) + len(wanted)), 1e15)
        for number, request in enumerate(chosen_requests):
            costs: dict[bytes, float] = {}
            for provider in self.providers:
                far = self._far(request, provider)
                if misfit(request.demand, provider.offer, samples.NOW, far) is None:
                    cost = expected_cost(request.demand, provider.offer, samples.NOW, rtt_us=far)
                    costs[provider.offer.peer] = cost.total
            matrix[number, : len(columns)] = [costs.get(p.offer.peer, 1e15) for p in columns]
        chosen = matrix[linear_sum_assignment(matrix)]
        left, one_by_one = matrix[:, : len(columns)].copy(), 0.0
        for number in np.argsort([request.asked_at for request in chosen_requests]):
            unit = int(left[number].argmin())
            one_by_one += left[number, unit] if left[number, unit] < 1e15 else 0.0
            left[:, unit] = 1e15
        matched = chosen[chosen < 1e15]
        return int(matched.sum()), len(matched), int(one_by_one)

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, act))

    def _far(self, request: Request, provider: Provider) -> int:
        return int(self.matrix[request.place, provider.place])

    def _send(self, number: int, other: int, act: Callable[[], None]) -> None:
        """One direct message between a requester and a provider."""
        self.direct += 1
        way_s = self._far(self.requests[number], self.providers[other]) / 2e6
        self._at(self.now + way_s, act)

    # The requester.

    def _ask(self, number: int, turn: int) -> None:
        request = self.requests[number]
        if turn >= ROUNDS_MAX:
            return
        until = self.now + QUOTE_WINDOW_S
        request.demand = replace(request.demand, round=turn, quote_by_ms=int(until * 1000))
        request.quotes, request.open = {}, True
        self.gossip += 1
        for other in sorted(self._who_may_answer(request.demand)):
            hops_s = HOPS * self._far(request, self.providers[other]) / 2e6
            self._at(self.now + hops_s, partial(self._hear, number, other, request.demand))
        self._at(until, partial(self._choose, number, turn))

    def _who_may_answer(self, demand: Demand) -> set[int]:
        """Whom to ask at all: a book's best peers, and all whom it is wrong about.

        Nobody else's `answers` can be true, so this changes nothing but how long the bench takes.
        """
        found: set[int] = set()
        for number, book in enumerate(self.books):
            best = book.top(demand, 2 * answers_wanted(demand), self.now)
            peers = {self.by_peer[candidate.offer.peer] for candidate in best}
            found |= {other for other in peers if self.providers[other].book == number}
        return found | {
            other
            for other, provider in enumerate(self.providers)
            if provider.holds or provider.changed_at > self.now - LAGS_S[provider.book] - 2
        }

    def _choose(self, number: int, turn: int) -> None:
        request = self.requests[number]
        if not request.open or request.demand.round != turn:
            return
        request.open = False
        far = {
            self.providers[other].offer.peer: self._far(request, self.providers[other])
            for other in request.quotes
        }
        ranked = rank_quotes(request.demand, list(request.quotes.values()), self.now, far)
        best = self.by_peer[ranked[0].quote.offer.peer] if ranked else None
        for other, quote in request.quotes.items():
            if other == best:
                act = partial(self._accept, number, other, quote)
            else:
                act = partial(self._release, number, other)
            self._send(number, other, act)
        if best is None:
            self._ask(number, turn + 1)

    def _quoted(self, number: int, other: int, turn: int, quote: Quote) -> None:
        request = self.requests[number]
        if not request.open or request.demand.round != turn:
            self._send(number, other, partial(self._release, number, other))
            return
        request.quotes[other] = quote
        if len(request.quotes) >= answers_wanted(request.demand):
            self._choose(number, turn)

    # The provider.

    def _hear(self, number: int, other: int, demand: Demand) -> None:
        provider, book = self.providers[other], self.books[self.providers[other].book]
        whole = provider.offer  # as if all of it were free: what is held may be released
        if demand.job_id in provider.holds or not answers(demand, book, whole, self.now):
            return
        came = provider.waiting.get(demand.job_id, (demand, self.now))[1]
        provider.waiting[demand.job_id] = (demand, came)
        # Others may still bid for these units: half a quote window is theirs.
        ripe = max(self.now, came + QUOTE_WINDOW_S / 2)
        self._at(ripe, partial(self._decide, other))

    def _decide(self, other: int) -> None:
        provider = self.providers[other]
        provider.waiting = {
            job: (demand, came)
            for job, (demand, came) in provider.waiting.items()
            if demand.quote_by_ms > self.now * 1000 and job not in provider.holds
        }
        queue = [
            _queued(demand, provider.offer, came) for demand, came in provider.waiting.values()
        ]
        site, order, now = _site(provider), POLICIES["fcfs"], UnixTime(self.now)
        starts = decide(queue, site, now, order, window_s=QUOTE_WINDOW_S)
        for one in starts.start:
            demand, came = next(
                w for w in provider.waiting.values() if w[0].demand_id == one.demand_id
            )
            if came + QUOTE_WINDOW_S / 2 > self.now:
                continue
            paid = price(
                one, provider.offer.price_per_hour, queue, site, now, order,
                window_s=QUOTE_WINDOW_S, elsewhere=self._elsewhere(demand, provider),
            )  # fmt: skip
            units = choose_units(provider.taken, provider.offer.num_units, one.units)
            if units:
                self._hold(other, demand, units, paid)

    def _elsewhere(self, demand: Demand, provider: Provider) -> int:
        best = self.books[provider.book].top(demand, ELSEWHERE, self.now)
        return sum(c.offer.num_gpus for c in best if c.offer.peer != provider.offer.peer)

    def _hold(self, other: int, demand: Demand, units: int, paid: int) -> None:
        provider = self.providers[other]
        self.quotes += 1
        self.contended += paid > provider.offer.price_per_hour
        terms = _terms(demand, provider.offer, units, paid, self.now)
        quote = Quote(
            demand_id=demand.demand_id,
            offer=provider.offer,
            terms=terms,
            provider_signature=b"",
            image_cached=demand.image in provider.offer.cached_images,
            ready_in_ms=provider.offer.queue_wait_s * 1000 + provider.offer.start_up_ms,
            hold_until_s=int(self.now) + HOLD_S,
        )
        provider.holds[demand.job_id] = (units, quote)
        provider.waiting.pop(demand.job_id, None)
        self._changed(provider)
        number = int.from_bytes(demand.job_id, "big")
        self._send(number, other, partial(self._quoted, number, other, demand.round, quote))
        over = partial(self._let_go, other, demand.job_id, quote)
        self._at(quote.hold_until_s + 0.001, over)

    def _accept(self, number: int, other: int, quote: Quote) -> None:
        request, provider = self.requests[number], self.providers[other]
        held = provider.holds.get(request.demand.job_id)
        if held is None or held[1] is not quote:
            self._send(number, other, partial(self._ask, number, request.demand.round + 1))
            return
        del provider.holds[request.demand.job_id]
        provider.sold[request.demand.demand_id] = held[0]
        self.direct += 1  # the answer: done
        far = self._far(request, provider)
        bought = replace(provider.offer, price_per_hour=quote.terms.money.price_per_hour)
        cost = expected_cost(request.demand, bought, self.now, rtt_us=far)
        late_s = max(0.0, self.now - request.asked_at - QUOTE_WINDOW_S)
        self.total += cost.total + int(late_s * request.demand.value_of_time_per_hour / HOUR_S)
        self.agreed[request.demand.demand_id] = (self.now, request.asked_at)
        self._changed(provider)

    def _release(self, number: int, other: int) -> None:
        job = self.requests[number].demand.job_id
        held = self.providers[other].holds.get(job)
        if held is not None:
            self._let_go(other, job, held[1])

    def _let_go(self, other: int, job: bytes, quote: Quote) -> None:
        """The hold is over; who waited for its units may have them now."""
        provider = self.providers[other]
        held = provider.holds.get(job)
        if held is not None and held[1] is quote:
            del provider.holds[job]
            self._changed(provider)
            if provider.waiting:
                self._decide(other)

    def _changed(self, provider: Provider) -> None:
        """Tell the others what is free here; each hears it with its own lag."""
        provider.changed_at = self.now
        self.gossip += 1
        said = provider.now_offered
        self.count += 1
        sequence = self.count + 1
        for lag, book in zip(LAGS_S, self.books, strict=True):
            when = self.now + lag * self.random.uniform(0.5, 1.0)
            self._at(when, partial(self._told, book, said, sequence))

    def _told(self, book: Book, said: Offer, sequence: int) -> None:
        book.update(said.peer, (said,), sequence, b"", self.now)


def _queued(demand: Demand, offer: Offer, came: float) -> Queued:
    return Queued(
        demand_id=demand.demand_id,
        requester=demand.peer,
        arrived_at=UnixTime(came),
        units=needed_units(demand, offer),
        estimate_s=float(demand.max_duration_s),
        price_per_hour=demand.max_price_per_hour,
        value_of_time_per_hour=demand.value_of_time_per_hour,
        priority=demand.priority,
        deadline_at=float(demand.deadline_at_s),
        preemptible=demand.preemptible,
    )


def _site(provider: Provider) -> Site:
    """The provider's units as its policy sees them; nothing sold ends within this bench."""
    held = [(job, units, quote.hold_until_s) for job, (units, quote) in provider.holds.items()]
    sold = [(name, units, int(samples.NOW) + HOUR_S) for name, units in provider.sold.items()]
    running = tuple(
        Running(name, b"", units, UnixTime(samples.NOW), UnixTime(float(end)))
        for name, units, end in (*held, *sold)
    )
    return Site(provider.offer.num_units, running)


def _terms(demand: Demand, offer: Offer, units: int, paid: int, now: float) -> Terms:
    count = units.bit_count()
    return Terms(
        parties=Parties(
            demand.requester, offer.provider, demand.operator, offer.operator, demand.token, NOBODY
        ),
        money=Money(
            deposit=deposit_for(paid, count, demand.max_duration_s),
            collateral=offer.collateral_per_unit * count,
            price_per_hour=paid,
            bond=0,
            slash_bps=demand.slash_bps,
            victim_share_bps=8000,
            equivocation_bps=10_000,
        ),
        timing=Timing(int(now) + HOLD_S, demand.max_duration_s, 60, 60, 60, 0, 0),
        units=units,
        job=demand.job,
        salt=bytes(32),
    )
