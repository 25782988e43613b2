"""Selling's desk: what this node sells, who waits for it, why quotes were won and lost.

No transport, no rendering; what changes here changes without a restart.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from market.agreement import Agreement, Phase, Role
from market.errors import NotFoundError, RefusedError
from market.units import format_money, parse_money
from node.config import Selling, UnitPrice
from node.keeper import Keeper
from node.ports import Ports
from node.queue import Queue
from node.shop import Shop

QUOTES_MAX = 500  # the newest, on one page


class SellingDesk:
    """Asks shop, queue and keeper."""

    def __init__(self, ports: Ports, keeper: Keeper, shop: Shop, queue: Queue) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._shop = shop
        self._queue = queue

    # Changed without a restart.

    def reconfigure(self, selling: Selling) -> None:
        """Sell so from now on; what was quoted or agreed keeps its terms.

        Raises RefusedError on a node that was started without anything to sell.
        """
        if self._shop.selling is None:
            raise RefusedError(
                "this node sells nothing",
                hint="write a [provider] table and start it again: it needs a sandbox",
            )
        self._shop.reconfigure(selling)

    def set_price(self, text: str, name: str | None = None, ram_mib: int | None = None) -> None:
        """Ask this for a unit-hour of one kind (or, without a name, of all that have no own price).

        Raises SpecError for what is no amount, NotFoundError for a kind that is not here.
        """
        self._must_sell()
        selling = self._shop.selling
        assert selling is not None, "checked above"
        amount = parse_money(text, self._ports.chain.info.decimals)
        if name is None:
            self._shop.reconfigure(replace(selling, price_per_hour=amount))
            return
        kinds = [(kind.name, kind.ram_mib) for kind in self._shop.kinds()]
        found = next((k for k in kinds if k[0] == name and ram_mib in (None, k[1])), None)
        if found is None:
            raise NotFoundError(f"there is no {name} here", hint="see: souk provider status")
        before = {(one.name, one.ram_mib): one for one in selling.prices}
        one = replace(before.pop(found, UnitPrice(*found)), price_per_hour=amount)
        self._shop.reconfigure(replace(selling, prices=(*before.values(), one)))

    async def pause(self) -> None:
        """No new quotes until `resume`, over restarts too; what runs goes on."""
        self._must_sell()
        await self._shop.pause()

    async def drain(self) -> None:
        """No new quotes; `status()["drained"]` says when the last agreement has ended."""
        self._must_sell()
        await self._shop.drain()

    async def resume(self) -> None:
        """Sell again."""
        self._must_sell()
        await self._shop.resume()

    def close(self) -> None:
        """No new quotes by this process, which is about to end. Nothing is noted."""
        self._shop.closing = True

    def busy(self) -> int:
        """How many agreements hold units of this machine now."""
        mine = self._keeper.agreements.values()
        return sum(a.role is Role.PROVIDER and not a.ended for a in mine)

    def _must_sell(self) -> None:
        if self._shop.selling is None:
            raise RefusedError("this node sells nothing", hint="write a [provider] table")

    # Looked at.

    def status(self) -> dict[str, Any]:
        """What is sold, at which price, by which policy, and whether the shop is open."""
        selling = self._shop.selling
        now = self._ports.clock.now()
        return {
            "selling": selling is not None,
            "mode": self._shop.mode.value,
            "drained": self._shop.drained,
            "examined": self._shop.checks is not None,
            "unfit": [
                {"check": one.name, "found": one.sentence, "fix": one.fix}
                for one in self._shop.unfit
            ],
            "policy": selling.policy if selling else None,
            "placement": selling.placement if selling else None,
            "start_up_ms": self._shop.start_up_ms,
            "cached_images": [image.hex() for image in self._shop.cached],
            "kinds": [
                {
                    "name": kind.name,
                    "ram_mib": kind.ram_mib,
                    "units": [unit.index for unit in kind.units],
                    "free": self._shop.site(kind, now).free,
                    "wait_s": self._shop.wait_s(kind, 1, now),
                    "wares": [
                        {
                            "offer": ware.offer_id.hex(),
                            "dph": self._money(ware.price_per_hour),
                            "collateral": self._money(ware.collateral_per_unit),
                            "preemptible": ware.preemptible,
                        }
                        for ware in kind.wares
                    ],
                }
                for kind in self._shop.kinds()
            ],
        }

    def queue(self) -> list[dict[str, Any]]:
        """Demands that fit and wait, as the policy would start them."""
        now = self._ports.clock.now()
        return [
            {
                "demand": one.demand.demand_id.hex(),
                "job": one.demand.job_id.hex(),
                "requester": "0x" + one.demand.requester.hex(),
                "kind": kind.name,
                "units": one.queued.units,
                "bid": self._money(one.queued.price_per_hour),
                "priority": one.queued.priority,
                "since": one.queued.arrived_at,
                "starts": starts,
            }
            for kind, one, starts in self._queue.waiting(now)
        ]

    def quotes(self) -> list[dict[str, Any]]:
        """Our quotes, newest first: for what, at what price, and what became of each."""
        mine = [a for a in self._keeper.agreements.values() if a.role is Role.PROVIDER]
        mine.sort(key=lambda a: (-a.created_at_ms, a.id))
        return [
            {
                "agreement": a.id.hex(),
                "demand": a.demand_id.hex(),
                "job": a.job_id.hex(),
                "requester": "0x" + a.terms.parties.requester.hex(),
                "at": a.created_at_ms / 1000,
                "units": a.terms.unit_count,
                "dph": self._money(a.terms.money.price_per_hour),
                "bid": self._money(a.bid_per_hour),
                "preemptible": a.preemptible,
                "outcome": outcome(a),
                "reason": a.reason,
            }
            for a in mine[:QUOTES_MAX]
        ]

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def outcome(a: Agreement) -> str:
    """What became of a quote of ours: waiting, won, lost, expired, declined or void.

    lost: the requester chose another. expired: it said nothing until the hold was over. declined:
    it did not take the quote as it was. void: it was chosen and never funded.
    """
    if a.opened_at_s or a.phase is Phase.CONFIRMED:
        return "won"
    if a.phase is not Phase.VOID:
        return "waiting"
    if a.requester_signature:
        return "void"
    if a.reason.startswith("the requester chose"):
        return "lost"
    return "expired" if a.ended_at_ms >= a.hold_until_s * 1000 else "declined"
