"""Duties: what each state obliges its side to do, expected == actual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.agreement import Agreement, Ending, Phase
from market.duties import (
    AskStatus,
    Collect,
    DrawNonce,
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
    SendStop,
    Stage,
    Start,
    Submit,
    TakeCheckpoint,
    duties,
    pace_s,
    payable,
    stated,
)
from market.escrow import (
    Answer,
    Answered,
    Challenge,
    Challenged,
    Claim,
    ClaimOffline,
    Closing,
    Finalize,
    Open,
    Opened,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
)
from market.events import (
    Accepted,
    Acknowledged,
    BeatTaken,
    CheckpointTaken,
    Collected,
    Halted,
    Looked,
    NonceDrawn,
    PayTaken,
    Preempted,
    Released,
    ResultsPulled,
    Scrubbed,
    Staged,
    StopAsked,
    Ticked,
)
from market.limits import CHAIN_LAG_S, PAY_AHEAD_S, REFUSALS_MAX
from market.messages import WorkState
from tests.samples import (
    AGREEMENT_ID,
    OPENED_S,
    TX,
    artifact,
    at,
    beat,
    beaten,
    manifest,
    paid,
    provider,
    report,
    requester,
    running_provider,
    running_requester,
    told,
)

ID = AGREEMENT_ID
ACCEPTED = Accepted(b"r" * 65, manifest(), ())


def owed(agreement: Agreement, after_s: float = 1) -> tuple[Duty, ...]:
    return duties(agreement, at(after_s))


def orders(agreement: Agreement, after_s: float = 1) -> list[type]:
    found = owed(agreement, after_s)
    return [type(duty.order) for duty in found if isinstance(duty, Submit)]


# Provider.


def test_a_quote_is_sent_until_it_is_heard() -> None:
    assert owed(provider()) == (SendQuote(ID),)
    assert owed(told(provider(), Acknowledged())) == ()


def test_an_accepted_quote_is_staged_and_never_started_before_the_money() -> None:
    held = told(provider(), Acknowledged(), ACCEPTED)
    assert owed(held) == (Stage(ID),)
    assert owed(told(held, Staged())) == ()
    funded = told(held, Staged(), Opened(ID, OPENED_S, TX))
    assert Start(ID) in owed(funded)


def test_running_work_is_looked_at_and_stated() -> None:
    working = beaten(running_provider(), 1)
    assert owed(working) == (Look(ID), SendBeat(ID, beat(1)))
    assert owed(told(working, BeatTaken(1))) == (Look(ID),)
    assert owed(told(working, BeatTaken(1)), 5) == (Look(ID), MakeBeat(ID, 2, 0, report()))


@pytest.mark.parametrize(("after_s", "due"), [(9, False), (10, True)])
def test_a_checkpoint_is_taken_when_its_interval_is_over(after_s: float, due: bool) -> None:
    assert (TakeCheckpoint(ID) in owed(running_provider(), after_s)) is due


def test_a_new_checkpoint_is_news() -> None:
    working = told(beaten(running_provider(), 1), BeatTaken(1), CheckpointTaken(artifact()))
    assert MakeBeat(ID, 2, 0, working.report) in owed(working)
    assert working.report.checkpoint == artifact()


def test_the_end_is_stated_once_its_results_are_kept() -> None:
    exited = told(running_provider(), Looked(report(WorkState.EXITED), 9))
    assert Collect(ID) in owed(exited)
    (making,) = [duty for duty in owed(exited) if isinstance(duty, MakeBeat)]
    assert making.report.work is WorkState.RUNNING
    kept = told(exited, Collected((artifact(),)))
    (making,) = [duty for duty in owed(kept) if isinstance(duty, MakeBeat)]
    assert (making.report.work, making.report.results) == (WorkState.EXITED, (artifact(),))


def test_stopping_is_halt_then_collect() -> None:
    asked = told(running_provider(), StopAsked(Ending.CANCELLED, "enough"))
    assert owed(asked)[0] == Halt(ID)
    assert owed(told(asked, Halted()))[0] == Collect(ID)


def test_the_last_voucher_is_settled() -> None:
    done = told(running_provider(), Looked(report(WorkState.EXITED), 9), Collected(()))
    closing = replace(paid(done, 9, last=True), phase=Phase.CLOSING)
    assert closing.pay is not None
    settle = Settle(closing.terms, closing.pay.voucher, closing.pay.signature)
    assert owed(closing) == (Submit(ID, settle),)


def test_a_provider_without_a_voucher_closes_and_finalizes() -> None:
    stopped = told(
        running_provider(), StopAsked(Ending.WITHDRAWN, "drain"), Halted(), Collected(())
    )
    stopped = replace(stopped, phase=Phase.CLOSING)
    assert orders(stopped) == [ProviderClose]
    begun = told(stopped, Closing(ID, True, OPENED_S + 12, TX))
    assert orders(begun, 12 + CHAIN_LAG_S) == []
    assert orders(begun, 12 + CHAIN_LAG_S + 0.1) == [Finalize]


def test_who_makes_way_is_halted_and_its_last_checkpoint_kept_then_told() -> None:
    asked = told(running_provider(5, preemptible=True), Preempted("dearer"))
    assert owed(asked)[0] == Halt(ID)
    halted = told(asked, Halted())
    assert owed(halted)[0] == Collect(ID)
    assert stated(halted).work is WorkState.RUNNING
    kept = told(halted, CheckpointTaken(artifact()), Collected(()))
    (making,) = [duty for duty in owed(kept) if isinstance(duty, MakeBeat)]
    assert (making.report.work, making.report.checkpoint) == (WorkState.PREEMPTED, artifact())


def test_the_last_checkpoint_comes_before_the_last_voucher() -> None:
    last = report(WorkState.PREEMPTED, checkpoint=artifact())
    heard = beaten(running_requester(preemptible=True), 2, metered_s=1, told=last)
    pulling = PullCheckpoint(ID, artifact())
    assert pulling in owed(heard)
    assert not any(isinstance(duty, MakePay) and duty.last for duty in owed(heard))
    fetched = replace(heard, checkpoint=artifact())
    assert pulling not in owed(fetched)
    assert [duty.last for duty in owed(fetched) if isinstance(duty, MakePay)] == [True]


def test_a_challenge_is_answered_by_a_heartbeat_that_names_it() -> None:
    asked = told(beaten(running_provider(), 1), Challenged(ID, 77, OPENED_S + 12, TX))
    assert MakeBeat(ID, 2, 77, report()) in owed(asked)
    assert orders(asked) == []
    made = beaten(asked, 2, challenge=77)
    assert made.beat is not None
    assert owed(made)[-1] == Submit(
        ID, Answer(made.terms, made.beat.heartbeat, made.beat.signature)
    )


def test_nothing_is_left_behind() -> None:
    void = told(provider(), ACCEPTED, Staged(), Released("no"))
    assert void.phase is Phase.VOID
    assert owed(void) == (Halt(ID),)
    assert owed(told(void, Halted())) == (Scrub(ID),)
    assert owed(told(void, Halted(), Scrubbed())) == ()


# Requester.


def test_accept_then_open() -> None:
    fresh = requester()
    assert owed(fresh) == (SendAccept(ID),)
    opening = Open(fresh.terms, fresh.requester_signature, fresh.provider_signature)
    assert owed(told(fresh, Acknowledged())) == (Submit(ID, opening),)
    assert owed(told(fresh, Acknowledged()), 26) == ()


def test_who_cancels_before_the_opening_never_opens() -> None:
    stop = StopAsked(Ending.CANCELLED, "no")
    assert owed(told(requester(), stop)) == ()
    assert owed(told(requester(), Acknowledged(), stop)) == (SendStop(ID),)


@pytest.mark.parametrize(("silent_s", "asks"), [(7.5, False), (7.6, True)])
def test_a_silent_provider_is_asked(silent_s: float, asks: bool) -> None:
    assert (AskStatus(ID) in owed(running_requester(), silent_s)) is asks


def test_what_was_earned_is_promised_and_handed_over() -> None:
    running = beaten(running_requester(), 2, metered_s=3)
    assert owed(running, 3) == (MakePay(ID, 3, last=False),)
    promised = paid(running, 3)
    assert promised.pay is not None
    assert owed(promised, 3) == (SendPay(ID, promised.pay),)
    assert owed(told(promised, PayTaken(3, False)), 3) == ()


@pytest.mark.parametrize(
    ("metered_s", "after_s", "amount"),
    [(3, 9, 3), (99, 9, 14), (10**6, 9, 14), (10**6, 10**6, 600)],
)
def test_no_more_is_paid_than_time_has_passed(metered_s: int, after_s: int, amount: int) -> None:
    running = beaten(running_requester(), 2, metered_s=metered_s)
    assert payable(running, at(after_s)) == amount


def test_news_is_fetched() -> None:
    news = report(checkpoint=artifact(), log_bytes=9)
    running = beaten(running_requester(), 2, told=news)
    assert owed(running)[:2] == (PullLog(ID, 0), PullCheckpoint(ID, artifact()))


def test_the_last_voucher_is_for_results_in_hand() -> None:
    told_so = report(WorkState.EXITED, results=(artifact(),))
    done = beaten(paid(running_requester(), 2), 2, metered_s=3, told=told_so)
    assert owed(done, 3) == (PullResults(ID, (artifact(),)), MakePay(ID, 3, last=False))
    assert owed(told(done, ResultsPulled()), 3) == (MakePay(ID, 3, last=True),)


def test_cancelling_is_asked_for_until_it_has_ended() -> None:
    asked = told(running_requester(), StopAsked(Ending.CANCELLED, "enough"))
    assert owed(asked)[0] == SendStop(ID)
    ended = beaten(asked, 2, metered_s=1, told=report(WorkState.EXITED))
    assert owed(ended) == (MakePay(ID, 1, last=True),)


# The requester on the chain.


def closing(ending: Ending) -> Agreement:
    return running_requester(phase=Phase.CLOSING, ending=ending)


def test_a_finished_agreement_whose_provider_is_gone_is_closed_by_the_requester() -> None:
    side = closing(Ending.FINISHED)
    assert orders(side) == [RequesterClose]
    begun = told(side, Closing(ID, False, OPENED_S + 12, TX))
    assert orders(begun, 13) == []
    assert orders(begun, 13.1) == [Finalize]


@pytest.mark.parametrize(("after_s", "expected"), [(21, ()), (22, (DrawNonce(ID),))])
def test_a_lost_provider_is_challenged_after_the_start_grace(
    after_s: int, expected: tuple[Duty, ...]
) -> None:
    assert owed(closing(Ending.LOST), after_s) == expected


def test_a_challenger_is_paid_up_first() -> None:
    drawn = told(closing(Ending.LOST), NonceDrawn(77))
    assert owed(drawn, 30) == (MakePay(ID, 30 + PAY_AHEAD_S - 20, last=False),)
    ready = paid(drawn, 40)
    assert ready.pay is not None
    challenge = Challenge(ready.terms, ready.pay.voucher, ready.pay.signature, 77)
    assert owed(ready, 30) == (Submit(ID, challenge),)


def test_an_unanswered_challenge_is_slashed_after_its_deadline() -> None:
    challenged = told(closing(Ending.LOST), Challenged(ID, 77, OPENED_S + 40, TX))
    assert orders(challenged, 40 + CHAIN_LAG_S) == []
    assert orders(challenged, 40 + CHAIN_LAG_S + 0.1) == [Slash]


def test_after_an_answer_the_requester_just_closes() -> None:
    challenged = told(closing(Ending.LOST), Challenged(ID, 77, OPENED_S + 40, TX))
    assert orders(told(challenged, Answered(ID, TX)), 30) == [RequesterClose]


def test_a_contract_that_refuses_challenges_is_closed_instead() -> None:
    refused = replace(closing(Ending.LOST), refusals=REFUSALS_MAX, nonce=77)
    assert orders(refused, 30) == [RequesterClose]


@pytest.mark.parametrize(("refusals", "pace"), [(0, 6.0), (1, 12.0), (6, 384.0), (255, 384.0)])
def test_a_refused_order_is_given_ever_more_rarely(refusals: int, pace: float) -> None:
    side = replace(closing(Ending.FINISHED), refusals=refusals)
    assert pace_s(Submit(ID, RequesterClose(side.terms)), side) == pace
    assert pace_s(Look(ID), side) == 5.0


# Seconds that nobody promised to pay.


def unpaid(metered_s: int, promised: int, **changes: object) -> Agreement:
    """A provider that stopped for want of vouchers, its last heartbeat so many seconds in."""
    working = beaten(running_provider(metered_s), 1, metered_s=metered_s, at_s=OPENED_S + metered_s)
    working = paid(working, promised) if promised else working
    stopped = told(working, Ticked(), now=at(metered_s + 1))
    ended = told(stopped, Halted(), Collected(()), Ticked(), now=at(metered_s + 2))
    assert (ended.phase, ended.ending) == (Phase.CLOSING, Ending.UNPAID)
    return replace(ended, **changes)


@pytest.mark.parametrize(
    ("promised", "claimed", "order"),
    [
        (0, 0, ClaimOffline),  # nothing was promised at all
        (0, 15, ProviderClose),  # the allowance is drawn
        (100, 0, Claim),  # what was promised comes first
        (100, 100, ClaimOffline),
        (100, 115, Settle),
    ],
)
def test_what_was_metered_is_drawn_before_the_end(promised: int, claimed: int, order: type) -> None:
    ended = unpaid(promised + 40, promised, paid=claimed)
    assert orders(ended, 200)[-1] is order


def test_what_is_refused_again_and_again_is_let_go() -> None:
    assert orders(unpaid(40, 0, refusals=REFUSALS_MAX), 200)[-1] is ProviderClose


def test_what_was_metered_after_the_requester_ended_it_is_not_drawn() -> None:
    window_s = running_provider().terms.timing.claim_window_s
    late = unpaid(140, 100, paid=100, closing_deadline_s=OPENED_S + 139 + window_s)
    assert orders(late, 200)[-1] is Settle
    early = unpaid(140, 100, paid=100, closing_deadline_s=OPENED_S + 140 + window_s)
    assert orders(early, 200)[-1] is ClaimOffline
