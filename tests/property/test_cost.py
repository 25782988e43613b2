"""Cheaper, nearer, more reliable or faster never ranks worse, all else equal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from market.assignment import book_of
from market.cost import expected_cost
from market.reputation import PRIOR_PPM, Outcome, reliability_ppm
from market.terms import Demand, Offer
from market.units import PPM
from tests.property.strategies import NOW, demands, offers

amounts = st.integers(0, 2**32 - 1)
BETTER: dict[str, Callable[[int], int]] = {
    "price_per_hour": lambda value: value * 9 // 10,
    "reliability_ppm": lambda value: min(PPM, value + 30_000),
    "dlperf_milli": lambda value: value * 2 if value < 2**31 else value,  # 0: never measured
    "queue_wait_s": lambda value: value // 2,
    "start_up_ms": lambda value: value // 2,
    "inet_down_kbps": lambda value: value * 2,
    "inet_up_kbps": lambda value: value * 2,
}


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


@given(demands, offers(), st.integers(0, 100), st.integers(0, 100))
def test_nearer_by_coordinates_is_never_worse(demand: Demand, offer: Offer, a: int, b: int) -> None:
    """The same direction, at two distances."""
    here = replace(demand.coordinate, error_ppm=100_000)
    demand = replace(demand, coordinate=here)

    def at(percent: int) -> Offer:
        x = here.x_us + (offer.coordinate.x_us - here.x_us) * percent // 100
        y = here.y_us + (offer.coordinate.y_us - here.y_us) * percent // 100
        place = replace(offer.coordinate, x_us=x, y_us=y, error_ppm=100_000)
        return replace(offer, coordinate=place)

    low, high = sorted((a, b))
    assert total(demand, at(low)) <= total(demand, at(high)) + 1


@settings(max_examples=50)
@given(demands, st.lists(offers(), min_size=2, max_size=12), st.sampled_from(sorted(BETTER)))
def test_a_better_offer_never_ranks_worse(demand: Demand, said: list[Offer], name: str) -> None:
    """The place in the book's own ranking, before and after one offer got better in one thing."""
    live = list({(offer.peer, offer.offer_id): offer for offer in said}.values())
    better = replace(live[0], **{name: BETTER[name](getattr(live[0], name))})

    def place(first: Offer) -> float:
        ranked = book_of([first, *live[1:]], NOW).top(demand, len(live), NOW)
        keys = [(one.offer.peer, one.offer.offer_id) for one in ranked]
        own = (first.peer, first.offer_id)
        return keys.index(own) if own in keys else float("inf")

    assert place(better) <= place(live[0])


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
