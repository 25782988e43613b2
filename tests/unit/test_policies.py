"""Each policy orders one telling queue as it promises, and some other policy does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.policy import POLICIES
from market.policy.latency import slack_s
from market.policy.priority import AGE_S
from market.site import Queued, Running, Site, Usage, decayed
from market.units import UnixTime

NOW = UnixTime(10_000.0)


def demand(name: str, arrived_at: float = 0.0, **more: object) -> Queued:
    base = Queued(name.encode(), b"r-" + name.encode(), UnixTime(arrived_at), 1, 600.0)
    return replace(base, **more)  # type: ignore[arg-type]


def running(units: int, requester: bytes = b"x", **more: object) -> Running:
    base = Running(b"a", requester, units, UnixTime(0.0), UnixTime(20_000.0))
    return replace(base, **more)  # type: ignore[arg-type]


SITE = Site(8)
CASES: dict[str, tuple[tuple[Queued, ...], Site, str]] = {
    "fcfs": (
        (demand("b", 2, priority=9, price_per_hour=9), demand("a", 1), demand("c", 2)),
        SITE,
        "a b c",
    ),
    "priority": (
        (demand("a", NOW - 10), demand("b", NOW, priority=2), demand("c", NOW - 3 * AGE_S)),
        SITE,
        "c b a",
    ),
    "fair": (
        (
            demand("a1", 1, requester=b"a"),
            demand("a2", 2, requester=b"a"),
            demand("b1", 3, requester=b"b"),
            demand("c1", 4, requester=b"c"),
        ),
        Site(8, (running(0b11, b"b"),)),
        "a1 c1 a2 b1",
    ),
    "load": (
        (demand("a", 1, units=6), demand("b", 2, units=2), demand("c", 3, units=9)),
        Site(16, (running(0b111),)),
        "b a c",
    ),
    "cost": (
        (
            demand("a", 1, price_per_hour=5),
            demand("b", 2, price_per_hour=9, units=4),
            demand("c", 3, price_per_hour=9),
        ),
        SITE,
        "c b a",
    ),
    "latency": (
        (
            demand("a", 1),
            demand("b", 2, deadline_at=NOW + 700),
            demand("c", 3, deadline_at=NOW + 650),
            demand("late", 4, deadline_at=NOW + 599, value_of_time_per_hour=1),
        ),
        SITE,
        "c b late a",
    ),
}


def ordered(policy: str, case: str) -> str:
    queue, site, _ = CASES[case]
    return " ".join(one.demand_id.decode() for one in POLICIES[policy](queue, site, NOW))


@pytest.mark.parametrize("policy", POLICIES)
def test_orders_as_promised(policy: str) -> None:
    assert ordered(policy, policy) == CASES[policy][2]


@pytest.mark.parametrize("policy", POLICIES)
def test_another_policy_fails_its_case(policy: str) -> None:
    assert any(ordered(other, policy) != CASES[policy][2] for other in POLICIES)


def test_past_use_counts_and_fades() -> None:
    queue = (demand("a", 1, requester=b"a"), demand("b", 2, requester=b"b"))
    used = Site(8, usage=(Usage(b"a", 4.0, NOW),))
    order = POLICIES["fair"]
    assert [one.demand_id for one in order(queue, used, NOW)] == [b"b", b"a"]
    # A year later it weighs nothing, and seniority decides again, but for a trace too small.
    long_ago = Site(8, usage=(Usage(b"a", 4.0, UnixTime(NOW - 365 * 86400.0)),))
    busy = replace(long_ago, running=(running(0b1, b"b"),))
    assert [one.demand_id for one in order(queue, busy, NOW)] == [b"a", b"b"]


def test_usage_halves_in_a_half_life() -> None:
    assert decayed(Usage(b"a", 4.0, UnixTime(0.0)), 0, UnixTime(50.0), 50.0).units == 2.0
    assert decayed(Usage(b"a", 0.0, UnixTime(0.0)), 4, UnixTime(50.0), 50.0).units == 2.0
    assert decayed(Usage(b"a", 4.0, UnixTime(9.0)), 0, UnixTime(1.0)).units == 4.0


def test_dominant_share_sees_the_scarcest_resource() -> None:
    site = Site(
        10,
        (running(0b1, b"a", cpu_milli=8000), running(0b110, b"b", agreement=b"c")),
        cpu_milli=10_000,
    )
    queue = (demand("a", 1, requester=b"a"), demand("b", 2, requester=b"b"))
    # b holds more units, but a holds four fifths of the cores.
    assert [one.demand_id for one in POLICIES["fair"](queue, site, NOW)] == [b"b", b"a"]


def test_slack_is_none_without_a_deadline() -> None:
    assert slack_s(demand("a"), NOW) is None
    assert slack_s(demand("a", deadline_at=NOW + 700), NOW) == 100.0


def test_a_site_that_sold_a_unit_twice_is_our_bug() -> None:
    with pytest.raises(AssertionError, match="never sold twice"):
        _ = Site(8, (running(1), running(1))).taken
