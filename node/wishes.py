"""Wishes: gets this node's jobs placed. Publishes, hears quotes, chooses, moves, lengthens.

How quotes rank is `market/matching`'s rule, when a job moves `market/reallocation`'s. It touches
the network and the chain through the ports; it changes no job and no agreement. Quotes live in
memory only: after a restart the demand still stands, and providers quote again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import structlog

from market.agreement import Agreement, Ending, Phase, Role
from market.errors import (
    ChainRefusedError,
    LimitError,
    MarketError,
    NoMatchError,
    RefusedError,
    SignatureError,
)
from market.escrow import Open, OpenMany
from market.events import ExtendWanted, OrderRefused, StopAsked
from market.explain import explain
from market.job import (
    Attempt,
    Choose,
    Chosen,
    Demanded,
    EndAgreement,
    Job,
    JobDuty,
    Lengthen,
    MakeDemand,
    MoveWanted,
    Nothing,
    OpenGang,
    Publish,
    Waited,
    Weigh,
    Withdraw,
    Withdrawn,
    remaining_s,
)
from market.limits import LATE_QUOTES_S, QUOTES_PER_DEMAND_MAX
from market.matching import RankedQuote, check_quote, gang, rank_quotes
from market.messages import Member, Quote, Release, Unwanted, Wanted
from market.moving import current, whole_s, why_leave
from market.reallocation import Kind, Reason
from market.signing import agreement_id, check_signer, digest
from market.terms import Demand
from market.units import UnixTime, format_money
from market.waiting import reason_to_wait, why_nothing
from node.bulletin import Bulletin
from node.demands import Demands, manifest_of
from node.keeper import Countersigned, Happened, Item, JobHappened, Keeper
from node.mail import Mail
from node.ports import Ports

log = structlog.get_logger("wishes")
FORGET_S = 60.0
SAY_WAITING_S = 4.0  # how often a job's reason to wait is looked up anew


@dataclass(slots=True)
class _Round:
    """What was heard of one demand."""

    made_at: float
    quotes: list[Quote] = field(default_factory=list)
    first_at: float = 0.0  # when the first quote came
    said_at: float = 0.0


class Wishes:
    """What a job owes, done."""

    def __init__(
        self, ports: Ports, keeper: Keeper, mail: Mail, bulletin: Bulletin, demands: Demands
    ) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._demands = demands
        self._keeper = keeper
        self._mail = mail
        self._bulletin = bulletin
        self._rounds: dict[bytes, _Round] = {}

    # What peers say.

    def hear_quote(self, author: bytes, quote: Quote) -> None:
        """Keep a quote for a demand we have open. Raises RefusedError and SignatureError."""
        job = self._asking(quote.demand_id)
        if job is None or job.demand is None:
            raise RefusedError("the demand is not open")
        if quote.offer.peer != author:
            raise SignatureError("a quote comes from the peer that offers")
        now = self._ports.clock.now()
        quote = replace(quote, offer=self._bulletin.judge(quote.offer))
        check_quote(job.demand, quote, now)
        named = agreement_id(quote.terms, self._ports.chain.info.domain)
        check_signer(named, quote.provider_signature, quote.terms.parties.provider_signer)
        heard = self._rounds.setdefault(quote.demand_id, _Round(now))
        heard.first_at = heard.first_at or now
        if all(other.terms != quote.terms for other in heard.quotes):
            heard.quotes = [other for other in heard.quotes if other.hold_until_s > now]
            if len(heard.quotes) >= QUOTES_PER_DEMAND_MAX:
                raise LimitError("enough quotes were heard")
            heard.quotes.append(quote)

    def _asking(self, demand_id: bytes) -> Job | None:
        return next(
            (
                job
                for job in self._keeper.jobs.values()
                if job.demand is not None and job.demand.demand_id == demand_id
            ),
            None,
        )

    # What a job owes.

    async def perform(self, duty: JobDuty, job: Job) -> Iterable[Item]:
        """Do one duty of a job; the items say what came of it."""
        match duty:
            case MakeDemand(round=round_):
                return (JobHappened(job.id, self._make_demand(job, round_)),)
            case Publish(demand=demand):
                lifetime_s = max(1.0, demand.expires_at_s - self._ports.clock.now())
                await self._mail.publish("demands", Wanted(demand), lifetime_s=lifetime_s)
                return ()
            case Choose():
                return await self._choose(job)
            case Withdraw(demand_id=demand_id):
                await self._mail.publish("demands", Unwanted(demand_id), lifetime_s=60.0)
                return (JobHappened(job.id, Withdrawn(demand_id)),)
            case OpenGang(members=members):
                return await self._open_gang(members)
            case Weigh(agreement=key):
                return self._weigh(job, self._keeper.agreements[key])
            case Lengthen(agreement=key, extra_s=extra_s):
                return (Happened(key, ExtendWanted(extra_s)),)
            case EndAgreement(agreement=key):
                reason = "cancelled by the requester" if job.cancelling else "not needed any more"
                return (Happened(key, StopAsked(Ending.CANCELLED, reason)),)

    def _make_demand(self, job: Job, round_: int) -> Demanded | Nothing:
        now = self._ports.clock.now()
        kind = self._demands.kind(job, now)
        if job.move is Reason.BEHIND:
            kind = Kind.RELIABLE
        if kind is Kind.NOTHING:
            return Nothing("ahead of its deadline: waiting for a preemptible offer")
        demand = self._demands.demand_of(job, round_, preemptible=kind is Kind.CHEAP)
        self._rounds[demand.demand_id] = _Round(now)
        return Demanded(demand, job.checkpoint)

    # Choosing.

    async def _choose(self, job: Job) -> Iterable[Item]:
        demand, now = job.demand, self._ports.clock.now()
        assert demand is not None, "a choice is made while a demand is open"
        self._forget(now)
        heard = self._rounds.get(demand.demand_id)
        if heard is None:  # made before a restart: who quoted then will not do so again
            return (JobHappened(job.id, Nothing("the market is asked again after a restart")),)
        measured = {info.peer: info.rtt_us for info in self._ports.link.peers()
                    if info.rtt_us is not None}  # fmt: skip
        ranked = rank_quotes(demand, heard.quotes, now, measured)
        try:
            chosen = gang(demand, ranked).members
        except NoMatchError:
            chosen = ()
        over = now >= demand.expires_at_s
        window_ends_at = max(demand.quote_by_ms / 1000, heard.first_at + LATE_QUOTES_S)
        late = demand.quote_by_ms / 1000 < heard.first_at
        if chosen and late and now < window_ends_at and not over:
            return ()  # somebody was found; others may follow in a moment
        if not chosen:
            return self._nobody(job, demand, heard, now, len(ranked)) if not over else (
                await self._give_up(job, demand, ranked, now)
            )  # fmt: skip
        if job.gang and not self._still_moves(job, demand, chosen[0], now):
            return await self._give_up(job, demand, ranked, now)
        # Members keep their order from one choice to the next: rank 0 holds the checkpoint.
        await self._release([other for other in ranked if other not in chosen])
        agreements = self._acquainted(tuple(
            self._agreement(job, demand, member.quote, rank, now)
            for rank, member in enumerate(chosen)
        ))  # fmt: skip
        for member in chosen:
            quote = member.quote
            price = format_money(quote.terms.money.price_per_hour, self._ports.chain.info.decimals)
            log.info("chose a provider", job=job.id.hex(), provider=quote.offer.peer.hex()[:12],
                     price_per_hour=price, quotes=len(ranked))  # fmt: skip
        attempt = Attempt(
            members=tuple(a.id for a in agreements),
            run_s=_seconds(whole_s(job, demand, max(m.cost.run_s for m in chosen))),
            preemptible=any(a.preemptible for a in agreements),
        )
        return (Countersigned(agreements, Chosen(demand.demand_id, attempt)),)

    def _nobody(
        self, job: Job, demand: Demand, heard: _Round, now: UnixTime, quoted: int
    ) -> Iterable[Item]:
        """Nobody yet: say what is waited for, now and then."""
        if now < heard.said_at + SAY_WAITING_S:
            return ()
        heard.said_at = now
        decimals = self._ports.chain.info.decimals
        reason = reason_to_wait(demand, self._bulletin.book, now, decimals=decimals)
        if demand.num_nodes > 1 and quoted:
            reason = f"{quoted} of {demand.num_nodes} nodes are held; {reason}"
        found = explain(demand, self._bulletin.book, now, decimals=decimals)
        return (JobHappened(job.id, Waited(reason, found.lines())),)

    async def _give_up(
        self, job: Job, demand: Demand, ranked: tuple[RankedQuote, ...], now: UnixTime
    ) -> Iterable[Item]:
        await self._release(ranked)
        decimals = self._ports.chain.info.decimals
        found = explain(demand, self._bulletin.book, now, decimals=decimals)
        return (JobHappened(job.id, Nothing(why_nothing(found), found.lines())),)

    async def _release(self, quotes: Iterable[RankedQuote]) -> None:
        for ranked in quotes:
            named = agreement_id(ranked.quote.terms, self._ports.chain.info.domain)
            try:
                await self._mail.ask(ranked.quote.offer.peer, Release(named))
            except MarketError:
                continue  # its hold expires by itself

    def _forget(self, now: UnixTime) -> None:
        """Rounds that no job asks for any more; a new one may not have reached its job yet."""
        for demand_id, heard in list(self._rounds.items()):
            if now - heard.made_at > FORGET_S and self._asking(demand_id) is None:
                del self._rounds[demand_id]

    def _agreement(
        self, job: Job, demand: Demand, quote: Quote, rank: int, now: UnixTime
    ) -> Agreement:
        id_ = agreement_id(quote.terms, self._ports.chain.info.domain)
        manifest = manifest_of(job, job.resume, demand.max_duration_s)
        assert digest(manifest) == demand.job, "what is run is what was demanded"
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
            created_at_ms=int(now * 1000),
            preemptible=demand.preemptible and quote.offer.preemptible,
            grace_s=quote.offer.grace_s,
            rank=rank,
            num_nodes=demand.num_nodes,
            phase=Phase.CONFIRMED,
            manifest=manifest,
            secrets=job.secrets,
        )

    def _acquainted(self, agreements: tuple[Agreement, ...]) -> tuple[Agreement, ...]:
        """Each node of a gang is told who the others are: they talk to each other, not to us."""
        if len(agreements) == 1:
            return agreements
        link = self._ports.link
        members = tuple(Member(a.id, a.peer, link.address(a.peer)) for a in agreements)
        return tuple(replace(a, members=members) for a in agreements)

    async def _open_gang(self, members: tuple[bytes, ...]) -> Iterable[Item]:
        agreements = [self._keeper.agreements[key] for key in members]
        opens = tuple(
            Open(a.terms, a.requester_signature, a.provider_signature) for a in agreements
        )
        try:
            await self._ports.chain.submit(OpenMany(opens))
        except ChainRefusedError as problem:
            refused = OrderRefused("Open", problem.reason or str(problem))
            return tuple(Happened(key, refused) for key in members)
        return ()

    # Moving.

    def _weigh(self, job: Job, a: Agreement) -> Iterable[Item]:
        now = self._ports.clock.now()
        if remaining_s(job, self._demands.running_s(job, now)) == 0:
            return ()
        reason = None
        if current(job) is Kind.CHEAP and self._demands.kind(job, now) is Kind.RELIABLE:
            reason = Reason.BEHIND
        else:
            demand = self._demands.demand_of(job, job.round + 1, preemptible=job.bid.preemptible)
            for best in self._bulletin.book.top(demand, 1, now):
                reason = why_leave(job, a, now, demand, best.cost, best.offer.price_per_hour)
        if reason is None:
            return ()
        log.info("a move is wanted", job=job.id.hex(), reason=reason.value)
        return (JobHappened(job.id, MoveWanted(reason)),)

    def _still_moves(self, job: Job, demand: Demand, best: RankedQuote, now: UnixTime) -> bool:
        """The book may have promised more than the quotes keep."""
        if job.move is Reason.BEHIND:
            return True
        a = self._keeper.agreements[job.gang[0]]
        price = best.quote.terms.money.price_per_hour
        return why_leave(job, a, now, demand, best.cost, price) is not None


def _seconds(time_s: float) -> int:
    return min(2**32 - 1, max(1, round(time_s)))
