"""Plans' desk: what a job file would find on the market now, and what it would cost, before any
deposit. No transport, no rendering; every answer is plain data, as `rows` says it.
"""

from __future__ import annotations

from typing import Any

from market.cost import Cost
from market.errors import ChainError, NoMatchError
from market.explain import Explanation, explain
from market.job import Job
from market.matching import gang
from market.spec import Spec, parse
from market.terms import Artifact, Demand
from market.units import format_money
from market.voucher import deposit_for
from market.waiting import reason_to_wait
from node.bulletin import Bulletin
from node.config import Config
from node.demands import Demands
from node.desk.rows import Said, offer_row
from node.ports import Ports

RANKED = 10  # offers shown, as many as fit on a screen


class PlanDesk:
    """Asks the book what it would answer to a job."""

    def __init__(self, config: Config, ports: Ports, bulletin: Bulletin, demands: Demands) -> None:
        """Shares the node's rooms."""
        self._config = config
        self._ports = ports
        self._bulletin = bulletin
        self._demands = demands

    def explain(self, raw: object) -> dict[str, Any]:
        """What each constraint removes, and the nearest relaxations. Raises SpecError."""
        return self._explained(self._asked(raw, None, ())[1])

    def checked(self, raw: object) -> dict[str, Any]:
        """What a right job file asks for, and what it may cost at most. Raises SpecError."""
        return self._asked_for(parse(raw, decimals=self._ports.chain.info.decimals))

    async def plan(
        self, raw: object, image: Artifact | None = None, inputs: tuple[Artifact, ...] = ()
    ) -> dict[str, Any]:
        """The live ranking with its reasons, the estimate, and what would be held.

        `image` and `inputs` (their sizes count) need not be uploaded yet. Raises SpecError.
        """
        spec, demand, job = self._asked(raw, image, inputs)
        now = self._ports.clock.now()
        decimals = self._ports.chain.info.decimals
        best = self._bulletin.book.top(demand, max(RANKED, 2 * spec.num_nodes), now)
        try:
            chosen = gang(demand, best).members
        except NoMatchError:
            chosen = ()
        rows = [
            {
                **offer_row(candidate.offer, self._money),
                "units": candidate.units,
                "chosen": candidate in chosen,
                "cost": self._cost(candidate.cost),
                "seconds": _seconds(candidate.cost),
                "held": self._money(self._held(candidate.offer.price_per_hour,
                                               candidate.units, spec)),
            }
            for candidate in best[:RANKED]
        ]  # fmt: skip
        held = sum(self._held(c.offer.price_per_hour, c.units, spec) for c in chosen)
        price = sum(self._price(c.cost, c.offer.price_per_hour, spec) for c in chosen)
        return {
            **self._asked_for(spec),
            "ranking": rows,
            "estimate": {
                "price": self._money(price),
                "ready_s": max(
                    c.cost.ready_s - c.cost.run_s + _run_s(c.cost, spec) for c in chosen
                ),
                "run_s": max(_run_s(c.cost, spec) for c in chosen),
                "is_guess": not spec.bid.estimate_s,
            } if chosen else None,
            "held": self._money(held),
            "refundable": self._money(max(0, held - price)),
            "waiting": "" if chosen else reason_to_wait(
                demand, self._bulletin.book, now, decimals=decimals
            ),
            "wallet": await self._wallet(held),
            "deadline": job.bid.deadline_at_s or None,
            "explanation": self._explained(demand),
        }  # fmt: skip

    def _asked(
        self, raw: object, image: Artifact | None, inputs: tuple[Artifact, ...]
    ) -> tuple[Spec, Demand, Job]:
        spec = parse(raw, decimals=self._ports.chain.info.decimals)
        sized = image or Artifact("", bytes(32), 0)
        secrets = dict.fromkeys(spec.secrets, "")
        job = self._demands.draft(spec, sized, inputs, secrets)
        preemptible = spec.bid.preemptible
        return spec, self._demands.demand_of(job, 1, preemptible=preemptible), job

    def _asked_for(self, spec: Spec) -> dict[str, Any]:
        return said(spec, self._ports.chain.info.symbol, self._money)

    def _explained(self, demand: Demand) -> dict[str, Any]:
        now, decimals = self._ports.clock.now(), self._ports.chain.info.decimals
        found: Explanation = explain(demand, self._bulletin.book, now, decimals=decimals)
        return {
            "considered": found.considered,
            "fitting": found.fitting,
            "removed": [
                {"constraint": r.constraint.value, "offers": r.offers, "alone": r.alone}
                for r in found.removed
            ],
            "relaxations": [
                {
                    "constraints": [constraint.value for constraint in r.constraints],
                    "value": r.value,
                    "offers": r.offers,
                    "sentence": r.sentence,
                }
                for r in found.relaxations
            ],
            "lines": list(found.lines()),
        }

    def _cost(self, cost: Cost) -> dict[str, str]:
        return {
            "price": self._money(cost.price),
            "waiting": self._money(cost.waiting),
            "risk": self._money(cost.risk),
            "total": self._money(cost.total),
        }

    def _price(self, cost: Cost, price_per_hour: int, spec: Spec) -> int:
        """What the run should cost: never more than all of `max_duration`."""
        most = deposit_for(price_per_hour, cost.units, spec.bid.max_duration_s)
        return min(cost.price, most)

    def _held(self, price_per_hour: int, units: int, spec: Spec) -> int:
        """The deposit and the bond of one agreement; what is not used comes back."""
        deposit = deposit_for(price_per_hour, units, spec.bid.max_duration_s)
        return deposit + self._config.rules.bond

    async def _wallet(self, held: int) -> dict[str, Any] | None:
        """Whether the escrow has enough for it; None if the chain cannot say now."""
        try:
            account = await self._ports.chain.account(
                self._config.wallet, self._ports.signer.operator
            )
        except ChainError:
            return None
        free = min(account.free, account.operator_allowance)
        return {"free": self._money(account.free), "usable": self._money(free),
                "enough": free >= held, "missing": self._money(max(0, held - free))}  # fmt: skip

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def _run_s(cost: Cost, spec: Spec) -> float:
    """How long it should run: it is stopped at `max_duration`, however much it is guessed to be."""
    return min(cost.run_s, float(spec.bid.max_duration_s))


def _seconds(cost: Cost) -> dict[str, float]:
    return {
        "queue": cost.queue_s,
        "transfer": cost.transfer_s,
        "start_up": cost.start_up_s,
        "run": cost.run_s,
        "ready": cost.ready_s,
    }


def said(spec: Spec, token: str, money: Said) -> dict[str, Any]:
    """What a job file asks for, and what it may cost at most."""
    units = max(choice.count for choice in spec.requirements.accelerators) * spec.num_nodes
    price, duration_s = spec.bid.max_price_per_hour, spec.bid.max_duration_s
    return {
        "name": spec.name,
        "image": spec.image,
        "accelerators": [f"{a.name}:{a.count}" for a in spec.requirements.accelerators],
        "nodes": spec.num_nodes,
        "units": units,
        "preemptible": spec.bid.preemptible,
        "max_moves": spec.bid.max_moves,
        "max_price_per_unit_hour": money(price),
        "max_hourly_cost": money(price * units),
        "max_duration_s": duration_s,
        "max_hold": money(deposit_for(price, units, duration_s)),
        "token": token,
        "secrets": list(spec.secrets),
        "mounts": {mount.target: mount.source for mount in spec.mounts},
        "outputs": list(spec.outputs),
    }
