"""Requester: gets this node's jobs done. Makes demands, chooses among quotes, pays, fetches.

How quotes rank is `market/matching`'s rule, when a provider is lost `market/apply`'s. It touches
network, blobs and logs through the ports; it changes no job and no agreement.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import structlog

from market.agreement import Agreement, Ending, Phase, Role
from market.constraints import misfits
from market.duties import (
    AskStatus,
    DrawNonce,
    Duty,
    MakePay,
    PullCheckpoint,
    PullLog,
    PullResults,
    SendAccept,
    SendPay,
    SendStop,
)
from market.errors import (
    LimitError,
    MarketError,
    RefusedError,
    SignatureError,
    SpecError,
    UnreachableError,
)
from market.events import (
    Acknowledged,
    BeatHeard,
    CheckpointPulled,
    ContactFailed,
    Event,
    LogPulled,
    NonceDrawn,
    PayMade,
    PayTaken,
    Released,
    ResultsPulled,
    StopAsked,
)
from market.job import (
    Choose,
    Demanded,
    EndAgreement,
    Job,
    JobDuty,
    MakeDemand,
    Nothing,
    Publish,
    remaining_s,
)
from market.limits import LOG_BYTES_MAX, QUOTES_PER_DEMAND_MAX, SECRET_BYTES_MAX
from market.matching import check_quote, rank_quotes
from market.messages import (
    Accept,
    Beat,
    Done,
    LogPart,
    Pay,
    Quote,
    ReadLog,
    Release,
    Status,
    Stop,
    Wanted,
)
from market.signing import (
    agreement_id,
    check_signer,
    digest,
    heartbeat_digest,
    voucher_digest,
)
from market.spec import Spec
from market.terms import Artifact, Coordinate, Demand, Manifest, Sealed, Voucher
from market.units import format_money
from node.artifacts import Artifacts, pull_all
from node.bulletin import Bulletin
from node.config import Config
from node.keeper import Countersigned, Happened, Item, JobHappened, Keeper
from node.mail import Mail
from node.ports import Ports

log = structlog.get_logger("requester")
GRACE_S = 10  # between SIGTERM and SIGKILL, for the last checkpoint


class Requester:
    """The buying half of a node."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, mail: Mail, bulletin: Bulletin,
        artifacts: Artifacts,
    ) -> None:  # fmt: skip
        """Quotes live in memory only: after a restart the market is asked again."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._bulletin = bulletin
        self._artifacts = artifacts
        self._quotes: dict[bytes, list[Quote]] = {}

    # Jobs.

    def draft(
        self, spec: Spec, image: Artifact, inputs: tuple[Artifact, ...], secrets: Mapping[str, str]
    ) -> Job:
        """A checked job file as a job; secrets are sealed to ourselves until there is a winner."""
        job_id = self._ports.entropy.token(16)
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
        )
        for name in spec.secrets:
            if len(secrets[name].encode()) > SECRET_BYTES_MAX:
                raise SpecError(f"secrets: {name} is longer than {SECRET_BYTES_MAX} bytes")
        sealed = tuple(
            Sealed(name, self._ports.signer.seal_for(self._mail.me, secrets[name].encode()))
            for name in spec.secrets
        )
        return Job(
            id=job_id,
            manifest=manifest,
            requirements=spec.requirements,
            bid=spec.bid,
            created_at_ms=int(self._ports.clock.now() * 1000),
            secrets=sealed,
        )

    def manifest_for(self, job: Job) -> Manifest:
        """What the next provider is to run: from the newest checkpoint, for the time left."""
        return replace(job.manifest, resume=job.checkpoint, max_duration_s=remaining_s(job))

    def explain(self, spec: Spec) -> Iterator[str]:
        """Why offers fit a job file or not, in lines."""
        now = self._ports.clock.now()
        draft = self.draft(replace(spec, secrets=()), Artifact("", bytes(32), 0), (), {})
        demand = self._demand(draft, 1)
        counts: dict[str, int] = {}
        fitting = 0
        for offer in self._bulletin.book.offers():
            problems = misfits(demand, offer, now)
            fitting += not problems
            for problem in problems:
                sentence = f"{problem.constraint.value}: {problem.sentence}"
                counts[sentence] = counts.get(sentence, 0) + 1
        yield f"{fitting} of {len(self._bulletin.book)} live offers fit"
        for sentence, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:20]:
            yield f"{count} removed by {sentence}"

    # What peers say.

    def hear_quote(self, author: bytes, quote: Quote) -> None:
        """Keep a quote for a demand we have open. Raises RefusedError and SignatureError."""
        job = next(
            (
                job
                for job in self._keeper.jobs.values()
                if job.demand is not None and job.demand.demand_id == quote.demand_id
            ),
            None,
        )
        if job is None or job.demand is None:
            raise RefusedError("the demand is not open")
        if quote.offer.peer != author:
            raise SignatureError("a quote comes from the peer that offers")
        check_quote(job.demand, quote, self._ports.clock.now())
        named = agreement_id(quote.terms, self._ports.chain.info.domain)
        check_signer(named, quote.provider_signature, quote.terms.parties.provider_signer)
        kept = self._quotes.setdefault(quote.demand_id, [])
        if len(kept) >= QUOTES_PER_DEMAND_MAX:
            raise LimitError("enough quotes were heard")
        if all(other.terms != quote.terms for other in kept):
            kept.append(quote)

    def check_beat(self, a: Agreement, beat: Beat) -> None:
        """Raise unless the heartbeat is of this agreement, signed, and says what its hash says."""
        if beat.heartbeat.agreement != a.id or digest(beat.report) != beat.heartbeat.state:
            raise SignatureError("the heartbeat does not belong to its report")
        named = heartbeat_digest(beat.heartbeat, self._ports.chain.info.domain)
        check_signer(named, beat.signature, a.terms.parties.provider_signer)

    # What a job owes.

    async def perform_job(self, duty: JobDuty, job: Job) -> Iterable[Item]:
        """Do one duty of a job; the items say what came of it."""
        match duty:
            case MakeDemand(round=round_):
                return (JobHappened(job.id, Demanded(self._demand(job, round_))),)
            case Publish(demand=demand):
                lifetime_s = max(1.0, demand.expires_at_s - self._ports.clock.now())
                await self._mail.publish("demands", Wanted(demand), lifetime_s=lifetime_s)
                return ()
            case Choose(demand_id=demand_id):
                return await self._choose(job, demand_id)
            case EndAgreement(agreement=agreement):
                asked = StopAsked(Ending.CANCELLED, "cancelled by the requester")
                return (Happened(agreement, asked),)

    def _demand(self, job: Job, round_: int) -> Demand:
        now, rules = self._ports.clock.now(), self._config.rules
        manifest = self.manifest_for(job)
        quote_by_ms = int((now + rules.quote_window_s) * 1000)
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
            estimate_s=job.bid.estimate_s,
            max_duration_s=remaining_s(job),
            deadline_at_s=job.bid.deadline_at_s,
            priority=job.bid.priority,
            num_nodes=1,
            preemptible=False,
            checkpoint_interval_s=manifest.checkpoint_interval_s,
            image=manifest.image.hash,
            image_bytes=manifest.image.size_bytes,
            input_bytes=sum(artifact.size_bytes for artifact in manifest.inputs),
            output_bytes=0,
            job=digest(manifest),
            token=self._ports.chain.info.token,
            slash_bps=0,
            exclude=job.excluded,
            coordinate=Coordinate(),
            quote_by_ms=quote_by_ms,
            expires_at_s=int(now + rules.quote_window_s) + 2,
        )

    async def _choose(self, job: Job, demand_id: bytes) -> Iterable[Item]:
        assert job.demand is not None, "a choice is made while a demand is open"
        quotes = self._quotes.pop(demand_id, [])
        rtt_us = {
            info.peer: info.rtt_us for info in self._ports.link.peers() if info.rtt_us is not None
        }
        now = self._ports.clock.now()
        ranked = rank_quotes(job.demand, quotes, now, rtt_us)
        if not ranked:
            return (JobHappened(job.id, Nothing(self._why_nothing(job))),)
        best = ranked[0].quote
        for other in ranked[1:]:
            named = agreement_id(other.quote.terms, self._ports.chain.info.domain)
            try:
                await self._mail.ask(other.quote.offer.peer, Release(named))
            except MarketError:
                continue  # its hold expires by itself
        id_ = agreement_id(best.terms, self._ports.chain.info.domain)
        price = format_money(best.terms.money.price_per_hour, self._ports.chain.info.decimals)
        log.info("chose a provider", job=job.id.hex(), provider=best.offer.peer.hex()[:12],
                 price_per_hour=price, quotes=len(quotes))  # fmt: skip
        return (Countersigned(self._agreement(job, best, id_, int(now * 1000))),)

    def _agreement(self, job: Job, quote: Quote, id_: bytes, now_ms: int) -> Agreement:
        return Agreement(
            id=id_,
            role=Role.REQUESTER,
            peer=quote.offer.peer,
            demand_id=quote.demand_id,
            job_id=job.id,
            terms=quote.terms,
            provider_signature=quote.provider_signature,
            requester_signature=self._ports.signer.sign_digest(id_),
            interval_s=quote.offer.heartbeat_interval_s,
            hold_until_s=quote.hold_until_s,
            created_at_ms=now_ms,
            preemptible=job.demand is not None
            and job.demand.preemptible
            and quote.offer.preemptible,
            grace_s=quote.offer.grace_s,
            phase=Phase.CONFIRMED,
            manifest=self.manifest_for(job),
            secrets=job.secrets,
        )

    def _why_nothing(self, job: Job) -> str:
        assert job.demand is not None
        fitting = self._bulletin.book.top(job.demand, 1, self._ports.clock.now())
        if fitting:
            return "offers fit, but no provider answered in time"
        if not len(self._bulletin.book):
            return "no live offer was heard; is the node connected? (souk peers)"
        return "no live offer fits; see what would: souk explain JOB.yaml"

    # What an agreement owes.

    async def perform(self, duty: Duty, a: Agreement) -> Iterable[Event]:
        """Do one of a requester's duties; the events say what came of it."""
        match duty:
            case SendAccept():
                return await self._send_accept(a)
            case SendStop():
                await self._mail.ask(a.peer, Stop(a.id, a.reason or a.ending.value))
                return ()
            case AskStatus():
                return await self._ask_status(a)
            case MakePay(amount=amount, last=last):
                return (PayMade(self._pay(a, amount, last)),)
            case SendPay(pay=pay):
                reply = await self._mail.ask(a.peer, pay)
                taken = PayTaken(pay.voucher.amount, pay.voucher.last)
                return (taken,) if isinstance(reply, Done) else ()
            case PullCheckpoint(checkpoint=checkpoint):
                await self._artifacts.pull(a.peer, checkpoint)
                return (CheckpointPulled(checkpoint),)
            case PullLog(offset=offset):
                return (LogPulled(await self._pull_log(a, offset, a.report.log_bytes)),)
            case PullResults(results=results):
                end = await self._pull_log(a, a.log_have, a.report.log_bytes)
                await pull_all(self._artifacts, a.peer, results)
                return (LogPulled(end), ResultsPulled())
            case DrawNonce():
                nonce = int.from_bytes(self._ports.entropy.token(6), "big")
                return (NonceDrawn(nonce or 1),)
            case _:
                raise AssertionError(f"{type(duty).__name__} is not a requester's duty")

    def _pay(self, a: Agreement, amount: int, last: bool) -> Pay:
        ack = digest(a.beat.heartbeat) if a.beat else bytes(32)
        voucher = Voucher(agreement=a.id, amount=amount, ack=ack, last=last)
        named = voucher_digest(voucher, self._ports.chain.info.domain)
        return Pay(voucher, self._ports.signer.sign_digest(named))

    async def _send_accept(self, a: Agreement) -> Iterable[Event]:
        assert a.manifest is not None, "a requester knows what it wants run"
        secrets = tuple(
            Sealed(s.name, self._ports.signer.seal_for(a.peer, self._ports.signer.unseal(s.box)))
            for s in a.secrets
        )
        try:
            await self._mail.ask(a.peer, Accept(a.id, a.requester_signature, a.manifest, secrets))
        except RefusedError as problem:
            return (Released(f"the provider declined: {problem}"),)
        return (Acknowledged(),)

    async def _ask_status(self, a: Agreement) -> Iterable[Event]:
        try:
            reply = await self._mail.ask(
                a.peer, Status(a.id), timeout_s=max(1.0, float(a.interval_s))
            )
        except (UnreachableError, RefusedError):
            return (ContactFailed(),)
        if not isinstance(reply, Beat):
            return ()  # it lives, and has nothing to show yet
        self.check_beat(a, reply)
        return (BeatHeard(reply),)

    async def _pull_log(self, a: Agreement, offset: int, end: int) -> int:
        """Fetch output up to `end`, kept under the job. Each agreement's output follows the last.

        The job's log is the agreements' logs one after the other; an agreement's own offset is
        counted from where it began.
        """
        begin = self._log_begin(a)
        end = min(end, LOG_BYTES_MAX)
        while offset < end:
            reply = await self._mail.ask(a.peer, ReadLog(a.id, offset))
            if not isinstance(reply, LogPart) or not reply.data or reply.offset != offset:
                break
            await self._ports.logs.append(a.job_id, begin + offset, reply.data)
            offset += len(reply.data)
        return offset

    def _log_begin(self, a: Agreement) -> int:
        job = self._keeper.jobs.get(a.job_id)
        attempts = job.attempts if job else ()
        earlier = attempts[: attempts.index(a.id)] if a.id in attempts else ()
        known = (self._keeper.agreements.get(key) for key in earlier)
        return sum(before.log_have for before in known if before is not None)
