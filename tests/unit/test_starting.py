"""Backfill, preemption and the choice of slots, on sites small enough to draw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.backfill import backfill
from market.preemption import lost, victims
from market.site import Queued, Running, Site
from market.slots import SLOT_POLICIES, choose_units, free_of_groups
from market.units import UnixTime

NOW = UnixTime(1000.0)


def demand(name: str, units: int, estimate_s: float, price: int = 0, priority: int = 0) -> Queued:
    return Queued(name.encode(), b"r", NOW, units, estimate_s, price, priority=priority)


def running(units: int, ends_in_s: float, **more: object) -> Running:
    base = Running(bytes([units]), b"r", units, UnixTime(0.0), UnixTime(NOW + ends_in_s))
    return replace(base, **more)  # type: ignore[arg-type]


def started(*queue: Queued, site: Site, deep: bool = True) -> list[str]:
    found = backfill(queue, site, NOW, deep=deep)
    return [one.demand_id.decode() for one in found.start]


SITE = Site(4, (running(0b0011, 100),))  # two units free now, four in 100 s


def test_what_fits_in_order_starts() -> None:
    assert started(demand("a", 1, 9), demand("b", 1, 9), site=SITE) == ["a", "b"]


def test_a_short_job_passes_the_head() -> None:
    queue = (demand("head", 4, 50), demand("short", 2, 100), demand("long", 2, 101))
    assert started(*queue, site=SITE) == ["short"]
    found = backfill(queue, SITE, NOW)
    assert (found.head, found.reserved_at) == (queue[0], NOW + 100)


def test_a_long_job_may_take_what_the_head_leaves_over() -> None:
    queue = (demand("head", 3, 50), demand("long", 1, 9999), demand("long2", 1, 9999))
    assert started(*queue, site=SITE) == ["long"]


def test_without_backfill_nothing_passes_the_head() -> None:
    queue = (demand("head", 4, 50), demand("short", 2, 100))
    assert started(*queue, site=SITE, deep=False) == []


def test_a_demand_wider_than_the_site_blocks_nobody() -> None:
    assert started(demand("huge", 5, 1), demand("a", 1, 9999), site=SITE) == ["a"]


def head(price: int, priority: int = 1) -> Queued:
    return demand("head", 2, 3600, price, priority)


CHEAP = running(0b01, 7200, price_per_hour=10, preemptible=True, grace_s=60)
DEAR = running(0b10, 7200, price_per_hour=90, preemptible=True, grace_s=60)
LATER = UnixTime(NOW + 7200)


def test_only_preemptible_agreements_make_way() -> None:
    firm = replace(DEAR, preemptible=False)
    assert victims(head(10**6), Site(2, (CHEAP, firm)), NOW, LATER) == ()
    assert set(victims(head(10**6), Site(2, (CHEAP, DEAR)), NOW, LATER)) == {CHEAP, DEAR}


def test_never_one_of_higher_priority() -> None:
    proud = replace(CHEAP, priority=2)
    assert victims(head(10**6), Site(2, (proud, DEAR)), NOW, LATER) == ()


def test_it_must_pay() -> None:
    both = Site(2, (CHEAP, DEAR))
    loss = lost(CHEAP, NOW) + lost(DEAR, NOW)
    break_even = loss / 2  # two units for an hour
    assert victims(head(int(break_even) + 1), both, NOW, LATER) != ()
    assert victims(head(int(break_even) - 1), both, NOW, LATER) == ()


def test_grace_is_priced() -> None:
    patient = replace(CHEAP, grace_s=3600)
    assert lost(patient, NOW) - lost(CHEAP, NOW) == pytest.approx(10 * 3540 / 3600)
    # The head gains nothing where the grace lasts until it would have started anyway.
    slow = replace(CHEAP, grace_s=7200)
    site = Site(2, (slow, replace(DEAR, preemptible=False)))
    assert victims(demand("head", 1, 3600, 10**6, 1), site, NOW, LATER) == ()


def test_the_superfluous_are_spared() -> None:
    wide = running(0b1100, 7200, price_per_hour=20, preemptible=True)
    site = Site(4, (CHEAP, running(0b10, 7200), wide))
    assert victims(head(10**6), site, NOW, LATER) == (wide,)


def test_slots_stay_in_one_group() -> None:
    taken = 0b0011_1111  # two left in the first group of eight, eight in the second
    assert choose_units(taken, 16, 2) == 0b1100_0000
    assert choose_units(taken, 16, 3) == 0b111 << 8
    assert choose_units(taken, 16, 10) == 0b1111_1111_1100_0000
    assert choose_units(taken, 16, 11) == 0
    assert choose_units(taken, 16, 0) == 0


def test_slots_prefer_the_tightest_run() -> None:
    assert choose_units(0b0001_0110, 8, 1) == 0b0000_0001
    assert choose_units(0b0100_1000, 8, 2) == 0b0011_0000


def test_each_slot_policy_chooses_otherwise() -> None:
    # Free per group of four: 3, 4, 1, 2.
    taken = 0b1100_0111_0000_0001
    chosen = {
        name: choose_units(taken, 16, 1, group=4, policy=name, sizes={2: 0.9, 4: 0.1})
        for name in SLOT_POLICIES
    }
    group = {name: (units.bit_length() - 1) // 4 for name, units in chosen.items()}
    assert group == {"bestfit": 2, "pack": 0, "spread": 1, "fgd": 2}
    assert free_of_groups(taken, 16, 4) == [3, 4, 1, 2]
    # For pairs only, fgd breaks the three rather than the pair that bestfit would break.
    pairs = 0b1100_1111_0000_0001
    assert choose_units(pairs, 16, 1, group=4, policy="fgd", sizes={2: 1.0}) == 0b0010
    assert choose_units(pairs, 16, 1, group=4, policy="bestfit") == 1 << 12


def test_a_short_last_group_is_known() -> None:
    assert free_of_groups(0, 10, 8) == [8, 2]
    assert choose_units(0, 10, 2) == 0b11 << 8
