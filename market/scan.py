"""Scan: a demand against columns of offers: which rows fit, what each costs, the best k of them.

The vector twin of `constraints.misfit` and `cost.expected_cost`: the same comparisons and the same
arithmetic, so the same answers to the last bit (a property test). Knows columns and a demand; no
offer, peer or network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

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
ASKED_MAX = 128  # rows whose image may be cached that are looked up one by one
# The rows of an array of the PRICED columns.
_RELIABILITY, _SCORE, _UP, _DOWN, _QUEUE, _START_UP, _, _X, _Y, _HEIGHT, _ERROR = range(11)
CachedTest = Callable[[list[int]], list[bool]]
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
    group: int | None  # the one group that can fit, if there is but one
    count: int | None  # the one number of units, if there is but one
    regions: Flags | None  # by region number; None: anywhere
    region_bits: int
    exclude: tuple[int, ...]  # peer numbers
    rtt_us: Mapping[int, int]  # measured, by peer number
    image_bit: int  # 0: no image to fetch
    good: int  # bits of FLAGS that must be set
    floor: tuple[tuple[int, int], ...]  # (column, the least it must hold)
    tie: int
    now: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that fit, and what they cost. `image` marks those whose image may be cached there."""

    slots: Slots
    units: Numbers
    total: Reals
    image: Flags | None


def promising(columns: Columns, query: Query) -> tuple[Slots, Reals]:
    """The blocks that may hold a fitting row, in no order, and the bound of each.

    The bound is the formula itself on the best value of each column: as every step of it rounds
    monotonically, no row of the block costs less.
    """
    least = query.least[columns.zone_group]
    fits = (least > 0) & (columns.zone_price <= float(query.demand.max_price_per_hour))
    for column, low in query.floor:
        fits &= columns.zone[column] >= low
    fits &= columns.zone[c.FREE] >= least
    fits &= columns.zone[c.MIN_DURATION] <= query.demand.max_duration_s
    if query.good:
        fits &= (columns.zone_bits[0] & np.uint64(query.good)) == query.good
    if query.regions is not None:
        fits &= (columns.zone_bits[1] & np.uint64(query.region_bits)) != 0
    blocks: Slots = fits.nonzero()[0]
    if not len(blocks):
        return blocks, np.zeros(0)
    group = columns.zone_group[blocks]
    reals: Reals = columns.zone[c.PRICED].take(blocks, axis=1).astype(np.float64)
    speed = speeds(query, group, reals[_SCORE], query.most[group])
    image = None
    if query.image_bit:
        image = (columns.zone_bits[2, blocks] & np.uint64(query.image_bit)) != 0
    units, price = least[blocks], columns.zone_price[blocks]
    return blocks, total(_charge(query, reals, price, units, speed, image, 0.0))


def evaluate(
    columns: Columns, query: Query, blocks: Slots, is_cached: CachedTest | None = None
) -> Rows:
    """Every row of these blocks that fits, with its cost.

    With `is_cached` few rows whose image may be cached are asked at once; of many, `image` says
    that they may be.
    """
    at, units = _fitting(columns, query, blocks)
    slots: Slots = blocks[at // columns.block] * columns.block + at % columns.block
    return price_rows(columns, query, slots, units, is_cached)


def everything(columns: Columns, query: Query, is_cached: CachedTest) -> Rows:
    """Every fitting row of every block that may hold one, all images looked up."""
    blocks, _ = promising(columns, query)
    rows = evaluate(columns, query, blocks, is_cached)
    if rows.image is None or not rows.image.any():
        return rows
    wrong = ~np.array(is_cached(rows.slots.tolist()), np.bool_) & rows.image
    dear = price_rows(columns, replace(query, image_bit=0), rows.slots[wrong], rows.units[wrong])
    rows.total[wrong] = dear.total
    return rows


def price_rows(
    columns: Columns,
    query: Query,
    slots: Slots,
    units: Numbers,
    is_cached: CachedTest | None = None,
) -> Rows:
    """What these rows cost; those that miss a limit that follows from the cost are dropped."""
    demand = query.demand
    flat = columns.numbers.reshape(c.COLUMNS, -1)
    reals: Reals = flat[c.PRICED].take(slots, axis=1).astype(np.float64)
    far = round_trips(query, flat[c.PEER, slots] if query.rtt_us else None, reals)
    if demand.requirements.max_rtt_us:
        near = (far <= demand.requirements.max_rtt_us).nonzero()[0]
        if len(near) < len(slots):  # before the rest is worked out for rows that are too far
            slots, units, far, reals = slots[near], units[near], far[near], reals[:, near]
    group = query.group if query.group is not None else columns.zone_group[slots // columns.block]
    price = columns.price.reshape(-1)[slots]
    speed = speeds(query, group, reals[_SCORE], units)
    image = None
    if query.image_bit:
        image = (columns.images.reshape(-1)[slots] & np.uint64(query.image_bit)) != 0
    unsure = image
    if image is not None and is_cached is not None:
        asked = image.nonzero()[0]
        if len(asked) <= ASKED_MAX:
            image[asked] = is_cached(slots[asked].tolist())
            unsure = None
    parts = _charge(query, reals, price, units, speed, image, far)
    rows = Rows(slots, units, total(parts), unsure)
    if not (demand.estimate_s or demand.deadline_at_s):
        return rows
    keep = np.ones(len(slots), np.bool_)
    run_s = parts.run_s if demand.estimate_s else 0.0
    if demand.estimate_s:
        keep &= run_s <= demand.max_duration_s
    if demand.deadline_at_s:
        keep &= query.now + reals[_QUEUE] + run_s <= demand.deadline_at_s
    return rows if keep.all() else select(rows, keep.nonzero()[0])


def select(rows: Rows, at: Slots) -> Rows:
    """Some of the rows, in the order of `at`."""
    return Rows(
        slots=rows.slots[at],
        units=rows.units[at],
        total=rows.total[at],
        image=None if rows.image is None else rows.image[at],
    )


def total(parts: Parts) -> Reals:
    """The ranked sum: each part rounded to base units, then added, as in `cost.tell`."""
    summed: Reals = np.rint(parts.price) + np.rint(parts.waiting) + np.rint(parts.risk)
    return summed


def _fitting(columns: Columns, query: Query, blocks: Slots) -> tuple[Slots, Numbers]:
    """Places, counted through the blocks, that fit by their own numbers, and the units they sell.

    The few columns that most demands ask about are read for all places, the others as needed.
    """
    demand, numbers = query.demand, columns.numbers
    free = numbers[c.FREE, blocks].ravel()
    units = row_units(query, numbers[c.MODEL, blocks].ravel(), free)
    fits = (free >= units) & (units > 0)
    fits &= columns.price[blocks].ravel() <= float(demand.max_price_per_hour)
    fits &= numbers[c.MIN_DURATION, blocks].ravel() <= demand.max_duration_s
    for column, low in query.floor:
        fits &= numbers[column, blocks].ravel() >= low
    if query.good:
        fits &= (numbers[c.FLAGS, blocks].ravel() & np.uint32(query.good)) == query.good
    if query.regions is not None:
        fits &= query.regions[numbers[c.REGION, blocks].ravel()]
    for peer in query.exclude:
        fits &= numbers[c.PEER, blocks].ravel() != peer
    at = fits.nonzero()[0]
    units = units[at]
    disk = demand.requirements.disk_mib
    if disk:
        enough = numbers[c.DISK, blocks].ravel()[at].astype(np.int64) * units >= disk
        at, units = at[enough], units[enough]
    return at, units


def row_units(query: Query, model: Numbers, free: Numbers) -> Numbers:
    """How many units of each row the demand takes, 0 where the model is not wanted."""
    units: Numbers = query.choices[0][model]
    for choice in query.choices[1:]:
        other = choice[model]
        smaller = (other > 0) & (free < units)
        units = np.where(smaller, other, units)
    return units


def floor(demand: Demand, now: float) -> tuple[tuple[int, int], ...]:
    """Which columns must hold at least how much: the simple constraints."""
    want = demand.requirements
    lows = (
        (c.EXPIRES, max(0, int(now)) + 1),
        (c.MAX_DURATION, demand.max_duration_s),
        (c.VRAM, want.vram_mib),
        (c.CUDA, want.cuda_vers),
        (c.CPUS, want.cpus),
        (c.MEMORY, want.memory_mib),
        (c.RELIABILITY, want.min_reliability_ppm),
    )
    return tuple((column, low) for column, low in lows if low)


def needed_flags(demand: Demand) -> int:
    """The bits of FLAGS that an offer must have set."""
    want = demand.requirements
    return (
        (c.VERIFIED if want.verified else 0)
        | (c.REAL if want.real else 0)
        | (0 if demand.preemptible else c.STEADY)
        | (c.EGRESS if want.egress else 0)
    )


def run_seconds(query: Query, group: Slots, score: Reals, units: Numbers) -> Reals:
    """How long the demand runs on rows that may take different numbers of units."""
    run_s: Reals = query.weights.work_s / speeds(
        replace(query, count=None, group=None), group, score, units
    )
    return run_s


def speeds(
    query: Query,
    group: Slots | int,
    score: Reals,
    units: Numbers | int,
) -> Reals:
    """The speed of rows for the demand, as multiples of the reference GPU."""
    if not query.weights.scales:
        return np.ones(len(score))
    if query.group is not None:
        group = query.group
    unit_milli = NOMINAL[query.demand.workload][group] * (score / CERTIFICATE[group])
    if query.count is not None:
        units = query.count
    speed: Reals = unit_milli / 1000 * parallel(units, query.smallest)
    return speed


def _charge(
    query: Query,
    reals: Reals,
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
        wait_s=reals[_QUEUE],
        in_kbit=in_kbit,
        down_kbps=reals[_DOWN],
        up_kbps=reals[_UP],
        start_up_s=reals[_START_UP] / 1000,
        failure=(PPM - reals[_RELIABILITY]) / PPM,
        rtt_us=rtt_us,
        minimum=np.minimum,
    )


def round_trips(query: Query, peers: Numbers | None, reals: Reals) -> Reals:
    """The measured round trip to each row's peer, else the coordinates', in microseconds.

    `peers` has the rows' peer numbers, needed where something was measured; `reals` the PRICED
    columns.
    """
    own: Coordinate = query.demand.coordinate
    if own.error_ppm >= PPM:
        far = np.full(reals.shape[1], float(RTT_UNKNOWN_US))
    else:
        dx = (own.x_us + c.ORIGIN) - reals[_X]
        dy = (own.y_us + c.ORIGIN) - reals[_Y]
        far = np.sqrt(dx * dx + dy * dy) + (own.height_us + reals[_HEIGHT])
        far[reals[_ERROR] >= PPM] = RTT_UNKNOWN_US
    if query.rtt_us:
        assert peers is not None, "what was measured was measured to a peer"
        met_peers = np.array(list(query.rtt_us), np.uint32)
        measured = np.array(list(query.rtt_us.values()), np.float64)
        order = np.argsort(met_peers)
        place = np.searchsorted(met_peers, peers, sorter=order)
        place = order[np.minimum(place, len(met_peers) - 1)]
        far = np.where(met_peers[place] == peers, measured[place], far)
    return far
