"""History: every event about one wallet and its agreements, from the contract's first block.

What is deep is read once and kept; the last blocks are read anew each time, because they may still
change.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from market.chainlog import EscrowEvent, OpenedAgreement
from node.adapters.ethereum.events import OF_ACCOUNTS, OF_OPERATORS, topics
from node.adapters.ethereum.follower import KEPT_BLOCKS
from node.adapters.ethereum.logs import LogReader

IDS_PER_QUESTION = 100  # endpoints bound how many topics a filter may name
WALLETS_MAX = 64


@dataclass(slots=True)
class _Book:
    """One wallet's events up to block `until`, which no reorganisation reaches."""

    until: int
    events: list[EscrowEvent] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)


class History:
    """Reads wallets' events."""

    def __init__(self, reader: LogReader, first_block: int) -> None:
        """`first_block` is where the contract was deployed, or before."""
        self._reader = reader
        self.first_block = first_block
        self._books: dict[bytes, _Book] = {}
        self._one_at_a_time = trio.Lock()

    async def of(self, wallet: bytes, head: int) -> tuple[EscrowEvent, ...]:
        """In chain order, up to block `head`. Raises ChainError."""
        async with self._one_at_a_time:
            book = self._books.get(wallet)
            if book is None:
                while len(self._books) >= WALLETS_MAX:
                    del self._books[next(iter(self._books))]
                book = self._books[wallet] = _Book(self.first_block - 1)
            deep = head - KEPT_BLOCKS
            while book.until < deep:
                until = min(deep, book.until + 10 * self._reader.span)
                events, ids = await self._read(wallet, book.until + 1, until, book.ids)
                book.events += events
                book.ids += ids
                book.until = until
            tail, _ = await self._read(wallet, max(book.until + 1, 0), head, book.ids)
            return (*book.events, *tail)

    async def _read(
        self, wallet: bytes, first: int, last: int, known: list[bytes]
    ) -> tuple[list[EscrowEvent], list[bytes]]:
        own = "0x" + wallet.rjust(32, b"\0").hex()
        found: dict[tuple[int, int], EscrowEvent] = {}
        opened = topics("Opened")
        for wanted in (
            (topics(*OF_ACCOUNTS), None, own),
            (topics(*OF_OPERATORS), own),
            (opened, None, own),
            (opened, None, None, own),
        ):
            for event in await self._reader.of_range(first, last, wanted):
                found[event.place.block, event.place.index] = event
        new = [event.id for event in found.values() if isinstance(event, OpenedAgreement)]
        ids = [*known, *new]
        of_agreements = topics(
            "Extended", "Claimed", "Bonded", "Challenged", "Answered", "Closing", "Disputed",
            "Ruled", "Slashed", "Closed",
        )  # fmt: skip
        for start in range(0, len(ids), IDS_PER_QUESTION):
            named = tuple("0x" + id_.hex() for id_ in ids[start : start + IDS_PER_QUESTION])
            for event in await self._reader.of_range(first, last, (of_agreements, named)):
                found[event.place.block, event.place.index] = event
        return [found[place] for place in sorted(found)], new
