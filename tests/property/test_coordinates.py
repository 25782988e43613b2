"""Coordinates: they converge on worlds that fit them, and liars can only do so much."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.coordinates import (
    HEIGHT_MAX_US,
    HEIGHT_MIN_US,
    REACH_US,
    STEP_MAX_US,
    believable,
    distance_us,
    known,
    outliers,
    update,
)
from market.terms import Coordinate

wild = st.builds(
    Coordinate,
    x_us=st.integers(-(2**31), 2**31 - 1),
    y_us=st.integers(-(2**31), 2**31 - 1),
    height_us=st.integers(0, 2**32 - 1),
    error_ppm=st.integers(0, 2**32 - 1),
)
sane = st.builds(
    Coordinate,
    x_us=st.integers(-REACH_US, REACH_US),
    y_us=st.integers(-REACH_US, REACH_US),
    height_us=st.integers(HEIGHT_MIN_US, HEIGHT_MAX_US),
    error_ppm=st.integers(1, 1_000_000),
)


@given(sane, wild, st.integers(-1, 2**40), st.binary(max_size=32))
def test_no_sample_moves_a_node_out_of_bounds_or_far(
    own: Coordinate, remote: Coordinate, rtt_us: int, toward: bytes
) -> None:
    after = update(own, remote, rtt_us, toward=toward)
    assert -REACH_US <= after.x_us <= REACH_US
    assert -REACH_US <= after.y_us <= REACH_US
    assert HEIGHT_MIN_US <= after.height_us <= HEIGHT_MAX_US
    assert abs(after.x_us - own.x_us) <= STEP_MAX_US + 1
    assert after == own or known(after)


@given(sane, sane)
def test_distance_is_symmetric_and_never_below_the_heights(a: Coordinate, b: Coordinate) -> None:
    assert distance_us(a, b) == distance_us(b, a) >= a.height_us + b.height_us


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_converges_on_a_plane_with_access_links(seed: int) -> None:
    random = Random(seed)
    places = [
        (random.uniform(0, 80_000), random.uniform(0, 80_000), random.uniform(1_000, 8_000))
        for _ in range(40)
    ]

    def true_us(a: int, b: int) -> int:
        (ax, ay, ah), (bx, by, bh) = places[a], places[b]
        return int(((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5 + ah + bh)

    nodes = [Coordinate() for _ in places]
    for _ in range(150):
        for a in range(len(nodes)):
            b = random.randrange(len(nodes) - 1)
            b += b >= a
            nodes[a] = update(nodes[a], nodes[b], true_us(a, b), toward=bytes([b * 6 % 256, b]))
    errors = sorted(
        abs(distance_us(nodes[a], nodes[b]) - true_us(a, b)) / true_us(a, b)
        for a in range(len(nodes))
        for b in range(a)
    )
    assert errors[len(errors) // 2] < 0.15


@given(sane)
def test_where_an_honest_node_can_be_is_believed(place: Coordinate) -> None:
    assert believable(place)
    assert not believable(Coordinate(x_us=REACH_US + 1))
    assert not believable(Coordinate(y_us=-(2**31)))
    assert not believable(Coordinate(height_us=HEIGHT_MAX_US + 1))


def _honest_error(*, guarded: bool) -> float:
    """Median relative error between honest nodes when every fifth node lies as it can."""
    random = Random(11)
    count, liars = 40, 8
    places = [(random.uniform(0, 80_000), random.uniform(0, 80_000)) for _ in range(count)]

    def true_us(a: int, b: int) -> int:
        (ax, ay), (bx, by) = places[a], places[b]
        return int(((ax - bx) ** 2 + (ay - by) ** 2) ** 0.5 + 4_000)

    nodes = [Coordinate() for _ in range(count)]
    met = [random.sample([b for b in range(count) if b != a], 10) for a in range(count)]
    for step in range(120):
        for a in range(liars, count):
            said = {
                bytes([b * 6 % 256, b]): (
                    Coordinate(random.randrange(-REACH_US, REACH_US), step * 9, 100, 1)
                    if b < liars
                    else nodes[b],
                    true_us(a, b) * (1 if b >= liars else 3),
                )
                for b in met[a]
            }
            errors = {key: abs(distance_us(nodes[a], c) - rtt) for key, (c, rtt) in said.items()}
            wrong = outliers(errors) if guarded else frozenset()
            for key, (place, rtt_us) in said.items():
                if key not in wrong:
                    nodes[a] = update(nodes[a], place, rtt_us, toward=key)
    found = sorted(
        abs(distance_us(nodes[a], nodes[b]) - true_us(a, b)) / true_us(a, b)
        for a in range(liars, count)
        for b in range(liars, a)
    )
    return found[len(found) // 2]


def test_a_minority_of_liars_does_not_move_the_map() -> None:
    assert _honest_error(guarded=True) < 0.2 < _honest_error(guarded=False)
