"""Transcripts: one job's whole walk over both agreements and the job, as a text to be read.

`>>` is an event in, `<<` a duty out, `==` a new phase or state. No node runs: the three machines
are pure functions, and this file does what their duties ask in the simplest way. To write the file
anew: `python -m tests.transcripts.test_transcripts`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from market import job_apply, job_duties
from market.agreement import Agreement, Role
from market.apply import apply
from market.duties import (
    Collect,
    Duty,
    Halt,
    Look,
    MakeBeat,
    MakePay,
    PullCheckpoint,
    PullLog,
    PullResults,
    Scrub,
    SendAccept,
    SendBeat,
    SendPay,
    SendQuote,
    Stage,
    Start,
    Submit,
    TakeCheckpoint,
    duties,
)
from market.escrow import ChainFact, Closed, Open, Opened, Settle
from market.events import (
    Accepted,
    Acknowledged,
    BeatHeard,
    BeatMade,
    BeatTaken,
    CheckpointPulled,
    CheckpointTaken,
    Collected,
    Event,
    Halted,
    LogPulled,
    Looked,
    PayHeard,
    PayMade,
    PayTaken,
    Preempted,
    ResultsPulled,
    Scrubbed,
    Staged,
    Ticked,
    UnitLost,
)
from market.job import (
    Attempt,
    Choose,
    Chosen,
    Demanded,
    Job,
    JobDuty,
    JobEvent,
    JobState,
    MakeDemand,
    Moved,
    Publish,
    Withdraw,
    Withdrawn,
)
from market.messages import Beat, Pay, WorkState
from market.units import UnixTime
from tests.samples import (
    AGREEMENT_ID,
    DEMAND_ID,
    START_S,
    TX,
    artifact,
    beat,
    demand,
    job,
    manifest,
    pay,
    provider,
    report,
    requester,
)

FILE = Path(__file__).with_name("one_job.txt")
PREEMPTED = Path(__file__).with_name("preempted.txt")  # the same job makes way after some seconds
LOST_UNIT = Path(__file__).with_name("lost_unit.txt")  # likewise, its GPU falls off the bus
CUT_S = 8
MAKES_WAY = Preempted("wanted for a demand that pays more")
LOSES_ITS_GPU = UnitLost("its GPU was lost: it has fallen off the bus", 5)
WORK_S = 12  # the job runs so long, and prints a line of 8 bytes each second
WALK_S = 60


class Walk:
    """Both sides and the job; what one side sends is at once an event of the other."""

    def __init__(self, cut: Preempted | UnitLost | None = None) -> None:
        self.now = START_S
        self.cut = cut  # None: never; the job's second life is not part of the walk
        self.job: Job = job()
        self.sides: dict[Role, Agreement] = {}
        self.begun_s = 0
        self.done: set[str] = set()  # looking and sending are said once per second
        self.lines: list[str] = []

    def say(self, mark: str, who: str, what: object) -> None:
        self.lines.append(f"{self.now - START_S:3d}s {mark} {who:9} {tell(what)}")

    def tell_job(self, event: JobEvent) -> None:
        before = self.job
        self.job = job_apply.apply(before, event, UnixTime(self.now))
        if self.job is before:
            return
        self.say(">>", "job", event)
        if self.job.state is not before.state:
            self.say("==", "job", f"{self.job.state.value} {self.job.reason}".strip())

    def tell(self, role: Role, event: Event | ChainFact) -> None:
        before = self.sides[role]
        after = apply(before, event, UnixTime(self.now))
        if after is before:
            return
        self.sides[role] = after
        self.say(">>", role.value, event)
        if after.phase is not before.phase:
            self.say("==", role.value, after.phase.value)
        if after.ending is not before.ending:
            self.say("==", role.value, f"ending: {after.ending.value}")

    def tell_both(self, fact: ChainFact) -> None:
        for role in Role:
            self.tell(role, fact)

    def second(self) -> None:
        """Everything owed in this second, until nothing new is."""
        self.done.clear()
        if self.cut is not None and self.now == START_S + CUT_S:
            self.tell(Role.PROVIDER, self.cut)
        while self.one_duty():
            pass
        self.now += 1
        for role in self.sides:
            self.tell(role, Ticked())

    def one_duty(self) -> bool:
        current = self.sides.get(Role.REQUESTER) if self.job.agreement else None
        if current is not None:
            self.tell_job(Moved((current,)))
        now = UnixTime(self.now)
        known = {a.id: a for role, a in self.sides.items() if role is Role.REQUESTER}
        owed: list[tuple[str, Any, Callable[[Any], None]]] = [
            ("job", duty, self.do_job)
            for duty in job_duties.duties(self.job, now, known)
            if self.job.state is not JobState.RECOVERING
        ]
        for role, side in self.sides.items():
            owed += [(role.value, duty, self.do) for duty in duties(side, now)]
        for who, duty, perform in owed:
            if repr(duty) not in self.done:
                self.done.add(repr(duty))
                self.say("<<", who, duty)
                perform(duty)
                return True
        return False

    def do_job(self, duty: JobDuty) -> None:
        match duty:
            case MakeDemand(round=round_):
                self.tell_job(Demanded(demand(round_)))
            case Publish():
                sold = {"preemptible": isinstance(self.cut, Preempted), "grace_s": 10}
                self.sides.setdefault(Role.PROVIDER, provider(**sold))
            case Choose():
                sold = {"preemptible": isinstance(self.cut, Preempted), "grace_s": 10}
                self.sides[Role.REQUESTER] = requester(**sold)
                self.tell_job(Chosen(DEMAND_ID, Attempt((AGREEMENT_ID,))))
            case Withdraw(demand_id=demand_id):
                self.tell_job(Withdrawn(demand_id))
            case _:
                raise AssertionError(f"nobody cancels here: {duty}")

    def do(self, duty: Duty) -> None:
        told, heard = self.tell, Role.REQUESTER
        match duty:
            case SendQuote():
                told(Role.PROVIDER, Acknowledged())
            case SendAccept():
                told(Role.PROVIDER, Accepted(b"r" * 65, manifest(), ()))
                told(heard, Acknowledged())
            case Submit(order=Open()):
                self.tell_both(Opened(AGREEMENT_ID, self.now, TX))
            case Submit(order=Settle(voucher=voucher, terms=terms)):
                refunded = terms.money.deposit - voucher.amount
                self.tell_both(Closed(AGREEMENT_ID, voucher.amount, refunded, TX))
            case MakeBeat(sequence=number, challenge=challenge, report=stated):
                metered_s = self.sides[Role.PROVIDER].metered_s
                made = beat(number, metered_s, stated, challenge, self.now)
                told(Role.PROVIDER, BeatMade(made))
            case SendBeat(beat=made):
                told(heard, BeatHeard(made))
                told(Role.PROVIDER, BeatTaken(made.heartbeat.sequence))
            case MakePay(amount=amount, last=last):
                told(heard, PayMade(pay(amount, last)))
            case SendPay(pay=made):
                told(Role.PROVIDER, PayHeard(made))
                told(heard, PayTaken(made.voucher.amount, made.voucher.last))
            case PullLog():
                told(heard, LogPulled(self.sides[heard].report.log_bytes))
            case PullCheckpoint(checkpoint=checkpoint):
                told(heard, CheckpointPulled(checkpoint))
            case PullResults():
                told(heard, ResultsPulled())
            case _:
                self.work(duty)

    def work(self, duty: Duty) -> None:
        """What the sandbox does for the provider."""
        match duty:
            case Stage():
                event: Event = Staged()
            case Start() | Look():
                self.begun_s = self.begun_s or self.now
                ran_s = min(self.now - self.begun_s, WORK_S)
                state = WorkState.EXITED if ran_s == WORK_S else WorkState.RUNNING
                event = Looked(report(state, log_bytes=8 * ran_s), ran_s)
            case TakeCheckpoint():
                event = CheckpointTaken(artifact("/ckpt"))
            case Halt():
                event = Halted()
            case Collect() if self.cut is not None:
                self.tell(Role.PROVIDER, CheckpointTaken(artifact("/ckpt", content=8)))
                event = Collected(())
            case Collect():
                event = Collected((artifact("/out"),))
            case Scrub():
                event = Scrubbed()
            case _:
                raise AssertionError(f"not in this walk: {duty}")
        self.tell(Role.PROVIDER, event)


def tell(what: object) -> str:
    """A value in one line: its name and the fields that a reader wants."""
    if isinstance(what, str):
        return what
    name = type(what).__name__
    match what:
        case Submit(order=order):
            return f"Submit {type(order).__name__}"
        case MakeBeat(sequence=sequence, report=stated):
            return f"{name} {sequence}: {stated.work.value}"
        case BeatMade(made) | BeatHeard(made) | SendBeat(beat=made):
            return f"{name} {_beat(made)}"
        case PayMade(voucher) | PayHeard(voucher) | SendPay(pay=voucher):
            return f"{name} {_pay(voucher)}"
        case Looked(seen, metered_s):
            return f"{name} {seen.work.value}, {metered_s} s"
        case Opened():
            return name
        case Moved(agreements):
            return f"{name} {agreements[0].phase.value}"
        case _:
            plain = (
                f"{field.name}={getattr(what, field.name)}"
                for field in fields(what) if is_dataclass(what)
                if isinstance(getattr(what, field.name), int | str)
            )  # fmt: skip
            return " ".join((name, *plain))


def _beat(made: Beat) -> str:
    said = made.heartbeat
    return f"{said.sequence}: {made.report.work.value}, {said.metered_s} s"


def _pay(made: Pay) -> str:
    return f"{made.voucher.amount}{' last' if made.voucher.last else ''}"


def transcript(cut: Preempted | UnitLost | None = None) -> str:
    walk = Walk(cut)
    while walk.now < START_S + WALK_S:
        walk.second()
    return "\n".join(walk.lines) + "\n"


def test_one_job_walks_as_it_is_written() -> None:
    assert transcript().splitlines() == FILE.read_text().splitlines()


def test_the_walk_comes_to_its_end() -> None:
    text = transcript()
    for end in (
        "job       SUCCEEDED",
        "provider  settled",
        "requester settled",
        "<< provider  Scrub",
    ):
        assert text.count(end) == 1, end
    assert text.endswith("15s >> provider  Scrubbed\n"), "and then there is nothing left to do"


def test_a_job_makes_way_as_it_is_written() -> None:
    text = transcript(MAKES_WAY)
    assert text.splitlines() == PREEMPTED.read_text().splitlines()
    order = (
        "<< provider  Halt", "<< provider  Collect", "requester ending: preempted",
        "<< requester PullCheckpoint", "MakePay amount=5 last=True", "job       RECOVERING",
        "<< provider  Submit Settle", "provider  settled", "<< provider  Scrub",
    )  # fmt: skip
    assert [text.count(line) for line in order] == [1] * len(order)
    assert sorted(order, key=text.index) == list(order)


def test_a_job_whose_gpu_is_lost_as_it_is_written() -> None:
    text = transcript(LOSES_ITS_GPU)
    assert text.splitlines() == LOST_UNIT.read_text().splitlines()
    order = (
        "provider  ending: broken", "<< provider  Halt", "<< provider  Collect",
        "requester ending: broken", "<< requester PullCheckpoint", "MakePay amount=5 last=True",
        "job       RECOVERING its GPU was lost: it has fallen off the bus",
        "<< provider  Submit Settle", "provider  settled", "<< provider  Scrub",
    )  # fmt: skip
    assert [text.count(line) for line in order] == [1] * len(order)
    assert sorted(order, key=text.index) == list(order)
    assert "Challenge" not in text, "an honest loss is nobody's silence"


if __name__ == "__main__":
    FILE.write_text(transcript())
    PREEMPTED.write_text(transcript(MAKES_WAY))
    LOST_UNIT.write_text(transcript(LOSES_ITS_GPU))
