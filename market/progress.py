"""Progress: how fast a job gets on, measured from what it says of itself, in ppm of all its work.

A job may write the share of its work that is done, a number from 0 to 1, to the file named by
`GRIDSOUK_PROGRESS`; its provider's heartbeats carry it. Pure; when to move is `reallocation`'s.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

from market.codec import U32, U63, Count
from market.reallocation import Throughput, measure
from market.units import HOUR_S, PPM

SAMPLE_S: Final = 30  # shorter samples measure the job's own steps, not the machine


@dataclass(frozen=True, slots=True)
class Meter:
    """What was measured under one agreement. Rates are ppm of the whole work per hour; 0: none.

    `at_ms` and `done_ppm` begin the sample that is being taken; `below_since_ms` is 0 while the
    throughput is as expected. `reference` is the rate that was expected; `proven_ppm` the best
    share of its estimate that the job reached under earlier agreements (0: it had none).
    """

    agreement: Annotated[bytes, Count(0, 32)] = b""
    at_ms: U63 = 0
    done_ppm: U32 = 0
    rate: U63 = 0
    best: U63 = 0
    reference: U63 = 0
    proven_ppm: U32 = 0
    below_since_ms: U63 = 0
    degraded: bool = False

    @property
    def throughput(self) -> Throughput:
        """As `reallocation` has it."""
        below = self.below_since_ms / 1000 if self.below_since_ms else None
        return Throughput(self.at_ms / 1000, below, self.degraded)


def sample(meter: Meter, agreement: bytes, now_ms: int, done_ppm: int, run_s: int) -> Meter:
    """The meter after the job said `done_ppm`; the same object until a sample is complete.

    What is expected: all the work in `run_s` seconds, as estimated; but an estimate that no earlier
    place could keep was wrong, and is corrected by the best of them: the second provider is not
    blamed for it. Without an estimate (0) it is the fastest sample so far under this agreement.
    """
    if not done_ppm:
        return meter
    if meter.agreement != agreement:
        return Meter(agreement, now_ms, done_ppm, proven_ppm=_proven(meter))
    passed_ms = now_ms - meter.at_ms
    if passed_ms < SAMPLE_S * 1000:
        return meter
    rate = max(0, done_ppm - meter.done_ppm) * HOUR_S * 1000 // passed_ms
    best = max(meter.best, rate)
    reference = (meter.proven_ppm or PPM) * HOUR_S // run_s if run_s else best
    measured_ppm = rate * PPM // reference if reference else PPM
    after = measure(meter.throughput, now_ms / 1000, measured_ppm)
    below_ms = 0 if after.below_since is None else int(after.below_since * 1000)
    return Meter(agreement, now_ms, done_ppm, rate, best, reference, meter.proven_ppm, below_ms,
                 after.degraded)  # fmt: skip


def _proven(meter: Meter) -> int:
    """What share of its estimate the job has reached at best, over all its agreements so far."""
    if not meter.reference:
        return meter.proven_ppm
    reached_ppm = meter.best * (meter.proven_ppm or PPM) // meter.reference
    return max(meter.proven_ppm, min(PPM, reached_ppm))


def left_s(meter: Meter, agreement: bytes) -> float | None:
    """Seconds of work left at the rate measured last; None if nothing was measured."""
    if meter.agreement != agreement or not meter.rate:
        return None
    return max(0, PPM - meter.done_ppm) / meter.rate * HOUR_S


def slowdown(meter: Meter, agreement: bytes) -> float:
    """How many times slower than expected the work goes, once that counts as degraded; else 1."""
    if meter.agreement != agreement or not meter.degraded or not meter.rate:
        return 1.0
    return max(1.0, meter.reference / meter.rate)
