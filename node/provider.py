"""Provider: the selling half of a node. Makes quotes and performs what its agreements owe.

What is for sale is the shop's business, who is answered the queue's. It touches sandbox, blobs and
chain through the ports; it changes no agreement.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import structlog

from market.agreement import CUT_SHORT, Agreement, Ending, Phase, Role
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
    ChainError,
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
    UnitLost,
)
from market.messages import SLOWED, Beat, Done, Quote, Report, WorkState
from market.signing import agreement_id, digest, extension_digest, heartbeat_digest
from market.slots import choose_units
from market.terms import (
    NOBODY,
    Demand,
    Extension,
    Heartbeat,
    Money,
    Offer,
    Parties,
    Terms,
    Timing,
)
from market.units import UnixTime
from market.voucher import deposit_for
from node.config import Config
from node.keeper import Keeper
from node.machine import Machine
from node.mail import Mail
from node.ports import Observed, Ports, RunState
from node.queue import Decision
from node.shop import Shop
from node.staging import Stager

log = structlog.get_logger("provider")
QUOTED_MAX = 4096  # offers as quoted, kept until the quote is heard
PAYING_S = 5.0  # what a wallet can pay is looked up so often at most
PAYERS_MAX = 4096


class Provider:
    """The selling half of a node: what it owes."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, mail: Mail, stager: Stager,
        shop: Shop, machine: Machine,
    ) -> None:  # fmt: skip
        """`shop` says what is for sale, the queue to whom, `machine` how the units are."""
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._mail = mail
        self._stager = stager
        self._shop = shop
        self._machine = machine
        self._quoted: dict[bytes, tuple[Offer, bool]] = {}  # agreement: offer, image cached
        self._paying: dict[tuple[bytes, bytes], tuple[float, int]] = {}

    # Quoting.

    def propose(self, decision: Decision, taken: int, now: UnixTime) -> Agreement | None:
        """A held, signed quote on free units, as a new agreement; None if none are free now."""
        demand, offer, kind = decision.demand, decision.offer, decision.kind
        if any(
            a.demand_id == demand.demand_id and a.role is Role.PROVIDER
            for a in self._keeper.agreements.values()
        ):
            return None
        slots = choose_units(
            kind.local(taken), len(kind.units), needed_units(demand, offer),
            policy=self._placement(), sizes=decision.sizes,
        )  # fmt: skip
        if not slots:
            return None
        terms = self._terms(decision, kind.map(slots), now)
        id_ = agreement_id(terms, self._ports.chain.info.domain)
        self._quoted[id_] = (offer, demand.image in offer.cached_images)
        while len(self._quoted) > QUOTED_MAX:
            del self._quoted[next(iter(self._quoted))]
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
            bid_per_hour=demand.max_price_per_hour,
        )

    def _placement(self) -> str:
        return self._shop.selling.placement if self._shop.selling else "bestfit"

    def _terms(self, decision: Decision, units: int, now: UnixTime) -> Terms:
        rules, count = self._config.rules, units.bit_count()
        demand, offer, price = decision.demand, decision.offer, decision.price_per_hour
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
                deposit=deposit_for(price, count, demand.max_duration_s),
                collateral=offer.collateral_per_unit * count,
                price_per_hour=price,
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

    async def can_pay(self, demand: Demand, deposit: int) -> bool:
        """Whether the escrow holds enough of the demand's wallet, for the key that it names.

        Asked at most every few seconds for one wallet; an unreachable chain refuses nobody, for
        then an agreement could not be opened either, and would cost only its hold.
        """
        who, now = (demand.requester, demand.operator), self._ports.clock.now()
        asked_at, able = self._paying.get(who, (0.0, 0))
        if now - asked_at >= PAYING_S:
            try:
                able = await self._ports.chain.spendable(*who)
            except ChainError as problem:
                log.info("a deposit was not looked at", problem=str(problem))
                return True
            self._paying.pop(who, None)
            self._paying[who] = (now, able)
            while len(self._paying) > PAYERS_MAX:
                del self._paying[next(iter(self._paying))]
        return deposit + self._config.rules.bond <= able

    # What is owed.

    async def perform(self, duty: Duty, a: Agreement) -> Iterable[Event]:
        """Do one of a provider's duties; the events say what came of it."""
        match duty:
            case SendQuote():
                return await self._send_quote(a)
            case Stage():
                return await self._stager.stage(a)
            case Start() | Look():
                return await self._start_or_look(a, start=isinstance(duty, Start))
            case TakeCheckpoint():
                return (CheckpointTaken(await self._ports.sandbox.checkpoint(a.id.hex())),)
            case Halt():
                return await self._halt(a)
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

    async def _start_or_look(self, a: Agreement, *, start: bool) -> Iterable[Event]:
        begun = self._ports.clock.now()
        if start:
            self._machine.look_now()
            if (loss := self._machine.loss(a.terms.units)) is not None:
                return (Broke(loss.reason),)  # nothing is lost by starting elsewhere
            try:
                await self._ports.sandbox.start(a.id.hex())
            except SandboxError as problem:
                return (Broke(str(problem)),)
        seen = await self._ports.sandbox.observe(a.id.hex())
        if seen.state is RunState.ABSENT or seen.lost:
            # Not the job's own end: it goes on elsewhere, from its checkpoint.
            return (Broke("its machine went down while it ran"),)
        if (lost := self._lost(a, seen)) is not None:
            return lost
        if start and seen.state is RunState.RUNNING and seen.metered_s < 1.0:
            await self._shop.started(self._ports.clock.now() - begun)
        return (looked(seen, self._machine.slowed(a.terms.units)),)

    def _lost(self, a: Agreement, seen: Observed) -> Iterable[Event] | None:
        """What is so if its units went away under the job, or if that is in doubt.

        A job that failed by itself is asked about too: a program whose GPU is gone ends with an
        error of its own before anybody looks. While in doubt, nothing is metered.
        """
        exited = seen.state is RunState.EXITED
        if exited and (seen.exit_code == 0 or seen.out_of_memory or seen.timed_out):
            return None
        if exited:
            self._machine.look_now()
        loss = self._machine.loss(a.terms.units)
        if loss is None:
            return None
        since_s = 0.0 if exited else max(0.0, self._ports.clock.now() - loss.well_at)
        metered_s = max(0.0, seen.metered_s - since_s)
        if not (exited or loss.sure):
            return (looked(replace(seen, metered_s=metered_s)),)
        log.warning("a unit was lost under a job", agreement=a.id.hex()[:12], reason=loss.reason)
        return (UnitLost(loss.reason, int(metered_s)),)

    async def _halt(self, a: Agreement) -> Iterable[Event]:
        grace_s = float(a.manifest.grace_s) if a.manifest else 0.0
        if a.ending is Ending.PREEMPTED:
            grace_s = float(a.grace_s)
        try:
            await self._ports.sandbox.stop(a.id.hex(), grace_s)
        except SandboxError as problem:
            if a.ending is not Ending.BROKEN:
                raise
            # Stuck in the driver of a GPU that is gone, it ends with the machine; what it holds is
            # not for sale until then, and its requester need not wait for that.
            log.error("what a unit was lost under does not end", agreement=a.id.hex()[:12],
                      problem=str(problem))  # fmt: skip
            return (Halted(),)
        seen = await self._ports.sandbox.observe(a.id.hex())
        if seen.state is RunState.EXITED:
            return (looked(seen), Halted())
        return (Halted(),)

    async def _send_quote(self, a: Agreement) -> Iterable[Event]:
        sold = self._shop.ware_of(a)
        if sold is None:
            return (Released("it is not for sale any more"),)
        offer, cached = self._quoted.get(a.id, (self._shop.offer(*sold), False))
        quote = Quote(
            demand_id=a.demand_id,
            offer=replace(offer, num_gpus=max(offer.num_gpus, a.terms.unit_count)),
            terms=a.terms,
            provider_signature=a.provider_signature,
            image_cached=cached,
            ready_in_ms=self._shop.start_up_ms,
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
        if a.ending in CUT_SHORT:
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

    async def sign_extension(self, a: Agreement, extension: Extension) -> bytes:
        """Our signature that the agreement lasts longer. Raises RefusedError if it may not.

        Nothing is remembered: the terms are longer once the chain says so.
        """
        selling = self._shop.selling
        if selling is None or not self._shop.sells:
            raise RefusedError("nothing is sold here now")
        if a.phase is not Phase.RUNNING or a.ending is not Ending.NONE:
            raise RefusedError("the agreement does not run")
        money, timing = a.terms.money, a.terms.timing
        longer_s = timing.duration_s + extension.duration_s
        if longer_s > selling.max_duration_s:
            raise RefusedError("longer than this provider sells")
        whole = deposit_for(money.price_per_hour, a.terms.unit_count, longer_s)
        if extension.duration_s <= a.extra_duration_s or extension.deposit < whole - money.deposit:
            raise RefusedError("the deposit does not cover the longer duration")
        await self._ports.sandbox.extend(a.id.hex(), longer_s)
        named = extension_digest(extension, self._ports.chain.info.domain)
        return self._ports.signer.sign_digest(named)

    async def read_log(self, a: Agreement, offset: int, limit: int) -> bytes:
        """The job's output, for its requester."""
        if a.phase in (Phase.QUOTED, Phase.VOID):
            return b""
        return await self._ports.sandbox.read_log(a.id.hex(), offset, limit)


def looked(seen: Observed, slowed: str = "") -> Looked:
    """An observation as the agreement's report; `slowed` is what brakes its units, in words."""
    exited = seen.state is RunState.EXITED
    reason = f"{SLOWED}: {slowed}" if slowed and not exited else ""
    if seen.timed_out:
        reason = "it ran longer than max_duration"
    elif seen.out_of_memory:
        reason = "out of memory"
    report = Report(
        work=WorkState.EXITED if exited else WorkState.RUNNING,
        exit_code=(128 + seen.signal if seen.signal else seen.exit_code) & 0xFF if exited else 0,
        out_of_memory=seen.out_of_memory,
        reason=reason,
        cpu_ms=seen.cpu_ms,
        memory_bytes=seen.memory_bytes,
        gpu_ppm=seen.gpu_ppm,
        vram_mib=min(seen.vram_mib, 2**32 - 1),
        power_w=min(seen.power_w or 0, 2**16 - 1),
        progress_ppm=seen.progress_ppm,
        log_bytes=seen.log_bytes,
        checkpoint=None,
        checkpoint_step=0,
        results=(),
    )
    return Looked(report, int(seen.metered_s))
