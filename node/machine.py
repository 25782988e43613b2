"""Machine: keeps an eye on this provider's units. What is lost or unclean is not for sale.

A GPU that fell off the bus, or on which something still runs although nobody rents it, would fail
the next job. It decides about units only; agreements end by what their jobs do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import structlog
import trio

from market.units import UnixTime
from node.ports import Clock, Devices, UnitHealth

log = structlog.get_logger("machine")
LOOK_S = 5.0
SLACK_MIB = 256  # a driver's own use of a GPU's memory comes and goes by so much
STORY_MAX = 64


@dataclass(frozen=True, slots=True)
class Happening:
    """Something about a unit that an operator wants to know."""

    at: UnixTime
    unit: int
    text: str


class Machine:
    """The units as they are now: `unusable` is a bitmap of those that must not be sold."""

    def __init__(self, devices: Devices, clock: Clock, taken: Callable[[], int]) -> None:
        """`taken` says which units somebody rents: what runs there is theirs."""
        self._devices = devices
        self._clock = clock
        self._taken = taken
        self._least_mib: dict[int, int] = {}
        self._said: dict[int, str] = {}
        self._throttled: dict[int, str] = {}
        self.unusable = 0
        self.story: deque[Happening] = deque(maxlen=STORY_MAX)

    async def run(self, changed: Callable[[], None]) -> None:
        """Look now and then, for ever; `changed` is called when other units are for sale."""
        while True:
            before = self.unusable
            self.look(self._devices.health())
            if self.unusable != before:
                changed()
            await trio.sleep(LOOK_S)

    def look(self, health: tuple[UnitHealth, ...]) -> None:
        """Take in one look at every unit."""
        taken, unusable = self._taken(), 0
        for one in health:
            rented = bool(taken >> one.index & 1)
            reason = self._why_not(one, rented)
            if reason:
                unusable |= 1 << one.index
            self._tell(self._said, one.index, reason, "can be rented out again")
            self._tell(self._throttled, one.index, one.throttled, "runs at full speed again")
        self.unusable = unusable

    def reason(self, unit: int) -> str:
        """Why a unit is not for sale, or nothing."""
        return self._said.get(unit, "")

    def _why_not(self, one: UnitHealth, rented: bool) -> str:
        if not one.healthy:
            return one.reason
        if rented:
            return ""
        if one.processes:
            return f"{one.processes} programs still run on it though nobody rents it"
        used = one.memory_used_mib
        if used is None:
            return ""
        least = self._least_mib[one.index] = min(used, self._least_mib.get(one.index, used))
        if used > least + SLACK_MIB:
            return f"{used - least} MiB of its memory are still in use though nobody rents it"
        return ""

    def _tell(self, said: dict[int, str], unit: int, text: str, well: str) -> None:
        if text == said.get(unit, "") or (text and said.get(unit, "").split(" ")[1:] ==
                                          text.split(" ")[1:]):  # fmt: skip
            return
        said[unit] = text
        self.story.append(Happening(self._clock.now(), unit, text or well))
        (log.warning if text else log.info)("unit", unit=unit, news=text or well)
