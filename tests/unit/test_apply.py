"""Apply: each rule of the agreement's life by example, expected == actual."""

from __future__ import annotations

from dataclasses import replace

import pytest

from market.agreement import Agreement, Ending, Phase
from market.apply import apply
from market.escrow import Answered, Challenged, Closed, Closing, Opened, Slashed
from market.events import (
    Accepted,
    Acknowledged,
    BeatHeard,
    BeatMade,
    Broke,
    CheckpointTaken,
    Collected,
    ContactFailed,
    Halted,
    Looked,
    OrderRefused,
    PayHeard,
    Preempted,
    Released,
    ResultsPulled,
    Staged,
    StopAsked,
    Ticked,
    UnitLost,
)
from market.limits import DELIVER_MAX_S, FINAL_GRACE_S, LOST_CONTACTS, LOST_INTERVALS, OPEN_MARGIN_S
from market.messages import WorkState
from market.units import UnixTime
from tests.samples import (
    AGREEMENT_ID,
    INTERVAL_S,
    OPENED_S,
    START_S,
    TX,
    artifact,
    at,
    beat,
    beaten,
    manifest,
    paid,
    pay,
    provider,
    report,
    requester,
    running_provider,
    running_requester,
    terms,
    told,
)

OPENED = Opened(AGREEMENT_ID, OPENED_S, TX)
SILENCE_S = LOST_INTERVALS * INTERVAL_S


def ticked(agreement: Agreement, now: float) -> tuple[Phase, Ending]:
    after = apply(agreement, Ticked(), UnixTime(now))
    return after.phase, after.ending


# The bargain.


@pytest.mark.parametrize(
    ("since_s", "phase"), [(19.9, Phase.QUOTED), (20, Phase.VOID), (99, Phase.VOID)]
)
def test_a_hold_ends_by_itself(since_s: float, phase: Phase) -> None:
    assert ticked(provider(), START_S + since_s) == (phase, Ending.NONE)


def test_an_accepted_quote_waits_for_its_opening_and_no_longer() -> None:
    held = told(provider(), Acknowledged(), Accepted(b"r" * 65, manifest(), ()))
    assert held.phase is Phase.CONFIRMED
    open_by_s = held.terms.timing.open_by_s
    assert ticked(held, open_by_s + OPEN_MARGIN_S - 0.1)[0] is Phase.CONFIRMED
    assert ticked(held, open_by_s + OPEN_MARGIN_S)[0] is Phase.VOID


def test_a_requester_waits_for_the_acknowledgement_as_long_as_the_hold() -> None:
    assert ticked(requester(), START_S + 20)[0] is Phase.VOID
    assert ticked(told(requester(), Acknowledged()), START_S + 20)[0] is Phase.CONFIRMED


def test_a_released_hold_is_free_but_a_confirmed_one_is_not() -> None:
    assert told(provider(), Released("another")).phase is Phase.VOID
    held = told(provider(), Acknowledged(), Accepted(b"r" * 65, manifest(), ()))
    assert told(held, Released("another")) is held
    assert told(requester(), Released("not honoured")).phase is Phase.VOID


def test_an_acceptance_counts_once() -> None:
    held = told(provider(), Accepted(b"r" * 65, manifest(), ()))
    assert told(held, Accepted(b"x" * 65, manifest(command="rm"), ())) is held


def test_an_opening_that_was_refused_frees_everything() -> None:
    after = told(requester(), Acknowledged(), OrderRefused("Open", "Escrow_UnitTaken"))
    assert (after.phase, after.reason) == (
        Phase.VOID,
        "the escrow refused to open it: Escrow_UnitTaken",
    )


def test_an_opening_mined_after_all_is_closed_again() -> None:
    after = told(told(requester(), Released("no")), OPENED)
    assert (after.phase, after.ending, after.opened_at_s) == (
        Phase.CLOSING,
        Ending.CANCELLED,
        OPENED_S,
    )


@pytest.mark.parametrize(
    "fact",
    [
        Closing(AGREEMENT_ID, True, 1, TX),
        Closed(AGREEMENT_ID, 1, 1, TX),
        Slashed(AGREEMENT_ID, 1, 1, 0, TX),
        Challenged(AGREEMENT_ID, 1, 1, TX),
        Answered(AGREEMENT_ID, TX),
    ],
)
@pytest.mark.parametrize("side", [provider(), requester(), told(requester(), Released("no"))])
def test_no_fact_comes_before_the_opening(side: Agreement, fact: Closing) -> None:
    assert told(side, fact) is side


# The requester's patience.


@pytest.mark.parametrize(
    ("silent_s", "contacts", "expected"),
    [
        (SILENCE_S - 0.1, LOST_CONTACTS, (Phase.RUNNING, Ending.NONE)),
        (SILENCE_S, LOST_CONTACTS - 1, (Phase.RUNNING, Ending.NONE)),
        (10 * SILENCE_S, 0, (Phase.RUNNING, Ending.NONE)),
        (SILENCE_S, LOST_CONTACTS, (Phase.CLOSING, Ending.LOST)),
    ],
)
def test_lost_needs_silence_and_failed_contacts(
    silent_s: float, contacts: int, expected: tuple[Phase, Ending]
) -> None:
    silent = told(running_requester(), *[ContactFailed()] * contacts)
    assert ticked(silent, at(silent_s)) == expected


def test_one_word_ends_the_silence() -> None:
    silent = told(running_requester(), *[ContactFailed()] * LOST_CONTACTS)
    heard = apply(silent, BeatHeard(silent.beat or beat()), at(SILENCE_S))
    assert (heard.missed, ticked(heard, at(SILENCE_S))) == (0, (Phase.RUNNING, Ending.NONE))
    stale = apply(replace(silent, beat=beat(5)), BeatHeard(beat(4)), at(SILENCE_S))
    assert stale.missed == LOST_CONTACTS


def test_who_has_the_results_does_not_call_it_lost() -> None:
    done = beaten(running_requester(), 2, told=report(WorkState.EXITED))
    done = told(done, ResultsPulled(), *[ContactFailed()] * LOST_CONTACTS)
    assert ticked(done, at(SILENCE_S + 1)) == (Phase.CLOSING, Ending.FINISHED)


@pytest.mark.parametrize(
    ("delivered", "patience_s"), [(True, FINAL_GRACE_S), (False, DELIVER_MAX_S)]
)
def test_the_last_word_is_waited_for(delivered: bool, patience_s: int) -> None:
    done = beaten(running_requester(), 2, told=report(WorkState.EXITED))
    done = replace(done, delivered=delivered)
    ended_s = done.ended_at_ms / 1000
    assert ticked(done, ended_s + patience_s - 0.1)[0] is Phase.RUNNING
    assert ticked(done, ended_s + patience_s)[0] is Phase.CLOSING


def test_overtime_and_staging_without_end_are_noticed() -> None:
    assert ticked(running_requester(), at(600 + FINAL_GRACE_S)) == (Phase.RUNNING, Ending.EXPIRED)
    waiting = running_requester(
        report=report(WorkState.STAGING), terms=terms(timing={"duration_s": 86400})
    )
    assert ticked(waiting, at(20 + 1800 - 1)) == (Phase.RUNNING, Ending.NONE)
    assert ticked(waiting, at(20 + 1800)) == (Phase.RUNNING, Ending.BROKEN)


@pytest.mark.parametrize(
    ("work", "ending"),
    [
        (WorkState.EXITED, Ending.FINISHED),
        (WorkState.BROKEN, Ending.BROKEN),
        (WorkState.RUNNING, Ending.NONE),
    ],
)
def test_a_heartbeat_says_how_it_ended(work: WorkState, ending: Ending) -> None:
    assert beaten(running_requester(), 2, told=report(work)).ending is ending


# The provider's patience.


@pytest.mark.parametrize(
    ("metered_s", "promised", "ending"),
    [
        (30, 0, Ending.NONE),
        (31, 0, Ending.UNPAID),
        (130, 100, Ending.NONE),
        (131, 100, Ending.UNPAID),
        (599, 2**96 - 1, Ending.NONE),
    ],
)
def test_an_unpaid_provider_works_for_its_allowance(
    metered_s: int, promised: int, ending: Ending
) -> None:
    allowance_s = terms().timing.offline_allowance_s + SILENCE_S
    assert allowance_s == 30
    working = running_provider(metered_s)
    working = paid(working, promised) if promised else working
    assert ticked(working, at(10)) == (Phase.RUNNING, ending)


def test_the_duration_is_the_end() -> None:
    assert ticked(running_provider(), at(599.9)) == (Phase.RUNNING, Ending.NONE)
    assert ticked(running_provider(), at(600)) == (Phase.RUNNING, Ending.EXPIRED)


def test_a_funded_agreement_without_a_manifest_is_given_back() -> None:
    empty = told(provider(), OPENED)
    assert empty.phase is Phase.RUNNING
    assert ticked(empty, at(19.9)) == (Phase.RUNNING, Ending.NONE)
    assert ticked(empty, at(20)) == (Phase.RUNNING, Ending.BROKEN)


def test_a_provider_closes_once_nothing_runs_and_the_last_word_is_said() -> None:
    asked = told(running_provider(5), StopAsked(Ending.CANCELLED, "enough"))
    assert ticked(paid(asked, 5, last=True), at(1)) == (Phase.RUNNING, Ending.CANCELLED)
    halted = told(asked, Halted())
    assert ticked(halted, at(1 + FINAL_GRACE_S - 0.1))[0] is Phase.RUNNING
    assert ticked(halted, at(1 + FINAL_GRACE_S))[0] is Phase.CLOSING
    assert ticked(paid(halted, 5, last=True), at(1))[0] is Phase.CLOSING


def test_the_first_reason_to_stop_stays() -> None:
    asked = told(running_provider(), StopAsked(Ending.CANCELLED, "enough"))
    assert told(asked, StopAsked(Ending.WITHDRAWN, "drain")) is asked


# The work, its heartbeats and its money.


def test_what_cannot_start_is_broken_and_says_why() -> None:
    after = told(running_provider(), Broke("é" * 300))
    assert (after.ending, after.halted, after.reason) == (Ending.BROKEN, True, "é" * 128)
    assert after.report.reason == "é" * 128


def test_seconds_stand_still_once_a_unit_is_lost() -> None:
    cut = told(running_provider(), Looked(report(), 5), UnitLost("its GPU was lost", 7))
    assert (cut.ending, cut.metered_s, cut.halted) == (Ending.BROKEN, 7, False)
    assert told(cut, Looked(report(), 12), UnitLost("again", 99)) is cut
    after = told(cut, Looked(report(WorkState.EXITED, exit_code=1), 12), Halted())
    assert (after.metered_s, after.halted, after.collected) == (7, True, False)
    assert (after.report.work, after.report.exit_code) == (WorkState.BROKEN, 0)
    assert after.report.reason == "its GPU was lost"


def test_a_loss_after_the_end_changes_nothing() -> None:
    done = told(running_provider(), Looked(report(WorkState.EXITED), 9))
    assert told(done, UnitLost("its GPU was lost", 9)) is done
    with pytest.raises(AssertionError, match="only the provider's side"):
        told(running_requester(), UnitLost("its GPU was lost", 9))


def test_an_exit_is_seen_once() -> None:
    done = told(running_provider(), Looked(report(WorkState.EXITED, exit_code=3), 9))
    assert (done.ending, done.metered_s, done.report.exit_code) == (Ending.FINISHED, 9, 3)
    assert told(done, Looked(report(), 12)) is done
    assert told(done, Broke("late")) is done


def test_staging_is_not_the_requesters_business() -> None:
    with pytest.raises(AssertionError, match="only the provider's side"):
        told(running_requester(), Staged())


def test_a_provider_never_signs_one_number_twice() -> None:
    first = told(running_provider(), BeatMade(beat(1, 5)))
    assert told(first, BeatMade(beat(1, 6))) is first
    assert first.beat == beat(1, 5)


def test_an_old_heartbeat_changes_nothing() -> None:
    newest = beaten(running_requester(), 7, metered_s=30, told=report(checkpoint=artifact("/c")))
    assert apply(newest, BeatHeard(beat(6, 99)), at(3)) is newest
    assert told(newest, BeatHeard(beat(7, 30, newest.report))) is newest
    twin = told(newest, BeatHeard(beat(7, 31)))
    assert (twin.metered_s, twin.report) == (30, newest.report)


def test_seconds_never_run_backwards() -> None:
    assert beaten(beaten(running_requester(), 2, metered_s=30), 3, metered_s=4).metered_s == 30


@pytest.mark.parametrize(
    ("amount", "last", "kept"),
    [(9, True, (10, False)), (10, False, (10, False)), (10, True, (10, True)),
     (11, False, (11, False))],
)  # fmt: skip
def test_the_best_voucher_is_kept(amount: int, last: bool, kept: tuple[int, bool]) -> None:
    after = told(paid(running_provider(), 10), PayHeard(pay(amount, last)))
    assert (after.promised, after.last_said) == kept


# The chain.


def test_an_answer_takes_the_challenge_away() -> None:
    asked = told(running_provider(), Challenged(AGREEMENT_ID, 77, OPENED_S + 12, TX))
    assert (asked.challenge_nonce, asked.challenge_deadline_s) == (77, OPENED_S + 12)
    answered = told(asked, Answered(AGREEMENT_ID, TX))
    assert (answered.challenge_nonce, answered.answered) == (0, True)


@pytest.mark.parametrize(("slashed", "phase"), [(0, Phase.SETTLED), (500, Phase.SLASHED)])
def test_a_close_is_the_end(slashed: int, phase: Phase) -> None:
    side = running_requester()
    if slashed:
        side = told(side, Slashed(AGREEMENT_ID, slashed, 300, 200, TX))
    after = told(side, Closed(AGREEMENT_ID, 40, 560, TX))
    assert (after.phase, after.paid, after.refunded, after.slashed) == (phase, 40, 560, slashed)
    assert after.ended
    assert told(after, Closed(AGREEMENT_ID, 1, 2, TX), OPENED, Ticked()) is after


@pytest.mark.parametrize(
    ("by_provider", "ending"), [(True, Ending.WITHDRAWN), (False, Ending.CANCELLED)]
)
def test_the_other_may_begin_to_close(by_provider: bool, ending: Ending) -> None:
    parties = running_provider().terms.parties
    by = parties.provider if by_provider else parties.requester
    after = told(running_provider(), Closing(AGREEMENT_ID, by, OPENED_S + 9, TX))
    assert (after.phase, after.ending, after.closing_deadline_s) == (
        Phase.CLOSING,
        ending,
        OPENED_S + 9,
    )


# Preemption.


def test_only_what_was_sold_so_makes_way() -> None:
    firm, sold_so = running_provider(5), running_provider(5, preemptible=True)
    assert told(firm, Preempted("dearer")) is firm
    asked = told(sold_so, Preempted("dearer"))
    assert (asked.phase, asked.ending, asked.reason) == (
        Phase.RUNNING,
        Ending.PREEMPTED,
        "dearer",
    )
    done = told(sold_so, Looked(report(WorkState.EXITED), 9))
    assert told(done, Preempted("dearer")) is done, "it had finished by itself"


@pytest.mark.parametrize("exit_code", [0, 143])
def test_what_made_way_was_not_done_whatever_it_exited_with(exit_code: int) -> None:
    asked = told(running_provider(5, preemptible=True), Preempted("dearer"))
    assert told(asked, Looked(report(log_bytes=8), 7)) is asked, "its grace is not paid for"
    stopped = told(asked, Looked(report(WorkState.EXITED, exit_code=exit_code, log_bytes=9), 9))
    assert (stopped.report.work, stopped.report.log_bytes) == (WorkState.PREEMPTED, 9)
    assert (stopped.metered_s, stopped.ending, stopped.halted) == (5, Ending.PREEMPTED, True)
    assert told(stopped, Halted()) is stopped
    kept = told(stopped, CheckpointTaken(artifact()), Collected(()))
    assert (kept.report.checkpoint, kept.report.work) == (artifact(), WorkState.PREEMPTED)


@pytest.mark.parametrize(
    ("preemptible", "ending"), [(True, Ending.PREEMPTED), (False, Ending.WITHDRAWN)]
)
def test_a_requester_is_told_that_its_job_made_way(preemptible: bool, ending: Ending) -> None:
    running = running_requester(preemptible=preemptible)
    heard = beaten(running, 2, told=report(WorkState.PREEMPTED, reason="dearer"))
    assert (heard.ending, heard.reason) == (ending, "dearer")


def test_the_last_checkpoint_is_waited_for() -> None:
    last = report(WorkState.PREEMPTED, checkpoint=artifact())
    heard = beaten(running_requester(preemptible=True), 2, told=last)
    assert ticked(heard, at(FINAL_GRACE_S + 2)) == (Phase.RUNNING, Ending.PREEMPTED)
    fetched = replace(heard, checkpoint=artifact())
    assert ticked(fetched, at(FINAL_GRACE_S + 2)) == (Phase.CLOSING, Ending.PREEMPTED)
