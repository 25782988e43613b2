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

from market import job_duties
from market.agreement import Agreement, Phase, Role
from market.apply import apply
from market.codec import decode, encode
from market.duties import Duty, MakeBeat, Submit, duties, pace_s
from market.errors import LimitError, MarketError
from market.escrow import ChainFact
from market.events import Event, Ticked
from market.job import Chosen, Job, JobDuty, JobEvent, JobTicked, Moved
from market.job_apply import apply as apply_job
from market.limits import (
    AGREEMENTS_MAX,
    EVENTS_PER_BEAT_MAX,
    JOBS_MAX,
    RECORD_BYTES_MAX,
)
from market.units import UnixTime
from node.forgetting import forgettable
from node.ports import ChainBatch, Clock, Journal, LogLine, Write
from node.story import line_of

log = structlog.get_logger("keeper")
INBOX_MAX: Final = 4096  # events waiting for a beat; the sender waits, a peer is refused


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
    """The requester chose quotes: new agreements, one per node; the job's own from now on."""

    agreements: tuple[Agreement, ...]
    chosen: Chosen


@dataclass(frozen=True, slots=True)
class Submitted:
    """The user gave us a job."""

    job: Job


@dataclass(frozen=True, slots=True)
class Considered:
    """A provider may want to quote: `propose` is asked, inside the beat, with the units taken."""

    propose: Callable[[int, UnixTime], Agreement | None]


@dataclass(frozen=True, slots=True)
class Noted:
    """A room wants a few bytes to survive a restart; `Keeper.notes` has them after `load`."""

    key: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class _Posted:
    """An item in the inbox, and what to set once it is journaled."""

    item: Item
    kept: trio.Event | None = None


Item = Happened | JobHappened | Countersigned | Submitted | Considered | Noted | ChainBatch
Witness = Callable[[ChainBatch], tuple[Write, ...]]
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
        self.notes: dict[bytes, bytes] = {}
        self.witness: Witness = lambda _: ()
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
            elif write.table == "note":
                self.notes[write.key] = write.data

    async def post(self, item: Item) -> None:
        """Tell the keeper; waits when it is behind."""
        await self._send.send(_Posted(item))

    def mention(self, item: Item) -> None:
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
        """The bitmap of this provider's units that are held or agreed.

        Holds never overlap. But a requester may open terms whose hold ran out, as long as they may
        be opened: such an agreement is closed again, and has its units until then.
        """
        taken = 0
        for agreement in self.agreements.values():
            if agreement.role is Role.PROVIDER and not agreement.ended:
                taken |= agreement.terms.units
        return taken

    def _may_be_open(self, a: Agreement, now: UnixTime) -> bool:
        """Whether we cannot know yet that it was not funded in time: the chain is behind us.

        A node that was down for a minute hears of the opening after it sees the time.
        """
        open_by_s = a.terms.timing.open_by_s
        confirmed = a.role is Role.PROVIDER and a.phase is Phase.CONFIRMED
        return confirmed and self.chain_time_s <= open_by_s < now

    def job_of_key(self, key: str) -> Job | None:
        """The job that was submitted with this key; None for an empty one."""
        return next((job for job in self.jobs.values() if key and job.key == key), None)

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
        notes = [Write("note", item.key, item.data) for item in items if isinstance(item, Noted)]
        for item in items:
            if isinstance(item, ChainBatch) and item.facts:
                notes += self.witness(item)
        for note in notes:
            if note.data is None:
                self.notes.pop(note.key, None)
            else:
                self.notes[note.key] = note.data
        for item in items:
            self._take(item, now, lines)
        for key, agreement in self.agreements.items():
            if not agreement.ended and not self._may_be_open(agreement, now):
                self._apply(key, Ticked(), now, lines)
        for key, job in self.jobs.items():
            if not job.over:
                self._follow(key, job, now, lines)
        writes = notes + self._forget(now)
        writes += [
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

    def _forget(self, now: UnixTime) -> list[Write]:
        old = forgettable(self.agreements.values(), now)
        for key in old:
            del self.agreements[key]
        return [Write("agreement", key, None) for key in old]

    def _follow(self, key: bytes, job: Job, now: UnixTime, lines: list[LogLine]) -> None:
        present = (self.agreements.get(name) for name in (*job.gang, *job.next_gang))
        known = tuple(agreement for agreement in present if agreement is not None)
        if known:
            self._apply_job(key, Moved(known), now, lines)
        self._apply_job(key, JobTicked(), now, lines)

    def _take(self, item: Item, now: UnixTime, lines: list[LogLine]) -> None:
        match item:
            case Happened(key, event):
                self._apply(key, event, now, lines)
            case JobHappened(key, event):
                self._apply_job(key, event, now, lines)
            case Countersigned():
                self._countersigned(item, now, lines)
            case Submitted(job):
                known = job.id in self.jobs or self.job_of_key(job.key) is not None
                if len(self.jobs) < JOBS_MAX and not known:
                    self.jobs[job.id] = job
            case Noted():
                return  # written down before anything was taken
            case Considered(propose):
                proposed = propose(self.taken_units(), now)
                if proposed is not None and len(self.agreements) < AGREEMENTS_MAX:
                    assert not self.taken_units() & proposed.terms.units, "sold twice"
                    self.agreements[proposed.id] = proposed
            case ChainBatch(block, at_s, facts):
                self.block, self.chain_time_s = max(self.block, block), at_s
                for fact in facts:
                    self._apply(fact.agreement, fact, now, lines)

    def _countersigned(self, item: Countersigned, now: UnixTime, lines: list[LogLine]) -> None:
        """All of a gang's agreements are taken up in one beat, and so in one commit, or none."""
        job = self.jobs.get(item.agreements[0].job_id)
        room = len(self.agreements) + len(item.agreements) <= AGREEMENTS_MAX
        if job is None or not room or apply_job(job, item.chosen, now) is job:
            return
        for agreement in item.agreements:
            self.agreements[agreement.id] = agreement
        self._apply_job(job.id, item.chosen, now, lines)

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
        line = line_of(agreement, event, after, now)
        lines += [line] if line is not None else []
        if after.phase is not agreement.phase:
            log.info(
                f"agreement {after.phase.value}", agreement=key.hex()[:12], role=after.role.value,
                by=type(event).__name__, ending=after.ending.value, reason=after.reason,
            )  # fmt: skip

    def _apply_job(self, key: bytes, event: JobEvent, now: UnixTime, lines: list[LogLine]) -> None:
        job = self.jobs.get(key)
        if job is None:
            return
        after = apply_job(job, event, now)
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
            for job_duty in job_duties.duties(job, now, self.agreements):
                owed.add(job_duty)
                if self._is_due(job_duty, job_duties.pace_s(job_duty), now):
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
