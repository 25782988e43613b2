"""Scan: a demand against columns of offers: which rows fit, what each costs, the best k of them.

The vector twin of `constraints.misfit` and `cost.expected_cost`: the same comparisons and the same
arithmetic, so the same answers to the last bit (a property test). Knows columns and a demand; no
offer, peer or network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from market import columns as c
from market.columns import Columns, Numbers
from market.cost import RTT_UNKNOWN_US, Parts, Weights, charge, parallel
from market.terms import Coordinate, Demand, Workload
from market.throughput import rating, table
from market.units import HOUR_S, PPM

Reals = npt.NDArray[np.float64]
Slots = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
ANY_WORK = Workload.TRAINING  # certificates are measured with training, whatever is run later

GROUPS: dict[str, int] = {name: place for place, name in enumerate(table(), start=1)}
"""The columns' group of each model of the throughput table; 0 holds all others."""

_RATINGS = {
    kind: [rating(kind, name) for name in ("an unknown model", *table())] for kind in Workload
}
NOMINAL = {kind: np.array([r.nominal for r in _RATINGS[kind]]) for kind in Workload}
CERTIFICATE = np.array([float(r.certificate) for r in _RATINGS[Workload.TRAINING]])


@dataclass(frozen=True, slots=True)
class Query:
    """A demand made ready for columns."""

    demand: Demand
    weights: Weights
    smallest: int
    choices: tuple[Numbers, ...]  # units by model (0: not taken); later ones are smaller
    least: Numbers  # the smallest of them by group: what a zone must have
    most: Numbers  # the largest by group: how fast a row can be
    regions: Flags | None  # by region number; None: anywhere
    region_bits: int
    exclude: tuple[int, ...]  # peer numbers
    rtt_us: Mapping[int, int]  # measured, by peer number
    image_bit: int  # 0: no image to fetch
    tie: int
    now: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that fit, and what they cost. `image` marks those whose image may be cached there."""

    slots: Slots
    units: Numbers
    total: Reals
    parts: Parts
    image: Flags | None


def promising(columns: Columns, query: Query) -> tuple[Slots, Reals]:
    """The blocks that may hold a fitting row, best bound first, and the bounds.

    The bound is the formula itself on the best value of each column: as every step of it rounds
    monotonically, no row of the block costs less.
    """
    demand = query.demand
    zone, group = columns.zone, columns.zone_group
    least = query.least[group]
    fits = (least > 0) & (columns.zone_price <= float(demand.max_price_per_hour))
    fits &= (zone[c.FREE] >= least) & (zone[c.EXPIRES] > query.now)
    fits &= zone[c.MAX_DURATION] >= demand.max_duration_s
    fits &= zone[c.MIN_DURATION] <= demand.max_duration_s
    for column, low in _minima(query):
        if low:
            fits &= zone[column] >= low
    good = _needed_flags(query)
    if good:
        fits &= (columns.zone_bits[0] & np.uint64(good)) == good
    if query.regions is not None:
        fits &= (columns.zone_bits[1] & np.uint64(query.region_bits)) != 0
    blocks = np.flatnonzero(fits)
    if not len(blocks):
        return blocks, np.zeros(0)
    group = group[blocks]
    best = zone[:, blocks]
    units = least[blocks]
    most = query.most[group]
    speed = _speed(query, group, best[c.SCORE], most)
    image = (columns.zone_bits[2][blocks] & np.uint64(query.image_bit)) != 0
    parts = _charge(query, best, columns.zone_price[blocks], units, speed, image, 0.0)
    bound = total(parts)
    order = np.argsort(bound, kind="stable")
    return blocks[order], bound[order]


def evaluate(columns: Columns, query: Query, blocks: Slots) -> Rows:
    """Every row of these blocks that fits, with its cost."""
    take = _Take(columns, blocks)
    fits, units = _fitting(query, take)
    at = np.flatnonzero(fits)
    return price_rows(columns, query, take.slots[at], units[at])


def price_rows(
    columns: Columns,
    query: Query,
    slots: Slots,
    units: Numbers,
) -> Rows:
    """What these rows cost; those that miss a limit that follows from the cost are dropped."""
    demand = query.demand
    numbers = columns.numbers.reshape(c.COLUMNS, -1)[:, slots]
    group = columns.zone_group[slots // columns.block]
    price = columns.price.reshape(-1)[slots]
    far = _round_trips(query, numbers)
    speed = _speed(query, group, numbers[c.SCORE], units)
    image = None
    if query.image_bit:
        image = (columns.images.reshape(-1)[slots] & np.uint64(query.image_bit)) != 0
    parts = _charge(query, numbers, price, units, speed, image, far)
    rows = Rows(slots, units, total(parts), parts, image)
    keep = np.ones(len(slots), np.bool_)
    want = demand.requirements
    if want.max_rtt_us:
        keep &= far <= want.max_rtt_us
    run_s = parts.run_s if demand.estimate_s else 0.0
    if demand.estimate_s:
        keep &= run_s <= demand.max_duration_s
    if demand.deadline_at_s:
        keep &= query.now + numbers[c.QUEUE] + run_s <= demand.deadline_at_s
    return rows if keep.all() else select(rows, np.flatnonzero(keep))


def select(rows: Rows, at: Slots) -> Rows:
    """Some of the rows, in the order of `at`."""
    parts = rows.parts
    return Rows(
        slots=rows.slots[at],
        units=rows.units[at],
        total=rows.total[at],
        parts=Parts(
            parts.price[at],
            parts.waiting[at],
            parts.risk[at],
            parts.transfer_s[at],
            parts.run_s[at],
            parts.ready_s[at],
        ),
        image=None if rows.image is None else rows.image[at],
    )


def one(parts: Parts, place: int) -> Parts:
    """One row's parts, as plain floats."""
    return Parts(
        float(parts.price[place]),
        float(parts.waiting[place]),
        float(parts.risk[place]),
        float(parts.transfer_s[place]),
        float(parts.run_s[place]),
        float(parts.ready_s[place]),
    )


def total(parts: Parts) -> Reals:
    """The ranked sum: each part rounded to base units, then added, as in `cost.tell`."""
    summed: Reals = np.rint(parts.price) + np.rint(parts.waiting) + np.rint(parts.risk)
    return summed


class _Take:
    """Reads a column of some blocks, whole blocks at a time."""

    def __init__(self, columns: Columns, blocks: Slots) -> None:
        self.columns = columns
        self.blocks = blocks
        self.group = columns.zone_group[blocks]
        places = np.arange(columns.block)
        self.slots: Slots = (blocks[:, None] * columns.block + places).ravel()

    def __getitem__(self, column: int) -> Numbers:
        column_of: Numbers = self.columns.numbers[column].take(self.blocks, axis=0)
        return column_of

    @property
    def price(self) -> Reals:
        return self.columns.price.take(self.blocks, axis=0)


def _fitting(query: Query, take: _Take) -> tuple[Flags, Numbers]:
    """Which rows fit by their own numbers, and how many units of each the demand takes."""
    demand = query.demand
    fits = take[c.EXPIRES] > query.now
    free = take[c.FREE]
    units = _row_units(query, take, free)
    fits &= (free >= units) & (units > 0)
    fits &= take.price <= float(demand.max_price_per_hour)
    fits &= take[c.MAX_DURATION] >= demand.max_duration_s
    fits &= take[c.MIN_DURATION] <= demand.max_duration_s
    for column, low in _minima(query):
        if low:
            fits &= take[column] >= low
    disk = demand.requirements.disk_mib
    if disk:
        fits &= take[c.DISK].astype(np.int64) * units >= disk
    good = _needed_flags(query)
    if good:
        fits &= (take[c.FLAGS] & np.uint32(good)) == good
    if query.regions is not None:
        fits &= query.regions[take[c.REGION]]
    for peer in query.exclude:
        fits &= take[c.PEER] != peer
    flat: Flags = fits.ravel()
    return flat, units.ravel()


def _row_units(query: Query, take: _Take, free: Numbers) -> Numbers:
    model = take[c.MODEL]
    units: Numbers = query.choices[0][model]
    for choice in query.choices[1:]:
        other = choice[model]
        smaller = (other > 0) & (free < units)
        units = np.where(smaller, other, units)
    return units


def _minima(query: Query) -> tuple[tuple[int, int], ...]:
    want = query.demand.requirements
    return (
        (c.VRAM, want.vram_mib),
        (c.CUDA, want.cuda_vers),
        (c.CPUS, want.cpus),
        (c.MEMORY, want.memory_mib),
        (c.RELIABILITY, want.min_reliability_ppm),
    )


def _needed_flags(query: Query) -> int:
    want = query.demand.requirements
    return (
        (c.VERIFIED if want.verified else 0)
        | (c.REAL if want.real else 0)
        | (0 if query.demand.preemptible else c.STEADY)
    )


def _speed(
    query: Query,
    group: npt.NDArray[np.int64],
    score: Numbers,
    units: Numbers,
) -> Reals:
    if not query.weights.scales:
        return np.ones(len(group))
    nominal = NOMINAL[query.demand.workload][group]
    unit_milli = nominal * (score / CERTIFICATE[group])
    speed: Reals = unit_milli / 1000 * parallel(units, query.smallest)
    return speed


def _charge(
    query: Query,
    numbers: Numbers,
    price: Reals,
    units: Numbers,
    speed: Reals,
    image: Flags | None,
    rtt_us: Reals | float,
) -> Parts:
    weights = query.weights
    in_kbit: Reals | float = weights.in_kbit + weights.image_kbit
    if image is not None and query.image_bit:
        in_kbit = weights.in_kbit + np.where(image, 0.0, weights.image_kbit)
    return charge(
        weights,
        rate=price * units / HOUR_S,
        speed=speed,
        wait_s=numbers[c.QUEUE],
        in_kbit=in_kbit,
        down_kbps=numbers[c.DOWN],
        up_kbps=numbers[c.UP],
        start_up_s=numbers[c.START_UP] / 1000,
        failure=(PPM - numbers[c.RELIABILITY]) / PPM,
        rtt_us=rtt_us,
        minimum=np.minimum,
    )


def _round_trips(query: Query, numbers: Numbers) -> Reals:
    own: Coordinate = query.demand.coordinate
    count = numbers.shape[1]
    if own.error_ppm >= PPM:
        far = np.full(count, float(RTT_UNKNOWN_US))
    else:
        dx = float(own.x_us) - numbers[c.X].view(np.int32)
        dy = float(own.y_us) - numbers[c.Y].view(np.int32)
        heights = float(own.height_us) + numbers[c.HEIGHT]
        far = np.sqrt(dx * dx + dy * dy) + heights
        far[numbers[c.ERROR] >= PPM] = RTT_UNKNOWN_US
    if query.rtt_us:
        peers = np.array(list(query.rtt_us), np.uint32)
        measured = np.array(list(query.rtt_us.values()), np.float64)
        order = np.argsort(peers)
        place = np.searchsorted(peers, numbers[c.PEER], sorter=order)
        place = order[np.minimum(place, len(peers) - 1)]
        met = peers[place] == numbers[c.PEER]
        far = np.where(met, measured[place], far)
    return far
