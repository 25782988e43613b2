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
    Job,
    JobEvent,
    JobState,
    JobTicked,
    MakeDemand,
    Moved,
    Nothing,
    Publish,
    Waited,
    Withdraw,
    Withdrawn,
    remaining_s,
)
from market.messages import WorkState
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
    ("ending", "state"), [(Ending.BROKEN, JobState.FAILED_SETUP), (Ending.LOST, JobState.FAILED)]
)
def test_attempts_have_an_end(ending: Ending, state: JobState) -> None:
    attempts = (attempt(bytes(32)), attempt(bytes(32)), attempt())
    tried = replace(running(), attempts=attempts, failures=2)
    value = told(tried, Moved((over(ending, reason="é" * 128),)))
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
