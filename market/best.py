"""Best: the best k rows of the columns for a demand, read block by block until no other can matter.

Exact: what it leaves unread is bounded from below. Knows rows and a query; no offer or peer.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from market.columns import Columns
from market.scan import (
    CachedTest,
    Query,
    Reals,
    Rows,
    Slots,
    evaluate,
    price_rows,
    promising,
    select,
)

FIRST_BLOCKS = 3  # how many blocks are read before the first bound is known
_MIX = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def best(
    columns: Columns, query: Query, k: int, is_cached: CachedTest
) -> tuple[list[tuple[float, int, int]], Rows]:
    """The best `k` rows as (total, tie, place in the rows returned beside), in that order."""
    return _ordered(columns, query, _read(columns, query, k, is_cached), k)


def cheapest(columns: Columns, query: Query, k: int, is_cached: CachedTest) -> Rows:
    """The best `k` rows and all that tie with the k-th, in no order."""
    return _cut(_read(columns, query, k, is_cached), k)


def _read(columns: Columns, query: Query, k: int, is_cached: CachedTest) -> Rows:
    """The best `k` rows among others.

    Reads blocks by their bound until no unread one can hold a row as good as the k-th. A bit of an
    image's hash says only that it may be cached: `is_cached(slots)` is asked where it matters.
    """
    assert k > 0, "the best none are not looked for"
    blocks, bounds = promising(columns, query)
    step = FIRST_BLOCKS + k // columns.block
    if len(blocks) <= step:
        return _certain(columns, query, evaluate(columns, query, blocks, is_cached), k, is_cached)
    order = np.argpartition(bounds, step)
    first, rest = order[:step], order[step:]
    rows = evaluate(columns, query, blocks[first], is_cached)
    kept = _certain(columns, query, rows, k, is_cached)
    # Most blocks are worse than what the first few held, so only the others are put in order.
    rest = rest[bounds[rest] <= _worst(kept, k)]
    rest = rest[np.argsort(bounds[rest])]
    done = 0
    while done < len(rest):
        step *= 2
        until = min(done + step, int(np.searchsorted(bounds[rest], _worst(kept, k), side="right")))
        if until <= done:
            break
        rows = evaluate(columns, query, blocks[rest[done:until]], is_cached)
        rows = _certain(columns, query, rows, k, is_cached)
        kept = _joined(_cut(kept, k), rows)
        done = until
    return kept


def _worst(rows: Rows, k: int) -> float:
    """The total of the k-th best row; infinite while there are fewer."""
    if len(rows.total) < k:
        return np.inf
    return float(np.partition(rows.total, k - 1)[k - 1])


def _certain(columns: Columns, query: Query, rows: Rows, k: int, is_cached: CachedTest) -> Rows:
    """The rows, with every wrong guess of a cached image among the best `k` put right."""
    if rows.image is None or not rows.image.any():
        return rows
    unsure = rows.image.copy()
    sure = np.zeros(0, np.int64)
    while True:
        worst = _worst(rows, k)
        asked = np.flatnonzero(unsure & (rows.total <= worst))
        is_there = np.array(is_cached(rows.slots[asked].tolist()), np.bool_)
        wrong = asked[~is_there]
        unsure[asked] = False
        if not len(asked):
            return rows
        if not len(wrong):
            continue
        sure = rows.slots[wrong]
        honest = price_rows(columns, replace(query, image_bit=0), sure, rows.units[wrong])
        keep = np.ones(len(rows.slots), np.bool_)
        keep[wrong] = False
        unsure = np.concatenate([unsure[keep], np.zeros(len(honest.slots), np.bool_)])
        rows = _joined(select(rows, np.flatnonzero(keep)), honest)


def _joined(a: Rows, b: Rows) -> Rows:
    return Rows(
        np.concatenate([a.slots, b.slots]),
        np.concatenate([a.units, b.units]),
        np.concatenate([a.total, b.total]),
        None,
    )


def _cut(rows: Rows, k: int) -> Rows:
    """Only the rows no worse than the k-th; all that tie with it stay."""
    if len(rows.slots) <= k:
        return rows
    return select(rows, _within(rows.total, k))


def _ordered(
    columns: Columns, query: Query, rows: Rows, k: int
) -> tuple[list[tuple[float, int, int]], Rows]:
    at = rows.total.argsort(kind="stable") if len(rows.total) < k else _within(rows.total, k)
    keys = columns.key.reshape(-1)[rows.slots[at]].tolist()
    ranked = sorted(
        (cost, mixed(key, query.tie), place)
        for cost, key, place in zip(rows.total[at].tolist(), keys, at.tolist(), strict=True)
    )
    return ranked[:k], rows


def _within(total: Reals, k: int) -> Slots:
    """Where the totals are no worse than the k-th; all that tie with it are among them."""
    return np.flatnonzero(total <= np.partition(total, k - 1)[k - 1])


def mixed(key: int, tie: int) -> int:
    """The tie-break of a row for a demand: splitmix64 over the row's key and the demand's.

    Source: Steele, Lea, Flood, OOPSLA 2014. Nobody can know it before the demand is made.
    """
    word = (key ^ tie) & (2**64 - 1)
    word = ((word ^ (word >> 30)) * _MIX[0]) & (2**64 - 1)
    word = ((word ^ (word >> 27)) * _MIX[1]) & (2**64 - 1)
    return word ^ (word >> 31)
