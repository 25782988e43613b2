"""Coordinates: round trips between nodes that never met. Vivaldi with height; knows no network.

Source: Dabek, Cox, Kaashoek, Morris, "Vivaldi", SIGCOMM 2004, the adaptive time step of section
3.4 and the height vector of section 5.4; the constants are the paper's (c_c = c_e = 0.25).
Lengths are microseconds of round trip. Values in, values out, the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from market.terms import Coordinate
from market.units import PPM

TUNING = 0.25  # c_c and c_e of the paper: its balance of speed against oscillation
HEIGHT_MIN_US = 100  # no access link is shorter; keeps two nodes on one host apart
HEIGHT_MAX_US = 2_000_000
RTT_MAX_US = 10_000_000  # a slower "round trip" was a stall, and teaches nothing
REACH_US = 1_000_000  # nobody is a second of light away; bounds what a liar can do
STEP_MAX_US = 50_000  # one sample moves a node so far at most, however wrong its author


OUTLIER = 4.0  # a sample so many times as wrong as the median one is a lie or a stall ...
OUTLIER_US = 20_000  # ... unless it is wrong by less than jitter
VOTES_MIN = 5  # with fewer peers nobody is in the minority


def believable(coordinate: Coordinate) -> bool:
    """Whether an honest node can be there: `update` never leaves these bounds."""
    far = max(abs(coordinate.x_us), abs(coordinate.y_us))
    return far <= REACH_US and coordinate.height_us <= HEIGHT_MAX_US


def outliers(errors_us: Mapping[bytes, int]) -> frozenset[bytes]:
    """Which peers' samples disagree with the map far more than the median one.

    By peer, the distance between prediction and measurement. A node that moves itself finds all
    samples wrong, and none an outlier.
    """
    if len(errors_us) < VOTES_MIN:
        return frozenset()
    median = sorted(errors_us.values())[len(errors_us) // 2]
    bound = max(OUTLIER_US, OUTLIER * median)
    return frozenset(peer for peer, error_us in errors_us.items() if error_us > bound)


def known(coordinate: Coordinate) -> bool:
    """Whether the node has ever measured anything: a fresh coordinate says nothing."""
    return coordinate.error_ppm < PPM


def distance_us(a: Coordinate, b: Coordinate) -> int:
    """The predicted round trip between two nodes, rounded down."""
    return int(distance(float(a.x_us - b.x_us), float(a.y_us - b.y_us), a.height_us + b.height_us))


def distance(dx: float, dy: float, heights: float) -> float:
    """The height-vector norm: the plane's distance and both heights."""
    return math.sqrt(dx * dx + dy * dy) + heights


def update(own: Coordinate, remote: Coordinate, rtt_us: int, *, toward: bytes) -> Coordinate:
    """`own` after one measured round trip to a node that says it is at `remote`.

    `toward` (the remote's key) chooses the direction in which two coincident nodes part. A sample
    of no time or of more than ten seconds changes nothing.
    """
    if not 0 < rtt_us <= RTT_MAX_US:
        return own
    own_error = _error(own)
    remote_error = _error(remote)
    weight = own_error / (own_error + remote_error)
    predicted = distance(
        float(own.x_us - remote.x_us),
        float(own.y_us - remote.y_us),
        own.height_us + remote.height_us,
    )
    sample_error = min(abs(predicted - rtt_us) / rtt_us, 1.0)
    error = sample_error * TUNING * weight + own_error * (1 - TUNING * weight)
    force = TUNING * weight * (rtt_us - predicted)
    force = max(-STEP_MAX_US, min(STEP_MAX_US, force))
    ux, uy, uh = _direction(own, remote, toward)
    return Coordinate(
        x_us=_clamp(own.x_us + force * ux, -REACH_US, REACH_US),
        y_us=_clamp(own.y_us + force * uy, -REACH_US, REACH_US),
        height_us=_clamp(own.height_us + force * uh, HEIGHT_MIN_US, HEIGHT_MAX_US),
        error_ppm=_clamp(error * PPM, 1, PPM - 1),
    )


def _error(coordinate: Coordinate) -> float:
    """A relative error of 0.01 to 1: nobody is believed to be perfect."""
    return max(0.01, min(coordinate.error_ppm / PPM, 1.0))


def _direction(own: Coordinate, remote: Coordinate, toward: bytes) -> tuple[float, float, float]:
    """The unit height vector that points from the remote to us; heights add, also here."""
    dx, dy = float(own.x_us - remote.x_us), float(own.y_us - remote.y_us)
    plane = math.sqrt(dx * dx + dy * dy)
    heights = float(own.height_us + remote.height_us)
    if plane < 1.0:
        dx, dy = _bearing(toward)
        plane = math.sqrt(dx * dx + dy * dy)
    length = plane + heights
    return dx / length, dy / length, heights / length


def _bearing(key: bytes) -> tuple[float, float]:
    """A direction that differs from key to key: two numbers in -128..127, never both zero."""
    x = (key[0] if key else 0) - 128
    y = (key[1] if len(key) > 1 else 0) - 128
    return float(x or 1) * 1000, float(y or 1) * 1000


def _clamp(value: float, low: int, high: int) -> int:
    return max(low, min(high, round(value)))
