"""Pairs: every demand of a batch against every offer of a book, at once, model by model.

The third form of the same rules (one pair, one demand, a batch), equal to the others to the last
bit (a property test). Knows a book and demands; no solver, clock or network.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """The pairs with their cost; those that turn out too slow or too far are dropped."""
        columns = book.columns
        numbers = {column: columns.numbers[column].reshape(-1)[slot] for column in _PRICED}
        group = columns.zone_group[slot // columns.block]
        weights = [query.weights for query in self.queries]
        speed = self._speed(row, group, numbers[c.SCORE], units)
        far = self._far(row, numbers)
        cached = self._cached(book, row, slot)
        in_kbit = _of([w.in_kbit for w in weights], row)
        image_kbit = _of([w.image_kbit for w in weights], row)
        parts = charge(
            Weights(
                work_s=_of([w.work_s for w in weights], row),
                scales=True,
                value_per_s=_of([w.value_per_s for w in weights], row),
                in_kbit=in_kbit,
                image_kbit=image_kbit,
                out_kbit=_of([w.out_kbit for w in weights], row),
                checkpoint_s=_of([w.checkpoint_s for w in weights], row),
            ),
            rate=columns.price.reshape(-1)[slot] * units / HOUR_S,
            speed=speed,
            wait_s=numbers[c.QUEUE],
            in_kbit=in_kbit + np.where(cached, 0.0, image_kbit),
            down_kbps=numbers[c.DOWN],
            up_kbps=numbers[c.UP],
            start_up_s=numbers[c.START_UP] / 1000,
            failure=(PPM - numbers[c.RELIABILITY]) / PPM,
            rtt_us=far,
            minimum=np.minimum,
        )
        pairs = Pairs(row, slot, units, total(parts))
        estimate = _of([float(d.estimate_s > 0) for d in self.demands], row)
        longest = _of([float(d.max_duration_s) for d in self.demands], row)
        reach = _of([d.requirements.max_rtt_us or np.inf for d in self.demands], row)
        deadline = _of([d.deadline_at_s or np.inf for d in self.demands], row)
        run_s = parts.run_s * estimate
        keep = (run_s <= longest) & (far <= reach)
        keep &= self.queries[0].now + numbers[c.QUEUE] + run_s <= deadline
        return pairs if keep.all() else pairs.only(keep)

    def _speed(self, row: Slots, group: Slots, score: Numbers, units: Slots) -> Reals:
        kinds = sorted(NOMINAL, key=lambda kind: kind.value)
        kind = np.array([kinds.index(demand.workload) for demand in self.demands])[row]
        nominal = np.stack([NOMINAL[k] for k in kinds])[kind, group]
        smallest = np.array([query.smallest for query in self.queries])[row]
        unit_milli = nominal * (score / CERTIFICATE[group])
        speed: Reals = unit_milli / 1000 * parallel(units, smallest)
        scales = np.array([query.weights.scales for query in self.queries])[row]
        scaled: Reals = np.where(scales, speed, 1.0)
        return scaled

    def _far(self, row: Slots, numbers: dict[int, Numbers]) -> Reals:
        own = [demand.coordinate for demand in self.demands]
        dx = _of([float(o.x_us + c.ORIGIN) for o in own], row) - numbers[c.X]
        dy = _of([float(o.y_us + c.ORIGIN) for o in own], row) - numbers[c.Y]
        heights = _of([float(o.height_us) for o in own], row) + numbers[c.HEIGHT]
        far: Reals = np.sqrt(dx * dx + dy * dy) + heights
        lost = np.array([o.error_ppm >= PPM for o in own])[row] | (numbers[c.ERROR] >= PPM)
        far[lost] = RTT_UNKNOWN_US
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


def _of(values: list[float], row: Slots) -> Reals:
    return np.array(values, np.float64)[row]


def _level(query: Query, level: int) -> Numbers:
    if level < len(query.choices):
        return query.choices[level]
    return np.zeros_like(query.choices[0])
