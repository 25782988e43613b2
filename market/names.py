"""Names: texts as small numbers, counted, so that a column can hold them. Bounded and recycled.

Knows neither GPUs nor places. A number is free again when its last user is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

N = TypeVar("N", str, bytes)


class Names(Generic[N]):
    """A two-way table of at most `limit` names in use. `version` grows when a name is (re)used."""

    def __init__(self, limit: int) -> None:
        """Empty."""
        self.version = 0
        self._limit = limit
        self._numbers: dict[N, int] = {}
        self._names: list[N | None] = []
        self._users: list[int] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        """The names in use and those once used: a column's numbers are below it."""
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[int, N]]:
        """(number, name) of each name in use."""
        return ((number, name) for name, number in self._numbers.items())

    def take(self, name: N) -> int | None:
        """The number of `name`, with one more user; None if the table is full."""
        number = self._numbers.get(name)
        if number is None:
            if len(self._numbers) >= self._limit:
                return None
            if self._free:
                number = self._free.pop()
                self._names[number] = name
            else:
                number = len(self._names)
                self._names.append(name)
                self._users.append(0)
            self._numbers[name] = number
            self.version += 1
        self._users[number] += 1
        return number

    def drop(self, name: N) -> None:
        """One user less."""
        number = self._numbers[name]
        self._users[number] -= 1
        assert self._users[number] >= 0, "dropped more often than taken"
        if not self._users[number]:
            del self._numbers[name]
            self._names[number] = None
            self._free.append(number)

    def number(self, name: N) -> int | None:
        """The number of a name in use."""
        return self._numbers.get(name)
