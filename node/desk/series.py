"""Series: how hard each of this node's jobs worked over time, kept after its end. No transport.

A sample a heartbeat. When a job's series is full every second sample goes and the step doubles, so
a job of a minute and one of a month take the same room. Kept in the journal's own table, apart from
what the keeper writes: losing the last seconds of a chart is nobody's loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Final

import structlog
import trio

from market.agreement import Agreement, Role
from market.codec import U16, U32, U63, Count, decode, encode
from market.errors import CodecError, MarketError
from market.units import MIB
from node.keeper import Keeper
from node.ports import Ports, Write

log = structlog.get_logger("series")
TABLE: Final = "series"
SAMPLES_MAX: Final = 480  # more than a chart has pixels for
SERIES_MAX: Final = 512  # jobs whose series is kept; the oldest goes
SAVE_S: Final = 15.0
WINDOW_MS: Final = 4000
PAUSE_S: Final = 0.25  # as often as the keeper ticks
BYTES_MAX: Final = 128 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What one heartbeat said. `cpu_ms` counts from the agreement's start, `attempt` from 0."""

    at_ms: U63
    attempt: U16
    metered_s: U32
    cpu_ms: U63
    memory_bytes: U63
    gpu_ppm: U32
    vram_mib: U32 = 0
    power_w: U16 = 0


@dataclass(frozen=True, slots=True)
class Series:
    """One job's samples, at least `step_ms` apart."""

    step_ms: U32
    samples: Annotated[tuple[Sample, ...], Count(0, SAMPLES_MAX)]

    def add(self, sample: Sample) -> Series:
        """With one more sample; the same object if it comes too soon."""
        if self.samples:
            last = self.samples[-1]
            if sample.attempt == last.attempt and sample.at_ms < last.at_ms + self.step_ms:
                return self
        if len(self.samples) >= SAMPLES_MAX:
            step_ms = min(2 * max(self.step_ms, 500), 2**32 - 1)
            return Series(step_ms, self.samples[::2]).add(sample)
        return replace(self, samples=(*self.samples, sample))


class SeriesDesk:
    """Follows the keeper."""

    def __init__(self, ports: Ports, keeper: Keeper) -> None:
        """Knows nothing before `run` has read the journal."""
        self._ports = ports
        self._keeper = keeper
        self._series: dict[bytes, Series] = {}
        self._unsaved: set[bytes] = set()
        self._sequences: dict[bytes, int] = {}

    async def run(self) -> None:
        """Take samples for ever."""
        await self._load()
        seen, saved_at = -1, trio.current_time()
        while True:
            with trio.move_on_after(SAVE_S):
                seen = await self._keeper.changed(seen)
            for agreement in self._keeper.agreements.values():
                self._sample(agreement)
            over = any(self._is_over(job) for job in self._unsaved)
            if over or trio.current_time() - saved_at >= SAVE_S:
                await self._save()
                saved_at = trio.current_time()
            await trio.sleep(PAUSE_S)

    def of(self, job: bytes) -> dict[str, Any]:
        """One job's samples as columns; CPU as cores in use between two samples."""
        samples = self._series.get(job, Series(0, ())).samples
        cores = [_cores(samples, index) for index in range(len(samples))]
        return {
            "at": [sample.at_ms / 1000 for sample in samples],
            "attempt": [sample.attempt for sample in samples],
            "cpu_cores": cores,
            "memory_bytes": [sample.memory_bytes for sample in samples],
            "gpu": [sample.gpu_ppm / 1_000_000 for sample in samples],
            "gpu_memory_bytes": [sample.vram_mib * MIB for sample in samples],
            "power_w": [sample.power_w for sample in samples],
        }

    def _sample(self, a: Agreement) -> None:
        sequence = a.beat.heartbeat.sequence if a.beat else 0
        if a.role is not Role.REQUESTER or sequence == self._sequences.get(a.id, 0):
            return
        self._sequences[a.id] = sequence
        job = self._keeper.jobs.get(a.job_id)
        tries = () if job is None else job.attempts
        attempt = next((at for at, one in enumerate(tries) if a.id == one.members[0]), None)
        if attempt is None:
            return  # of a gang, the first member is drawn
        sample = Sample(
            at_ms=a.heard_at_ms or int(self._ports.clock.now() * 1000),
            attempt=attempt,
            metered_s=a.metered_s,
            cpu_ms=a.report.cpu_ms,
            memory_bytes=a.report.memory_bytes,
            gpu_ppm=a.report.gpu_ppm,
            vram_mib=a.report.vram_mib,
            power_w=a.report.power_w,
        )
        before = self._series.get(a.job_id, Series(0, ()))
        after = before.add(sample)
        if after is not before:
            self._series[a.job_id] = after
            self._unsaved.add(a.job_id)

    def _is_over(self, job: bytes) -> bool:
        found = self._keeper.jobs.get(job)
        return found is None or found.over

    async def _load(self) -> None:
        for write in await self._ports.journal.load():
            if write.table == TABLE and write.data is not None:
                try:
                    self._series[write.key] = decode(Series, write.data, size_max=BYTES_MAX)
                except CodecError:
                    log.info("a series of another version was left aside")
        for a in self._keeper.agreements.values():
            if a.ended and a.beat:
                self._sequences[a.id] = a.beat.heartbeat.sequence

    async def _save(self) -> None:
        writes = [Write(TABLE, job, encode(self._series[job])) for job in sorted(self._unsaved)]
        crowd = len(self._series) - SERIES_MAX
        oldest = sorted(self._series, key=lambda job: self._series[job].samples[-1].at_ms)
        for job in oldest[: max(0, crowd)]:
            del self._series[job]
            writes.append(Write(TABLE, job, None))
        self._unsaved.clear()
        if not writes:
            return
        try:
            await self._ports.journal.commit(tuple(writes), ())
        except MarketError as problem:
            log.warning("series not kept", problem=str(problem))


def _cores(samples: tuple[Sample, ...], index: int) -> float | None:
    """CPU in use over the last WINDOW_MS of the same attempt; None where there is too little.

    A heartbeat's report was read a moment before it was heard, so single steps jump.
    """
    now = samples[index]
    for before in reversed(samples[:index]):
        if before.attempt != now.attempt or before.cpu_ms > now.cpu_ms:
            return None
        if now.at_ms - before.at_ms >= WINDOW_MS:
            return round((now.cpu_ms - before.cpu_ms) / (now.at_ms - before.at_ms), 3)
    return None
