"""Cheaper, nearer, more reliable or faster never ranks worse, all else equal."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from market.cost import expected_cost
from market.reputation import PRIOR_PPM, Outcome, reliability_ppm
from market.terms import Demand, Offer
from market.units import PPM
from tests.property.strategies import NOW, demands, offers

amounts = st.integers(0, 2**32 - 1)


def total(demand: Demand, offer: Offer, rtt_us: int | None = None) -> int:
    return expected_cost(demand, offer, NOW, rtt_us=rtt_us).total


@given(demands, offers(), st.integers(0, 2**96 - 1), st.integers(0, 2**96 - 1))
def test_cheaper_is_never_worse(demand: Demand, offer: Offer, a: int, b: int) -> None:
    low, high = sorted((a, b))
    cheap, dear = replace(offer, price_per_hour=low), replace(offer, price_per_hour=high)
    assert total(demand, cheap) <= total(demand, dear)


@given(demands, offers(), amounts, amounts)
def test_nearer_is_never_worse(demand: Demand, offer: Offer, a: int, b: int) -> None:
    low, high = sorted((a, b))
    assert total(demand, offer, low) <= total(demand, offer, high)


@given(demands, offers(), amounts, amounts)
def test_more_reliable_is_never_worse(demand: Demand, offer: Offer, a: int, b: int) -> None:
    low, high = sorted((a, b))
    frail, steady = replace(offer, reliability_ppm=low), replace(offer, reliability_ppm=high)
    assert total(demand, steady) <= total(demand, frail)


@given(demands, offers(), st.integers(1, 2**32 - 1), st.integers(1, 2**32 - 1))
def test_faster_is_never_worse(demand: Demand, offer: Offer, a: int, b: int) -> None:
    low, high = sorted((a, b))
    slow, fast = replace(offer, dlperf_milli=low), replace(offer, dlperf_milli=high)
    assert total(demand, fast) <= total(demand, slow)


@given(
    demands,
    offers(),
    st.sampled_from(["queue_wait_s", "start_up_ms", "inet_down_kbps", "inet_up_kbps"]),
    amounts,
    amounts,
)
def test_sooner_is_never_worse(demand: Demand, offer: Offer, name: str, a: int, b: int) -> None:
    good, bad = sorted((a, b), reverse=name.startswith("inet"))
    better, worse = replace(offer, **{name: good}), replace(offer, **{name: bad})
    assert total(demand, better) <= total(demand, worse)


@given(demands, offers())
def test_a_cached_image_is_never_worse(demand: Demand, offer: Offer) -> None:
    warm = replace(offer, cached_images=(demand.image,))
    cold = replace(offer, cached_images=())
    assert total(demand, warm) <= total(demand, cold)


@given(demands, offers())
def test_the_total_is_the_sum_of_its_parts(demand: Demand, offer: Offer) -> None:
    cost = expected_cost(demand, offer, NOW)
    exact = cost.price + cost.waiting + cost.risk
    assert min(cost.price, cost.waiting, cost.risk) >= 0
    assert cost.total == exact if exact < 2**53 else abs(cost.total - exact) <= exact / 2**50


outcomes = st.lists(
    st.builds(
        Outcome,
        at_s=st.integers(int(NOW) - 10**7, int(NOW)),
        money=st.integers(0, 10**9),
        slashed_ppm=st.integers(0, PPM),
    ),
    max_size=20,
)


@given(outcomes, st.randoms(use_true_random=False))
def test_reputation_is_a_chance_and_knows_no_order(history: list[Outcome], random: Random) -> None:
    other = history.copy()
    random.shuffle(other)
    found = reliability_ppm(history, NOW, usual_money=10**6)
    assert 0 <= found <= PPM
    assert found == reliability_ppm(other, NOW, usual_money=10**6)


@given(outcomes, st.integers(1, 10**9))
def test_a_slashed_agreement_never_helps(history: list[Outcome], money: int) -> None:
    before = reliability_ppm(history, NOW, usual_money=10**6)
    slashed = Outcome(int(NOW), money, PPM)
    after = reliability_ppm([*history, slashed], NOW, usual_money=10**6)
    assert after <= before
    assert reliability_ppm([], NOW, usual_money=1) == PRIOR_PPM
