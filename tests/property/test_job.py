"""Job: whatever is told of its agreements, in any order, it keeps its rules and comes to an end.

One random walk per example over a job of one or two nodes: events follow its duties, agreements
change at will. After each event everything that must always hold is looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from market import job_apply, job_duties
from market.agreement import ENDS, Agreement, Ending, Phase
from market.codec import decode, encode
from market.job import (
    Attempt,
    CancelAsked,
    Chosen,
    Demanded,
    EndAgreement,
    ExtendAsked,
    Job,
    JobEvent,
    JobTicked,
    MakeDemand,
    Moved,
    MoveWanted,
    Nothing,
    Waited,
    Withdraw,
    Withdrawn,
    is_off,
)
from market.messages import WorkState
from market.reallocation import MOVES_MAX, Reason
from market.units import UnixTime
from tests.samples import START_S, artifact, demand, job, report, requester, running_requester

PHASES = (Phase.CONFIRMED, Phase.RUNNING, Phase.CLOSING, Phase.SETTLED, Phase.SLASHED, Phase.VOID)
CHANGES = st.fixed_dictionaries(
    {
        "phase": st.sampled_from(PHASES),
        "ending": st.sampled_from(list(Ending)),
        "work": st.sampled_from(list(WorkState)),
        "exit_code": st.sampled_from((0, 0, 3)),
        "delivered": st.booleans(),
        "metered_s": st.integers(0, 700),
        "checkpoint": st.none() | st.integers(1, 3),
        "progress_ppm": st.integers(0, 10**6),
    }
)


class Walk(RuleBasedStateMachine):
    """One job, and agreements that anything may happen to."""

    nodes = 1

    def __init__(self) -> None:
        super().__init__()
        self.now = float(START_S)
        self.job: Job = replace(job(), nodes=self.nodes)
        self.known: dict[bytes, Agreement] = {}
        self.made = 0

    def tell(self, event: JobEvent) -> None:
        before, now = self.job, UnixTime(self.now)
        after = job_apply.apply(before, event, now)
        if before.over:
            assert replace(after, unwanted=b"") == replace(before, unwanted=b""), "an end stays"
        assert after.used_s >= before.used_s
        assert after.attempts[: len(before.attempts)] == before.attempts
        assert after.moves - before.moves in (0, 1)
        assert after.moves <= MOVES_MAX
        again = job_apply.apply(after, event, now)
        if isinstance(event, Withdrawn | Chosen | Demanded | CancelAsked | Waited):
            assert again == after, f"{event} said twice"
        self.job = after

    @invariant()
    def its_sets_are_what_they_say(self) -> None:
        value = self.job
        assert not set(value.gang) & set(value.next_gang), "it moves to another place"
        everything = set(value.agreements)
        assert {*value.gang, *value.next_gang} <= everything
        if value.gang:
            assert value.attempt is not None
        if value.over:
            assert value.demand is None
            assert value.reason or value.exit_code == 0
        assert value.demand is None or not value.next_gang, "one place is looked for at a time"

    @invariant()
    def what_it_does_not_need_is_to_end(self) -> None:
        owed = job_duties.duties(self.job, UnixTime(self.now), self.known)
        assert len(set(owed)) == len(owed)
        ending = {duty.agreement for duty in owed if isinstance(duty, EndAgreement)}
        over = self.job.over or self.job.cancelling
        wanted = set() if over else {*self.job.gang, *self.job.next_gang}
        alive = {
            key for key, a in self.known.items() if not is_off(a) and a.phase is not Phase.CLOSING
        }
        assert ending == alive - wanted
        if self.job.over:
            assert all(isinstance(duty, EndAgreement | Withdraw) for duty in owed)

    @invariant()
    def it_survives_the_journal(self) -> None:
        assert decode(Job, encode(self.job)) == self.job

    @rule(seconds=st.sampled_from((0.5, 3.0, 31.0, 200.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(JobTicked())

    @rule()
    def asks(self) -> None:
        for duty in job_duties.duties(self.job, UnixTime(self.now), self.known):
            if isinstance(duty, MakeDemand):
                self.made += 1
                asked = replace(
                    demand(duty.round), demand_id=self.made.to_bytes(16, "big"),
                    num_nodes=self.nodes, quote_by_ms=int(self.now * 1000),
                    expires_at_s=int(self.now) + 30,
                )  # fmt: skip
                self.tell(Demanded(asked, self.job.checkpoint))
            elif isinstance(duty, Withdraw):
                self.tell(Withdrawn(duty.demand_id))

    @rule(lines=st.lists(st.sampled_from(("too dear", "é" * 300)), max_size=30))
    def nobody(self, lines: list[str]) -> None:
        self.tell(Waited("queued", tuple(lines)))
        self.tell(Nothing("nobody", tuple(lines)))

    @precondition(lambda self: self.job.demand is not None)
    @rule()
    def chooses(self) -> None:
        members = []
        for rank in range(self.nodes):
            self.made += 1
            id_ = self.made.to_bytes(32, "big")
            made = requester(id=id_, peer=id_, rank=rank, num_nodes=self.nodes, acknowledged=True)
            members.append(made)
        before = self.job
        chosen = Attempt(tuple(a.id for a in members), run_s=600)
        self.tell(Chosen(before.demand.demand_id, chosen))  # type: ignore[union-attr]
        if self.job is not before:
            self.known |= {a.id: a for a in members}

    @precondition(lambda self: bool(self.known))
    @rule(which=st.integers(0, 99), changes=CHANGES)
    def something_happens(self, which: int, changes: dict[str, Any]) -> None:
        key = sorted(self.known)[which % len(self.known)]
        before = self.known[key]
        if before.phase in ENDS:
            return
        told = report(changes["work"], exit_code=changes["exit_code"],
                      progress_ppm=changes["progress_ppm"])  # fmt: skip
        saved = changes["checkpoint"]
        self.known[key] = running_requester(
            id=key, peer=key, rank=before.rank, num_nodes=before.num_nodes, report=told,
            phase=changes["phase"], ending=changes["ending"], delivered=changes["delivered"],
            metered_s=changes["metered_s"], reason="because",
            checkpoint=before.checkpoint if saved is None else artifact("/ckpt", saved),
        )  # fmt: skip
        self.look()

    @rule(coming=st.booleans())
    def all_is_well(self, coming: bool) -> None:
        """Everything it runs under works; what it moves to, perhaps."""
        for key in (*self.job.gang, *(self.job.next_gang if coming else ())):
            before = self.known[key]
            if before.phase not in ENDS and not is_off(before):
                self.known[key] = running_requester(
                    id=key, peer=key, rank=before.rank, num_nodes=before.num_nodes
                )
        self.look()

    @rule(reason=st.sampled_from([r for r in Reason if r is not Reason.LOST]))
    def begins_to_move(self, reason: Reason) -> None:
        self.all_is_well(False)
        self.tell(MoveWanted(reason))
        self.now += 60  # no checkpoint comes: it is waited for no longer
        self.asks()
        if self.job.demand is not None:
            self.chooses()

    @rule()
    def look(self) -> None:
        present = [self.known[k] for k in (*self.job.gang, *self.job.next_gang) if k in self.known]
        if present:
            self.tell(Moved(tuple(present)))

    @rule(more_s=st.sampled_from((0, 60, 10**9)))
    def lengthened(self, more_s: int) -> None:
        self.tell(ExtendAsked(more_s))

    @rule()
    def cancelled(self) -> None:
        if self.made % 3 == 2:  # not so often that nothing else happens
            self.tell(CancelAsked())


class GangWalk(Walk):
    """Of two nodes."""

    nodes = 2


def test_a_job_keeps_its_rules_on_any_walk() -> None:
    walks = settings(max_examples=30, stateful_step_count=30, deadline=None)
    run_state_machine_as_test(Walk, settings=walks)
    run_state_machine_as_test(GangWalk, settings=walks)
