"""Shopper: a scripted requester. Says what a test wants said, and notes what it is answered.

A peer on the simulated wire with keys and a wallet, without a node: it publishes standing demands,
collects quotes, and can take one as a requester does, with real signatures and vouchers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import trio

from market.errors import ChainRefusedError
from market.escrow import Open
from market.messages import (
    Accept,
    Beat,
    Done,
    Member,
    Message,
    Pay,
    Quote,
    Refused,
    Release,
    Wanted,
)
from market.signing import agreement_id, digest, heartbeat_digest, recover, voucher_digest
from market.terms import (
    Accelerator,
    Artifact,
    Coordinate,
    Demand,
    Manifest,
    Requirements,
    Voucher,
    Workload,
)
from market.voucher import owed
from node.artifacts import PROTOCOL, Artifacts
from node.mail import Mail
from tests.simulation.chain import TOKEN, SimChain
from tests.simulation.escrow import DOMAIN
from tests.simulation.memory import MemoryBlobs, SimSigner
from tests.simulation.network import SimLink
from tests.simulation.world import IMAGE, MILLION, World


@dataclass
class Shopper:
    """One scripted requester."""

    world: World
    name: str
    quotes: dict[bytes, list[Quote]] = field(default_factory=dict)  # by demand
    beats: dict[bytes, Beat] = field(default_factory=dict)  # the newest, by agreement
    quoted_at: dict[bytes, float] = field(default_factory=dict)  # the first quote of a demand
    last: set[bytes] = field(default_factory=set)  # agreements whose next voucher is the last
    _count: int = 0

    def __post_init__(self) -> None:
        world = self.world
        self.signer = SimSigner(int.from_bytes(self.name.encode(), "big"))
        self.wallet = hashlib.sha256(b"wallet" + self.name.encode()).digest()[:20]
        world.ledger.authorise(self.wallet, self.signer.operator)
        world.minted += 100 * MILLION
        world.ledger.deposit(self.wallet, 100 * MILLION)
        self.link = SimLink(self.signer.peer, world.wire)
        self.blobs = MemoryBlobs()
        self.mail = Mail("sim", self.signer, world.clock, self.link, self.link)
        self.chain = SimChain(world.blocks, self.signer.operator, world.rng)
        self.artifacts = Artifacts(self.link, self.blobs, lambda peer, hash_: True)
        self.link.answer(self._answer)
        self.link.accept(PROTOCOL, self.artifacts.serve)
        self._terms: dict[bytes, Quote] = {}

    async def start(self) -> None:
        """Be on the network."""
        await self.blobs.put(IMAGE)
        await self.world.nursery.start(self.link.run)

    async def want(self, seconds: int = 60, bid: int = 2 * MILLION, **changes: object) -> Demand:
        """Publish a standing demand for `seconds` of work on one CPU unit; it lives a minute."""
        demand, _ = self.demand(seconds, bid, **changes)
        await self.say(demand)
        return demand

    async def say(self, demand: Demand) -> None:
        """Publish it, again or for the first time."""
        lifetime_s = max(1.0, demand.expires_at_s - self.world.clock.now())
        await self.mail.publish("demands", Wanted(demand), lifetime_s=lifetime_s)

    def demand(self, seconds: int, bid: int, **changes: object) -> tuple[Demand, Manifest]:
        """A demand and what it wants run."""
        self._count += 1
        now = self.world.clock.now()
        id_ = hashlib.sha256(f"{self.name}/{self._count}".encode()).digest()[:16]
        manifest = self._manifest(id_, seconds)
        units = changes.pop("units", 1)
        assert isinstance(units, int)
        plain: dict[str, object] = {
            "demand_id": id_, "job_id": id_, "round": 1, "peer": self.signer.peer,
            "requester": self.wallet, "operator": self.signer.operator,
            "requirements": Requirements((Accelerator("CPU", units),)),
            "max_price_per_hour": bid, "value_of_time_per_hour": 0,
            "workload": Workload.BATCH, "estimate_s": 0, "max_duration_s": seconds,
            "deadline_at_s": 0, "priority": 0, "num_nodes": 1, "preemptible": False,
            "checkpoint_interval_s": 3, "image": manifest.image.hash,
            "image_bytes": len(IMAGE), "input_bytes": 0, "output_bytes": 0,
            "job": digest(manifest), "token": TOKEN, "slash_bps": 0, "exclude": (),
            "coordinate": Coordinate(), "quote_by_ms": int((now + 1.0) * 1000),
            "expires_at_s": int(now) + 60,
        }  # fmt: skip
        return Demand(**(plain | changes)), manifest  # type: ignore[arg-type]

    def _manifest(self, id_: bytes, seconds: int) -> Manifest:
        image = Artifact("base", hashlib.sha256(IMAGE).digest(), len(IMAGE))
        return Manifest(
            job_id=id_, name=self.name, workload=Workload.BATCH, image=image,
            command=f"work {seconds - 5}", envs=(), inputs=(), outputs=("/out",),
            checkpoint_path="/ckpt", checkpoint_interval_s=3, resume=None, cpus=1, memory_mib=64,
            disk_mib=64, max_duration_s=seconds, grace_s=5, ports=(),
        )  # fmt: skip

    def price(self, demand: Demand) -> int | None:
        """What the first quote for it asks per unit-hour; None if nobody has answered."""
        heard = self.quotes.get(demand.demand_id)
        return heard[0].terms.money.price_per_hour if heard else None

    async def until_quoted(self, demand: Demand, limit_s: float = 60) -> Quote:
        """Wait for the first quote; fails the test if there is none by then."""
        with trio.move_on_after(limit_s):
            while demand.demand_id not in self.quotes:
                await trio.sleep(0.1)
        assert demand.demand_id in self.quotes, f"{self.name} was not quoted in {limit_s} s"
        return self.quotes[demand.demand_id][0]

    async def release(self, quote: Quote) -> None:
        """Not this one."""
        await self.mail.ask(quote.offer.peer, Release(agreement_id(quote.terms, DOMAIN)))

    async def take(self, quote: Quote) -> bytes:
        """Accept and fund a quote, pay as it goes; returns the agreement's id."""
        id_ = await self.accept(quote)
        await self.open(quote)
        return id_

    async def accept(
        self, quote: Quote, rank: int = 0, num_nodes: int = 1, members: tuple[Member, ...] = ()
    ) -> bytes:
        """Countersign it and say so; returns the agreement's id."""
        id_ = agreement_id(quote.terms, DOMAIN)
        self._terms[id_] = quote
        manifest = self._manifest(quote.demand_id, quote.terms.timing.duration_s)
        assert digest(manifest) == quote.terms.job
        mine = self.signer.sign_digest(id_)
        accept = Accept(id_, mine, manifest, (), rank, num_nodes, members)
        await self.mail.ask(quote.offer.peer, accept)
        return id_

    async def open(self, quote: Quote) -> None:
        """Give both signatures to the contract, whatever the provider thinks of it."""
        id_ = agreement_id(quote.terms, DOMAIN)
        self._terms[id_] = quote
        mine = self.signer.sign_digest(id_)
        try:
            await self.chain.submit(Open(quote.terms, mine, quote.provider_signature))
        except ChainRefusedError as problem:
            raise AssertionError(f"not opened: {problem.reason}") from problem

    async def _answer(self, peer: bytes, data: bytes) -> bytes:
        message = self.mail.open(data).message
        reply: Message = Done()
        if isinstance(message, Quote):
            self.quotes.setdefault(message.demand_id, []).append(message)
            self.quoted_at.setdefault(message.demand_id, self.world.clock.now())
        elif isinstance(message, Beat):
            before = self.beats.get(message.heartbeat.agreement)
            if before is None or before.heartbeat.sequence < message.heartbeat.sequence:
                self.beats[message.heartbeat.agreement] = message  # one may overtake another
            self.world.nursery.start_soon(self._pay, peer, message)
        else:
            reply = Refused("no", "it is scripted")
        return self.mail.reply(peer, reply)

    async def _pay(self, peer: bytes, beat: Beat) -> None:
        id_ = beat.heartbeat.agreement
        terms = self._terms[id_].terms
        signer = recover(heartbeat_digest(beat.heartbeat, DOMAIN), beat.signature)
        assert signer == terms.parties.provider_signer
        checkpoint = beat.report.checkpoint
        if checkpoint is not None and await self.blobs.size(checkpoint.hash) is None:
            await self.artifacts.pull(peer, checkpoint)
        over = beat.report.work.value in ("exited", "broken", "preempted")
        amount = owed(terms, beat.heartbeat.metered_s)
        voucher = Voucher(id_, amount, digest(beat.heartbeat), over)
        signature = self.signer.sign_digest(voucher_digest(voucher, DOMAIN))
        await self.mail.ask(peer, Pay(voucher, signature))


async def open_shoppers(world: World, *names: str) -> list[Shopper]:
    """So many scripted requesters, on the network."""
    shoppers = [Shopper(world, name) for name in names]
    for shopper in shoppers:
        await shopper.start()
    return shoppers


def renewed(demand: Demand, number: int, now: float) -> Demand:
    """The next round of a standing demand: another id, a new expiry, the same job."""
    return replace(
        demand,
        demand_id=hashlib.sha256(demand.demand_id + bytes([number])).digest()[:16],
        round=demand.round + 1,
        quote_by_ms=int((now + 1.0) * 1000),
        expires_at_s=int(now) + 60,
    )
