"""Product: the matrices of a challenge, the commitment to their product, and its check.

Matrices A and B of whole numbers 0 to 7 come of a seed, entry by entry, so that any row can be made
alone and any device gets the same. Sums stay below 2^24: 32-bit floating point is exact whatever
the order, and an honest answer is never wrong. The answer's rows are the leaves of a Merkle tree;
its root is said before it is known which rows must be shown. Shown rows are checked after
R. Freivalds (IFIP 1977): C r = A (B r) for a random r costs O(n^2), and a wrong row passes with
probability 1/p. Whoever computed only a share f of the rows passes m of them with f^m.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from market.errors import IntegrityError

PRIME: Final = 2**31 - 1
ROWS_SHOWN: Final = 32  # a tenth of the rows left out is caught with 97 %, a quarter with 99.99 %
BLOCK_ROWS: Final = 256  # made at once: memory stays in the tens of megabytes
LEFT, RIGHT = 1, 2

Ints = npt.NDArray[np.int64]


def rows_of(seed: bytes, which: int, size: int, rows: Any) -> npt.NDArray[np.uint8]:
    """Rows of matrix A (LEFT) or B (RIGHT), each entry from 0 to 7.

    The entry at (i, j) is the low bits of a 32-bit mixing hash (the finaliser of MurmurHash3, A.
    Appleby) of i n + j and two words of the seed.
    """
    words = np.frombuffer(hashlib.sha256(seed + bytes([which])).digest()[:8], "<u4")
    row = np.asarray(rows, np.uint32).reshape(-1, 1)
    at = row * np.uint32(size) + np.arange(size, dtype=np.uint32)
    at = at * np.uint32(0x9E3779B1) + words[0]
    at ^= at >> np.uint32(16)
    at *= np.uint32(0x85EBCA6B)
    at ^= words[1]
    at ^= at >> np.uint32(13)
    at *= np.uint32(0xC2B2AE35)
    at ^= at >> np.uint32(16)
    small: npt.NDArray[np.uint8] = (at & np.uint32(7)).astype(np.uint8)
    return small


def blocks(size: int) -> Iterator[range]:
    """All rows, some at a time."""
    return (range(at, min(at + BLOCK_ROWS, size)) for at in range(0, size, BLOCK_ROWS))


def row_bytes(row: Any) -> bytes:
    """A row of the product as it is hashed and sent: little-endian 32-bit numbers."""
    return bytes(np.ascontiguousarray(row, dtype="<u4").tobytes())


def leaf(index: int, data: bytes) -> bytes:
    """The hash of one row."""
    return hashlib.sha256(b"\0" + index.to_bytes(4, "big") + data).digest()


def tree(leaves: list[bytes]) -> list[list[bytes]]:
    """Every level of the Merkle tree, the leaves first; an odd one out is paired with itself."""
    levels = [leaves]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([_join(below[i], below[min(i + 1, len(below) - 1)])
                       for i in range(0, len(below), 2)])  # fmt: skip
    return levels


def path(levels: list[list[bytes]], index: int) -> tuple[bytes, ...]:
    """What is needed beside a leaf to reach the root."""
    found = []
    for level in levels[:-1]:
        beside = index ^ 1
        found.append(level[min(beside, len(level) - 1)])
        index //= 2
    return tuple(found)


def root_from(index: int, row: bytes, proof: tuple[bytes, ...], size: int) -> bytes:
    """The root that a row and its path lead to. Raises IntegrityError for a path too long."""
    if len(proof) != max(0, (size - 1).bit_length()):
        raise IntegrityError("the proof has the wrong length")
    found = leaf(index, row)
    for other in proof:
        found = _join(other, found) if index & 1 else _join(found, other)
        index //= 2
    return found


def check(seed: bytes, size: int, shown: dict[int, bytes], dice: Ints) -> bool:
    """Whether the rows shown are those of the product: Freivalds, with n `dice` below PRIME."""
    assert dice.shape == (size,)
    indices = sorted(shown)
    vector = np.zeros(size, np.int64)
    for rows in blocks(size):
        part = rows_of(seed, RIGHT, size, np.arange(rows.start, rows.stop)).astype(np.int64)
        vector[rows.start : rows.stop] = part @ dice % PRIME
    left = rows_of(seed, LEFT, size, np.array(indices)).astype(np.int64) @ vector % PRIME
    given = np.stack([np.frombuffer(shown[i], "<u4").astype(np.int64) for i in indices])
    right = (given * dice % PRIME).sum(axis=1) % PRIME
    return bool((left == right).all())


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()
