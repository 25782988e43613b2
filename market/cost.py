"""Cost: what a demand on an offer is expected to cost until its results are back, all in money.

One formula, `charge`, serves one offer (floats) and a million (numpy columns): it uses only
+ - * / and minimum, which IEEE 754 rounds the same everywhere and in the same direction, so every
node ranks alike, and the best values of a block of offers bound the cost of each offer in it.
Knows no book, clock or network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from market.coordinates import distance, known
from market.limits import QUOTE_WINDOW_S
from market.models import takes
from market.terms import Demand, Offer, Workload
from market.throughput import rating
from market.units import HOUR_S, PPM

Column = npt.NDArray[np.float64]
X = TypeVar("X", float, Column)

AGREE_S = QUOTE_WINDOW_S + 4.0  # listening for quotes, countersigning, two blocks of a fast chain
RTT_UNKNOWN_US = 150_000  # between nodes that know nothing of each other: half the globe
RTT_TURNS = 12  # round trips from accept to result: accept, four transfers of three turns each
SCALING = 0.6  # each further unit adds so much: Gavel's V100 table, 1 to 4 GPUs on one machine, has
# 0.44 to 0.66 at the largest batch of its four scaling jobs
KIBIBIT = 1000.0 / 8  # bytes in a kilobit: the columns hold kbit/s


@dataclass(frozen=True, slots=True)
class Cost:
    """What a demand on an offer should cost, in base units, and where its time goes, in seconds.

    `total` is price + waiting + risk; the sum is exact below 2^53 base units.
    """

    price: int
    waiting: int
    risk: int
    total: int
    units: int
    queue_s: float
    transfer_s: float
    start_up_s: float
    run_s: float
    ready_s: float  # from now until the results are here


@dataclass(frozen=True, slots=True)
class Parts:
    """`charge`'s answer before it is put into words: floats or columns of them."""

    price: Any
    waiting: Any
    risk: Any
    transfer_s: Any
    run_s: Any
    ready_s: Any


@dataclass(frozen=True, slots=True)
class Weights:
    """What of a demand enters the formula: floats by `weigh`, or columns of them for a batch."""

    work_s: Any  # seconds on one reference GPU
    scales: bool  # False: it runs so long on any GPU
    value_per_s: Any  # base units per second of waiting
    in_kbit: Any  # inputs
    image_kbit: Any  # the image, where it is not cached
    out_kbit: Any
    checkpoint_s: Any  # work between checkpoints; infinite without any
    most_s: Any  # a guess without an estimate: it is stopped after so long


def weigh(demand: Demand) -> Weights:
    """The demand's side of the formula.

    Work (seconds on one reference GPU) is the requester's `estimate_s`. Without an estimate a
    service (inference) runs for all of `max_duration_s` on any GPU; other work is taken as half of
    it on the reference, the middle of what is possible.
    """
    service = demand.workload is Workload.INFERENCE and not demand.estimate_s
    work_s = float(demand.estimate_s or demand.max_duration_s)
    if not demand.estimate_s and not service:
        work_s /= 2
    return Weights(
        work_s=work_s,
        scales=not service,
        value_per_s=demand.value_of_time_per_hour / HOUR_S,
        in_kbit=demand.input_bytes / KIBIBIT,
        image_kbit=demand.image_bytes / KIBIBIT,
        out_kbit=demand.output_bytes / KIBIBIT,
        checkpoint_s=float(demand.checkpoint_interval_s or np.inf),
        most_s=np.inf if demand.estimate_s else float(demand.max_duration_s),
    )


def charge(
    weights: Weights,
    *,
    rate: X,
    speed: X,
    wait_s: X,
    in_kbit: X,
    down_kbps: X,
    up_kbps: X,
    start_up_s: X,
    failure: X,
    rtt_us: X,
    minimum: Callable[[X, float], X],
) -> Parts:
    """The formula of DESIGN section 5. Every argument makes the cost no smaller as it gets worse.

    What enters it, with its unit and its source:
    - `work_s`, s on one reference GPU: the requester's `estimate_s`, else from `max_duration_s`,
      after which (`most_s`) the job is stopped wherever it is; an offer that an estimate does not
      fit is left out, and not charged less.
    - `speed`, multiple of the reference GPU, all units together: the throughput table's row for the
      kind of work and the GPU model, lowered by the offer's certificate; the certificate alone for
      a model that the table does not know (`throughput.rating`).
    - `rate`, base units per s: price of a unit-hour (offer, or terms) times units / 3600.
    - `value_per_s`, base units per s of waiting: the demand's `value_of_time_per_hour`.
    - `wait_s`, s in the queue before it can start: the offer, or the quote.
    - `in_kbit` over `down_kbps`, `out_kbit` over `up_kbps`: inputs and an image that is not cached
      there (demand) over the offer's measured bandwidth; results back the same way.
    - `start_up_s`, s: how long a container takes to start there, as measured (offer).
    - `rtt_us`, us: measured, else from Vivaldi coordinates; paid RTT_TURNS times.
    - `failure`, 0 to 1: the chance that the provider fails this agreement, 1 - its reliability.

    What comes out, all in base units:
    - `price` = rate * run_s: what is paid to the provider.
    - `waiting` = value_per_s * (wait_s + set-up + run_s): what the time until the results costs.
    - `risk` = failure * (lost work, paid and waited for again, + the set-up, waited for again). On
      average half a checkpoint interval is lost, half the run without checkpoints.
    """
    run_s = minimum(weights.work_s / speed, weights.most_s)
    transfer_s = in_kbit / down_kbps + weights.out_kbit / up_kbps
    setup_s = transfer_s + start_up_s + rtt_us * (RTT_TURNS / 1e6) + AGREE_S
    ready_s = wait_s + setup_s + run_s
    lost_s = minimum(run_s, weights.checkpoint_s) * 0.5
    price = rate * run_s
    waiting = ready_s * weights.value_per_s
    risk = failure * (lost_s * (rate + weights.value_per_s) + setup_s * weights.value_per_s)
    return Parts(price, waiting, risk, transfer_s, run_s, ready_s)


def expected_cost(demand: Demand, offer: Offer, now: float, *, rtt_us: int | None = None) -> Cost:
    """The expected cost of `demand` on `offer`, whether or not the offer fits.

    `rtt_us` is a measured round trip; None takes the coordinates. No term depends on `now`: queues
    are stated relative to it.
    """
    units = needed_units(demand, offer)
    weights = weigh(demand)
    cached = demand.image in offer.cached_images
    parts = charge(
        weights,
        rate=float(offer.price_per_hour) * units / HOUR_S,
        speed=speed(demand, offer, units) if weights.scales else 1.0,
        wait_s=float(offer.queue_wait_s),
        in_kbit=weights.in_kbit + (0.0 if cached else weights.image_kbit),
        down_kbps=float(max(1, offer.inet_down_kbps)),
        up_kbps=float(max(1, offer.inet_up_kbps)),
        start_up_s=offer.start_up_ms / 1000,
        failure=failure_chance(offer.reliability_ppm),
        rtt_us=float(round_trip_us(demand, offer, rtt_us)),
        minimum=min,
    )
    return tell(parts, units, float(offer.queue_wait_s), offer.start_up_ms / 1000)


def tell(parts: Parts, units: int, queue_s: float, start_up_s: float) -> Cost:
    """One offer's parts as a `Cost`; money is rounded half to even, as `rint` does."""
    price, waiting, risk = round(parts.price), round(parts.waiting), round(parts.risk)
    return Cost(
        price=price,
        waiting=waiting,
        risk=risk,
        total=int(float(price) + float(waiting) + float(risk)),
        units=units,
        queue_s=queue_s,
        transfer_s=parts.transfer_s,
        start_up_s=start_up_s,
        run_s=parts.run_s,
        ready_s=parts.ready_s,
    )


def needed_units(demand: Demand, offer: Offer) -> int:
    """How many of the offer's units the demand would take on this machine.

    The first written choice that takes the model and that the machine has free units for; failing
    that the smallest that takes the model; the smallest of all if none does.
    """
    counts = [
        max(1, choice.count)
        for choice in demand.requirements.accelerators
        if takes(choice.name, offer.gpu_name)
    ]
    if not counts:
        return smallest_count(demand)
    return next((count for count in counts if count <= offer.num_gpus), min(counts))


def smallest_count(demand: Demand) -> int:
    """The unit count that the demand's estimate is about: the smallest of its choices."""
    return max(1, min((a.count for a in demand.requirements.accelerators), default=1))


def parallel(units: Any, smallest: Any) -> Any:
    """How much faster `units` are than the smallest choice: 60 % of each further unit counts."""
    return 1.0 + SCALING * (units / smallest - 1.0)


def speed(demand: Demand, offer: Offer, units: int) -> float:
    """The offer's speed for this demand, as a multiple of the reference GPU."""
    known_of = rating(demand.workload, offer.gpu_name)
    unit_milli = known_of.speed_milli(known_of.score(offer.dlperf_milli))
    return unit_milli / 1000 * float(parallel(units, smallest_count(demand)))


def run_seconds(demand: Demand, offer: Offer, units: int) -> float:
    """How long the demand is expected to run on so many units of the offer."""
    weights = weigh(demand)
    return float(weights.work_s / (speed(demand, offer, units) if weights.scales else 1.0))


def failure_chance(reliability_ppm: int) -> float:
    """1 - reliability, for what a peer says its reliability is; above one is one."""
    return (PPM - min(PPM, reliability_ppm)) / PPM


def round_trip_us(demand: Demand, offer: Offer, rtt_us: int | None) -> float:
    """The measured round trip, else the coordinates', else what is assumed of strangers."""
    if rtt_us is not None:
        return float(rtt_us)
    if not (known(demand.coordinate) and known(offer.coordinate)):
        return float(RTT_UNKNOWN_US)
    a, b = demand.coordinate, offer.coordinate
    return distance(float(a.x_us - b.x_us), float(a.y_us - b.y_us), a.height_us + b.height_us)
