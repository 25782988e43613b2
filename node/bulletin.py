"""Bulletin: what the market says. The book of live offers, the demands still open, our own offers.

Hears gossip that mail has opened, publishes this node's offers on change and at intervals, and
fills gaps with every peer that connects. Decides nothing about who trades with whom.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import structlog
import trio

from market.book import Book
from market.errors import MarketError
from market.limits import DEMANDS_PER_PEER_MAX
from market.messages import Offers, Sync, Synced, Unwanted, Wanted
from market.signing import Signed
from market.terms import Demand, Offer
from node.atlas import Atlas
from node.config import Rules
from node.mail import Mail
from node.ports import Clock, Gossip, Link

log = structlog.get_logger("bulletin")
PAGE_OFFERS = 16  # offers per envelope: 10 KiB, within the gossip frame
SYNCED_DEMANDS_MAX = 64
SYNCED_DEMANDS_BYTES = 48 * 1024  # beside 192 KiB of offers, within one envelope
DEMANDS_MAX = 4096  # open demands remembered in all; a fuller market is asked again


class Bulletin:
    """The public side of the market, as this node knows it."""

    def __init__(
        self, rules: Rules, mail: Mail, gossip: Gossip, link: Link, clock: Clock, atlas: Atlas,
        own_offers: Callable[[], tuple[Offer, ...]], reliability_ppm: Callable[[bytes], int],
    ) -> None:  # fmt: skip
        """`own_offers` says what this node sells now; empty for a pure requester.

        `reliability_ppm` says what the chain tells of a provider's wallet.
        """
        self._reliability_ppm = reliability_ppm
        self.book = Book()
        self.judge: Callable[[Offer], Offer] = _as_it_is  # what we believe of an offer
        self.atlas = atlas
        self.offers_at = 0.0  # when offers of somebody else were heard last
        self.demands: dict[bytes, Signed[Wanted]] = {}
        self.heard_at: dict[bytes, float] = {}  # each demand, by our own clock
        self._of_peer: dict[bytes, dict[bytes, bytes]] = {}  # peer: job: its open demand
        self._rules = rules
        self._mail = mail
        self._gossip = gossip
        self._link = link
        self._clock = clock
        self._own_offers = own_offers
        self._said: tuple[Offer, ...] = ()
        self._said_at = 0.0
        self._own_sequence = 0
        self._wake = trio.Event()
        self._demanded = trio.Event()
        self._refused = 0

    def waiting_for(self) -> str:
        """What keeps this node from trading, in words; empty when nothing does."""
        if not self._link.peers():
            return "peers: none is connected"
        if not len(self.book):
            return "offers: none was heard yet"
        return ""

    @property
    def me(self) -> bytes:
        """This node's peer key."""
        return self._mail.me

    async def wait_demand(self) -> None:
        """Return when a demand is heard that was not known before."""
        self._demanded = trio.Event()
        await self._demanded.wait()

    def stir(self) -> None:
        """Our offers may have changed: look, and say so if they did."""
        self._wake.set()

    async def listen(self) -> None:
        """Hear gossip for ever. What is malformed is counted and blamed on its publisher."""
        async for heard in self._gossip.heard():
            try:
                self.hear(self._mail.open(heard.data))
            except MarketError as problem:
                self._refused += 1
                self._gossip.blame(heard.via)
                log.debug("refused gossip", problem=str(problem), via=heard.via.hex()[:12])

    def hear(self, signed: Signed[object]) -> None:
        """Take one verified message to heart. Raises RefusedError for what may not be said."""
        now = self._clock.now()
        match signed.message:
            case Offers(offers=offers, page=page, pages=pages):
                if signed.author == self._mail.me:
                    return
                offers = tuple(map(self.judge, offers))
                self.book.update(signed.author, offers, signed.sequence, signed.raw, now)
                for offer in offers[:1]:
                    self.atlas.hear(signed.author, offer.coordinate)
                self.offers_at = now
                self._judge(signed.author, offers)
                if page == 0 and pages <= 1:
                    self.book.withdraw_before(signed.author, signed.sequence)
            case Wanted(demand=demand):
                self._hear_demand(signed, demand)
            case Unwanted(demand_id=demand_id):
                known = self.demands.get(demand_id)
                if known is not None and known.author == signed.author:
                    self._drop(demand_id)
            case _:
                return

    def _judge(self, peer: bytes, offers: tuple[Offer, ...]) -> None:
        """Believe a peer as far as the wallets that its offers name have kept their word."""
        wallets = sorted({offer.provider for offer in offers})
        if wallets:
            self.book.judge(peer, min(self._reliability_ppm(wallet) for wallet in wallets))

    def believed(self, offer: Offer) -> Offer:
        """An offer, heard or quoted, with no more reliability than its wallet has earned."""
        earned = self._reliability_ppm(offer.provider)
        return replace(offer, reliability_ppm=min(earned, offer.reliability_ppm))

    def _hear_demand(self, signed: Signed[object], demand: Demand) -> None:
        if demand.peer != signed.author or demand.demand_id in self.demands:
            return
        if not self._newest(demand, signed.sequence):
            return
        mine = self._of_peer.get(signed.author, {})
        if len(mine) >= DEMANDS_PER_PEER_MAX or len(self.demands) >= DEMANDS_MAX:
            return
        self._of_peer.setdefault(signed.author, {})[demand.job_id] = demand.demand_id
        self.atlas.hear(signed.author, demand.coordinate)
        self.heard_at[demand.demand_id] = self._clock.now()
        self._demanded.set()
        self.demands[demand.demand_id] = Signed(
            Wanted(demand), signed.author, signed.to, signed.sequence, signed.issued_at,
            signed.expires_at, signed.raw,
        )  # fmt: skip

    async def speak(self) -> None:
        """Publish our offers when they change (once a second at most), and at intervals."""
        while True:
            now = self._clock.now()
            self._forget(now)
            offers = self._own_offers()
            due = now - self._said_at >= self._rules.offer_interval_s
            if (offers and due) or _news(offers, self._said):
                try:
                    await self._say(offers)
                    self._said, self._said_at = offers, now
                except MarketError as problem:
                    log.info("offers not published", problem=str(problem))
            self._wake = trio.Event()
            with trio.move_on_after(self._rules.offer_interval_s / 4):
                await self._wake.wait()
            await trio.sleep(min(1.0, self._rules.offer_interval_s / 8))

    async def _say(self, offers: tuple[Offer, ...]) -> None:
        pages = max(1, -(-len(offers) // PAGE_OFFERS))
        for page in range(pages):
            part = offers[page * PAGE_OFFERS : (page + 1) * PAGE_OFFERS]
            data = await self._mail.publish(
                "offers", Offers(part, page, pages), lifetime_s=self._rules.offer_lifetime_s
            )
            self._own_sequence += 1
            now = self._clock.now()
            self.book.update(self._mail.me, part, self._own_sequence, data, now)
            self._judge(self._mail.me, part)
        if pages == 1:
            self.book.withdraw_before(self._mail.me, self._own_sequence)

    def _forget(self, now: float) -> None:
        self.book.expire(now)
        over = [
            key
            for key, signed in self.demands.items()
            if signed.message.demand.expires_at_s <= now or signed.expires_at <= now
        ]
        for key in over:
            self._drop(key)

    def _drop(self, demand_id: bytes) -> None:
        demand = self.demands.pop(demand_id).message.demand
        self.heard_at.pop(demand_id, None)
        jobs = self._of_peer[demand.peer]
        del jobs[demand.job_id]
        if not jobs:
            del self._of_peer[demand.peer]

    def _newest(self, demand: Demand, sequence: int) -> bool:
        """A job has one open demand: a newer round takes the place of the one before."""
        before = self._of_peer.get(demand.peer, {}).get(demand.job_id)
        if before is None:
            return True
        if self.demands[before].sequence > sequence:
            return False
        self._drop(before)
        return True

    async def greet(self) -> None:
        """Fill gaps with every peer that joins: gossip reaches only those who were there."""
        async with trio.open_nursery() as nursery:
            async for peer in self._link.joined():
                nursery.start_soon(self._sync, peer)

    async def _sync(self, peer: bytes) -> None:
        known = (*self.book.digests(limit=4096 - len(self.demands)),)
        try:
            reply = await self._mail.ask(peer, Sync(known))
        except MarketError as problem:
            log.debug("no sync", peer=peer.hex()[:12], problem=str(problem))
            return
        if not isinstance(reply, Synced):
            return
        for raw in reply.envelopes:
            try:
                self.hear(self._mail.open(raw))
            except MarketError:
                self._refused += 1

    def synced(self, sync: Sync) -> Synced:
        """What the asker lacks of live offers and demands."""
        offers = self.book.raw_for(sync.known, limit=384)
        return Synced((*offers, *self._some_demands()))

    def _some_demands(self) -> list[bytes]:
        """What fits of one demand of each requester, then of each one's next, the small ones first.

        Whoever gossips many that are as large as gossip may be keeps nobody else's out, and no
        reply from being sent.
        """
        turns: Counter[bytes] = Counter()
        ranked = []
        for order, signed in enumerate(self.demands.values()):
            ranked.append((turns[signed.author], len(signed.raw), order, signed.raw))
            turns[signed.author] += 1
        chosen: list[bytes] = []
        size = 0
        for _, length, _, raw in sorted(ranked):
            if size + length <= SYNCED_DEMANDS_BYTES and len(chosen) < SYNCED_DEMANDS_MAX:
                chosen.append(raw)
                size += length
        return chosen


def _news(now: tuple[Offer, ...], before: tuple[Offer, ...]) -> bool:
    """Whether more changed than expiry and place on the map."""

    def gist(offers: tuple[Offer, ...]) -> list[tuple[object, ...]]:
        return [(o.offer_id, o.num_gpus, o.price_per_hour, o.num_units) for o in offers]

    return gist(now) != gist(before)


def _as_it_is(offer: Offer) -> Offer:
    return offer
