"""Provider: sells this machine's units. Answers demands with quotes and performs what it owes.

Which demand deserves an answer is `market/matching`'s rule, which units `market/slots`', in which
order a policy's. It touches sandbox, blobs and chain through the ports; it changes no agreement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import replace

import structlog

from market.agreement import Agreement, Ending, Phase, Role
from market.constraints import misfit
from market.cost import needed_units
from market.duties import (
    Collect,
    Duty,
    Halt,
    Look,
    MakeBeat,
    Scrub,
    SendBeat,
    SendQuote,
    Stage,
    Start,
    TakeCheckpoint,
)
from market.errors import (
    RefusedError,
    SandboxError,
)
from market.events import (
    Acknowledged,
    BeatMade,
    BeatTaken,
    Broke,
    CheckpointTaken,
    Collected,
    Event,
    Halted,
    Looked,
    Released,
    Scrubbed,
)
from market.matching import answers
from market.messages import Beat, Done, Quote, Report, WorkState
from market.policy import POLICIES
from market.signing import Signed, agreement_id, digest, heartbeat_digest
from market.site import Queued, Running, Site
from market.slots import choose_units
from market.terms import (
    NOBODY,
    Coordinate,
    Demand,
    Heartbeat,
    Money,
    Offer,
    Parties,
    Terms,
    Timing,
)
from market.units import UnixTime
from market.voucher import deposit_for
from node.artifacts import Artifacts
from node.bulletin import Bulletin
from node.config import Config, Selling
from node.images import Images
from node.keeper import Considered, Keeper
from node.mail import Mail
from node.ports import Observed, Ports, RunState, Unit
from node.staging import Stager

log = structlog.get_logger("provider")
START_UP_MS = 1500  # quoted until this machine has measured its own


class Provider:
    """The selling half of a node."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, mail: Mail, artifacts: Artifacts,
        images: Images,
    ) -> None:  # fmt: skip
        """Sells nothing unless the configuration has a `selling` part."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._images = images
        self._stager = Stager(ports, keeper, artifacts, images)
        self._considered: set[bytes] = set()
        self.paused = False

    # What is for sale.

    def offers(self) -> tuple[Offer, ...]:
        """One offer for each kind of unit, as it stands now."""
        selling = self._config.selling
        if selling is None or self.paused:
            return ()
        taken = self._keeper.taken_units()
        kinds: dict[tuple[str, int, bool], list[Unit]] = {}
        for unit in self._ports.devices.units():
            kinds.setdefault((unit.name, unit.ram_mib, unit.declared), []).append(unit)
        return tuple(self._offer(selling, units, taken) for _, units in sorted(kinds.items()))

    def _offer(self, selling: Selling, units: list[Unit], taken: int) -> Offer:
        first = units[0]
        name = hashlib.sha256(
            self._mail.me + f"{first.name}/{first.ram_mib}/{first.declared}".encode()
        ).digest()[:16]
        rules, now = self._config.rules, self._ports.clock.now()
        return Offer(
            offer_id=name,
            peer=self._mail.me,
            provider=self._config.wallet,
            operator=self._ports.signer.operator,
            gpu_name=first.name,
            num_gpus=sum(not taken >> unit.index & 1 for unit in units),
            num_units=len(units),
            gpu_ram_mib=first.ram_mib,
            cuda_vers=first.cuda_vers,
            driver_version=first.driver_version,
            declared=first.declared,
            verified=False,
            dlperf_milli=0,
            cpu_cores=selling.cpu_cores,
            cpu_ram_mib=selling.cpu_ram_mib,
            disk_space_mib=selling.disk_space_mib,
            inet_up_kbps=selling.inet_up_kbps,
            inet_down_kbps=selling.inet_down_kbps,
            geolocation=selling.geolocation,
            reliability_ppm=950_000,
            price_per_hour=selling.price_per_hour,
            collateral_per_unit=selling.collateral_per_unit,
            min_duration_s=selling.min_duration_s,
            max_duration_s=selling.max_duration_s,
            heartbeat_interval_s=rules.heartbeat_interval_s,
            preemptible=selling.preemptible,
            grace_s=selling.grace_s,
            queue_wait_s=0,
            start_up_ms=START_UP_MS,
            coordinate=Coordinate(),
            cached_images=self._images.cached(),
            expires_at_s=int(now) + rules.offer_lifetime_s,
        )

    # Answering demands.

    async def consider(self, bulletin: Bulletin) -> None:
        """Put the open demands that we should answer before the keeper, in the policy's order."""
        selling = self._config.selling
        if selling is None or self.paused:
            return
        now = self._ports.clock.now()
        open_now = {
            key: signed
            for key, signed in bulletin.demands.items()
            if key not in self._considered and signed.author != self._mail.me
        }
        self._considered &= set(bulletin.demands)
        queue = [_queued(signed) for signed in open_now.values()]
        for queued in POLICIES[selling.policy](queue, self._site(), now):
            demand = open_now[queued.demand_id].message.demand
            offer = self._best_offer(demand, bulletin, now)
            if offer is None or now * 1000 >= demand.quote_by_ms:
                continue
            self._considered.add(demand.demand_id)
            await self._keeper.post(Considered(_Proposal(self, demand, offer)))

    def _site(self) -> Site:
        running = tuple(
            Running(
                agreement=a.id,
                requester=a.peer,
                units=a.terms.units,
                started_at=UnixTime(a.opened_at_s),
                ends_at=UnixTime(a.opened_at_s + a.terms.timing.duration_s),
                price_per_hour=a.terms.money.price_per_hour,
            )
            for a in self._keeper.agreements.values()
            if a.role is Role.PROVIDER and not a.ended
        )
        return Site(units=len(self._ports.devices.units()), running=running)

    def _best_offer(self, demand: Demand, bulletin: Bulletin, now: UnixTime) -> Offer | None:
        for offer in self.offers():
            if misfit(demand, offer, now) is None and answers(demand, bulletin.book, offer, now):
                return offer
        return None

    def propose(self, demand: Demand, offer: Offer, taken: int, now: UnixTime) -> Agreement | None:
        """A held, signed quote on free units, as a new agreement; None if none are free now."""
        units = [
            unit
            for unit in self._ports.devices.units()
            if (unit.name, unit.ram_mib, unit.declared)
            == (offer.gpu_name, offer.gpu_ram_mib, offer.declared)
        ]
        mask = sum(1 << unit.index for unit in units)
        total = max(unit.index for unit in units) + 1
        blocked = (taken | ~mask) & ((1 << total) - 1)
        chosen = choose_units(blocked, total, needed_units(demand, offer))
        if not chosen:
            return None
        terms = self._terms(demand, offer, chosen, now)
        id_ = agreement_id(terms, self._ports.chain.info.domain)
        return Agreement(
            id=id_,
            role=Role.PROVIDER,
            peer=demand.peer,
            demand_id=demand.demand_id,
            job_id=demand.job_id,
            terms=terms,
            provider_signature=self._ports.signer.sign_digest(id_),
            interval_s=self._config.rules.heartbeat_interval_s,
            hold_until_s=int(now) + self._config.rules.hold_s,
            created_at_ms=int(now * 1000),
            preemptible=demand.preemptible and offer.preemptible,
            grace_s=offer.grace_s,
        )

    def _terms(self, demand: Demand, offer: Offer, units: int, now: UnixTime) -> Terms:
        rules, count = self._config.rules, units.bit_count()
        return Terms(
            parties=Parties(
                requester=demand.requester,
                provider=offer.provider,
                requester_signer=demand.operator,
                provider_signer=offer.operator,
                token=demand.token,
                arbiter=NOBODY,
            ),
            money=Money(
                deposit=deposit_for(offer.price_per_hour, count, demand.max_duration_s),
                collateral=offer.collateral_per_unit * count,
                price_per_hour=offer.price_per_hour,
                bond=rules.bond,
                slash_bps=max(rules.slash_bps, demand.slash_bps),
                victim_share_bps=rules.victim_share_bps,
                equivocation_bps=rules.equivocation_bps,
            ),
            timing=Timing(
                open_by_s=int(now) + rules.open_span_s,
                duration_s=demand.max_duration_s,
                start_grace_s=rules.start_grace_s,
                window_s=rules.window_s,
                claim_window_s=rules.claim_window_s,
                offline_allowance_s=rules.offline_allowance_s,
                arbiter_window_s=rules.arbiter_window_s,
            ),
            units=units,
            job=demand.job,
            salt=self._ports.entropy.token(32),
        )

    # What is owed.

    async def perform(self, duty: Duty, a: Agreement) -> Iterable[Event]:
        """Do one of a provider's duties; the events say what came of it."""
        match duty:
            case SendQuote():
                return await self._send_quote(a)
            case Stage():
                return await self._stager.stage(a)
            case Start() | Look():
                if isinstance(duty, Start):
                    try:
                        await self._ports.sandbox.start(a.id.hex())
                    except SandboxError as problem:
                        return (Broke(str(problem)),)
                return (_looked(a, await self._ports.sandbox.observe(a.id.hex())),)
            case TakeCheckpoint():
                return (CheckpointTaken(await self._ports.sandbox.checkpoint(a.id.hex())),)
            case Halt():
                grace_s = float(a.manifest.grace_s) if a.manifest else 0.0
                if a.ending is Ending.PREEMPTED:
                    grace_s = float(a.grace_s)
                await self._ports.sandbox.stop(a.id.hex(), grace_s)
                seen = await self._ports.sandbox.observe(a.id.hex())
                if seen.state is RunState.EXITED:
                    return (_looked(a, seen), Halted())
                return (Halted(),)
            case Collect():
                return await self._collect(a)
            case Scrub():
                await self._ports.sandbox.scrub(a.id.hex())
                return (Scrubbed(),)
            case MakeBeat(sequence=sequence, challenge=challenge, report=report):
                return (BeatMade(self._beat(a, sequence, challenge, report)),)
            case SendBeat(beat=beat):
                reply = await self._mail.ask(a.peer, beat)
                return (BeatTaken(beat.heartbeat.sequence),) if isinstance(reply, Done) else ()
            case _:
                raise AssertionError(f"{type(duty).__name__} is not a provider's duty")

    def _beat(self, a: Agreement, sequence: int, challenge: int, report: Report) -> Beat:
        heartbeat = Heartbeat(
            agreement=a.id,
            sequence=sequence,
            at_s=int(self._ports.clock.now()),
            metered_s=a.metered_s,
            challenge=challenge,
            state=digest(report),
        )
        named = heartbeat_digest(heartbeat, self._ports.chain.info.domain)
        return Beat(heartbeat, self._ports.signer.sign_digest(named), report)

    async def _send_quote(self, a: Agreement) -> Iterable[Event]:
        size = {offer.offer_id: offer for offer in self.offers()}
        offer = next(
            (o for o in size.values() if o.price_per_hour == a.terms.money.price_per_hour),
            None,
        )
        if offer is None:
            return (Released("the offer was withdrawn"),)
        quote = Quote(
            demand_id=a.demand_id,
            offer=replace(offer, num_gpus=max(offer.num_gpus, a.terms.unit_count)),
            terms=a.terms,
            provider_signature=a.provider_signature,
            image_cached=False,
            ready_in_ms=START_UP_MS,
            hold_until_s=a.hold_until_s,
        )
        try:
            await self._mail.ask(a.peer, quote)
        except RefusedError as problem:
            return (Released(f"the requester declined: {problem}"),)
        return (Acknowledged(),)

    async def _collect(self, a: Agreement) -> Iterable[Event]:
        if a.manifest is None or not a.staged:
            return (Collected(()),)
        if a.ending is Ending.PREEMPTED:
            return await self._last_checkpoint(a)
        try:
            return (Collected(await self._ports.sandbox.collect(a.id.hex())),)
        except SandboxError as problem:
            log.info("no results", agreement=a.id.hex()[:12], problem=str(problem))
            return (Collected(()),)

    async def _last_checkpoint(self, a: Agreement) -> Iterable[Event]:
        """What the job saved in its grace. Failing that, the one before is the last."""
        try:
            taken = await self._ports.sandbox.checkpoint(a.id.hex())
        except SandboxError as problem:
            log.info("no last checkpoint", agreement=a.id.hex()[:12], problem=str(problem))
            return (Collected(()),)
        return (CheckpointTaken(taken), Collected(()))

    # What peers ask.

    async def read_log(self, a: Agreement, offset: int, limit: int) -> bytes:
        """The job's output, for its requester."""
        if a.phase in (Phase.QUOTED, Phase.VOID):
            return b""
        return await self._ports.sandbox.read_log(a.id.hex(), offset, limit)


class _Proposal:
    """What the keeper calls inside its beat; a named callable so that it can be told in logs."""

    def __init__(self, provider: Provider, demand: Demand, offer: Offer) -> None:
        self._provider, self._demand, self._offer = provider, demand, offer

    def __call__(self, taken: int, now: UnixTime) -> Agreement | None:
        return self._provider.propose(self._demand, self._offer, taken, now)


def _queued(signed: Signed) -> Queued:  # type: ignore[type-arg]
    demand: Demand = signed.message.demand
    return Queued(
        demand_id=demand.demand_id,
        requester=demand.peer,
        arrived_at=signed.issued_at,
        units=max(choice.count for choice in demand.requirements.accelerators),
        estimate_s=float(demand.estimate_s or demand.max_duration_s),
        price_per_hour=demand.max_price_per_hour,
        value_of_time_per_hour=demand.value_of_time_per_hour,
        priority=demand.priority,
        deadline_at=float(demand.deadline_at_s),
        preemptible=demand.preemptible,
    )


def _looked(a: Agreement, seen: Observed) -> Looked:
    """An observation as the agreement's report; what vanished has exited."""
    exited = seen.state is RunState.EXITED
    vanished = seen.state is RunState.ABSENT
    reason = ""
    if vanished:
        reason = "the work vanished from the sandbox"
    elif seen.timed_out:
        reason = "it ran longer than max_duration"
    elif seen.out_of_memory:
        reason = "out of memory"
    report = Report(
        work=WorkState.EXITED if exited or vanished else WorkState.RUNNING,
        exit_code=(128 + seen.signal if seen.signal else seen.exit_code) & 0xFF
        if exited
        else (255 if vanished else 0),
        out_of_memory=seen.out_of_memory,
        reason=reason,
        cpu_ms=seen.cpu_ms,
        memory_bytes=seen.memory_bytes,
        gpu_ppm=seen.gpu_ppm,
        log_bytes=seen.log_bytes,
        checkpoint=None,
        checkpoint_step=0,
        results=(),
    )
    return Looked(report, int(seen.metered_s))
