"""Assignment: many demands at once, beside the greedy one at a time; what a batch window is for.

The costs are the book's; the solver is scipy's. Small problems are solved over every fitting pair,
large ones over each demand's best offers, more of them for those left over. Deterministic. Knows no
clock: the caller chooses the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from market.book import Book
from market.columns import FREE
from market.pairs import Pairs, fitting_pairs
from market.rows import demand_tie
from market.scan import Reals, Slots
from market.terms import Demand, Offer

PAIRS_MAX = 50_000  # up to here every fitting pair is solved over
CELLS_MAX = 4_000_000  # up to here as a dense matrix: 32 MB
LIST_MAX = 64  # offers each demand brings to a large problem at first ...
CHOICES_MIN = 2.0  # ... and more until it may expect so many, after what others want of them
COPIES_MAX = 8  # demands that may share one offer in one solve
ROUNDS_MAX = 4  # solves for those left over, on what is left


@dataclass(frozen=True, slots=True)
class Match:
    """A demand, the offer it gets, how many units of it, and the expected cost."""

    demand: Demand
    offer: Offer
    units: int
    total: int


@dataclass(frozen=True, slots=True)
class Assigned:
    """What a batch decided. `unmatched` are demands that no offer was left for."""

    matches: tuple[Match, ...]
    unmatched: tuple[Demand, ...]

    @property
    def total(self) -> int:
        """The expected cost of all matches."""
        return sum(match.total for match in self.matches)


def assign(
    demands: Sequence[Demand], book: Book, now: float, *, one_each: bool = False
) -> Assigned:
    """The cheapest assignment of the demands to the book's offers, as many matched as possible.

    An offer serves as many demands as its free units allow (`one_each`: only one). Optimal where
    one demand per offer is allowed and every pair is priced; otherwise demands for which too little
    is left are solved for again. Sorted by demand id.
    """
    return _solve(demands, book, now, one_each)


def greedy(
    demands: Sequence[Demand], book: Book, now: float, *, one_each: bool = False
) -> Assigned:
    """Each demand in its turn takes the cheapest offer that is left: what single requesters do."""
    left: dict[int, int] = {}
    matches: list[Match] = []
    unmatched: list[Demand] = []
    for demand in demands:
        found = _first_left(demand, book, now, left)
        if found is None:
            unmatched.append(demand)
            continue
        slot, units, total = found
        matches.append(Match(demand, book.at(slot), units, total))
        left[slot] = 0 if one_each else left.get(slot, book.at(slot).num_gpus) - units
    return Assigned(_by_id(matches), tuple(unmatched))


def book_of(offers: Iterable[Offer], now: float) -> Book:
    """A book of these offers alone, for a batch over less than all that is known."""
    book = Book()
    for offer in sorted(offers, key=lambda o: (o.peer, o.offer_id)):
        book.update(offer.peer, (offer,), 1, b"", now)
    return book


def _first_left(
    demand: Demand, book: Book, now: float, left: dict[int, int]
) -> tuple[int, int, int] | None:
    wanted = 8
    while True:
        found = book.top(demand, wanted, now)
        for candidate in found:
            slot = book.slot_of(candidate.offer)
            if left.get(slot, candidate.offer.num_gpus) >= candidate.units:
                return slot, candidate.units, candidate.total
        if len(found) < wanted:
            return None
        wanted *= 4


def _solve(demands: Sequence[Demand], book: Book, now: float, one_each: bool) -> Assigned:
    waiting = sorted(demands, key=lambda d: (demand_tie(d), d.demand_id))
    free = book.columns.numbers[FREE].reshape(-1).astype(np.int64)
    pairs = fitting_pairs(waiting, book, now)
    matches: list[Match] = []
    lost = np.ones(len(waiting), np.bool_)
    for _ in range(ROUNDS_MAX):
        pairs = pairs.only(lost[pairs.row] & (free[pairs.slot] >= pairs.units))
        if not len(pairs.row):
            break
        won = _match(pairs, free, len(waiting), 1 if one_each else COPIES_MAX)
        for row, slot, units, total in zip(
            won.row.tolist(), won.slot.tolist(), won.units.tolist(), won.total.tolist(), strict=True
        ):
            assert free[slot] >= units, "no offer is given away twice"
            free[slot] = 0 if one_each else free[slot] - units
            lost[row] = False
            matches.append(Match(waiting[row], book.at(slot), units, int(total)))
    left = [demand for demand, is_lost in zip(waiting, lost, strict=True) if is_lost]
    return Assigned(_by_id(matches), tuple(sorted(left, key=lambda d: d.demand_id)))


def _match(pairs: Pairs, free: Slots, count: int, copies_max: int) -> Pairs:
    """The pairs of the cheapest largest matching.

    An offer stands there as often as its free units hold the largest demand for it, so whatever is
    chosen fits; what that leaves over is for the next round.
    """
    there = np.zeros(len(free), np.bool_)
    there[pairs.slot] = True
    slots = np.flatnonzero(there)
    used = (np.cumsum(there) - 1)[pairs.slot]
    copies = np.ones(len(slots), np.int64)
    if copies_max > 1:
        largest = np.zeros(len(slots), np.int64)
        np.maximum.at(largest, used, pairs.units)
        copies = np.clip(free[slots] // largest, 1, min(copies_max, count))
    if len(pairs.row) > PAIRS_MAX:
        listed = _listed(pairs, used, copies, count)
        kept = np.zeros(len(slots), np.bool_)
        kept[used[listed]] = True
        if int(copies[kept].sum()) * count <= CELLS_MAX:
            listed = kept[used]  # a dense matrix has room for all that is known of these offers
        pairs, used = pairs.only(listed), used[listed]
        copies = np.where(kept, copies, 0)
    first = np.concatenate([[0], np.cumsum(copies)])
    repeat = copies[used]
    edge = np.repeat(np.arange(len(used)), repeat)
    offset = np.arange(len(edge)) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    rows, row_of = np.unique(pairs.row[edge], return_inverse=True)
    column = first[used[edge]] + offset
    chosen = _cheapest(row_of, column, pairs.total[edge], len(rows), int(first[-1]))
    return pairs.only(np.sort(edge[chosen]))


def _listed(pairs: Pairs, used: Slots, copies: Slots, count: int) -> npt.NDArray[np.bool_]:
    """Which pairs are in each demand's list of its cheapest ones.

    A list is as long as it has to be: of an offer that many list, a demand counts only its share,
    and the list grows until these make CHOICES_MIN, or it holds all that fits.
    """
    edges = np.searchsorted(pairs.row, np.arange(count + 1))
    fitting, length = np.diff(edges), np.full(count, LIST_MAX)
    listed = np.zeros(len(pairs.row), np.bool_)
    ranked: dict[int, Slots] = {}
    changed = np.flatnonzero(fitting)
    while True:
        for row in changed.tolist():
            start, end = edges[row], edges[row + 1]
            if end - start <= length[row]:
                listed[start:end] = True
                continue
            if length[row] == LIST_MAX:
                nearest = np.argpartition(pairs.total[start:end], LIST_MAX)[:LIST_MAX]
            else:
                if row not in ranked:
                    ranked[row] = np.argsort(pairs.total[start:end], kind="stable")
                nearest = ranked[row][: length[row]]
            listed[start + nearest] = True
        at = np.flatnonzero(listed)
        wanted = np.bincount(used[at], minlength=len(copies))
        share = np.minimum(1.0, copies / np.maximum(1, wanted))
        choices = np.bincount(pairs.row[at], share[used[at]], minlength=count)
        changed = np.flatnonzero((choices < CHOICES_MIN) & (length < fitting))
        if not len(changed):
            return listed
        length[changed] *= 2


def _cheapest(
    rows: Slots, columns: Slots, totals: Reals, row_count: int, column_count: int
) -> Slots:
    """Which edges make the cheapest of the largest matchings.

    A row may also stay alone, at a price above any chain of savings, which is what "as many as
    possible" means.
    """
    weights = totals - totals.min() + 1.0
    alone = (float(weights.max()) + 1.0) * (row_count + 1)
    if row_count * column_count <= CELLS_MAX:
        matrix = np.full((row_count, column_count), alone)
        matrix[rows, columns] = weights
        chosen_rows, chosen_columns = linear_sum_assignment(matrix)
        real = matrix[chosen_rows, chosen_columns] < alone
        chosen_rows, chosen_columns = chosen_rows[real], chosen_columns[real]
    else:
        own = np.arange(row_count)
        graph = csr_matrix(
            (
                np.concatenate([weights, np.full(row_count, alone)]),
                (np.concatenate([rows, own]), np.concatenate([columns, column_count + own])),
            ),
            shape=(row_count, column_count + row_count),
        )
        chosen_rows, chosen_columns = min_weight_full_bipartite_matching(graph)
        real = chosen_columns < column_count
        chosen_rows, chosen_columns = chosen_rows[real], chosen_columns[real]
    names = rows * column_count + columns
    order = np.argsort(names)
    wanted = chosen_rows.astype(np.int64) * column_count + chosen_columns
    found: Slots = order[np.searchsorted(names, wanted, sorter=order)]
    return found


def _by_id(matches: list[Match]) -> tuple[Match, ...]:
    return tuple(sorted(matches, key=lambda match: match.demand.demand_id))
