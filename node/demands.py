"""Demands: a checked job file as a job, and a job as its broadcast form. Decides what kind of offer
it asks for, by the rules of `market/moving`; it says nothing to anybody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from market.errors import SpecError
from market.job import Job, ran_s, remaining_s
from market.job_duties import stands_s
from market.limits import NODES_MAX, SECRET_BYTES_MAX
from market.moving import done_s, kind_wanted, work_s
from market.reallocation import Kind
from market.signing import digest
from market.spec import Spec
from market.terms import Artifact, Demand, Manifest, Sealed
from market.units import UnixTime
from node.bulletin import Bulletin
from node.config import Config
from node.keeper import Keeper
from node.mail import Mail
from node.ports import Ports

GRACE_S: Final = 10  # between SIGTERM and SIGKILL, for the last checkpoint
MOVE_STANDS_S: Final = 2  # a move's demand is not waited for: the job runs where it is
HOLD_MARGIN_S: Final = 3.0  # to countersign in, while a hold lasts
CHEAP_SEEN: Final = 32  # so many of the best offers are looked at for a preemptible one


class Demands:
    """Writes what is asked of the market."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, mail: Mail, bulletin: Bulletin
    ) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._bulletin = bulletin

    def draft(
        self, spec: Spec, image: Artifact, inputs: tuple[Artifact, ...],
        secrets: Mapping[str, str], key: str = "",
    ) -> Job:  # fmt: skip
        """A checked job file as a job; secrets are sealed to ourselves until there is a winner."""
        job_id, now = self._ports.entropy.token(16), self._ports.clock.now()
        manifest = Manifest(
            job_id=job_id,
            name=spec.name,
            workload=spec.workload,
            image=image,
            command=spec.run,
            envs=spec.envs,
            inputs=inputs,
            outputs=spec.outputs,
            checkpoint_path=spec.checkpoint_path,
            checkpoint_interval_s=spec.checkpoint_interval_s,
            resume=None,
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
            disk_mib=spec.disk_mib,
            max_duration_s=spec.bid.max_duration_s,
            grace_s=GRACE_S,
            ports=spec.ports,
            egress=spec.requirements.egress,
        )
        for name in spec.secrets:
            if len(secrets[name].encode()) > SECRET_BYTES_MAX:
                raise SpecError(f"secrets: {name} is longer than {SECRET_BYTES_MAX} bytes")
        sealed = tuple(
            Sealed(name, self._ports.signer.seal_for(self._mail.me, secrets[name].encode()))
            for name in spec.secrets
        )
        bid = spec.bid
        if spec.deadline_in_s:
            bid = replace(bid, deadline_at_s=int(now) + spec.deadline_in_s)
        return Job(
            id=job_id, manifest=manifest, requirements=spec.requirements, bid=bid,
            created_at_ms=int(now * 1000), secrets=sealed, nodes=spec.num_nodes, key=key,
        )  # fmt: skip

    def demand_of(self, job: Job, round_: int, *, preemptible: bool) -> Demand:
        """The job's broadcast form: from its newest checkpoint, for the time that is left."""
        now, rules = self._ports.clock.now(), self._config.rules
        left_s = remaining_s(job, self.running_s(job, now))
        manifest = manifest_of(job, job.checkpoint, left_s)
        window_ends_at = now + rules.quote_window_s
        stands = MOVE_STANDS_S if job.gang else stands_s(job)
        if job.nodes > 1:  # quotes of a gang wait for each other: no longer than they are held
            stands = min(stands, max(0.0, rules.hold_s - rules.quote_window_s - HOLD_MARGIN_S))
        excluded = job.excluded
        if job.gang:
            here = (self._keeper.agreements[key].peer for key in job.gang)
            excluded = tuple(dict.fromkeys((*excluded, *here)))[-NODES_MAX:]
        return Demand(
            demand_id=self._ports.entropy.token(16),
            job_id=job.id,
            round=round_,
            peer=self._mail.me,
            requester=self._config.wallet,
            operator=self._ports.signer.operator,
            requirements=job.requirements,
            max_price_per_hour=job.bid.max_price_per_hour,
            value_of_time_per_hour=job.bid.value_of_time_per_hour,
            workload=manifest.workload,
            estimate_s=self._estimate_s(job, now),
            max_duration_s=left_s,
            deadline_at_s=job.bid.deadline_at_s,
            priority=job.bid.priority,
            num_nodes=job.nodes,
            preemptible=preemptible,
            checkpoint_interval_s=manifest.checkpoint_interval_s,
            image=manifest.image.hash,
            image_bytes=manifest.image.size_bytes,
            input_bytes=sum(artifact.size_bytes for artifact in manifest.inputs),
            output_bytes=0,
            job=digest(manifest),
            token=self._ports.chain.info.token,
            slash_bps=0,
            exclude=excluded,
            coordinate=self._bulletin.atlas.here,
            quote_by_ms=int(window_ends_at * 1000),
            expires_at_s=int(window_ends_at + stands) + 1,
        )

    def running_s(self, job: Job, now: UnixTime) -> int:
        """How long the gang has run that it runs under now."""
        members = (self._keeper.agreements.get(key) for key in job.gang)
        return ran_s(tuple(a for a in members if a is not None), now)

    def _estimate_s(self, job: Job, now: UnixTime) -> int:
        """The work that is left, as far as the user said how much there is."""
        if not job.bid.estimate_s:
            return 0
        return max(1, round(work_s(job) - done_s(job, self.running_s(job, now))))

    def kind(self, job: Job, now: UnixTime) -> Kind:
        """What the job should run on now: anything, only what stays, or nothing yet."""
        cheap_is_there = False
        if job.bid.preemptible and job.bid.deadline_at_s:
            demand = self.demand_of(job, job.round + 1, preemptible=True)
            best = self._bulletin.book.top(demand, CHEAP_SEEN, now)
            cheap_is_there = any(candidate.offer.preemptible for candidate in best)
        running_s = self.running_s(job, now)
        return kind_wanted(job, running_s, now, cheap_is_there=cheap_is_there)


def manifest_of(job: Job, resume: Artifact | None, max_duration_s: int) -> Manifest:
    """What the next provider is to run."""
    return replace(job.manifest, resume=resume, max_duration_s=max_duration_s)
