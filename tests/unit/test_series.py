"""A job's series: bounded whatever the job's length, and honest about gaps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from market.codec import decode, encode
from node.desk.series import BYTES_MAX, SAMPLES_MAX, WINDOW_MS, Sample, Series, _cores
from node.ports import Observed, RunState
from node.provider import looked


def sample(second: int, *, attempt: int = 0, cpu_ms: int = 0) -> Sample:
    return Sample(second * 1000, attempt, second, cpu_ms, 1 << 20, 0)


def series_of(count: int) -> Series:
    series = Series(0, ())
    for second in range(count):
        series = series.add(sample(second, cpu_ms=second * 500))
    return series


def test_a_short_job_keeps_every_heartbeat() -> None:
    assert [s.at_ms for s in series_of(100).samples] == [n * 1000 for n in range(100)]


def test_a_day_of_heartbeats_fits_and_spans_the_day() -> None:
    series = series_of(86_400)
    assert SAMPLES_MAX // 2 <= len(series.samples) <= SAMPLES_MAX
    assert series.samples[0].at_ms == 0
    assert series.samples[-1].at_ms >= 86_400_000 - series.step_ms
    assert len(encode(series)) <= BYTES_MAX
    assert decode(Series, encode(series), size_max=BYTES_MAX) == series


def test_the_first_sample_of_a_new_attempt_is_always_kept() -> None:
    series = series_of(10_000)
    after = series.add(sample(10_000, attempt=1))
    assert after.samples[-1].attempt == 1


def test_cores_are_spent_time_over_passed_time() -> None:
    samples = series_of(20).samples
    assert _cores(samples, 19) == 0.5
    assert _cores(samples, 0) is None
    assert _cores(samples, WINDOW_MS // 1000 - 1) is None  # too little to tell


def test_cores_do_not_span_a_failover() -> None:
    samples = (*series_of(20).samples, sample(20, attempt=1, cpu_ms=10))
    assert _cores(samples, 20) is None


@given(st.lists(st.integers(0, 10**9), max_size=2000))
def test_times_of_any_order_stay_bounded(times: list[int]) -> None:
    series = Series(0, ())
    for at in times:
        series = series.add(sample(at))
    assert len(series.samples) <= SAMPLES_MAX


def test_a_full_series_fits_into_its_row() -> None:
    most = Sample(2**62, 2**16 - 1, 2**32 - 1, 2**62, 2**62, 10**6, 2**32 - 1, 2**16 - 1)
    series = Series(2**32 - 1, (most,) * SAMPLES_MAX)
    assert decode(Series, encode(series), size_max=BYTES_MAX) == series


def test_what_the_sandbox_reads_of_a_gpu_reaches_the_heartbeat() -> None:
    seen = Observed(RunState.RUNNING, 7.0, gpu_ppm=930_000, vram_mib=20_480, power_w=312)
    told = looked(seen).report
    assert (told.gpu_ppm, told.vram_mib, told.power_w) == (930_000, 20_480, 312)
    assert looked(Observed(RunState.RUNNING)).report.power_w == 0  # a sensor that says nothing
