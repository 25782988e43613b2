"""Outside: nothing is beyond a simulated machine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from market.errors import UnreachableError
from market.reach import Target
from node.ports import Pipe


class SimOutside:
    """The port Outside of a world without an internet."""

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncIterator[Pipe]:
        if target.port:
            raise UnreachableError(f"{target} is not there")
        yield  # type: ignore[misc]  # never reached; it makes this a generator
