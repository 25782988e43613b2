"""What is lost or unclean is not for sale, and an operator is told once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import trio
from trio.testing import MockClock

from market.units import UnixTime
from node.machine import LOOK_S, SLACK_MIB, Loss, Machine
from node.ports import Unit, UnitHealth

WELL = UnitHealth(0, True, "", 0, 400, 40, 60, 0, "")


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@dataclass
class Stand:
    """A machine with one GPU, whose looks the test gives."""

    rented: int = 0
    at: float = 100.0
    now_seen: UnitHealth = WELL

    def now(self) -> UnixTime:
        """As the test says."""
        return UnixTime(self.at)

    def units(self) -> tuple[Unit, ...]:
        """One."""
        return (Unit(0, "RTX4090", "GPU-a", 24_564, False),)

    def health(self) -> tuple[UnitHealth, ...]:
        """What a look that the machine takes by itself finds."""
        return (self.now_seen,)

    def machine(self) -> Machine:
        """The room under test."""
        return Machine(self, self, lambda: self.rented)


def seen(machine: Machine, **changes: object) -> int:
    """What is unusable after one look."""
    machine.look((replace(WELL, **changes),))  # type: ignore[arg-type]
    return machine.unusable


def test_a_lost_gpu_is_not_sold_and_comes_back() -> None:
    machine = Stand().machine()
    assert seen(machine) == 0
    assert seen(machine, healthy=False, reason="the GPU has fallen off the bus") == 1
    assert seen(machine, healthy=False, reason="the GPU has fallen off the bus") == 1
    assert machine.reason(0) == "the GPU has fallen off the bus"
    assert seen(machine) == 0
    assert [one.text for one in machine.story] == [
        "the GPU has fallen off the bus",
        "can be rented out again",
    ]


def test_what_runs_on_a_gpu_that_nobody_rents_keeps_it_from_sale() -> None:
    stand = Stand()
    machine = stand.machine()
    assert seen(machine, processes=1) == 1
    stand.rented = 1
    assert seen(machine, processes=1, memory_used_mib=20_000) == 0, "that is its renter's"
    stand.rented = 0
    assert seen(machine) == 0


def test_memory_that_a_job_left_behind_keeps_a_gpu_from_sale() -> None:
    machine = Stand().machine()
    assert seen(machine, memory_used_mib=400) == 0
    assert seen(machine, memory_used_mib=400 + SLACK_MIB) == 0
    assert seen(machine, memory_used_mib=401 + SLACK_MIB) == 1
    assert "257 MiB of its memory" in machine.reason(0)
    assert seen(machine, memory_used_mib=900) == 1
    assert len(machine.story) == 1, "not again for every look"
    assert seen(machine, memory_used_mib=390) == 0


def test_throttling_is_told_and_does_not_keep_from_sale() -> None:
    machine = Stand().machine()
    assert seen(machine, throttled="too hot") == 0
    assert seen(machine) == 0
    texts = [one.text for one in machine.story]
    assert texts == ["too hot", "runs at full speed again"]


def test_a_unit_without_sensors_is_for_sale() -> None:
    machine = Stand().machine()
    assert seen(machine, processes=None, memory_used_mib=None) == 0


def test_a_unit_is_lost_to_its_renter_after_two_looks() -> None:
    stand = Stand(rented=1)
    machine = stand.machine()
    assert seen(machine) == 0
    stand.at = 105.0
    seen(machine, healthy=False, reason="it has fallen off the bus")
    reason = "its GPU was lost: it has fallen off the bus"
    assert machine.loss(1) == Loss(reason, UnixTime(100.0), sure=False)
    stand.at = 110.0
    seen(machine, healthy=False, reason="it has fallen off the bus")
    assert machine.loss(1) == Loss(reason, UnixTime(100.0), sure=True)
    assert machine.loss(2) is None, "another unit's renter is not concerned"
    seen(machine)
    assert machine.loss(1) is None


def test_a_job_that_failed_asks_for_a_look_at_once() -> None:
    stand = Stand(rented=1, now_seen=replace(WELL, healthy=False, reason="gone"))
    machine = stand.machine()
    machine.look_now()
    assert machine.loss(1) == Loss("its GPU was lost: gone", UnixTime(0.0), sure=False)
    stand.now_seen = WELL
    machine.look_now()
    assert machine.loss(1) is None


def test_what_slows_a_unit_is_said_to_its_renter_only() -> None:
    machine = Stand(rented=1).machine()
    seen(machine, throttled="too hot")
    assert (machine.slowed(1), machine.slowed(2)) == ("too hot", "")
    seen(machine)
    assert machine.slowed(1) == ""


async def test_a_look_out_of_turn_is_told_of_too(autojump_clock: MockClock) -> None:
    stand, told = Stand(), []
    machine = stand.machine()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(machine.run, lambda: told.append(machine.unusable))
        await trio.sleep(1)
        stand.now_seen = replace(WELL, healthy=False, reason="gone")
        machine.look_now()
        await trio.sleep(3 * LOOK_S)
        assert told == [1]
        stand.now_seen = WELL
        await trio.sleep(2 * LOOK_S)
        assert told == [1, 0]
        nursery.cancel_scope.cancel()
