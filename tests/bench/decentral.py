"""A market without a middle: a thousand providers, each with its own, slightly stale book.

Every message takes half of a measured PlanetLab round trip; gossip takes several such hops. A
provider decides with `answers` over what it has heard, and holds what it quotes; the requester
ranks what it gets. Beside it, the cheapest assignment that one all-knowing middleman could make.
"""

from __future__ import annotations

import gzip
import heapq
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from market.book import Book
from market.constraints import misfit
from market.coordinates import distance_us, update
from market.cost import expected_cost
from market.limits import HOLD_S, QUOTE_WINDOW_S
from market.matching import answers, answers_wanted
from market.rows import tie
from market.terms import Accelerator, Coordinate, Demand, Offer
from market.units import HOUR_S
from tests.bench import samples
from tests.bench.row import Row, row

PROVIDERS = 1_000
REQUESTERS = 200
SPAN_S = 20.0  # all demands come within this time: far faster than books are corrected
LAGS_S = (1.0, 2.0, 4.0, 8.0)  # how old a provider's book is, by provider
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
    yield row("Vivaldi on PlanetLab, median error", error, "of RTT", ("", 0), "reported", True)
    for name, seed, scarce in (("", 1, False), (" scarce", 2, True)):
        world = World(matrix, places, Random(seed), scarce=scarce)
        world.run()
        optimum, _ = world.optimum(world.agreed.keys())
        reference = ("all-knowing middleman, same demands", optimum / 1e6)
        title = f"decentralised{name}"
        holds = world.total <= 1.10 * optimum
        yield row(f"{title} cost", world.total / 1e6, "tokens", reference, "<= 1.10", holds)
        _, matched = world.optimum([request.demand.demand_id for request in world.requests])
        most = ("all that a middleman could match", matched)
        served = len(world.agreed)
        yield row(
            f"{title} agreements", served, "of 200", most, ">= 0.95", served >= 0.95 * matched
        )
        doubles = world.doubles
        yield row(f"{title} sold twice", doubles, "units", ("", 0), "0", doubles == 0)
        agreed = max(1, len(world.agreed))
        per = (world.direct / agreed, world.gossip / agreed)
        yield row(f"{title} direct messages", per[0], "per agreement", ("", 0), "reported", True)
        yield row(f"{title} publications", per[1], "per agreement", ("", 0), "reported", True)
        wait_s = float(np.median([at - asked for at, asked in world.agreed.values()]))
        yield row(f"{title} time to agree p50", wait_s, "s", ("", 0), "reported", True)


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
    """One unit for sale: held for a demand, or sold."""

    offer: Offer
    place: int
    lag: int
    held_by: bytes = b""
    held_until: float = 0.0
    sold_to: list[bytes] = field(default_factory=list)
    changed_at: float = float("-inf")


@dataclass
class Request:
    """One demand and the quotes it has."""

    demand: Demand
    place: int
    asked_at: float
    quotes: dict[int, int] = field(default_factory=dict)  # provider -> cost
    open: bool = True


class World:
    """The event queue, and what everybody knows."""

    def __init__(
        self, matrix: Matrix, places: list[Coordinate], random: Random, *, scarce: bool
    ) -> None:
        """`scarce`: nearly all demands want the two most common models."""
        self.random = random
        self.matrix = matrix
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.now = samples.NOW
        self.count = 0
        self.direct = 0
        self.gossip = 0
        self.agreed: dict[bytes, tuple[float, float]] = {}
        self.chosen: dict[bytes, int] = {}
        self.total = 0
        self.books = [Book() for _ in LAGS_S]
        self.providers = [self._provider(number, places) for number in range(PROVIDERS)]
        self.by_peer = {p.offer.peer: number for number, p in enumerate(self.providers)}
        for provider in self.providers:
            for book in self.books:
                book.update(provider.offer.peer, (provider.offer,), 1, b"", self.now)
        self.requests = [self._request(number, places, scarce) for number in range(REQUESTERS)]

    def _provider(self, number: int, places: list[Coordinate]) -> Provider:
        place = self.random.randrange(len(places))
        offer = replace(
            samples.offer(number, self.random, offers_per_peer=1),
            num_gpus=1,
            num_units=1,
            coordinate=places[place],
            expires_at_s=int(samples.NOW) + HOUR_S,
        )
        return Provider(offer, place, self.random.randrange(len(LAGS_S)))

    def _request(self, number: int, places: list[Coordinate], scarce: bool) -> Request:
        place = self.random.randrange(len(places))
        demand = samples.demand(number, self.random)
        names = [a.name for a in demand.requirements.accelerators]
        if scarce:
            names = [self.random.choice(("RTX 4090", "RTX 3090"))]
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
        """Units sold to more than one demand."""
        return sum(len(provider.sold_to) > 1 for provider in self.providers)

    def optimum(self, wanted: Collection[bytes]) -> tuple[int, int]:
        """(cost, matched) of the cheapest assignment of these demands, known at once."""
        matrix = np.full((len(wanted), PROVIDERS + len(wanted)), 1e15)
        chosen_requests = [r for r in self.requests if r.demand.demand_id in wanted]
        for number, request in enumerate(chosen_requests):
            for other, provider in enumerate(self.providers):
                far = self._far(request, provider)
                if misfit(request.demand, provider.offer, samples.NOW, far) is None:
                    cost = expected_cost(request.demand, provider.offer, samples.NOW, rtt_us=far)
                    matrix[number, other] = cost.total
        chosen = matrix[linear_sum_assignment(matrix)]
        return int(chosen[chosen < 1e15].sum()), int((chosen < 1e15).sum())

    def _at(self, when: float, act: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, act))

    def _far(self, request: Request, provider: Provider) -> int:
        return int(self.matrix[request.place, provider.place])

    def _one_way_s(self, request: Request, provider: Provider) -> float:
        return self._far(request, provider) / 2e6

    # The requester.

    def _ask(self, number: int, turn: int) -> None:
        request = self.requests[number]
        if turn >= ROUNDS_MAX:
            return
        request.demand = replace(request.demand, round=turn)
        request.quotes, request.open = {}, True
        self.gossip += 1
        heard: set[int] = set()
        for lag, book in enumerate(self.books):
            heard |= self._who_may_answer(request.demand, book, lag)
        for other in sorted(heard):
            hops_s = HOPS * self._one_way_s(request, self.providers[other])
            self._at(self.now + hops_s, lambda o=other: self._hear(number, o, turn))  # type: ignore[misc]
        self._at(self.now + QUOTE_WINDOW_S, lambda: self._choose(number, turn))

    def _who_may_answer(self, demand: Demand, book: Book, lag: int) -> set[int]:
        """Who could be among the best by this book: its best peers, and those it is wrong about."""
        found = {
            self.by_peer[candidate.offer.peer]
            for candidate in book.top(demand, 2 * answers_wanted(demand), self.now)
        }
        recent = {
            number
            for number, provider in enumerate(self.providers)
            if provider.changed_at > self.now - LAGS_S[lag] - 2
        }
        return {number for number in found | recent if self.providers[number].lag == lag}

    def _choose(self, number: int, turn: int) -> None:
        request = self.requests[number]
        if not request.open or request.demand.round != turn:
            return
        request.open = False
        ranked = sorted(
            request.quotes,
            key=lambda n: (request.quotes[n], tie(request.demand, self.providers[n].offer)),
        )
        if not ranked:
            self._ask(number, turn + 1)
            return
        self.direct += len(ranked)  # one accept, all others a release
        best = ranked[0]
        way_s = self._one_way_s(request, self.providers[best])
        self._at(self.now + way_s, lambda: self._accept(number, best))
        for other in ranked[1:]:
            way_s = self._one_way_s(request, self.providers[other])
            self._at(self.now + way_s, lambda o=other: self._release(number, o))  # type: ignore[misc]

    # The provider.

    def _hear(self, number: int, other: int, turn: int) -> None:
        request, provider = self.requests[number], self.providers[other]
        if provider.sold_to or (provider.held_by and provider.held_until > self.now):
            return
        demand = replace(request.demand, round=turn)
        if not answers(demand, self.books[provider.lag], provider.offer, self.now):
            return
        provider.held_by, provider.held_until = demand.demand_id, self.now + HOLD_S
        self._changed(provider)
        self.direct += 1
        way_s = self._one_way_s(request, provider)
        self._at(self.now + way_s, lambda: self._quoted(number, other, turn))

    def _quoted(self, number: int, other: int, turn: int) -> None:
        request, provider = self.requests[number], self.providers[other]
        if not request.open or request.demand.round != turn:
            self.direct += 1
            way_s = self._one_way_s(request, provider)
            self._at(self.now + way_s, lambda: self._release(number, other))
            return
        far = self._far(request, provider)
        if misfit(request.demand, provider.offer, self.now, far) is None:
            cost = expected_cost(request.demand, provider.offer, self.now, rtt_us=far)
            request.quotes[other] = cost.total
        if len(request.quotes) >= answers_wanted(request.demand):
            self._choose(number, turn)

    def _accept(self, number: int, other: int) -> None:
        request, provider = self.requests[number], self.providers[other]
        if provider.held_by != request.demand.demand_id or provider.held_until <= self.now:
            self._ask(number, request.demand.round + 1)
            return
        self.direct += 1  # the answer: done
        provider.sold_to.append(request.demand.demand_id)
        provider.held_by = b""
        far = self._far(request, provider)
        cost = expected_cost(request.demand, provider.offer, self.now, rtt_us=far)
        late_s = max(0.0, self.now - request.asked_at - QUOTE_WINDOW_S)
        self.total += cost.total + int(late_s * request.demand.value_of_time_per_hour / HOUR_S)
        self.agreed[request.demand.demand_id] = (self.now, request.asked_at)
        self._changed(provider)

    def _release(self, number: int, other: int) -> None:
        provider = self.providers[other]
        if provider.held_by == self.requests[number].demand.demand_id:
            provider.held_by = b""
            self._changed(provider)

    def _changed(self, provider: Provider) -> None:
        """Tell the others what is free here; each hears it with its own lag."""
        provider.changed_at = self.now
        self.gossip += 1
        free = 0 if provider.held_by or provider.sold_to else 1
        said = replace(provider.offer, num_gpus=free)
        self.count += 1
        sequence = self.count + 1
        for lag, book in enumerate(self.books):
            when = self.now + LAGS_S[lag] * self.random.uniform(0.5, 1.0)
            self._at(
                when,
                lambda b=book: b.update(said.peer, (said,), sequence, b"", self.now),  # type: ignore[misc]
            )
