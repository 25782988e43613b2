"""Queue: which demand is answered when. Live demands that fit this node's units wait here.

When units are free the policy orders those that wait, backfill starts what delays nobody, and a
contest sets the price: all of it rules of `market/`. What should start is put before the keeper,
which holds the units. Where it pays, preemptible agreements make way for the head.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import structlog

from market.agreement import Agreement, Phase, Role
from market.backfill import Starts
from market.constraints import lacking, misfit
from market.contest import decide, price
from market.cost import expected_cost, needed_units, smallest_count
from market.events import Preempted
from market.matching import answers
from market.policy import POLICIES
from market.preemption import victims
from market.site import Queued
from market.slots import usual_sizes
from market.terms import Demand, Offer
from market.units import UnixTime
from market.voucher import deposit_for
from node.bulletin import Bulletin
from node.config import Rules
from node.keeper import Considered, Happened, Keeper
from node.shop import Kind, Shop, Ware

log = structlog.get_logger("queue")
LOOK_MAX = 256  # demands a policy looks at: the oldest; a longer queue only costs time
SEEN_MAX = 8192  # jobs whose place in the queue is remembered ...
SEEN_S = 300.0  # ... so long after they were last heard of
ELSEWHERE_MAX = 32  # offers that are looked at to see what rivals could have instead
MIX_MAX = 1024.0  # demands that the usual mix remembers; older ones fade
ANSWER_AGAIN_S = 2.0  # how long it holds that we are, or are not, among the best
POSTED_S = 5.0  # a decision that the keeper did not follow is made again
PROMISE_S = 60.0  # freed units wait so long, after the grace, for whom they were freed
UNTAKEN_MAX = 3  # who lets so many of our holds run out goes last ...
UNTAKEN_S = 600.0  # ... for so long
HOLDS_MAX = 16  # quotes of ours that one requester can keep waiting at a time ...
HOLDS_STRANGER = 4  # ... a stranger fewer, and one more for each agreement it has paid for


@dataclass(frozen=True, slots=True)
class Decision:
    """A demand that is to be quoted: on which units' kind, as which ware, for how much."""

    demand: Demand
    kind: Kind
    ware: Ware
    offer: Offer
    price_per_hour: int
    sizes: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Waiting:
    """A demand that fits a kind, and what it would buy there."""

    demand: Demand
    ware: Ware
    queued: Queued


Propose = Callable[[Decision, int, UnixTime], Agreement | None]
CanPay = Callable[[Demand, int], Awaitable[bool]]


class Queue:
    """Demands that wait for this node's units."""

    def __init__(
        self, rules: Rules, shop: Shop, keeper: Keeper, bulletin: Bulletin, propose: Propose,
        can_pay: CanPay, paid_for: Callable[[bytes], int],
    ) -> None:  # fmt: skip
        """Lives in memory: what was quoted is in the journal, what waits is gossiped again.

        `propose` makes the held, signed agreement inside the keeper's beat; `can_pay` says whether
        a requester's deposit covers an amount, `paid_for` how many agreements of its wallet ended
        with a payment, to anybody.
        """
        self._window_s = rules.quote_window_s
        self._shop = shop
        self._keeper = keeper
        self._bulletin = bulletin
        self._propose = propose
        self._can_pay = can_pay
        self._paid_for = paid_for
        self._since: dict[tuple[bytes, bytes], tuple[float, float]] = {}  # (peer, job): came, seen
        self._posted: dict[bytes, float] = {}
        self._best: dict[tuple[bytes, bytes], tuple[float, bool]] = {}
        self._promised: dict[bytes, float] = {}  # job: units were freed for it, kept until then
        self._sizes: dict[int, float] = {}

    def waiting(self, now: UnixTime) -> list[tuple[Kind, Waiting, bool]]:
        """What fits and is not answered, kind by kind, and whether it starts now."""
        rows = []
        for kind in self._shop.kinds():
            found = self._fitting(kind, now)
            starting = {one.demand_id for one in self._decide(kind, found, now).start}
            rows += [(kind, one, name in starting) for name, one in found.items()]
        return rows

    # Deciding.

    async def consider(self, now: UnixTime) -> float:
        """Put what should start before the keeper. Returns when to look again, in seconds."""
        self._forget(now)
        again = self._window_s
        if not self._shop.sells:
            return again
        for demand_id, signed in self._bulletin.demands.items():
            self._note(signed.message.demand, self._bulletin.heard_at.get(demand_id, now), now)
        for kind in self._shop.kinds():
            found = self._fitting(kind, now)
            starts = self._decide(kind, found, now)
            starting = {one.demand_id for one in starts.start}
            self._shop.waiting_units[kind.key] = sum(
                one.queued.units for name, one in found.items() if name not in starting
            )
            for queued in starts.start:
                one = found[queued.demand_id]
                # Others may still bid for these units: half a quote window is theirs.
                unripe_s = queued.arrived_at + self._window_s / 2 - now
                if unripe_s > 0 and one.demand.job_id not in self._promised:
                    again = min(again, unripe_s)
                else:
                    await self._start(kind, found, one, now)
            # A preemptible demand pays no more than those that would make way for it.
            firm = {name: one for name, one in found.items() if not one.ware.preemptible}
            waits = self._decide(kind, firm, now) if starts.head is not None else starts
            if waits.head is not None:
                await self._make_way(kind, firm[waits.head.demand_id], now, waits.reserved_at)
        return max(0.05, again)

    def _decide(self, kind: Kind, found: Mapping[bytes, Waiting], now: UnixTime) -> Starts:
        selling = self._shop.selling
        assert selling is not None, "who sells nothing decides nothing"
        queue = [one.queued for one in found.values()]
        site = self._shop.site(kind, now)
        order = POLICIES[selling.policy]
        first = self._first(found)
        return decide(queue, site, now, order, window_s=self._window_s, first=first)

    def _first(self, found: Mapping[bytes, Waiting]) -> frozenset[bytes]:
        return frozenset(n for n, one in found.items() if one.demand.job_id in self._promised)

    async def _start(
        self, kind: Kind, found: Mapping[bytes, Waiting], one: Waiting, now: UnixTime
    ) -> None:
        selling = self._shop.selling
        assert selling is not None, "who sells nothing starts nothing"
        paid = price(
            one.queued, one.ware.price_per_hour, [other.queued for other in found.values()],
            self._shop.site(kind, now), now, POLICIES[selling.policy],
            window_s=self._window_s, first=self._first(found),
            elsewhere=self._free_elsewhere(one.demand, now),
        )  # fmt: skip
        self._posted[one.demand.demand_id] = now
        if not await self._can_pay(one.demand, deposit_for(paid, one.queued.units,
                                                           one.demand.max_duration_s)):  # fmt: skip
            return  # its deposit is looked at again when the post is forgotten
        offer = self._shop.offer(kind, one.ware)
        sizes = usual_sizes(self._sizes, len(kind.units))
        decision = Decision(one.demand, kind, one.ware, offer, paid, sizes)
        await self._keeper.post(Considered(partial(self._propose, decision)))

    def _free_elsewhere(self, demand: Demand, now: UnixTime) -> int:
        """Units that other providers have free for such a demand, as far as our book knows."""
        best = self._bulletin.book.top(demand, ELSEWHERE_MAX, now)
        return sum(c.offer.num_gpus for c in best if c.offer.peer != self._bulletin.me)

    async def _make_way(self, kind: Kind, head: Waiting, now: UnixTime, reserved_at: float) -> None:
        """Stop preemptible agreements for the head, if what it pays is worth more than they lose.

        It counts with the ask, not with the bid: more than that it may not have to pay.
        """
        unripe = head.queued.arrived_at + self._window_s / 2 > now
        if unripe or head.demand.job_id in self._promised:
            return
        pays = replace(head.queued, price_per_hour=head.ware.price_per_hour)
        chosen = victims(pays, self._shop.site(kind, now), now, UnixTime(reserved_at))
        deposit = deposit_for(head.ware.price_per_hour, pays.units, head.demand.max_duration_s)
        if not chosen or not await self._can_pay(head.demand, deposit):
            return
        grace_s = max(victim.grace_s for victim in chosen)
        self._promised[head.demand.job_id] = now + grace_s + PROMISE_S
        for victim in chosen:
            log.info("an agreement makes way", agreement=victim.agreement.hex()[:12],
                     demand=head.demand.demand_id.hex()[:12])  # fmt: skip
            reason = "its units are wanted for a demand that pays more"
            await self._keeper.post(Happened(victim.agreement, Preempted(reason)))

    # What waits.

    def _fitting(self, kind: Kind, now: UnixTime) -> dict[bytes, Waiting]:
        """The demands that this kind could serve if all of it were free, the oldest LOOK_MAX.

        Looked at in the order in which their jobs came: a flood costs what LOOK_MAX demands cost.
        """
        held, untaken, answered = self._past(now)
        able = [
            (ware, replace(self._shop.offer(kind, ware), num_gpus=len(kind.units), queue_wait_s=0))
            for ware in kind.wares
        ]
        found: list[Waiting] = []
        demands = [signed.message.demand for signed in self._bulletin.demands.values()]
        for demand in sorted(demands, key=lambda one: (self._came(one, now), one.demand_id)):
            if len(found) == LOOK_MAX:
                break
            demand_id = demand.demand_id
            if demand.peer == self._bulletin.me or demand_id in self._posted:
                continue
            if demand.num_nodes > 1 and not self._shop.joins_gangs:
                continue
            if demand_id in answered or (demand.peer, demand.job_id) in answered:
                continue
            holds_max = min(HOLDS_MAX, HOLDS_STRANGER + self._paid_for(demand.requester))
            if held.get(demand.peer, 0) >= holds_max or demand.expires_at_s <= now:
                continue
            fitting = [
                (ware, offer)
                for ware, offer in able
                if not misfit(demand, offer, now) and not lacking(demand, offer)
            ]
            if not fitting:
                continue
            ware, offer = min(fitting, key=lambda f: (expected_cost(demand, f[1], now).total,
                                                      f[0].offer_id))  # fmt: skip
            if self._among_best(demand, offer, now):
                found.append(Waiting(demand, ware, self._queued(demand, offer, now)))
        # Who lets our holds run out is served when nobody else waits.
        kept = [one for one in found if untaken.get(one.demand.peer, 0) < UNTAKEN_MAX] or found
        return {one.demand.demand_id: one for one in kept}

    def _came(self, demand: Demand, now: UnixTime) -> float:
        """Since when its job is in the queue."""
        return self._since.get((demand.peer, demand.job_id), (now, now))[0]

    def _past(
        self, now: UnixTime
    ) -> tuple[dict[bytes, int], dict[bytes, int], set[bytes | tuple[bytes, bytes]]]:
        """By peer: holds now, and holds that ran out of late; and what was answered already."""
        held: dict[bytes, int] = {}
        untaken: dict[bytes, int] = {}
        answered: set[bytes | tuple[bytes, bytes]] = set()
        for a in self._keeper.agreements.values():
            if a.role is not Role.PROVIDER:
                continue
            answered.add(a.demand_id)
            if a.phase in (Phase.QUOTED, Phase.CONFIRMED):
                answered.add((a.peer, a.job_id))
            if a.phase is Phase.QUOTED:
                held[a.peer] = held.get(a.peer, 0) + 1
            ran_out = a.phase is Phase.VOID and a.ended_at_ms >= a.hold_until_s * 1000
            if ran_out and now - a.ended_at_ms / 1000 < UNTAKEN_S:
                untaken[a.peer] = untaken.get(a.peer, 0) + 1
        return held, untaken, answered

    def _among_best(self, demand: Demand, offer: Offer, now: UnixTime) -> bool:
        """Whether every node that holds our book would want our answer; remembered for a while."""
        key = (demand.demand_id, offer.offer_id)
        asked_at, best = self._best.get(key, (0.0, False))
        if now - asked_at >= ANSWER_AGAIN_S:
            best = answers(demand, self._bulletin.book, offer, now)
            self._best[key] = (now, best)
        return best

    def _queued(self, demand: Demand, offer: Offer, now: UnixTime) -> Queued:
        return Queued(
            demand_id=demand.demand_id,
            requester=demand.requester,
            arrived_at=UnixTime(self._came(demand, now)),
            units=needed_units(demand, offer),
            # What it may take at most: backfill must not delay the head by an optimist's guess.
            estimate_s=float(demand.max_duration_s),
            price_per_hour=demand.max_price_per_hour,
            value_of_time_per_hour=demand.value_of_time_per_hour,
            priority=demand.priority,
            deadline_at=float(demand.deadline_at_s),
            preemptible=demand.preemptible,
        )

    def _note(self, demand: Demand, heard_at: float, now: UnixTime) -> None:
        """A job's place in the queue is its own, over all the demands that it publishes."""
        key = (demand.peer, demand.job_id)
        if key not in self._since:
            if len(self._since) >= SEEN_MAX:
                return
            self._since[key] = (heard_at, now)
            size = smallest_count(demand)
            self._sizes[size] = self._sizes.get(size, 0.0) + 1.0
            if sum(self._sizes.values()) > MIX_MAX:
                self._sizes = {n: count / 2 for n, count in self._sizes.items()}
        else:
            self._since[key] = (self._since[key][0], now)

    def _forget(self, now: UnixTime) -> None:
        live = self._bulletin.demands
        self._posted = {k: at for k, at in self._posted.items() if now - at < POSTED_S}
        self._best = {k: v for k, v in self._best.items() if k[0] in live}
        self._promised = {k: until for k, until in self._promised.items() if now < until}
        running = {
            (a.peer, a.job_id)
            for a in self._keeper.agreements.values()
            if a.role is Role.PROVIDER and a.phase is Phase.RUNNING
        }
        # Who runs has had its turn; who was silent for long has left.
        self._since = {
            k: (came, seen)
            for k, (came, seen) in self._since.items()
            if k not in running and now - seen < SEEN_S
        }
        for _, job_id in running:
            self._promised.pop(job_id, None)
