"""Job duties: what a job in its state obliges its node to do now. A pure function, as for
agreements: nothing is "remembered to do", and every duty is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from market.agreement import Agreement, Ending, Phase
from market.job import (
    Choose,
    EndAgreement,
    Job,
    JobDuty,
    JobState,
    Lengthen,
    MakeDemand,
    OpenGang,
    Publish,
    Weigh,
    Withdraw,
    is_off,
)
from market.limits import RETRY_CHAIN_S, RETRY_S, STAND_MAX_S, STAND_S
from market.messages import WorkState
from market.units import UnixTime

REPUBLISH_S: Final = 10.0  # gossip reaches only those who were there
CHOOSE_S: Final = 0.5  # how soon a late quote is seen
WEIGH_S: Final = 15.0  # prices move slower than this
FRESH_S: Final = 30.0  # a move waits so long, beyond two intervals, for a checkpoint made for it


def duties(job: Job, now: UnixTime, agreements: Mapping[bytes, Agreement]) -> tuple[JobDuty, ...]:
    """What is owed now. `agreements` holds every agreement of the node."""
    return tuple(_duties(job, now, agreements))


def pace_s(duty: JobDuty) -> float:
    """How long after its last performance the same duty may be performed again."""
    match duty:
        case Publish():
            return REPUBLISH_S
        case Choose():
            return CHOOSE_S
        case Weigh():
            return WEIGH_S
        case OpenGang():
            return RETRY_CHAIN_S
        case _:
            return RETRY_S


def stands_s(job: Job) -> float:
    """How long the next demand stands open: longer each round, so that nobody is shouted at.

    A job that ran is worth asking often for: each round reaches further down the list.
    """
    if job.attempts:
        return STAND_S
    return float(min(STAND_S * 2 ** min(job.round, 8), STAND_MAX_S))


def _duties(job: Job, now: UnixTime, agreements: Mapping[bytes, Agreement]) -> Iterator[JobDuty]:
    if job.unwanted:
        yield Withdraw(job.id, job.unwanted)
    yield from _endings(job, agreements)
    if job.over or job.cancelling:
        return
    yield from _openings(job, now, agreements)
    yield from _round(job, now)
    yield from _running(job, agreements)


def _endings(job: Job, agreements: Mapping[bytes, Agreement]) -> Iterator[JobDuty]:
    """Whatever it does not run under, or move to, is to end: the rest of a broken gang, the place
    it moved away from, all of it when it is cancelled or over."""
    wanted = () if job.over or job.cancelling else (*job.gang, *job.next_gang)
    for key in job.agreements:
        a = agreements.get(key)
        if a is None or key in wanted or is_off(a) or a.phase is Phase.CLOSING:
            continue
        yield EndAgreement(job.id, key)


def _openings(job: Job, now: UnixTime, agreements: Mapping[bytes, Agreement]) -> Iterator[JobDuty]:
    for gang in (job.gang, job.next_gang):
        members = [agreements[key] for key in gang if key in agreements]
        if len(members) < 2 or len(members) < len(gang):
            continue
        if all(
            a.phase is Phase.CONFIRMED and a.acknowledged and a.ending is Ending.NONE
            and now < a.terms.timing.open_by_s
            for a in members
        ):  # fmt: skip
            yield OpenGang(job.id, gang)


def _round(job: Job, now: UnixTime) -> Iterator[JobDuty]:
    if job.next_gang or (job.gang and job.move is None) or now * 1000 < job.retry_at_ms:
        return
    demand = job.demand
    if demand is None:
        if not job.gang or _is_fresh(job, now):
            yield MakeDemand(job.id, job.round + 1)
        return
    if now < demand.expires_at_s:
        yield Publish(job.id, demand)
    if now * 1000 >= demand.quote_by_ms:
        yield Choose(job.id, demand.demand_id)


def _is_fresh(job: Job, now: UnixTime) -> bool:
    """Whether a move may begin: with a checkpoint made since it was wanted, or without one."""
    if not job.manifest.checkpoint_path or job.checkpointed_at_ms >= job.move_at_ms:
        return True
    return now * 1000 >= job.move_at_ms + (2 * job.manifest.checkpoint_interval_s + FRESH_S) * 1000


def _running(job: Job, agreements: Mapping[bytes, Agreement]) -> Iterator[JobDuty]:
    members = [agreements[key] for key in job.gang if key in agreements]
    if job.state is not JobState.RUNNING or any(map(is_off, members)):
        return
    for a in members:
        extra_s = job.bid.max_duration_s - job.used_s - a.terms.timing.duration_s
        if job.extended_s and a.phase is Phase.RUNNING and extra_s > a.asked_extra_s:
            yield Lengthen(job.id, a.id, extra_s)
    alone = len(members) == 1 and not job.next_gang and job.move is None
    if alone and job.moves < job.bid.max_moves and members[0].report.work is WorkState.RUNNING:
        yield Weigh(job.id, members[0].id)
