"""Pairs: every demand of a batch against every offer of a book, at once, model by model.

The third form of the same rules (one pair, one demand, a batch), equal to the others to the last
bit (a property test). Knows a book and demands; no solver, clock or network.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market import columns as c
from market.book import Book
from market.columns import Numbers
from market.cost import RTT_UNKNOWN_US, Weights, charge, parallel
from market.scan import CERTIFICATE, NOMINAL, Query, Reals, Slots, total
from market.terms import Demand
from market.units import HOUR_S, PPM

ASKED_MAX = 2048  # pairs whose image may be cached that are looked up one by one
PIECE = 16_384  # pairs priced at once: thirty columns of them fit a second-level cache
_PRICED = (
    *(c.QUEUE, c.DOWN, c.UP, c.START_UP, c.RELIABILITY, c.SCORE),
    *(c.X, c.Y, c.HEIGHT, c.ERROR),
)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Fitting pairs, sorted by demand: its index, the offer's slot, units, and the cost."""

    row: Slots
    slot: Slots
    units: Slots
    total: Reals

    def only(self, keep: npt.NDArray[np.bool_] | Slots) -> Pairs:
        """Some of them, in the order given."""
        return Pairs(self.row[keep], self.slot[keep], self.units[keep], self.total[keep])


_NONE: Slots = np.zeros(0, np.int64)
_NO_MONEY: Reals = np.zeros(0)
_NOTHING = Pairs(_NONE, _NONE, _NONE, np.zeros(0))


def fitting_pairs(demands: Sequence[Demand], book: Book, now: float) -> Pairs:
    """Every pair of a demand and an offer that fits it, with its expected cost."""
    queries = [book.query(demand, now) for demand in demands]
    columns = book.columns
    numbers = columns.numbers.reshape(c.COLUMNS, -1)
    price = columns.price.reshape(-1)
    live = np.flatnonzero(numbers[c.EXPIRES] > now)
    live = live[np.argsort(numbers[c.MODEL][live], kind="stable")]
    table = _Table(queries, demands)
    if not len(live):
        return _NOTHING
    models, starts = np.unique(numbers[c.MODEL][live], return_index=True)
    found = [
        table.fitting(int(model), slots, numbers[:, slots], price[slots])
        for model, slots in zip(models, np.split(live, starts[1:]), strict=True)
    ]
    row = np.concatenate([part[0] for part in found])
    if not len(row):
        return _NOTHING
    slot = np.concatenate([part[1] for part in found])
    units = np.concatenate([part[2] for part in found])
    order = np.argsort(row, kind="stable")
    return table.price(book, row[order], slot[order], units[order])


class _Table:
    """The demands as columns of their own."""

    def __init__(self, queries: list[Query], demands: Sequence[Demand]) -> None:
        self.queries = queries
        self.demands = demands
        want = [demand.requirements for demand in demands]
        self.low = {
            c.MAX_DURATION: _column([d.max_duration_s for d in demands]),
            c.VRAM: _column([w.vram_mib for w in want]),
            c.CUDA: _column([w.cuda_vers for w in want]),
            c.CPUS: _column([w.cpus for w in want]),
            c.MEMORY: _column([w.memory_mib for w in want]),
            c.RELIABILITY: _column([w.min_reliability_ppm for w in want]),
        }
        self.cap = np.array([[float(d.max_price_per_hour)] for d in demands])
        self.good = _column([query.good for query in queries])
        self.disk = np.array([[w.disk_mib] for w in want], np.int64)
        self.has_region = np.array([query.regions is not None for query in queries])
        self.by_level = [
            np.array([_level(query, level) for query in queries])
            for level in range(max((len(query.choices) for query in queries), default=0))
        ]
        kinds = sorted(NOMINAL, key=lambda kind: kind.value)
        self.nominal = np.stack([NOMINAL[kind] for kind in kinds])
        self.own = _own(queries, demands, [kinds.index(d.workload) for d in demands])

    def fitting(
        self, model: int, slots: Slots, numbers: Numbers, price: Reals
    ) -> tuple[Slots, Slots, Slots]:
        """(demand, slot, units) of each pair with offers of one model that fits."""
        rows = np.flatnonzero(self.by_level[0][:, model])
        if not len(rows):
            return rows, rows, rows
        free = numbers[c.FREE]
        units = np.broadcast_to(self.by_level[0][rows, model][:, None], (len(rows), len(slots)))
        for level in self.by_level[1:]:
            other = level[rows, model][:, None]
            if other.any():
                units = np.where((other > 0) & (free < units), other, units)
        fits = (free >= units) & (price <= self.cap[rows])
        for column, low in self.low.items():
            fits &= numbers[column] >= low[rows]
        fits &= numbers[c.MIN_DURATION] <= self.low[c.MAX_DURATION][rows]
        good = self.good[rows]
        fits &= (numbers[c.FLAGS] & good) == good
        if self.disk[rows].any():
            fits &= numbers[c.DISK] * units.astype(np.int64) >= self.disk[rows]
        for place in np.flatnonzero(self.has_region[rows]).tolist():
            inside = self.queries[rows[place]].regions
            assert inside is not None, "only demands with a region come here"
            fits[place] &= inside[numbers[c.REGION]]
        for place, row in enumerate(rows.tolist()):
            for peer in self.queries[row].exclude:
                fits[place] &= numbers[c.PEER] != peer
        at, of = np.nonzero(fits)
        return rows[at], slots[of], units[at, of].astype(np.int64)

    def price(self, book: Book, row: Slots, slot: Slots, units: Slots) -> Pairs:
        """The pairs with their cost; those that turn out too slow or too far are dropped.

        In pieces that stay in the processor's cache: a large batch is bound by memory otherwise.
        """
        cached = self._cached(book, row, slot)
        ends = range(0, len(row), PIECE)
        pieces = [slice(start, start + PIECE) for start in ends]
        priced = [
            self._piece(book, Pairs(row[at], slot[at], units[at], _NO_MONEY), cached[at])
            for at in pieces
        ]
        totals = np.concatenate([money for money, _ in priced])
        keep = np.concatenate([kept for _, kept in priced])
        pairs = Pairs(row, slot, units, totals)
        return pairs if keep.all() else pairs.only(keep)

    def _piece(
        self, book: Book, pairs: Pairs, cached: npt.NDArray[np.bool_]
    ) -> tuple[Reals, npt.NDArray[np.bool_]]:
        """(cost, whether it is fast and near enough) of some pairs."""
        columns, row, slot, units = book.columns, pairs.row, pairs.slot, pairs.units
        flat = columns.numbers.reshape(c.COLUMNS, -1)
        numbers = {column: flat[column][slot] for column in _PRICED}
        group = columns.zone_group[slot // columns.block]
        own = {name: values[row] for name, values in self.own.items()}
        far = self._far(own, numbers)
        parts = charge(
            Weights(
                work_s=own["work_s"],
                scales=True,
                value_per_s=own["value_per_s"],
                in_kbit=own["in_kbit"],
                image_kbit=own["image_kbit"],
                out_kbit=own["out_kbit"],
                checkpoint_s=own["checkpoint_s"],
                most_s=own["most_s"],
            ),
            rate=columns.price.reshape(-1)[slot] * units / HOUR_S,
            speed=self._speed(own, group, numbers[c.SCORE], units),
            wait_s=numbers[c.QUEUE],
            in_kbit=own["in_kbit"] + np.where(cached, 0.0, own["image_kbit"]),
            down_kbps=numbers[c.DOWN],
            up_kbps=numbers[c.UP],
            start_up_s=numbers[c.START_UP] / 1000,
            failure=(PPM - numbers[c.RELIABILITY]) / PPM,
            rtt_us=far,
            minimum=np.minimum,
        )
        run_s = parts.run_s * own["estimated"]
        keep = (run_s <= own["longest_s"]) & (far <= own["reach_us"])
        keep &= self.queries[0].now + numbers[c.QUEUE] + run_s <= own["deadline_s"]
        return total(parts), keep

    def _speed(self, own: dict[str, Reals], group: Slots, score: Numbers, units: Slots) -> Reals:
        nominal = self.nominal[own["kind"].astype(np.int64), group]
        unit_milli = nominal * (score / CERTIFICATE[group])
        speed: Reals = unit_milli / 1000 * parallel(units, own["smallest"])
        scaled: Reals = np.where(own["scales"] > 0, speed, 1.0)
        return scaled

    def _far(self, own: dict[str, Reals], numbers: dict[int, Numbers]) -> Reals:
        dx = own["x"] - numbers[c.X]
        dy = own["y"] - numbers[c.Y]
        far: Reals = np.sqrt(dx * dx + dy * dy) + (own["height"] + numbers[c.HEIGHT])
        far[(own["lost"] > 0) | (numbers[c.ERROR] >= PPM)] = RTT_UNKNOWN_US
        return far

    def _cached(self, book: Book, row: Slots, slot: Slots) -> npt.NDArray[np.bool_]:
        bits = np.array([query.image_bit for query in self.queries], np.uint64)[row]
        cached: npt.NDArray[np.bool_] = (book.columns.images.reshape(-1)[slot] & bits) != 0
        asked = np.flatnonzero(cached)
        if len(asked) <= ASKED_MAX:
            cached[asked] = [
                self.demands[r].image in book.at(s).cached_images
                for r, s in zip(row[asked].tolist(), slot[asked].tolist(), strict=True)
            ]
            return cached
        wanted = {demand.image: 0 for demand in self.demands}
        wanted = {image: place for place, image in enumerate(sorted(wanted))}
        width = book.columns.blocks * book.columns.block
        there = np.array(
            [
                wanted[image] * width + at
                for at in np.unique(slot[asked]).tolist()
                for image in book.at(at).cached_images
                if image in wanted
            ],
            np.int64,
        )
        image_of = np.array([wanted[demand.image] for demand in self.demands])
        cached[asked] = np.isin(image_of[row[asked]] * width + slot[asked], there)
        return cached


def _column(values: list[int]) -> Numbers:
    return np.array([[value] for value in values], np.uint32)


def _own(
    queries: Sequence[Query], demands: Sequence[Demand], kinds: Sequence[int]
) -> dict[str, Reals]:
    """What enters a pair's cost from the demand's side, by name: one number per demand."""
    weights = [query.weights for query in queries]
    at = [demand.coordinate for demand in demands]
    columns: dict[str, Iterable[float]] = {
        "work_s": (w.work_s for w in weights),
        "value_per_s": (w.value_per_s for w in weights),
        "in_kbit": (w.in_kbit for w in weights),
        "image_kbit": (w.image_kbit for w in weights),
        "out_kbit": (w.out_kbit for w in weights),
        "checkpoint_s": (w.checkpoint_s for w in weights),
        "most_s": (w.most_s for w in weights),
        "scales": (w.scales for w in weights),
        "smallest": (query.smallest for query in queries),
        "kind": kinds,
        "x": (float(one.x_us + c.ORIGIN) for one in at),
        "y": (float(one.y_us + c.ORIGIN) for one in at),
        "height": (one.height_us for one in at),
        "lost": (one.error_ppm >= PPM for one in at),
        "estimated": (d.estimate_s > 0 for d in demands),
        "longest_s": (d.max_duration_s for d in demands),
        "reach_us": (d.requirements.max_rtt_us or np.inf for d in demands),
        "deadline_s": (d.deadline_at_s or np.inf for d in demands),
    }
    count = len(demands)
    return {name: np.fromiter(values, np.float64, count) for name, values in columns.items()}


def _level(query: Query, level: int) -> Numbers:
    if level < len(query.choices):
        return query.choices[level]
    return np.zeros_like(query.choices[0])
