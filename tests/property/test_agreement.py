"""Agreement: whatever a peer or the chain may cause, in any order, both sides stay in their rules.

One random walk per example: events of this side follow from its duties, those of the other side
and of time come at will. After each event everything that must always hold is looked at.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from market.agreement import ENDS, TRANSITIONS, Agreement, Ending, Phase, Role
from market.apply import apply
from market.codec import decode, encode
from market.duties import MakeBeat, MakePay, duties
from market.escrow import Answered, Challenged, Claimed, Closed, Closing, Opened, Slashed
from market.events import (
    Accepted,
    Acknowledged,
    BeatHeard,
    BeatMade,
    BeatTaken,
    Broke,
    CheckpointPulled,
    CheckpointTaken,
    Collected,
    ContactFailed,
    Event,
    Halted,
    LogPulled,
    Looked,
    NonceDrawn,
    OrderRefused,
    PayHeard,
    PayMade,
    PayTaken,
    Preempted,
    Released,
    ResultsPulled,
    Scrubbed,
    Staged,
    StopAsked,
    Ticked,
)
from market.messages import WorkState
from market.units import UnixTime
from tests.samples import (
    AGREEMENT_ID,
    START_S,
    TX,
    artifact,
    beat,
    manifest,
    pay,
    provider,
    report,
    requester,
)

WORK = st.sampled_from(list(WorkState))
REASONS = st.sampled_from(("", "because", "é" * 256, "x" * 999))
ENDINGS = st.sampled_from([ending for ending in Ending if ending is not Ending.NONE])
ORDERS = st.sampled_from(("Open", "Settle", "Challenge", "Slash", "Finalize"))


class Side(RuleBasedStateMachine):
    """One side of one agreement, and the contract as far as it decides which facts may come."""

    fresh: Agreement

    def __init__(self) -> None:
        super().__init__()
        self.a = self.fresh
        self.now = float(START_S)
        self.open = False  # on chain
        self.over = False

    def tell(self, event: Event) -> None:
        before, now = self.a, UnixTime(self.now)
        after = apply(before, event, now)
        if after.phase is not before.phase:
            assert after.phase in TRANSITIONS[before.phase]
            late = before.phase is Phase.VOID and isinstance(event, Opened)
            assert before.phase not in ENDS or late, "an end stays"
        assert after.promised >= before.promised, "the best voucher is kept"
        sequence = after.beat.heartbeat.sequence if after.beat else -1
        known = before.beat.heartbeat.sequence if before.beat else -1
        assert sequence > known or after.beat is before.beat, "one number, one heartbeat"
        assert after.metered_s >= before.metered_s
        assert (after == before) == (after is before)
        if not isinstance(event, ContactFailed | OrderRefused | CheckpointTaken):
            assert apply(after, event, now) is after, f"{event} said twice"
        self.a = after

    @invariant()
    def its_duties_are_known(self) -> None:
        owed = duties(self.a, UnixTime(self.now))
        assert owed == duties(self.a, UnixTime(self.now))
        assert all(duty.agreement == self.a.id for duty in owed)
        assert len(set(map(repr, owed))) == len(owed)

    @invariant()
    def it_survives_the_journal(self) -> None:
        assert decode(Agreement, encode(self.a)) == self.a

    @rule(seconds=st.sampled_from((0.25, 1.0, 5.0, 16.0, 61.0, 700.0, 4000.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Ticked())

    @rule(reason=REASONS)
    def release(self, reason: str) -> None:
        self.tell(Released(reason))

    @rule(ending=ENDINGS, reason=REASONS)
    def stop(self, ending: Ending, reason: str) -> None:
        self.tell(StopAsked(ending, reason))

    @rule(order=ORDERS, reason=REASONS)
    def refuse(self, order: str, reason: str) -> None:
        self.tell(OrderRefused(order, reason))

    @rule(reason=REASONS)
    def preempted(self, reason: str) -> None:
        before = self.a
        self.tell(Preempted(reason))
        assert self.a is before or (before.preemptible and before.ending is Ending.NONE)

    # The chain.

    @rule()
    def opened(self) -> None:
        if not self.over:
            self.open = True
            self.tell(Opened(AGREEMENT_ID, int(self.now), TX))

    @rule(amount=st.integers(0, 600))
    def told_of_nothing(self, amount: int) -> None:
        """A fact without its opening: this node saw the chain from a later block on."""
        if not self.a.opened_at_s:
            before = self.a
            self.tell(Closing(AGREEMENT_ID, False, int(self.now), TX))
            self.tell(Closed(AGREEMENT_ID, amount, 600 - amount, TX))
            assert self.a is before

    @precondition(lambda self: self.open and not self.over)
    @rule(paid=st.integers(0, 600))
    def claimed(self, paid: int) -> None:
        self.tell(Claimed(AGREEMENT_ID, paid, TX))

    @precondition(lambda self: self.open and not self.over)
    @rule(nonce=st.integers(1, 2**48 - 1), answered=st.booleans())
    def challenged(self, nonce: int, answered: bool) -> None:
        self.tell(Challenged(AGREEMENT_ID, nonce, int(self.now) + 12, TX))
        if answered:
            self.tell(Answered(AGREEMENT_ID, TX))

    @precondition(lambda self: self.open and not self.over)
    @rule(by_provider=st.booleans())
    def closing(self, by_provider: bool) -> None:
        parties = self.a.terms.parties
        by = parties.provider if by_provider else parties.requester
        self.tell(Closing(AGREEMENT_ID, by, int(self.now) + 12, TX))

    @precondition(lambda self: self.open and not self.over)
    @rule(paid=st.integers(0, 600), slashed=st.booleans())
    def closed(self, paid: int, slashed: bool) -> None:
        self.over = True
        if slashed:
            self.tell(Slashed(AGREEMENT_ID, 500, 300, 200, TX))
        self.tell(Closed(AGREEMENT_ID, paid, 600 - paid, TX))
        assert self.a.phase is (Phase.SLASHED if slashed else Phase.SETTLED)


class ProviderSide(Side):
    """The work happens here; vouchers come from a stranger."""

    fresh = provider(preemptible=True, grace_s=10)

    @rule()
    def acknowledged(self) -> None:
        self.tell(Acknowledged())

    @rule()
    def accepted(self) -> None:
        self.tell(Accepted(b"r" * 65, manifest(), ()))

    @rule(amount=st.integers(0, 2**96 - 1) | st.integers(0, 600), last=st.booleans())
    def pay_heard(self, amount: int, last: bool) -> None:
        self.tell(PayHeard(pay(amount, last)))

    @rule(work=WORK, metered_s=st.integers(0, 700))
    def looked(self, work: WorkState, metered_s: int) -> None:
        self.tell(Looked(report(work), metered_s))

    @rule(event=st.sampled_from((Staged(), Halted(), Scrubbed(), Broke("it"), Broke("é" * 999))))
    def worked(self, event: Event) -> None:
        self.tell(event)

    @rule(content=st.none() | st.integers(0, 3))
    def kept(self, content: int | None) -> None:
        found = None if content is None else artifact(content=content)
        self.tell(CheckpointTaken(found))
        self.tell(Collected((found,) if found else ()))

    @rule()
    def beats(self) -> None:
        for duty in duties(self.a, UnixTime(self.now)):
            if isinstance(duty, MakeBeat):
                assert duty.sequence == (self.a.beat.heartbeat.sequence + 1 if self.a.beat else 1)
                made = beat(duty.sequence, self.a.metered_s, duty.report, duty.challenge)
                self.tell(BeatMade(made))
                self.tell(BeatMade(beat(duty.sequence, 599)))
                self.tell(BeatTaken(duty.sequence))


class RequesterSide(Side):
    """Heartbeats come from a stranger; vouchers are made here."""

    fresh = requester(preemptible=True, grace_s=10)

    @rule()
    def acknowledged(self) -> None:
        self.tell(Acknowledged())

    @rule(
        sequence=st.integers(0, 2**63 - 1) | st.integers(0, 9),
        metered_s=st.integers(0, 2**32 - 1) | st.integers(0, 700),
        work=WORK,
        has=st.booleans(),
        reason=st.sampled_from(("", "é" * 128)),
    )
    def beat_heard(
        self, sequence: int, metered_s: int, work: WorkState, has: bool, reason: str
    ) -> None:
        extra: dict[str, Any] = {"checkpoint": artifact(), "log_bytes": 2**63 - 1} if has else {}
        self.tell(BeatHeard(beat(sequence, metered_s, report(work, reason=reason, **extra))))

    @rule()
    def silence(self) -> None:
        self.tell(ContactFailed())

    @rule(offset=st.integers(0, 2**63 - 1))
    def pulled(self, offset: int) -> None:
        self.tell(LogPulled(offset))
        self.tell(CheckpointPulled(artifact()))

    @rule()
    def delivered(self) -> None:
        self.tell(ResultsPulled())

    @rule(nonce=st.integers(1, 2**48 - 1))
    def drawn(self, nonce: int) -> None:
        self.tell(NonceDrawn(nonce))
        assert self.a.nonce

    @rule(taken=st.booleans())
    def pays(self, taken: bool) -> None:
        for duty in duties(self.a, UnixTime(self.now)):
            if isinstance(duty, MakePay):
                assert self.a.promised <= duty.amount <= self.a.terms.money.deposit
                self.tell(PayMade(pay(duty.amount, duty.last)))
                if taken:
                    self.tell(PayTaken(duty.amount, duty.last))


@pytest.mark.parametrize("side", [ProviderSide, RequesterSide])
def test_any_walk_keeps_the_rules(side: type[Side]) -> None:
    walks = settings(max_examples=40, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(side, settings=walks)


def test_both_ends_of_the_table_are_phases() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {phase for phase in Phase if not TRANSITIONS[phase] - {Phase.CLOSING}} - {
        Phase.VOID
    } == ENDS - {Phase.VOID}
    assert {side.fresh.role for side in (ProviderSide, RequesterSide)} == set(Role)
