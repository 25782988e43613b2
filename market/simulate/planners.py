"""Planners: the queue policies where jobs may pause between rounds. Pure.

Any `order` becomes a plan by ordering all unfinished jobs anew at every round; `fair` plans by
finish-time fairness instead.
"""

from __future__ import annotations

from collections.abc import Sequence

from market.policy import POLICIES, finish
from market.policy.finish import Standing
from market.simulate.jobs import Job
from market.simulate.rounds import Planner
from market.site import Queued, Site
from market.units import UnixTime


def planner(name: str, jobs: Sequence[Job]) -> Planner:
    """The planner of that name for these jobs (which say what rounds do not know of them)."""
    if name == "fair":
        return finish.plan
    order, known = POLICIES[name], {job.job_id: job for job in jobs}

    def plan(standing: Sequence[Standing], units: int, now: float) -> Sequence[int]:
        by_id = {one.job_id: one for one in standing}
        queue = [_queued(one, known[one.job_id]) for one in standing]
        ranked = order(queue, Site(units), UnixTime(now))
        ids = [int.from_bytes(one.demand_id, "big") for one in ranked]
        return finish.fill([by_id[one] for one in ids], units)

    return plan


def _queued(one: Standing, job: Job) -> Queued:
    return Queued(
        one.job_id.to_bytes(16, "big"),
        job.requester.encode(),
        UnixTime(one.arrival_s),
        one.units,
        one.left_s,
        job.price_per_hour,
        job.value_of_time_per_hour,
        job.priority,
        job.deadline_s,
        job.preemptible,
    )
