"""Explain: why a demand finds no offer, or so few: what each constraint removed, what would help.

The answer to "no match", told before any deposit. One pass over the book's columns, whatever its
size. Knows a demand and a book; no clock or network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market import columns as c
from market.assignment import book_of
from market.book import Book
from market.columns import Numbers
from market.constraints import Constraint
from market.scan import Query, Reals, round_trips, row_units, run_seconds
from market.terms import Demand, Offer
from market.units import PPM, format_duration, format_money

Flags = npt.NDArray[np.bool_]

RELAXATIONS_MAX = 8  # as many as fit on a screen; the nearest of each constraint


@dataclass(frozen=True, slots=True)
class Removed:
    """How many offers a constraint breaks on, and how many on nothing but it."""

    constraint: Constraint
    offers: int
    alone: int


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The nearest change of one or two constraints that lets offers in, and how many.

    `value` is what the first constraint must become: base units per unit-hour, MiB, microseconds,
    ppm or seconds, as the requirement's own field; None for a yes or no.
    """

    constraints: tuple[Constraint, ...]
    value: int | None
    offers: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What was looked at, what fits, what each constraint removed, and what would help.

    `providers` counts those whose offers fit, `nodes` how many of them the job needs at once.
    """

    considered: int
    fitting: int
    removed: tuple[Removed, ...]
    relaxations: tuple[Relaxation, ...]
    providers: int = 0
    nodes: int = 1

    def lines(self) -> tuple[str, ...]:
        """Sentences for people, the most important first."""
        if not self.considered:
            return ("No offers are known yet: is this node connected? (souk peers)",)
        told = [f"{self.fitting} of {self.considered} live offers fit."]
        if self.nodes > 1:
            told.append(f"They are of {self.providers} providers; the job needs {self.nodes}.")
        told += [
            f"{r.constraint.value} removes {r.offers}"
            + (f", {r.alone} of them by itself." if r.alone else ".")
            for r in sorted(self.removed, key=lambda r: -r.offers)
        ]
        told += [relaxation.sentence for relaxation in self.relaxations]
        return tuple(told)

    def __str__(self) -> str:
        return "\n".join(self.lines())


def explain(
    demand: Demand, offers: Book | Iterable[Offer], now: float, *, decimals: int = 6
) -> Explanation:
    """What each constraint of the demand removes, and the nearest relaxations.

    `decimals` are the token's, for the sentences. Offers that have expired count as not there.
    """
    book = offers if isinstance(offers, Book) else book_of(offers, now)
    query = book.query(demand, now)
    flat = book.columns.numbers.reshape(c.COLUMNS, -1)
    live = np.flatnonzero(flat[c.EXPIRES] > now)
    table = _Table(book, query, live)
    broken = {k: mask for k, mask in table.broken().items() if mask.any()}
    count = np.zeros(len(live), np.int16)
    for mask in broken.values():
        count += mask
    removed = tuple(
        Removed(constraint, int(mask.sum()), int((mask & (count == 1)).sum()))
        for constraint, mask in broken.items()
    )
    relaxations: list[Relaxation] = []
    for constraint, mask in broken.items():
        near = np.flatnonzero(mask & (count == 1))
        if len(near):
            relaxations.append(table.relax(constraint, near, decimals))
    if not relaxations and len(live) and (count > 0).all():
        relaxations.append(_together(broken, count))
    relaxations.sort(key=lambda r: (-r.offers, r.constraints[0].value))
    fitting = int((count == 0).sum())
    providers = len(np.unique(table.numbers[c.PEER][count == 0]))
    nearest = tuple(relaxations[:RELAXATIONS_MAX])
    nodes = max(1, demand.num_nodes)
    return Explanation(len(live), fitting, removed, nearest, providers, nodes)


def _together(broken: dict[Constraint, Flags], count: npt.NDArray[np.int16]) -> Relaxation:
    """Where every offer breaks on several: the smallest set, of those the one that helps most."""
    least = int(count.min())
    near = np.flatnonzero(count == least)
    sets: dict[tuple[Constraint, ...], int] = {}
    names = list(broken)
    marks = np.array([broken[name][near] for name in names]).T
    kinds, amounts = np.unique(marks, axis=0, return_counts=True)
    for kind, amount in zip(kinds, amounts.tolist(), strict=True):
        chosen = tuple(name for name, is_in in zip(names, kind.tolist(), strict=True) if is_in)
        sets[chosen] = amount
    best = min(sets, key=lambda s: (-sets[s], [constraint.value for constraint in s]))
    words = " and ".join(constraint.value for constraint in best)
    return Relaxation(best, None, sets[best], f"{_offers(sets[best])} if {words} were relaxed.")


class _Table:
    """The live rows, and each constraint as a column of booleans over them."""

    def __init__(self, book: Book, query: Query, live: npt.NDArray[np.int64]) -> None:
        self.book = book
        self.live = live
        self.query = query
        self.demand = query.demand
        self.numbers: Numbers = book.columns.numbers.reshape(c.COLUMNS, -1)[:, live]
        self.price: Reals = book.columns.price.reshape(-1)[live]
        self.group = book.columns.zone_group[live // book.columns.block]
        wanted = row_units(query, self.numbers[c.MODEL], self.numbers[c.FREE])
        self.is_wanted: Flags = wanted > 0
        self.units = np.where(self.is_wanted, wanted, np.uint32(query.smallest))
        priced = self.numbers[c.PRICED].astype(np.float64)
        self.far = round_trips(query, self.numbers[c.PEER], priced)
        self.run_s = run_seconds(
            query, self.group, self.numbers[c.SCORE].astype(np.float64), self.units
        )

    def broken(self) -> dict[Constraint, Flags]:
        """Where each constraint is broken: the columns' twin of `constraints.misfits`."""
        demand, want, n = self.demand, self.demand.requirements, self.numbers
        excluded = np.zeros(len(self.price), np.bool_)
        for peer in self.query.exclude:
            excluded |= n[c.PEER] == peer
        flags = n[c.FLAGS]
        outside = np.zeros(len(self.price), np.bool_)
        if self.query.regions is not None:
            outside = ~self.query.regions[n[c.REGION]]
        known_s = self.run_s if demand.estimate_s else np.zeros(len(self.price))
        k = Constraint
        return {
            k.EXCLUDED: excluded,
            k.ACCELERATOR: ~self.is_wanted,
            k.COUNT: n[c.FREE] < self.units,
            k.VRAM: n[c.VRAM] < want.vram_mib,
            k.CUDA: n[c.CUDA] < want.cuda_vers,
            k.CPUS: n[c.CPUS] < want.cpus,
            k.MEMORY: n[c.MEMORY] < want.memory_mib,
            k.DISK: n[c.DISK] * self.units.astype(np.int64) < want.disk_mib,
            k.REGION: outside,
            k.RTT: (self.far > want.max_rtt_us) & (want.max_rtt_us > 0),
            k.RELIABILITY: n[c.RELIABILITY] < want.min_reliability_ppm,
            k.VERIFIED: ((flags & c.VERIFIED) == 0) & want.verified,
            k.REAL: ((flags & c.REAL) == 0) & want.real,
            k.EGRESS: ((flags & c.EGRESS) == 0) & bool(want.egress),
            k.PREEMPTIBLE: ((flags & c.STEADY) == 0) & (not demand.preemptible),
            k.DURATION: (n[c.MIN_DURATION] > demand.max_duration_s)
            | (n[c.MAX_DURATION] < demand.max_duration_s),
            k.SPEED: known_s > demand.max_duration_s,
            k.DEADLINE: (self.query.now + n[c.QUEUE] + known_s > demand.deadline_at_s)
            & (demand.deadline_at_s > 0),
            k.PRICE: self.price > float(demand.max_price_per_hour),
        }

    def relax(
        self, constraint: Constraint, near: npt.NDArray[np.int64], decimals: int
    ) -> Relaxation:
        """The nearest change of this one constraint that lets some of these offers in."""
        say = _Say(self, near, decimals)
        value, offers, words = say.nearest(constraint)
        return Relaxation((constraint,), value, offers, f"{_offers(offers)} {words}.")


class _Say:
    """Finds and words the nearest value of one constraint over some rows."""

    def __init__(self, table: _Table, near: npt.NDArray[np.int64], decimals: int) -> None:
        self.table = table
        self.near = near
        self.decimals = decimals

    def nearest(self, constraint: Constraint) -> tuple[int | None, int, str]:
        """(value, offers let in, how it is said)."""
        if constraint in _AT_LEAST:
            column, words = _AT_LEAST[constraint]
            return self._spread(self._column(column), words, highest=True)
        table, near = self.table, self.near
        match constraint:
            case Constraint.PRICE:
                return self._price()
            case Constraint.DISK:
                have = self._column(c.DISK) * table.units[near]
                return self._spread(have, "with disk >= {gib} GiB", highest=True)
            case Constraint.RTT:
                far = np.ceil(table.far[near]).astype(np.int64)
                return self._spread(far, "with max_rtt {ms} ms", highest=False)
            case Constraint.DURATION:
                return self._duration()
            case Constraint.SPEED:
                run_s = np.ceil(table.run_s[near]).astype(np.int64)
                return self._spread(run_s, "with max_duration {duration}", highest=False)
            case Constraint.ACCELERATOR:
                most = self._most(c.MODEL).gpu_name
                return None, len(near), f"with another accelerator, most of them {most}"
            case Constraint.REGION:
                place = self._most(c.REGION).geolocation
                where = f"most of them in {place}" if place else "most of them do not say where"
                return None, len(near), f"outside the named regions, {where}"
            case _:
                return None, len(near), _YES_NO[constraint]

    def _column(self, column: int) -> npt.NDArray[np.int64]:
        values: npt.NDArray[np.int64] = self.table.numbers[column][self.near].astype(np.int64)
        return values

    def _most(self, column: int) -> Offer:
        """An offer with the value that most of the rows have in this column."""
        values = self._column(column)
        numbers, counts = np.unique(values, return_counts=True)
        at = self.near[np.flatnonzero(values == numbers[counts.argmax()])[0]]
        return self.table.book.at(int(self.table.live[at]))

    def _duration(self) -> tuple[int | None, int, str]:
        longest = self._column(c.MAX_DURATION)
        asked = self.table.demand.max_duration_s
        if (longest >= asked).all():
            least = self._column(c.MIN_DURATION)
            return self._spread(least, "with max_duration {duration}", highest=False)
        return self._spread(longest[longest < asked], "with max_duration {duration}", highest=True)

    def _price(self) -> tuple[int | None, int, str]:
        """The cheapest, and all within a tenth of it."""
        cap = self.table.demand.max_price_per_hour
        prices = self.table.price[self.near]
        value = int(prices.min())
        offers = int((prices <= value).sum())
        more = format_money(value - cap, self.decimals)
        within = int((prices <= float(cap) + 2.0 * (value - cap)).sum())
        words = f"at +{more}/h"
        if within > offers:
            words += f", {within} at +{format_money(2 * (value - cap), self.decimals)}/h"
        return value, offers, words

    def _spread(
        self, values: npt.NDArray[np.int64], words: str, *, highest: bool
    ) -> tuple[int | None, int, str]:
        value = int(values.max() if highest else values.min())
        offers = int((values >= value).sum() if highest else (values <= value).sum())
        told = words.format(
            value=value,
            gib=f"{value / 1024:g}",
            version=f"{value // 100}.{value % 100:d}",
            percent=f"{value * 100 / PPM:g}",
            ms=-(-value // 1000),
            duration=format_duration(value),
        )
        return value, offers, told


_AT_LEAST = {
    Constraint.VRAM: (c.VRAM, "with vram >= {gib} GiB"),
    Constraint.MEMORY: (c.MEMORY, "with memory >= {gib} GiB"),
    Constraint.CPUS: (c.CPUS, "with cpus >= {value}"),
    Constraint.CUDA: (c.CUDA, "with CUDA {version} or later"),
    Constraint.COUNT: (c.FREE, "with count {value}"),
    Constraint.RELIABILITY: (c.RELIABILITY, "with reliability >= {percent} %"),
}
_YES_NO = {
    Constraint.EXCLUDED: "of providers that failed this job before",
    Constraint.VERIFIED: "that nobody has verified",
    Constraint.REAL: "with declared units",
    Constraint.EGRESS: "that let no job out to the network",
    Constraint.PREEMPTIBLE: "if the job may be preempted",
    Constraint.DEADLINE: "with a later deadline",
}


def _offers(count: int) -> str:
    return f"{count} offer" if count == 1 else f"{count} offers"
