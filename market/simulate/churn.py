"""Churn: when cheap units come and go, as a log of a cloud's spot machines says. Pure: text in.

Formats: `t_ms,add|remove,node` (Bamboo, NSDI 2023, its p3 and g4dn traces), and lines of
`date, time, count` (its text logs of another cloud). Knows no job and no policy.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count, groupby

from market.errors import SpecError

EVENTS_MAX = 1_000_000  # a log larger than this is cut before it is read
NODES_MAX = 8192  # as many as the largest site that is simulated
_COUNTED = re.compile(r"\s*(\d{4}-\d\d-\d\d),\s*(\d\d:\d\d:\d\d),\s*(\d+)\s*")


@dataclass(frozen=True, slots=True)
class Change:
    """Unit number `unit` came (`up`) or went at `at_s`, seconds since the log began."""

    at_s: float
    unit: int
    up: bool


@dataclass(frozen=True, slots=True)
class Supply:
    """The changes in order of time, and how long the log is. Units are numbered from 0."""

    changes: tuple[Change, ...]
    length_s: float

    @property
    def units(self) -> int:
        """The most units that are there at one time."""
        return 1 + max((change.unit for change in self.changes), default=-1)

    def endless(self) -> Iterator[Change]:
        """The log over and over; where it begins anew, only what differs from its start changes."""
        yield from self.changes
        opening = [one for one in self.changes if one.at_s <= self.changes[0].at_s]
        rest = self.changes[len(opening) :]
        starts = {one.unit for one in opening if one.up}
        stands = {one.unit: one.up for one in self.changes}
        ends = {unit for unit, up in stands.items() if up}
        for turn in count(1) if rest else ():
            begin = turn * self.length_s
            yield from (Change(begin, unit, up=False) for unit in sorted(ends - starts))
            yield from (Change(begin, unit, up=True) for unit in sorted(starts - ends))
            yield from (Change(begin + one.at_s, one.unit, one.up) for one in rest)


def read_churn(text: str) -> Supply:
    """A log of either format. A node takes the lowest unit that is free when it comes.

    Raises SpecError with the line for anything that is not understood.
    """
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise SpecError("the churn log is empty", hint="lines like 480000,add,node1")
    if len(lines) > EVENTS_MAX:
        raise SpecError(f"the churn log has more than {EVENTS_MAX} lines")
    counted = _COUNTED.fullmatch(lines[0][1]) is not None
    changes = tuple(_of_counts(lines) if counted else _of_nodes(lines))
    if not changes:
        raise SpecError("no machine ever comes in this churn log")
    return Supply(changes, max(1.0, changes[-1].at_s))


def _of_nodes(lines: Sequence[tuple[int, str]]) -> Iterator[Change]:
    said: list[tuple[float, int, str, str]] = []
    for number, line in lines:
        cells = [cell.strip() for cell in line.split(",")]
        timed = len(cells) == 3 and cells[0].isdecimal() and len(cells[0]) <= 15
        if not timed or cells[1] not in ("add", "remove") or not cells[2]:
            raise SpecError(
                f"line {number} of the churn log is not understood",
                hint="t_ms,add|remove,node; or: date, time, count",
            )
        said.append((int(cells[0]) / 1000, number, cells[1], cells[2]))
    said.sort()
    unit_of: dict[str, int] = {}
    free: list[int] = []
    for at_s, number, what, node in said:
        if what == "remove":
            if node not in unit_of:
                raise SpecError(
                    f"line {number} of the churn log removes {node!r}, which is not there"
                )
            unit = unit_of.pop(node)
            heapq.heappush(free, unit)
            yield Change(at_s, unit, up=False)
        elif node in unit_of:
            raise SpecError(f"line {number} of the churn log adds {node!r} a second time")
        else:
            unit = heapq.heappop(free) if free else len(unit_of)
            if unit >= NODES_MAX:
                raise SpecError(f"the churn log has more than {NODES_MAX} machines at one time")
            unit_of[node] = unit
            yield Change(at_s, unit, up=True)


def _of_counts(lines: Sequence[tuple[int, str]]) -> Iterator[Change]:
    """Counts over time, the last word of a second; of those that are there the oldest go first."""
    said: list[tuple[float, int]] = []
    for number, line in lines:
        found = _COUNTED.fullmatch(line)
        try:
            if found is None or len(found[3]) > 6 or int(found[3]) > NODES_MAX:
                raise ValueError(line)
            at = datetime.fromisoformat(f"{found[1]}T{found[2]}+00:00")
        except ValueError as problem:
            raise SpecError(
                f"line {number} of the churn log is not understood", hint="date, time, count"
            ) from problem
        said.append((at.timestamp(), int(found[3])))
    said.sort(key=lambda one: one[0])
    there: list[int] = []
    free: list[int] = []
    for at_s, group in groupby(said, key=lambda one: one[0]):
        *_, (_, wanted) = group
        while len(there) > wanted:
            unit = there.pop(0)
            heapq.heappush(free, unit)
            yield Change(at_s - said[0][0], unit, up=False)
        while len(there) < wanted:
            unit = heapq.heappop(free) if free else len(there)
            there.append(unit)
            yield Change(at_s - said[0][0], unit, up=True)
