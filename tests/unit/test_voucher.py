"""Vouchers: what time costs, by example, by the contract's golden file and by property."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from market.terms import Money, Terms
from market.voucher import (
    SlashSplit,
    deposit_for,
    offline_worth,
    owed,
    paid_up,
    seconds_covered,
    slash_split,
)
from tests.samples import terms

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "money.json").read_text())
BPS = st.integers(0, 10_000)


@st.composite
def priced(draw: st.DrawFn) -> Terms:
    """Terms whose deposit covers their whole duration, as every quote's does."""
    price = draw(st.integers(0, 10**12))
    units = draw(st.integers(1, 2**256 - 1))
    duration_s = draw(st.integers(1, 30 * 24 * 3600))
    deposit = deposit_for(price, units.bit_count(), duration_s)
    return terms(
        units=units,
        timing={"duration_s": duration_s},
        money={"deposit": deposit, "price_per_hour": price},
    )


@pytest.mark.parametrize("row", GOLDEN["accrued"])
def test_what_accrues_is_what_the_contract_says(row: dict[str, str]) -> None:
    money = {"price_per_hour": int(row["pricePerHour"]), "deposit": 2**96 - 1}
    value = terms(units=int(row["units"]), money=money)
    assert owed(value, int(row["seconds"])) == min(int(row["accrued"]), 2**96 - 1)


@pytest.mark.parametrize("row", GOLDEN["slashes"])
def test_a_slash_divides_as_the_contract_does(row: dict[str, str]) -> None:
    money = Money(
        deposit=0, collateral=int(row["collateral"]), price_per_hour=0, bond=0,
        slash_bps=int(row["slashBps"]), victim_share_bps=int(row["victimShareBps"]),
        equivocation_bps=0,
    )  # fmt: skip
    expected = SlashSplit(int(row["toVictim"]), int(row["burned"]), int(row["back"]))
    assert slash_split(money) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, 0), (1, 1), (599, 599), (600, 600), (601, 600), (10**9, 600)]
)
def test_owed_grows_to_the_deposit(seconds: int, expected: int) -> None:
    assert owed(terms(), seconds) == expected


@pytest.mark.parametrize(("price", "expected"), [(0, 0), (1, 1), (6, 1), (7, 2), (3600, 600)])
def test_a_deposit_is_rounded_for_the_provider(price: int, expected: int) -> None:
    assert deposit_for(price, 1, 600) == expected


@pytest.mark.parametrize(("elapsed", "expected"), [(0, 0), (20, 0), (21, 1), (620, 600)])
def test_the_start_grace_is_free_of_promises(elapsed: int, expected: int) -> None:
    assert paid_up(terms(), elapsed) == expected


@pytest.mark.parametrize(
    ("money", "amount", "expected"),
    [({}, 0, 0), ({}, 7, 7), ({}, 600, 600), ({}, 10**9, 600),
     ({"price_per_hour": 1}, 0, 600), ({"price_per_hour": 7200}, 3, 1),
     ({"price_per_hour": 0}, 0, 600)],
)  # fmt: skip
def test_how_long_an_amount_lasts(money: dict[str, Any], amount: int, expected: int) -> None:
    assert seconds_covered(terms(money=money), amount) == expected


def test_time_does_not_run_backwards() -> None:
    with pytest.raises(AssertionError, match="forward"):
        owed(terms(), -1)


@settings(deadline=None)
@given(priced(), st.integers(0, 10**8), st.integers(0, 10**8))
def test_owed_never_falls_and_never_passes_the_deposit(value: Terms, one: int, two: int) -> None:
    early, late = sorted((one, two))
    assert 0 <= owed(value, early) <= owed(value, late) <= value.money.deposit


@settings(deadline=None)
@given(priced())
def test_the_deposit_is_enough_and_not_more(value: Terms) -> None:
    exact = value.money.price_per_hour * value.unit_count * value.timing.duration_s
    assert 0 <= value.money.deposit * 3600 - exact < 3600
    assert value.money.deposit - owed(value, value.timing.duration_s) in (0, 1)


@settings(deadline=None)
@given(priced(), st.integers(0, 2**96 - 1), st.integers(0, 2**32 - 1))
def test_seconds_covered_is_the_inverse_of_owed(value: Terms, amount: int, seconds: int) -> None:
    duration_s = value.timing.duration_s
    covered = seconds_covered(value, amount)
    assert 0 <= covered <= duration_s
    if covered < duration_s:
        assert owed(value, covered) <= amount < owed(value, covered + 1)
    seconds %= duration_s + 1
    assert seconds_covered(value, owed(value, seconds)) >= seconds


@settings(deadline=None)
@given(st.integers(0, 2**96 - 1), BPS, BPS)
def test_a_slash_loses_nothing(collateral: int, slash: int, share: int) -> None:
    money = Money(0, collateral, 0, 0, slash, share, 0)
    split = slash_split(money)
    assert split.to_victim + split.burned + split.returned == collateral
    assert min(split.to_victim, split.burned, split.returned) >= 0


def test_a_heartbeat_draws_no_more_than_the_allowance_beyond_vouchers() -> None:
    assert terms().timing.offline_allowance_s == 15
    assert offline_worth(terms(), 0, 10) == 10
    assert offline_worth(terms(), 0, 40) == 15
    assert offline_worth(terms(), 100, 110) == 110
    assert offline_worth(terms(), 100, 140) == 115
    assert offline_worth(terms(), 595, 10_000) == 600, "the deposit is all there is"
