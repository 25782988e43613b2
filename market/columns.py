"""Columns: rows of numbers in small blocks, each with the best value of every column: a zone map.

A block holds rows of one group (a GPU model of the table, or all others), of one range of prices.
A query reads the zones first and then only the blocks that can matter. The zones are bounds, never
lies: a deletion may leave them too good until the block is tidied. Knows no offer and no demand.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

# A row has 116 bytes, of which about 40 are hot: the columns that every query filters by (free
# units, model, price, the two durations, expiry) and those of its own constraints. First come those
# where more is better, then those where less is. What a row costs stands together (PRICED), so that
# it is read in one piece, and of the fitting rows only.
FREE, VRAM, CUDA, CPUS, MEMORY, DISK, MAX_DURATION, EXPIRES = range(8)
RELIABILITY, SCORE, UP, DOWN = range(8, 12)
QUEUE, START_UP, MIN_DURATION = range(12, 15)
X, Y, HEIGHT, ERROR, MODEL, REGION, PEER, FLAGS = range(15, 23)
COLUMNS: Final = 23
PRICED: Final = slice(RELIABILITY, MODEL)
_MORE: Final = 12  # columns before this one: more is better
_LESS: Final = 15  # from _MORE to this one: less is better

ORIGIN: Final = 2**31  # X and Y are stored from here, so that they are never negative

# Bits of FLAGS, each set where it is good for the demand, so that a zone is their union.
VERIFIED, REAL, STEADY, EGRESS = 1, 2, 4, 8

BLOCK: Final = 256  # rows: 256 cost little to scan, and 4,000 zones of them little to look through

Numbers = npt.NDArray[np.uint32]
Reals = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Row:
    """One row: where it belongs, and its numbers in the order of the columns."""

    group: int
    price: float
    key: int  # 64 bits that name the row, for ties
    images: int  # 64 bits: one for each cached image, by its hash
    numbers: tuple[int, ...]

    @property
    def region_bit(self) -> int:
        """The region's bit in the zone."""
        return 1 << (self.numbers[REGION] & 63)


class Columns:
    """Blocks of rows, addressed by slot. `moved` tells the owner which slot went where."""

    def __init__(self, block: int = BLOCK) -> None:
        """`block` is the number of rows in a block, at least 2."""
        assert block >= 2, "a block that cannot be split is none"
        self.block = block
        self.numbers: Numbers = np.zeros((COLUMNS, 0, block), np.uint32)
        self.price: Reals = np.zeros((0, block), np.float64)
        self.key: Words = np.zeros((0, block), np.uint64)
        self.images: Words = np.zeros((0, block), np.uint64)
        self.zone: Numbers = np.zeros((_LESS, 0), np.uint32)
        self.zone_price: Reals = np.zeros(0, np.float64)
        self.zone_bits: Words = np.zeros((3, 0), np.uint64)  # flags, regions, images
        self.zone_group: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self.used: list[int] = []  # rows in each block; -1 for a free block
        self.moved: list[tuple[int, int]] = []
        self._loose: list[int] = []  # deletions since the zone was exact
        self._free: list[int] = []
        self._low: dict[int, list[float]] = {}  # by group: the lowest price each block is for
        self._chain: dict[int, list[int]] = {}

    @property
    def blocks(self) -> int:
        """How many blocks there are, free ones included."""
        return len(self.used)

    def insert(self, row: Row) -> int:
        """Store a row; returns its slot. Slots that changed meanwhile are in `moved`."""
        block = self._block_for(row)
        if self.used[block] == self.block:
            self._split(row.group, block)
            block = self._block_for(row)
        place = self.used[block]
        self.used[block] += 1
        self._write(block, place, row)
        return block * self.block + place

    def overwrite(self, slot: int, row: Row) -> None:
        """Replace a row by one of the same group and price."""
        block, place = divmod(slot, self.block)
        assert self.price[block, place] == row.price, "another price belongs in another block"
        self._write(block, place, row)
        self._loosen(block)

    def delete(self, slot: int) -> None:
        """Remove a row; the block's last row takes its place and is told in `moved`."""
        block, place = divmod(slot, self.block)
        self.used[block] -= 1
        last = self.used[block]
        if last == 0:
            self._release(block)
            return
        if place != last:
            self._copy(block, last, block, place)
            self.moved.append((block * self.block + last, slot))
        self._clear(block, last)
        self._loosen(block)

    def expired(self, now: float) -> list[int]:
        """The slots of rows whose time is over."""
        due = (self.numbers[EXPIRES] <= now) & (self.numbers[EXPIRES] > 0)
        return [int(slot) for slot in np.flatnonzero(due)]

    def nbytes(self) -> int:
        """Bytes of all columns, empty places included."""
        return self.numbers.nbytes + self.price.nbytes + self.key.nbytes + self.images.nbytes

    def _block_for(self, row: Row) -> int:
        chain = self._chain.setdefault(row.group, [])
        low = self._low.setdefault(row.group, [])
        if not chain:
            chain.append(self._new_block(row.group))
            low.append(-np.inf)
        return chain[max(0, bisect.bisect_right(low, row.price) - 1)]

    def _new_block(self, group: int) -> int:
        if not self._free:
            self._grow()
        block = self._free.pop()
        self.used[block] = 0
        self.zone_group[block] = group
        self._tidy(block)
        return block

    def _grow(self) -> None:
        have = self.blocks
        more = max(8, have // 2)
        self.numbers = _wider(self.numbers, more, 1)
        self.price = _wider(self.price, more, 0)
        self.key = _wider(self.key, more, 0)
        self.images = _wider(self.images, more, 0)
        self.zone = _wider(self.zone, more, 1)
        self.zone_price = _wider(self.zone_price, more, 0)
        self.zone_bits = _wider(self.zone_bits, more, 1)
        self.zone_group = _wider(self.zone_group, more, 0)
        self.zone_price[have:] = np.inf
        self.zone_group[have:] = -1
        self.used += [-1] * more
        self._loose += [0] * more
        self._free += range(have + more - 1, have - 1, -1)

    def _release(self, block: int) -> None:
        group = int(self.zone_group[block])
        at = self._chain[group].index(block)
        del self._chain[group][at], self._low[group][at]
        if self._low[group]:
            self._low[group][0] = -np.inf
        self._clear(block, 0)
        self.used[block] = -1
        self.zone_group[block] = -1
        self.zone_price[block] = np.inf
        self._free.append(block)

    def _split(self, group: int, block: int) -> None:
        """Move the dearer half of a full block into a new one beside it."""
        fresh = self._new_block(group)
        order = np.argsort(self.price[block], kind="stable")
        half = self.block // 2
        rows = order[half:]
        count = len(rows)
        at = self._chain[group].index(block)
        self._chain[group].insert(at + 1, fresh)
        self._low[group].insert(at + 1, float(self.price[block, rows[0]]))
        for name in ("price", "key", "images"):
            column = getattr(self, name)
            column[fresh, :count] = column[block, rows]
        self.numbers[:, fresh, :count] = self.numbers[:, block, rows]
        self.moved += [
            (block * self.block + int(row), fresh * self.block + place)
            for place, row in enumerate(rows)
        ]
        self._pack(block, sorted(int(row) for row in order[:half]))
        self.used[block], self.used[fresh] = half, count
        self._tidy(block)
        self._tidy(fresh)

    def _pack(self, block: int, keep: list[int]) -> None:
        for place, row in enumerate(keep):
            if place != row:
                self._copy(block, row, block, place)
                self.moved.append((block * self.block + row, block * self.block + place))
        for place in range(len(keep), self.block):
            self._clear(block, place)

    def _write(self, block: int, place: int, row: Row) -> None:
        self.numbers[:, block, place] = row.numbers
        self.price[block, place] = row.price
        self.key[block, place] = row.key
        self.images[block, place] = row.images
        now = self.numbers[:_LESS, block, place]
        zone = self.zone[:, block]
        np.maximum(zone[:_MORE], now[:_MORE], out=zone[:_MORE])
        np.minimum(zone[_MORE:], now[_MORE:], out=zone[_MORE:])
        self.zone_price[block] = min(self.zone_price[block], row.price)
        self.zone_bits[0, block] |= np.uint64(row.numbers[FLAGS])
        self.zone_bits[1, block] |= np.uint64(row.region_bit)
        self.zone_bits[2, block] |= np.uint64(row.images)

    def _copy(self, block: int, place: int, to_block: int, to_place: int) -> None:
        self.numbers[:, to_block, to_place] = self.numbers[:, block, place]
        self.price[to_block, to_place] = self.price[block, place]
        self.key[to_block, to_place] = self.key[block, place]
        self.images[to_block, to_place] = self.images[block, place]

    def _clear(self, block: int, place: int) -> None:
        self.numbers[:, block, place] = 0
        self.price[block, place] = np.inf
        self.images[block, place] = 0

    def _loosen(self, block: int) -> None:
        self._loose[block] += 1
        if self._loose[block] > self.block // 4:
            self._tidy(block)

    def _tidy(self, block: int) -> None:
        """Make the zone exact again."""
        used = self.used[block]
        self._loose[block] = 0
        if not used:
            self.zone[:_MORE, block] = 0
            self.zone[_MORE:, block] = 2**32 - 1
            self.zone_price[block] = np.inf
            self.zone_bits[:, block] = 0
            return
        rows = self.numbers[:, block, :used]
        self.zone[:_MORE, block] = rows[:_MORE].max(axis=1)
        self.zone[_MORE:, block] = rows[_MORE:_LESS].min(axis=1)
        self.zone_price[block] = self.price[block, :used].min()
        one = np.uint64(1)
        regions = one << (rows[REGION] & np.uint32(63)).astype(np.uint64)
        self.zone_bits[0, block] = np.bitwise_or.reduce(rows[FLAGS])
        self.zone_bits[1, block] = np.bitwise_or.reduce(regions)
        self.zone_bits[2, block] = np.bitwise_or.reduce(self.images[block, :used])


def _wider(array: npt.NDArray[Any], more: int, axis: int) -> npt.NDArray[Any]:
    """A copy with `more` empty blocks at the end."""
    shape = list(array.shape)
    shape[axis] = more
    return np.concatenate([array, np.zeros(shape, array.dtype)], axis=axis)
