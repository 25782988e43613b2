"""Expected cost: the terms of the formula, by hand, and what GPU and place names mean."""

from __future__ import annotations

import pytest

from market.cost import AGREE_S, expected_cost, needed_units
from market.models import takes, within
from market.terms import Coordinate, Workload
from market.throughput import REFERENCE, speed_milli
from tests.unit.offers import IMAGE, NOW, demand_of, needing, offer_of


def test_each_term_by_hand() -> None:
    offer = offer_of(gpu_name="RTX 3090", queue_wait_s=100)
    demand = needing({"RTX3090": 2})
    cost = expected_cost(demand, offer, NOW)
    assert cost.run_s == 3600.0  # the reference GPU; the estimate is for what is asked
    assert cost.price == 2 * 600_000
    assert cost.transfer_s == pytest.approx(8.0)  # 1 GB at 1 Gbit/s
    setup_s = 8 + 2 + 12 * 0.012 + AGREE_S
    assert cost.ready_s == pytest.approx(100 + setup_s + 3600)
    assert cost.waiting == round(cost.ready_s * 500_000 / 3600)
    lost = 150 * (1_200_000 + 500_000) / 3600 + setup_s * 500_000 / 3600
    assert cost.risk == pytest.approx(0.01 * lost, abs=1)
    assert cost.total == cost.price + cost.waiting + cost.risk


def test_a_cached_image_saves_its_transfer() -> None:
    cold, warm = offer_of(), offer_of(cached_images=(IMAGE,))
    assert expected_cost(demand_of(), warm, NOW).transfer_s == 0
    assert expected_cost(demand_of(), cold, NOW).transfer_s == pytest.approx(8.0)


def test_a_measured_round_trip_counts_more_than_coordinates() -> None:
    near = expected_cost(demand_of(), offer_of(), NOW, rtt_us=1_000).waiting
    assert near < expected_cost(demand_of(), offer_of(), NOW).waiting


def test_strangers_are_assumed_to_be_far() -> None:
    stranger = offer_of(coordinate=Coordinate())
    known_far = expected_cost(demand_of(), stranger, NOW, rtt_us=150_000)
    assert expected_cost(demand_of(), stranger, NOW) == known_far


def test_a_service_without_estimate_runs_as_long_on_any_gpu() -> None:
    demand = demand_of(workload=Workload.INFERENCE, estimate_s=0)
    assert expected_cost(demand, offer_of(), NOW).run_s == 7200
    assert expected_cost(demand, offer_of(gpu_name="H100"), NOW).run_s == 7200


def test_training_without_estimate_scales_with_the_model() -> None:
    demand = demand_of(estimate_s=0)
    fast = expected_cost(demand, offer_of(gpu_name="H100 SXM"), NOW).run_s
    assert fast < expected_cost(demand, offer_of(), NOW).run_s < 3600


def test_a_low_certificate_slows_and_a_high_one_does_not_lift() -> None:
    full = speed_milli(Workload.TRAINING, "RTX 4090")
    assert full is not None
    plain = expected_cost(demand_of(), offer_of(), NOW).run_s
    boast = expected_cost(demand_of(), offer_of(dlperf_milli=10**9), NOW).run_s
    tired = expected_cost(demand_of(), offer_of(dlperf_milli=full // 2), NOW).run_s
    assert (boast, tired) == (plain, pytest.approx(2 * plain, rel=0.01))


def test_the_first_choice_that_fits_the_free_units_is_taken() -> None:
    demand = needing({"H100": 1, "RTX4090": 4, "*": 2})
    assert needed_units(demand, offer_of(num_gpus=4)) == 4
    assert needed_units(demand, offer_of(num_gpus=3)) == 2
    assert needed_units(demand, offer_of(gpu_name="NVIDIA H100 80GB HBM3")) == 1


@pytest.mark.parametrize(
    ("wanted", "offered", "is_taken"),
    [
        ("H100", "NVIDIA H100 80GB HBM3", True),
        ("A100-80GB", "NVIDIA A100-SXM4-80GB", True),
        ("A100-80GB", "NVIDIA A100-SXM4-40GB", False),
        ("RTX4090", "NVIDIA GeForce RTX 4090", True),
        ("RTX 3080", "NVIDIA GeForce RTX 3080 Ti", False),
        ("rtx3080ti", "NVIDIA GeForce RTX 3080 Ti", True),
        ("A6000", "NVIDIA RTX A6000", True),
        ("RTX6000", "NVIDIA RTX 6000 Ada Generation", False),
        ("A100", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", False),
        ("A100 MIG 1g.5gb", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", True),
        ("*", "Anything", True),
        ("*", "CPU", False),
        ("*", "", False),
        ("CPU", "CPU", True),
        ("", "RTX 4090", False),
    ],
)
def test_gpu_names(wanted: str, offered: str, is_taken: bool) -> None:
    assert takes(wanted, offered) is is_taken


@pytest.mark.parametrize(
    ("region", "place", "is_within"),
    [
        ("US", "California, US", True),
        ("california", "California, US", True),
        ("EU", "Bavaria, DE", True),
        ("EU", "GB", False),
        ("eu-west", "eu-west-1", True),
        ("DE", "", False),
        ("", "DE", False),
    ],
)
def test_places(region: str, place: str, is_within: bool) -> None:
    assert within(region, place) is is_within


@pytest.mark.parametrize(("slower", "median"), [("P100", 1.387), ("K80", 4.372)])
def test_the_table_is_of_the_order_of_what_was_measured(slower: str, median: float) -> None:
    """Medians of V100 over older GPUs in Gavel's throughput table, FP32 training, one GPU."""
    fast, slow = (speed_milli(Workload.TRAINING, name) for name in ("V100", slower))
    assert fast is not None
    assert slow is not None
    assert median < fast / slow < 2.5 * median


def test_the_reference_is_one_thousand() -> None:
    assert [speed_milli(kind, REFERENCE) for kind in Workload] == [1000] * 3
