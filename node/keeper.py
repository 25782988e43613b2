"""Keeper: the single writer of agreements and jobs.

Four beats, always in this order: drain events, apply all, journal once, perform what is owed. State
decides, events only inform: nothing is "remembered to do". It knows no network, chain or sandbox;
duties are performed by whom it is given, and what they learn comes back as events.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from market import job as jobs
from market.agreement import Agreement, Role
from market.apply import apply
from market.codec import decode, encode
from market.duties import Duty, MakeBeat, Submit, duties, pace_s
from market.errors import LimitError, MarketError
from market.escrow import ChainFact
from market.events import (
    BeatHeard,
    BeatMade,
    BeatTaken,
    Event,
    LogPulled,
    Looked,
    Staging,
    Ticked,
)
from market.job import Job, JobDuty, JobEvent, JobTicked, Moved
from market.limits import (
    AGREEMENTS_MAX,
    EVENTS_PER_BEAT_MAX,
    JOBS_MAX,
    RECORD_BYTES_MAX,
    RETRY_S,
)
from market.units import UnixTime
from node.ports import ChainBatch, Clock, Journal, LogLine, Write

log = structlog.get_logger("keeper")
INBOX_MAX: Final = 4096  # events waiting for a beat; the sender waits, a peer is refused
_QUIET = (Ticked, Looked, Staging, BeatMade, BeatTaken, BeatHeard, LogPulled)


@dataclass(frozen=True, slots=True)
class Happened:
    """Something happened to one agreement."""

    agreement: bytes
    event: Event


@dataclass(frozen=True, slots=True)
class JobHappened:
    """Something happened to one job."""

    job: bytes
    event: JobEvent


@dataclass(frozen=True, slots=True)
class Countersigned:
    """The requester chose a quote: a new agreement, and the job's current one from now on."""

    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Submitted:
    """The user gave us a job."""

    job: Job


@dataclass(frozen=True, slots=True)
class Considered:
    """A provider may want to quote: `propose` is asked, inside the beat, with the units taken."""

    propose: Callable[[int, UnixTime], Agreement | None]


@dataclass(frozen=True, slots=True)
class _Posted:
    """An item in the inbox, and what to set once it is journaled."""

    item: Item
    kept: trio.Event | None = None


Item = Happened | JobHappened | Countersigned | Submitted | Considered | ChainBatch
Performer = Callable[[Duty, Agreement], Awaitable[Iterable[Event]]]
JobPerformer = Callable[[JobDuty, Job], Awaitable[Iterable[Item]]]


class Keeper:
    """Holds every agreement and job of this node, and sees that what is owed is done."""

    def __init__(self, journal: Journal, clock: Clock, tick_s: float) -> None:
        """Nothing is read before `load`; `tick_s` bounds how late time itself is noticed."""
        self._journal = journal
        self._clock = clock
        self._tick_s = tick_s
        self._send, self._receive = trio.open_memory_channel[_Posted](INBOX_MAX)
        self.agreements: dict[bytes, Agreement] = {}
        self.jobs: dict[bytes, Job] = {}
        self.block = 0
        self.chain_time_s = 0
        self._performed: dict[object, float] = {}
        self._running: set[object] = set()
        self._changed = trio.Condition()
        self._beats = 0

    async def load(self) -> None:
        """Take up what the journal holds. Asserts that every record is one of ours."""
        for write in await self._journal.load():
            assert write.data is not None, "the journal gives live values only"
            if write.table == "agreement":
                self.agreements[write.key] = decode(
                    Agreement, write.data, size_max=RECORD_BYTES_MAX
                )
            elif write.table == "job":
                self.jobs[write.key] = decode(Job, write.data, size_max=RECORD_BYTES_MAX)
            elif write.table == "block":
                self.block = int.from_bytes(write.data, "big")

    async def post(self, item: Item) -> None:
        """Tell the keeper; waits when it is behind."""
        await self._send.send(_Posted(item))

    def note(self, item: Item) -> None:
        """Tell the keeper what it may as well miss; when it is behind, it does."""
        with suppress(trio.WouldBlock):
            self._send.send_nowait(_Posted(item))

    async def heed(self, item: Item) -> None:
        """Tell the keeper what a peer said, and wait until it is journaled.

        Only then may the peer be told that it was taken: what we acknowledged survives a crash.
        Raises LimitError when the keeper is behind.
        """
        kept = trio.Event()
        try:
            self._send.send_nowait(_Posted(item, kept))
        except trio.WouldBlock:
            raise LimitError("the node is busy", hint="try again in a moment") from None
        await kept.wait()

    async def changed(self, seen: int = -1) -> int:
        """Wait until a beat after number `seen` changed something; returns that beat's number."""
        async with self._changed:
            while self._beats <= seen:
                await self._changed.wait()
            return self._beats

    def taken_units(self) -> int:
        """The bitmap of this provider's units that are held or agreed."""
        taken = 0
        for agreement in self.agreements.values():
            if agreement.role is Role.PROVIDER and not agreement.ended:
                assert not taken & agreement.terms.units, "holds on one unit never overlap"
                taken |= agreement.terms.units
        return taken

    async def run(self, perform: Performer, perform_job: JobPerformer) -> None:
        """Beat for ever."""
        async with trio.open_nursery() as nursery:
            while True:
                items: list[_Posted] = []
                with trio.move_on_after(self._tick_s):
                    items.append(await self._receive.receive())
                while len(items) < EVENTS_PER_BEAT_MAX:
                    try:
                        items.append(self._receive.receive_nowait())
                    except trio.WouldBlock:
                        break
                await self._beat([posted.item for posted in items])
                for posted in items:
                    if posted.kept is not None:
                        posted.kept.set()
                self._perform(nursery, perform, perform_job)

    async def _beat(self, items: list[Item]) -> None:
        now = self._clock.now()
        before, before_jobs, block = dict(self.agreements), dict(self.jobs), self.block
        lines: list[LogLine] = []
        for item in items:
            self._take(item, now, lines)
        for key, agreement in self.agreements.items():
            if not agreement.ended:
                self._apply(key, Ticked(), now, lines)
        for key, job in self.jobs.items():
            if not job.over:
                self._follow(key, job, now, lines)
        writes = [
            Write("agreement", key, encode(value))
            for key, value in self.agreements.items()
            if before.get(key) is not value
        ]
        writes += [
            Write("job", key, encode(value))
            for key, value in self.jobs.items()
            if before_jobs.get(key) is not value
        ]
        facts = any(isinstance(item, ChainBatch) and item.facts for item in items)
        if facts or self.block >= block + 100:
            writes.append(Write("block", b"", self.block.to_bytes(8, "big")))
        if writes:
            await self._journal.commit(tuple(writes), tuple(lines))
            async with self._changed:
                self._beats += 1
                self._changed.notify_all()

    def _follow(self, key: bytes, job: Job, now: UnixTime, lines: list[LogLine]) -> None:
        current = self.agreements.get(job.agreement)
        if current is not None:
            self._apply_job(key, Moved(current), now, lines)
        self._apply_job(key, JobTicked(), now, lines)

    def _take(self, item: Item, now: UnixTime, lines: list[LogLine]) -> None:
        match item:
            case Happened(key, event):
                self._apply(key, event, now, lines)
            case JobHappened(key, event):
                self._apply_job(key, event, now, lines)
            case Countersigned(agreement):
                self._countersigned(agreement, now, lines)
            case Submitted(job):
                if len(self.jobs) < JOBS_MAX and job.id not in self.jobs:
                    self.jobs[job.id] = job
            case Considered(propose):
                proposed = propose(self.taken_units(), now)
                if proposed is not None and len(self.agreements) < AGREEMENTS_MAX:
                    assert not self.taken_units() & proposed.terms.units, "sold twice"
                    self.agreements[proposed.id] = proposed
            case ChainBatch(block, at_s, facts):
                self.block, self.chain_time_s = max(self.block, block), at_s
                for fact in facts:
                    self._apply(fact.agreement, fact, now, lines)

    def _countersigned(self, agreement: Agreement, now: UnixTime, lines: list[LogLine]) -> None:
        job = self.jobs.get(agreement.job_id)
        if job is None or job.over or job.agreement or job.cancelling:
            return
        self.agreements[agreement.id] = agreement
        self._apply_job(job.id, jobs.Chosen(agreement.id), now, lines)

    def _apply(
        self, key: bytes, event: Event | ChainFact, now: UnixTime, lines: list[LogLine]
    ) -> None:
        agreement = self.agreements.get(key)
        if agreement is None:
            return  # somebody else's agreement, or one forgotten long ago
        after = apply(agreement, event, now)
        if after is agreement:
            return
        self.agreements[key] = after
        if after.phase is not agreement.phase or not isinstance(event, _QUIET):
            text = f"{type(event).__name__} -> {after.phase.value}"
            if after.ending is not agreement.ending:
                text += f" ({after.ending.value}: {after.reason})"
            lines.append(LogLine(now, key, type(event).__name__, text))
        if after.phase is not agreement.phase:
            log.info(
                f"agreement {after.phase.value}", agreement=key.hex()[:12], role=after.role.value,
                by=type(event).__name__, ending=after.ending.value, reason=after.reason,
            )  # fmt: skip

    def _apply_job(self, key: bytes, event: JobEvent, now: UnixTime, lines: list[LogLine]) -> None:
        job = self.jobs.get(key)
        if job is None:
            return
        after = jobs.apply(job, event, now)
        if after is job or after == job:
            return
        self.jobs[key] = after
        if after.state is not job.state:
            lines.append(LogLine(now, key, after.state.value, after.reason))
            log.info(f"job {after.state.value}", job=key.hex(), reason=after.reason)

    def _perform(
        self, nursery: trio.Nursery, perform: Performer, perform_job: JobPerformer
    ) -> None:
        now = self._clock.now()
        owed: set[object] = set()
        for agreement in self.agreements.values():
            for duty in duties(agreement, now):
                key = _key(duty)
                owed.add(key)
                if self._is_due(key, pace_s(duty, agreement), now):
                    nursery.start_soon(self._do, key, perform, duty, agreement)
        for job in self.jobs.values():
            for job_duty in jobs.duties(job, now, self.agreements.get(job.agreement)):
                owed.add(job_duty)
                if self._is_due(job_duty, RETRY_S, now):
                    nursery.start_soon(self._do_job, perform_job, job_duty, job)
        for key in [key for key in self._performed if key not in owed]:
            del self._performed[key]

    def _is_due(self, key: object, pace: float, now: UnixTime) -> bool:
        if key in self._running or now < self._performed.get(key, -pace) + pace:
            return False
        self._running.add(key)
        self._performed[key] = now
        return True

    async def _do(self, key: object, perform: Performer, duty: Duty, agreement: Agreement) -> None:
        try:
            for event in await perform(duty, agreement):
                await self.post(Happened(agreement.id, event))
        except MarketError as problem:
            log.info(
                "a duty will be tried again", duty=type(duty).__name__, problem=str(problem),
                agreement=agreement.id.hex()[:12],
            )  # fmt: skip
        finally:
            self._running.discard(key)

    async def _do_job(self, perform: JobPerformer, duty: JobDuty, job: Job) -> None:
        try:
            for item in await perform(duty, job):
                await self.post(item)
        except MarketError as problem:
            log.info("a duty will be tried again", duty=type(duty).__name__, problem=str(problem))
        finally:
            self._running.discard(duty)


def _key(duty: Duty) -> object:
    """What counts as the same duty: an order by its kind, a heartbeat by its number (one number is
    signed once), anything else by its content.
    """
    match duty:
        case Submit(agreement=agreement, order=order):
            return agreement, type(order)
        case MakeBeat(agreement=agreement, sequence=sequence):
            return agreement, MakeBeat, sequence
        case _:
            return duty
