"""Bench: units that multiply for real, small, and take as long as they are told to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import trio

from market.errors import SandboxError
from market.product import LEFT, RIGHT, leaf, path, row_bytes, rows_of, tree
from node.ports import Commitment, Measured

HONEST = Measured(10, 0, 0, 5_000, 0, 100, 0, "simulated")


@dataclass
class SimBench:
    """The port Bench. `slower` times as slow as measured; `wrong` rows of a product are not it."""

    measured: Measured = HONEST
    slower: float = 1.0
    wrong: float = 0.0
    broken: bool = False
    measures: int = 0

    async def measure(self, uuid: str, ram_mib: int) -> Measured:
        self.measures += 1
        await trio.sleep(1)
        return replace(self.measured)

    @asynccontextmanager
    async def product(
        self, uuid: str, seed: bytes, size: int, limit_s: float
    ) -> AsyncIterator[SimProduct]:
        if self.broken:
            raise SandboxError("the unit is gone")
        every = np.arange(size)
        left, right = (rows_of(seed, which, size, every).astype("f4") for which in (LEFT, RIGHT))
        found = left @ right
        found[: int(size * self.wrong)] += 1
        await trio.sleep(self.slower * 2 * size**3 / (self.measured.fp32_gflops * 1e9))
        yield SimProduct(found)


class SimProduct:
    """A product that is held."""

    def __init__(self, found: np.ndarray) -> None:
        self._found = found
        self._levels = tree([leaf(i, row_bytes(row)) for i, row in enumerate(found)])
        self.commitment = Commitment(self._levels[-1][0], 1)

    async def show(self, rows: tuple[int, ...]) -> tuple[tuple[int, tuple[bytes, ...], bytes], ...]:
        await trio.lowlevel.checkpoint()
        return tuple((i, path(self._levels, i), row_bytes(self._found[i])) for i in rows)
