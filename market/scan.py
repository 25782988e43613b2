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
    """The blocks that may hold a fitting row, best bound first, and the bounds.

    The bound is the formula itself on the best value of each column: as every step of it rounds
    monotonically, no row of the block costs less.
    """
    least = query.least[columns.zone_group]
    cap = float(query.demand.max_price_per_hour)
    blocks = ((least > 0) & (columns.zone_price <= cap)).nonzero()[0]
    zone = columns.zone[:, blocks]
    wanted, low = floor(query)
    fits = (zone[wanted] >= low).all(axis=0)
    fits &= zone[c.FREE] >= least[blocks]
    fits &= zone[c.MIN_DURATION] <= query.demand.max_duration_s
    bits = columns.zone_bits[:, blocks]
    if query.good:
        fits &= (bits[0] & np.uint64(query.good)) == query.good
    if query.regions is not None:
        fits &= (bits[1] & np.uint64(query.region_bits)) != 0
    if not fits.all():
        blocks, zone, bits = blocks[fits], zone[:, fits], bits[:, fits]
    if not len(blocks):
        return blocks, np.zeros(0)
    group = columns.zone_group[blocks]
    reals: Reals = zone.astype(np.float64)
    speed = speeds(query, group, reals[c.SCORE], query.most[group])
    image = (bits[2] & np.uint64(query.image_bit)) != 0 if query.image_bit else None
    units, price = least[blocks], columns.zone_price[blocks]
    parts = _charge(query, reals, price, units, speed, image, 0.0)
    bound = total(parts)
    order = np.argsort(bound, kind="stable")
    return blocks[order], bound[order]


def evaluate(
    columns: Columns, query: Query, blocks: Slots, is_cached: CachedTest | None = None
) -> Rows:
    """Every row of these blocks that fits, with its cost.

    With `is_cached` few rows whose image may be cached are asked at once; of many, `image` says
    that they may be.
    """
    slots: Slots = (blocks[:, None] * columns.block + np.arange(columns.block)).ravel()
    numbers = columns.numbers[:, blocks].reshape(c.COLUMNS, -1)
    fits, units = _fitting(columns, query, blocks, numbers)
    at = fits.nonzero()[0]
    return price_rows(columns, query, slots[at], units[at], numbers[:, at], is_cached)


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
    numbers: Numbers | None = None,
    is_cached: CachedTest | None = None,
) -> Rows:
    """What these rows cost; those that miss a limit that follows from the cost are dropped."""
    demand = query.demand
    if numbers is None:
        numbers = columns.numbers.reshape(c.COLUMNS, -1)[:, slots]
    reals = numbers.astype(np.float64)  # once, instead of in every step
    group = query.group if query.group is not None else columns.zone_group[slots // columns.block]
    price = columns.price.reshape(-1)[slots]
    far = round_trips(query, numbers, reals)
    speed = speeds(query, group, reals[c.SCORE], units)
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
    if not (demand.requirements.max_rtt_us or demand.estimate_s or demand.deadline_at_s):
        return rows
    keep = np.ones(len(slots), np.bool_)
    want = demand.requirements
    if want.max_rtt_us:
        keep &= far <= want.max_rtt_us
    run_s = parts.run_s if demand.estimate_s else 0.0
    if demand.estimate_s:
        keep &= run_s <= demand.max_duration_s
    if demand.deadline_at_s:
        keep &= query.now + reals[c.QUEUE] + run_s <= demand.deadline_at_s
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


def _fitting(
    columns: Columns, query: Query, blocks: Slots, numbers: Numbers
) -> tuple[Flags, Numbers]:
    """Which rows fit by their own numbers, and how many units of each the demand takes."""
    demand = query.demand
    wanted, low = floor(query)
    units = row_units(query, numbers[c.MODEL], numbers[c.FREE])
    fits = (numbers[wanted] >= low).all(axis=0)
    fits &= (numbers[c.FREE] >= units) & (units > 0)
    fits &= columns.price[blocks].ravel() <= float(demand.max_price_per_hour)
    fits &= numbers[c.MIN_DURATION] <= demand.max_duration_s
    disk = demand.requirements.disk_mib
    if disk:
        fits &= numbers[c.DISK].astype(np.int64) * units >= disk
    if query.good:
        fits &= (numbers[c.FLAGS] & np.uint32(query.good)) == query.good
    if query.regions is not None:
        fits &= query.regions[numbers[c.REGION]]
    for peer in query.exclude:
        fits &= numbers[c.PEER] != peer
    return fits, units


def row_units(query: Query, model: Numbers, free: Numbers) -> Numbers:
    """How many units of each row the demand takes, 0 where the model is not wanted."""
    units: Numbers = query.choices[0][model]
    for choice in query.choices[1:]:
        other = choice[model]
        smaller = (other > 0) & (free < units)
        units = np.where(smaller, other, units)
    return units


def floor(query: Query) -> tuple[Slots, Numbers]:
    """Which columns must hold at least how much: the simple constraints, as one comparison."""
    demand, want = query.demand, query.demand.requirements
    lows = (
        (c.EXPIRES, max(0, int(query.now)) + 1),
        (c.MAX_DURATION, demand.max_duration_s),
        (c.VRAM, want.vram_mib),
        (c.CUDA, want.cuda_vers),
        (c.CPUS, want.cpus),
        (c.MEMORY, want.memory_mib),
        (c.RELIABILITY, want.min_reliability_ppm),
    )
    used = [(column, low) for column, low in lows if low]
    return (
        np.array([column for column, _ in used], np.int64),
        np.array([[low] for _, low in used], np.uint32),
    )


def needed_flags(demand: Demand) -> int:
    """The bits of FLAGS that an offer must have set."""
    want = demand.requirements
    return (
        (c.VERIFIED if want.verified else 0)
        | (c.REAL if want.real else 0)
        | (0 if demand.preemptible else c.STEADY)
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
        wait_s=reals[c.QUEUE],
        in_kbit=in_kbit,
        down_kbps=reals[c.DOWN],
        up_kbps=reals[c.UP],
        start_up_s=reals[c.START_UP] / 1000,
        failure=(PPM - reals[c.RELIABILITY]) / PPM,
        rtt_us=rtt_us,
        minimum=np.minimum,
    )


def round_trips(query: Query, numbers: Numbers, reals: Reals) -> Reals:
    """The measured round trip to each row's peer, else the coordinates', in microseconds."""
    own: Coordinate = query.demand.coordinate
    if own.error_ppm >= PPM:
        far = np.full(reals.shape[1], float(RTT_UNKNOWN_US))
    else:
        dx = (own.x_us + c.ORIGIN) - reals[c.X]
        dy = (own.y_us + c.ORIGIN) - reals[c.Y]
        far = np.sqrt(dx * dx + dy * dy) + (own.height_us + reals[c.HEIGHT])
        far[reals[c.ERROR] >= PPM] = RTT_UNKNOWN_US
    if query.rtt_us:
        peers = np.array(list(query.rtt_us), np.uint32)
        measured = np.array(list(query.rtt_us.values()), np.float64)
        order = np.argsort(peers)
        place = np.searchsorted(peers, numbers[c.PEER], sorter=order)
        place = order[np.minimum(place, len(peers) - 1)]
        met = peers[place] == numbers[c.PEER]
        far = np.where(met, measured[place], far)
    return far
