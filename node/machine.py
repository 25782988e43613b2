"""Machine: keeps an eye on this provider's units. What is lost or unclean is not for sale.

A GPU that fell off the bus, or on which something still runs although nobody rents it, would fail
the next job. It decides about units only; what their loss means for who rents them is the
provider's business.
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
LOST_LOOKS = 2  # in a row that find a rented unit unwell: one hiccup of a driver ends no job


@dataclass(frozen=True, slots=True)
class Happening:
    """Something about a unit that an operator wants to know."""

    at: UnixTime
    unit: int
    text: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Why a unit cannot be worked on now, when it was last seen well, and whether that is for good.

    It is `sure` after LOST_LOOKS looks in a row.
    """

    reason: str
    well_at: UnixTime
    sure: bool


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
        self._names = {unit.index: unit.name for unit in devices.units()}
        self._well_at: dict[int, UnixTime] = {}
        self._unwell: dict[int, int] = {}  # looks in a row that found it so
        self._sick: dict[int, str] = {}
        self.unusable = 0
        self.story: deque[Happening] = deque(maxlen=STORY_MAX)

    async def run(self, changed: Callable[[], None]) -> None:
        """Look now and then, for ever; `changed` is called when other units are for sale."""
        told = self.unusable
        while True:
            self.look(self._devices.health())
            if self.unusable != told:  # also by a look out of turn
                told = self.unusable
                changed()
            await trio.sleep(LOOK_S)

    def look(self, health: tuple[UnitHealth, ...]) -> None:
        """Take in one look at every unit."""
        taken, unusable, now = self._taken(), 0, self._clock.now()
        for one in health:
            if one.healthy:
                self._well_at[one.index], self._unwell[one.index] = now, 0
            else:
                self._unwell[one.index] = self._unwell.get(one.index, 0) + 1
                self._sick[one.index] = one.reason
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

    def look_now(self) -> None:
        """Take a look out of turn: when a job failed, what was under it?"""
        self.look(self._devices.health())

    def loss(self, units: int) -> Loss | None:
        """What is lost of these units (a bitmap) to who works on them; None if all are well."""
        unwell = [(-looks, index) for index, looks in self._unwell.items() if looks]
        for looks, index in sorted(unwell):
            if units >> index & 1:
                noun = "CPU" if self._names.get(index) == "CPU" else "GPU"
                reason = f"its {noun} was lost: {self._sick[index]}"
                return Loss(reason, self._well_at.get(index, UnixTime(0.0)), -looks >= LOST_LOOKS)
        return None

    def slowed(self, units: int) -> str:
        """What slows one of these units down now, in words; nothing if none is."""
        slow = {text for index, text in self._throttled.items() if units >> index & 1 and text}
        return ", ".join(sorted(slow))

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
