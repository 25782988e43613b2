"""Job: from wish to result over as many agreements as it takes, expected == actual."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from market import job_apply, job_duties
from market.agreement import Agreement, Ending, Phase
from market.codec import decode, encode
from market.job import (
    OVER,
    Attempt,
    CancelAsked,
    Choose,
    Chosen,
    Demanded,
    EndAgreement,
    ExtendAsked,
    Job,
    JobEvent,
    JobState,
    JobTicked,
    Lengthen,
    MakeDemand,
    Moved,
    MoveWanted,
    Nothing,
    OpenGang,
    Publish,
    Waited,
    Withdraw,
    Withdrawn,
    remaining_s,
)
from market.messages import WorkState
from market.reallocation import Reason
from market.units import UnixTime
from tests.samples import (
    AGREEMENT_ID,
    DEMAND_ID,
    JOB_ID,
    OTHER,
    START_S,
    artifact,
    at,
    demand,
    job,
    report,
    requester,
    running_requester,
)


def told(value: Job, *events: JobEvent, now: float = START_S + 1) -> Job:
    for event in events:
        value = job_apply.apply(value, event, UnixTime(now))
    return value


def matching() -> Job:
    return told(job(), Demanded(demand()))


def chosen(value: Job | None = None) -> Job:
    return told(value or matching(), Chosen(DEMAND_ID, attempt()))


def running() -> Job:
    return told(chosen(), Moved((running_requester(),)))


def over(ending: Ending, **changes: Any) -> Agreement:
    """The requester's side of an agreement that has come to its end."""
    return running_requester(**{"phase": Phase.SETTLED, "ending": ending, **changes})


def duties(value: Job, now: float, *agreements: Agreement) -> tuple[Any, ...]:
    return job_duties.duties(value, UnixTime(now), {a.id: a for a in agreements})


def attempt(*members: bytes) -> Attempt:
    return Attempt(members or (AGREEMENT_ID,))


def test_a_demand_stands_open_and_is_chosen_for_once_its_first_window_is_over() -> None:
    assert duties(job(), START_S) == (MakeDemand(JOB_ID, 1),)
    said, choosing = Publish(JOB_ID, demand()), Choose(JOB_ID, DEMAND_ID)
    assert duties(matching(), START_S + 1.9) == (said,)
    assert duties(matching(), START_S + 2) == (said, choosing)
    assert duties(matching(), START_S + 29.9) == (said, choosing)
    assert duties(matching(), START_S + 30) == (choosing,)


def test_what_is_met_is_withdrawn() -> None:
    assert duties(chosen(), START_S + 2, requester()) == (Withdraw(JOB_ID, DEMAND_ID),)
    told_all = told(chosen(), Withdrawn(DEMAND_ID))
    assert duties(told_all, START_S + 2, requester()) == ()
    gone = told(matching(), CancelAsked())
    assert duties(gone, START_S + 2) == (Withdraw(JOB_ID, DEMAND_ID),)
    assert duties(told(gone, Withdrawn(DEMAND_ID)), START_S + 2) == ()


def test_it_says_what_it_waits_for() -> None:
    value = told(matching(), Waited("queued at 3 providers"))
    assert (value.state, value.reason) == (JobState.MATCHING, "queued at 3 providers")
    assert len(value.history) == 1, "a reason to wait is no change"
    assert told(value, Waited("queued at 3 providers")) == value
    assert told(running(), Waited("x")) == running()


def test_the_usual_walk() -> None:
    done = over(
        Ending.FINISHED, delivered=True, report=report(WorkState.EXITED, results=(artifact(),))
    )
    value = told(running(), Moved((done,)), now=at(9))
    assert [change.state for change in value.history] == [
        JobState.MATCHING, JobState.STARTING, JobState.RUNNING, JobState.SUCCEEDED,
    ]  # fmt: skip
    assert (value.results, value.exit_code, value.agreement) == ((artifact(),), 0, b"")
    assert value.finished_at_ms == int(at(9) * 1000)


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"exit_code": 3}, "the job exited with code 3"),
        ({"exit_code": 137, "out_of_memory": True}, "out of memory: ask for more with"),
        ({"exit_code": 255, "reason": "it vanished"}, "it vanished"),
    ],
)
def test_a_failure_says_why(how: dict[str, Any], reason: str) -> None:
    done = over(Ending.FINISHED, delivered=True, report=report(WorkState.EXITED, **how))
    value = told(running(), Moved((done,)))
    assert value.state is JobState.FAILED
    assert value.reason.startswith(reason)


def test_a_lost_provider_is_left_out_and_the_job_goes_on_from_its_checkpoint() -> None:
    lost = over(Ending.LOST, phase=Phase.CLOSING, checkpoint=artifact("/ckpt"), metered_s=30)
    value = told(running(), Moved((lost,)), now=at(50))
    assert (value.state, value.agreement, value.excluded) == (
        JobState.RECOVERING,
        b"",
        (lost.peer,),
    )
    assert (value.checkpoint, value.used_s, remaining_s(value)) == (artifact("/ckpt"), 30, 570)
    again = told(value, Demanded(demand(2)), Chosen(DEMAND_ID, attempt(bytes(32))))
    assert (again.state, again.attempts) == (
        JobState.RECOVERING,
        (attempt(), attempt(bytes(32))),
    )


def test_who_never_began_costs_nothing() -> None:
    void = requester(phase=Phase.VOID, reason="it was not funded in time")
    value = told(chosen(), Moved((void,)))
    assert (value.state, value.excluded, value.used_s) == (JobState.MATCHING, (), 0)


def test_a_provider_cannot_use_up_time_that_has_not_passed() -> None:
    boast = over(Ending.LOST, metered_s=2**32 - 1)
    value = told(running(), Moved((boast,)), now=at(50))
    assert (value.used_s, value.state) == (50, JobState.RECOVERING)


@pytest.mark.parametrize(
    ("ending", "ran_s", "state"),
    [
        (Ending.BROKEN, 0, JobState.FAILED_SETUP),
        (Ending.BROKEN, 9, JobState.FAILED),
        (Ending.LOST, 9, JobState.FAILED),
    ],
)
def test_attempts_have_an_end(ending: Ending, ran_s: int, state: JobState) -> None:
    attempts = (attempt(bytes(32)), attempt(bytes(32)), attempt())
    tried = replace(running(), attempts=attempts, failures=2)
    ended = replace(over(ending, reason="é" * 128), metered_s=ran_s)
    value = told(tried, Moved((ended,)))
    assert value.state is state
    assert value.reason.startswith("3 attempts; the last: é")
    assert decode(Job, encode(value)) == value


def test_max_duration_is_over_all_attempts() -> None:
    tired = replace(running(), used_s=580)
    value = told(tired, Moved((over(Ending.LOST, metered_s=20),)), now=at(90))
    assert (value.state, value.reason) == (JobState.FAILED, "max_duration is used up")
    expired = told(running(), Moved((over(Ending.EXPIRED),)))
    assert (expired.state, expired.reason) == (JobState.FAILED, "max_duration is used up")


def test_somebody_elses_agreement_is_nothing_to_it() -> None:
    value = running()
    assert told(value, Moved((over(Ending.LOST, id=OTHER),))) is value


@pytest.mark.parametrize(
    ("round_", "attempts", "stands"),
    [(0, (), 30), (1, (), 60), (5, (), 120), (60_000, (), 120), (5, (attempt(OTHER),), 30)],
)
def test_each_demand_stands_longer_and_a_job_that_ran_asks_often(
    round_: int, attempts: tuple[Attempt, ...], stands: int
) -> None:
    value = replace(job(), round=round_, attempts=attempts)
    assert job_duties.stands_s(value) == stands


def test_a_round_without_an_answer_is_followed_by_another_that_asks_everybody() -> None:
    asked = replace(matching(), excluded=(OTHER,))
    value = told(asked, Nothing("too dear", ("3 of 4 are too dear.",)), now=START_S + 33)
    assert value.retry_at_ms == (START_S + 34) * 1000
    assert (value.demand, value.excluded, value.reason) == (None, (), "too dear")
    assert value.explanation == ("3 of 4 are too dear.",)
    assert duties(value, START_S + 33.9) == ()
    assert duties(value, START_S + 34) == (MakeDemand(JOB_ID, 2),)


@pytest.mark.parametrize(
    ("attempts", "state"),
    [((), JobState.FAILED_NO_RESOURCE), ((attempt(OTHER),), JobState.FAILED)],
)
def test_waiting_has_an_end(attempts: tuple[Attempt, ...], state: JobState) -> None:
    waiting = replace(matching(), attempts=attempts)
    assert told(waiting, JobTicked(), now=START_S + 59.9) is waiting
    value = told(waiting, JobTicked(), now=START_S + 60)
    assert (value.state, value.reason) == (state, "asking the market")
    assert told(running(), JobTicked(), now=START_S + 9999).state is JobState.RUNNING


@pytest.mark.parametrize("value", [job(), matching()], ids=["pending", "matching"])
def test_cancelled_without_an_agreement_is_cancelled(value: Job) -> None:
    assert told(value, CancelAsked()).state is JobState.CANCELLED


@pytest.mark.parametrize(
    ("value", "agreement"),
    [
        (chosen(), requester()),
        (running(), running_requester()),
        (replace(running(), state=JobState.RECOVERING), running_requester()),
    ],
    ids=["starting", "running", "recovering"],
)
def test_cancelled_with_an_agreement_waits_for_its_end(value: Job, agreement: Agreement) -> None:
    asked = told(value, CancelAsked(), Withdrawn(DEMAND_ID))
    assert asked.state is JobState.CANCELLING
    assert told(asked, CancelAsked(), Moved((agreement,))) is asked
    assert duties(asked, START_S + 9, agreement) == (EndAgreement(JOB_ID, AGREEMENT_ID),)
    stopping = replace(agreement, ending=Ending.CANCELLED)
    assert duties(asked, START_S + 9, stopping) == ()
    assert told(asked, Moved((stopping,))) is asked
    assert told(asked, Moved((over(Ending.CANCELLED),))).state is JobState.CANCELLED


@pytest.mark.parametrize("state", sorted(OVER, key=str))
def test_what_is_over_stays(state: JobState) -> None:
    value = job(state=state)
    chose = Chosen(DEMAND_ID, attempt(OTHER))
    events = (CancelAsked(), JobTicked(), chose, Demanded(demand()), Nothing("x"))
    assert told(value, *events, now=START_S + 10**6) is value
    assert duties(value, START_S) == ()


def test_a_second_choice_and_an_old_demand_are_nothing() -> None:
    value = chosen()
    chose = Chosen(DEMAND_ID, attempt(OTHER))
    assert told(value, chose, Demanded(demand(2))) is value
    assert told(matching(), Demanded(demand(1))) == matching()


# Gangs.

SECOND = bytes([9]) * 32


def gang(**changes: Any) -> Job:
    value = replace(job(), nodes=2, demand=replace(demand(), num_nodes=2), round=1)
    value = told(value, Chosen(DEMAND_ID, attempt(AGREEMENT_ID, SECOND)), Withdrawn(DEMAND_ID))
    return replace(value, **changes)


def pair(first: Any = None, second: Any = None) -> tuple[Agreement, Agreement]:
    """Both members, run alike but for what is said of each."""
    like = {"num_nodes": 2, **(first or {})}
    return (
        running_requester(**like),
        running_requester(**{"num_nodes": 2, "id": SECOND, "rank": 1, **(second or {})}),
    )


def test_a_gang_is_opened_at_once_and_only_when_all_have_confirmed() -> None:
    value = gang()
    assert (value.gang, value.reason) == ((AGREEMENT_ID, SECOND), "2 providers were chosen")
    here = requester(num_nodes=2, acknowledged=True)
    there = replace(here, id=SECOND, rank=1)
    assert duties(value, START_S + 5, here) == ()
    assert duties(value, START_S + 5, here, replace(there, acknowledged=False)) == ()
    opening = OpenGang(JOB_ID, (AGREEMENT_ID, SECOND))
    assert duties(value, START_S + 5, here, there) == (opening,)
    assert duties(value, START_S + 30, here, there) == (), "it is too late to open"


def test_a_gang_runs_when_all_of_it_does() -> None:
    waiting = {"report": report(WorkState.STAGING)}
    half = told(gang(), Moved(pair(second=waiting)))
    assert (half.state, half.reason) == (
        JobState.STARTING,
        "funded; the provider prepares it",
    )
    assert told(half, Moved(pair())).state is JobState.RUNNING


def test_one_member_off_stops_the_others() -> None:
    value = told(gang(), Moved(pair()))
    members = pair(second={"ending": Ending.LOST, "phase": Phase.CLOSING, "reason": "silent"})
    value = told(value, Moved(members), now=at(9))
    assert (value.state, value.reason, value.gang) == (JobState.RECOVERING, "rank 1: silent", ())
    assert (value.failures, value.used_s) == (1, 1), "its slowest member's second, once"
    owed = duties(value, at(9), *members)
    assert owed == (EndAgreement(JOB_ID, AGREEMENT_ID), MakeDemand(JOB_ID, 2))


def test_a_gang_is_done_when_all_of_it_is_and_its_results_lie_apart() -> None:
    over = {
        "ending": Ending.FINISHED, "phase": Phase.SETTLED, "delivered": True,
        "report": report(WorkState.EXITED, results=(artifact("/out/a"),)),
    }  # fmt: skip
    value = told(gang(), Moved(pair()), Moved(pair(first=over)))
    assert value.state is JobState.RUNNING
    done = told(value, Moved(pair(first=over, second=over)))
    assert done.state is JobState.SUCCEEDED
    assert [one.path for one in done.results] == ["/rank-0/out/a", "/rank-1/out/a"]


def test_only_rank_0_keeps_the_checkpoint() -> None:
    here, there = artifact("/ckpt", 1), artifact("/ckpt", 2)
    value = told(gang(), Moved(pair({"checkpoint": here}, {"checkpoint": there})))
    assert value.checkpoint == here


# Moves.


def moving() -> Job:
    """It runs, and looks for another place."""
    return told(running(), Withdrawn(DEMAND_ID), MoveWanted(Reason.BETTER_OFFER), now=at(50))


def test_a_move_waits_for_a_checkpoint_made_for_it() -> None:
    value = moving()
    assert duties(value, at(51), running_requester()) == ()
    fresh = running_requester(checkpoint=artifact("/ckpt"))
    value = told(value, Moved((fresh,)), now=at(52))
    assert duties(value, at(52), fresh) == (MakeDemand(JOB_ID, 2),)
    assert duties(moving(), at(101), running_requester()) == (MakeDemand(JOB_ID, 2),)


def coming(**changes: Any) -> Agreement:
    return replace(requester(id=SECOND), **changes)


def begun() -> Job:
    """The next place has been chosen."""
    return told(
        moving(), Demanded(demand(2)), Chosen(DEMAND_ID, attempt(SECOND)), now=at(55)
    )  # fmt: skip


def test_the_old_place_is_left_once_the_new_one_works() -> None:
    value = begun()
    old, new = running_requester(metered_s=50), coming()
    assert (value.gang, value.next_gang, value.state) == (
        (AGREEMENT_ID,), (SECOND,), JobState.RUNNING,
    )  # fmt: skip
    assert told(value, Moved((old, new))) is value
    works = running_requester(id=SECOND)
    value = told(value, Moved((old, works)), Withdrawn(DEMAND_ID), now=at(60))
    assert (value.gang, value.next_gang, value.moves, value.used_s) == ((SECOND,), (), 1, 50)
    assert value.reason == "moved to another provider: better-offer"
    assert duties(value, at(60), old, works) == (EndAgreement(JOB_ID, AGREEMENT_ID),)


def test_a_place_that_fails_while_it_is_moved_to_costs_nothing() -> None:
    void = coming(phase=Phase.VOID, reason="it was not funded in time")
    value = told(begun(), Moved((running_requester(), void)), now=at(90))
    assert (value.gang, value.next_gang, value.move, value.failures) == (
        (AGREEMENT_ID,), (), None, 0,
    )  # fmt: skip
    assert value.move_at_ms == int(at(90) * 1000), "and is not tried again at once"


def test_the_old_place_dies_while_it_moves() -> None:
    lost = over(Ending.LOST, phase=Phase.CLOSING, reason="silent")
    value = told(begun(), Moved((lost, coming())), now=at(70))
    assert (value.gang, value.next_gang, value.state) == ((SECOND,), (), JobState.RECOVERING)
    assert value.failures == 0
    assert told(value, Moved((running_requester(id=SECOND),))).state is JobState.RUNNING


def test_a_move_that_finds_nobody_is_given_up() -> None:
    value = told(moving(), Demanded(demand(2)), Nothing("nobody"), now=at(58))
    assert (value.demand, value.move, value.state) == (None, None, JobState.RUNNING)


def test_what_is_over_ends_what_it_was_moving_to() -> None:
    done = over(Ending.FINISHED, delivered=True, report=report(WorkState.EXITED))
    value = told(begun(), Moved((done, coming())), Withdrawn(DEMAND_ID), now=at(70))
    assert value.state is JobState.SUCCEEDED
    assert duties(value, at(71), done, coming()) == (EndAgreement(JOB_ID, SECOND),)


# Preemption and longer jobs.


def test_who_made_way_is_not_held_against_its_provider() -> None:
    cheap = replace(running(), bid=replace(running().bid, preemptible=True))
    gone = over(Ending.PREEMPTED, reason="its units are wanted")
    value = told(cheap, Moved((gone,)), now=at(9))
    assert (value.state, value.reason) == (JobState.RECOVERING, "its units are wanted")
    assert (value.failures, value.excluded) == (0, ())


def test_a_longer_job_asks_for_a_longer_agreement() -> None:
    value = told(running(), Withdrawn(DEMAND_ID), ExtendAsked(300))
    assert (value.bid.max_duration_s, value.extended_s) == (900, 300)
    asking = Lengthen(JOB_ID, AGREEMENT_ID, 300)
    assert duties(value, at(9), running_requester()) == (asking,)
    assert duties(value, at(9), running_requester(asked_extra_s=300)) == ()
    expired = told(value, Moved((over(Ending.EXPIRED, metered_s=600),)), now=at(700))
    assert (expired.state, remaining_s(expired)) == (JobState.RECOVERING, 300)
    assert told(job(state=JobState.SUCCEEDED), ExtendAsked(9)).extended_s == 0
