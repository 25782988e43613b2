"""Inbox: a bounded queue between a network that never waits and a node that may be slow."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class Inbox(Generic[T]):
    """An endless async iterator; when it is full the oldest item goes.

    Not an async generator: one that is dropped half-way could not be cleaned up by trio.
    """

    def __init__(self, size: int) -> None:
        self._waiting: deque[T] = deque()
        self._size = size
        self._arrived = trio.Event()
        self.lost = 0

    def put(self, item: T) -> None:
        """Never waits."""
        if len(self._waiting) >= self._size:
            self._waiting.popleft()
            self.lost += 1
        self._waiting.append(item)
        self._arrived.set()

    def __aiter__(self) -> Inbox[T]:
        return self

    async def __anext__(self) -> T:
        await trio.lowlevel.checkpoint()
        while not self._waiting:
            if self._arrived.is_set():
                self._arrived = trio.Event()
            await self._arrived.wait()
        return self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)
