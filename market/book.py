"""Book: the live offers that this node has heard of, newest per (peer, offer), ready to be ranked.

The same offers give the same answers whatever the order they came in. Exact: `top` reads a zone map
but equals a scan of all. Signed bytes are kept beside, for relaying. Knows no network or clock; who
signed what was checked before it gets here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace

from market import best, scan
from market import columns as c
from market.columns import Columns
from market.cost import Cost, expected_cost
from market.errors import RefusedError
from market.lexicon import Lexicon
from market.limits import (
    CLOCK_SKEW_S,
    OFFER_LIFETIME_MAX_S,
    OFFERS_MAX,
    OFFERS_PER_PEER_MAX,
)
from market.rows import group_of
from market.terms import Demand, Offer
from market.units import PPM

FLOORS_MAX = 65_536  # peers whose last complete publication is remembered, the latest ones
Key = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One offer that fits a demand. Candidates rank by (total, tie, peer, offer id).

    `believed` is the offer with no more reliability than its peer was judged to have; `rtt_us` the
    measured round trip, if there is one.
    """

    offer: Offer
    total: int
    tie: int
    units: int
    demand: Demand
    believed: Offer
    rtt_us: int | None

    @property
    def cost(self) -> Cost:
        """The breakdown of `total`."""
        return expected_cost(self.demand, self.believed, 0.0, rtt_us=self.rtt_us)

    @property
    def rank(self) -> tuple[int, int, bytes, bytes]:
        """What candidates are sorted by: cheapest first, ties by hash of offer and demand."""
        return self.total, self.tie, self.offer.peer, self.offer.offer_id


@dataclass(slots=True)
class _Entry:
    """One live offer, the sequence it was said with, its envelope's digest, and its row."""

    offer: Offer
    sequence: int
    envelope: bytes
    slot: int


@dataclass(slots=True)
class _Envelope:
    raw: bytes
    users: int = 0


@dataclass(slots=True)
class _Counts:
    accepted: int = 0
    stale: int = 0
    refused: int = 0
    evicted: int = 0
    expired: int = 0
    withdrawn: int = 0


class Book:
    """The live offers. Bounded in total and per peer; every change is O(columns), not O(offers)."""

    def __init__(
        self,
        *,
        offers_max: int = OFFERS_MAX,
        per_peer_max: int = OFFERS_PER_PEER_MAX,
        block: int = c.BLOCK,
    ) -> None:
        """Empty. `block` is the columns' grain; tests use a small one."""
        self._offers_max = offers_max
        self._per_peer_max = per_peer_max
        self._columns = Columns(block)
        self._entries: dict[Key, _Entry] = {}
        self._at: dict[int, _Entry] = {}
        self._of_peer: dict[bytes, set[bytes]] = {}
        self._by_count: dict[int, dict[bytes, None]] = {}
        self._envelopes: dict[bytes, _Envelope] = {}
        self._floors: dict[bytes, int] = {}
        self._judged: dict[bytes, int] = {}
        self._lexicon = Lexicon(offers_max + 1)  # one that comes before another is evicted
        self._counts = _Counts()

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def columns(self) -> Columns:
        """The numbers, to be read only."""
        return self._columns

    # What is said.

    def update(
        self, peer: bytes, offers: tuple[Offer, ...], sequence: int, raw: bytes, now: float
    ) -> bool:
        """Take the offers that `peer` said in one envelope (`raw`, with its sequence number).

        Newest wins per (peer, offer). True if the book changed. Offers missing from the envelope
        stay: whoever knows that a publication is complete calls `withdraw_before`. Raises
        RefusedError, changing nothing, if an offer names another peer or lives too long.
        """
        for offer in offers:
            _check(peer, offer, now)
        if sequence < self._floors.get(peer, 0):
            self._counts.stale += len(offers)
            return False
        name = hashlib.sha256(raw).digest() if raw else b""
        changed = False
        for offer in offers:
            changed |= self._put(offer, sequence, name, raw, now)
        if changed:
            self._crowded(peer)
        return changed

    def withdraw(self, peer: bytes, offer_id: bytes) -> bool:
        """Forget one offer; False if it was not here."""
        if (peer, offer_id) not in self._entries:
            return False
        self._counts.withdrawn += 1
        self._remove((peer, offer_id))
        return True

    def withdraw_before(self, peer: bytes, sequence: int) -> int:
        """Forget the peer's offers that were said before `sequence`; returns how many.

        What it said before and arrives later is not heard any more.
        """
        self._floors[peer] = max(sequence, self._floors.pop(peer, 0))
        if len(self._floors) > FLOORS_MAX:
            del self._floors[next(iter(self._floors))]
        old = [o for o in self._of_peer.get(peer, ()) if self._entries[peer, o].sequence < sequence]
        for offer_id in sorted(old):
            self.withdraw(peer, offer_id)
        return len(old)

    def expire(self, now: float) -> int:
        """Forget every offer whose time is over; returns how many."""
        due = [self._at[slot] for slot in self._columns.expired(now)]
        for entry in due:
            self._remove((entry.offer.peer, entry.offer.offer_id))
        self._counts.expired += len(due)
        return len(due)

    def judge(self, peer: bytes, reliability_ppm: int | None) -> None:
        """Believe no more than this of a peer's reliability, whatever its offers say.

        None takes the judgement back. Bounded by the peers that have offers: a judgement of
        anybody else is not kept.
        """
        if peer not in self._of_peer:
            return
        if reliability_ppm is None:
            self._judged.pop(peer, None)
        else:
            self._judged[peer] = max(0, min(PPM, reliability_ppm))
        for offer_id in sorted(self._of_peer[peer]):
            entry = self._entries[peer, offer_id]
            row = self._lexicon.row(entry.offer, self.believed(entry.offer).reliability_ppm)
            if row is not None:
                self._columns.overwrite(entry.slot, row)
                self._lexicon.drop(entry.offer)

    # What is here.

    def get(self, peer: bytes, offer_id: bytes) -> Offer | None:
        """One live offer, as its peer signed it."""
        entry = self._entries.get((peer, offer_id))
        return entry.offer if entry else None

    def offers(self) -> Iterator[Offer]:
        """Every offer, by (peer, offer id)."""
        return (self._entries[key].offer for key in sorted(self._entries))

    def offers_of(self, peer: bytes) -> tuple[Offer, ...]:
        """One peer's offers, by offer id."""
        ids = sorted(self._of_peer.get(peer, ()))
        return tuple(self._entries[peer, offer_id].offer for offer_id in ids)

    def believed(self, offer: Offer) -> Offer:
        """The offer with no more reliability than its peer was judged to have."""
        judged = self._judged.get(offer.peer)
        if judged is None or offer.reliability_ppm <= judged:
            return offer
        return replace(offer, reliability_ppm=judged)

    def at(self, slot: int) -> Offer:
        """The offer in a row of `columns`."""
        return self._at[slot].offer

    def digests(self, limit: int = 4096) -> tuple[bytes, ...]:
        """SHA-256 of the envelopes that hold live offers, in order, for `Sync.known`."""
        return tuple(sorted(self._envelopes))[:limit]

    def raw_for(
        self, known: Collection[bytes], *, limit: int = 512, bytes_max: int = 192 * 1024
    ) -> tuple[bytes, ...]:
        """Envelopes that somebody who has `known` lacks, within the size of one reply."""
        has = frozenset(known)
        found: list[bytes] = []
        size = 0
        for name in sorted(self._envelopes):
            raw = self._envelopes[name].raw
            if name in has or size + len(raw) > bytes_max:
                continue
            found.append(raw)
            size += len(raw)
            if len(found) == limit:
                break
        return tuple(found)

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics."""
        counts = self._counts
        return {
            "offers": len(self._entries),
            "peers": len(self._of_peer),
            "units": int(self._columns.numbers[c.FREE].sum()),
            "envelopes": len(self._envelopes),
            "models": self._lexicon.models,
            "column_bytes": self._columns.nbytes(),
            "accepted": counts.accepted,
            "stale": counts.stale,
            "refused": counts.refused,
            "evicted": counts.evicted,
            "expired": counts.expired,
            "withdrawn": counts.withdrawn,
        }

    # What is best.

    def top(
        self,
        demand: Demand,
        k: int,
        now: float,
        rtt_us: Mapping[bytes, int] | None = None,
    ) -> tuple[Candidate, ...]:
        """The `k` best offers that fit, best first; exactly those a scan of all would find.

        `rtt_us` has measured round trips by peer, which count more than coordinates.
        """
        if not self._entries or k <= 0:
            return ()
        query = self.query(demand, now, rtt_us)
        ranked, rows = best.best(self._columns, query, k, self._image_test(demand))
        at = [place for _, _, place in ranked]
        found = []
        for (total, tie, _), slot, units in zip(
            ranked, rows.slots[at].tolist(), rows.units[at].tolist(), strict=True
        ):
            offer = self._at[slot].offer
            met = rtt_us.get(offer.peer) if rtt_us else None
            believed = self.believed(offer) if self._judged else offer
            found.append(Candidate(offer, int(total), tie, units, demand, believed, met))
        return tuple(found)

    def fitting(self, demand: Demand, now: float, k: int | None = None) -> scan.Rows:
        """Rows of all offers that fit, or of the `k` cheapest (and ties), in no order."""
        query = self.query(demand, now, None)
        test = self._image_test(demand)
        if k is not None:
            return best.cheapest(self._columns, query, k, test)
        return scan.everything(self._columns, query, test)

    def slot_of(self, offer: Offer) -> int:
        """The row of `columns` that an offer of this book is in."""
        return self._entries[offer.peer, offer.offer_id].slot

    def query(
        self, demand: Demand, now: float, rtt_us: Mapping[bytes, int] | None = None
    ) -> scan.Query:
        """The demand made ready for the columns."""
        return self._lexicon.query(demand, now, rtt_us or {})

    def _image_test(self, demand: Demand) -> scan.CachedTest:
        image, at = demand.image, self._at
        return lambda slots: [image in at[slot].offer.cached_images for slot in slots]

    # Rows and names.

    def _put(self, offer: Offer, sequence: int, name: bytes, raw: bytes, now: float) -> bool:
        key = (offer.peer, offer.offer_id)
        old = self._entries.get(key)
        if (old is not None and sequence <= old.sequence) or offer.expires_at_s <= now:
            self._counts.stale += 1
            return False
        row = self._lexicon.row(offer, self.believed(offer).reliability_ppm)
        if row is None:
            self._counts.refused += 1
            return False
        self._counts.accepted += 1
        if old is not None:
            group, price = group_of(old.offer), float(old.offer.price_per_hour)
            if (group, price) == (row.group, row.price):
                self._columns.overwrite(old.slot, row)
                self._lexicon.drop(old.offer)
                self._hold(name, raw)
                self._let_go(old.envelope)
                old.offer, old.sequence, old.envelope = offer, sequence, name
                return True
            self._remove(key)
        self._hold(name, raw)
        slot = self._columns.insert(row)
        self._follow()
        self._entries[key] = self._at[slot] = _Entry(offer, sequence, name, slot)
        self._count(offer.peer, offer.offer_id, present=True)
        return True

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key)
        del self._at[entry.slot]
        self._columns.delete(entry.slot)
        self._follow()
        self._lexicon.drop(entry.offer)
        self._let_go(entry.envelope)
        self._count(*key, present=False)

    def _follow(self) -> None:
        """Note where the columns moved rows to."""
        for old, new in self._columns.moved:
            entry = self._at.pop(old)
            self._at[new] = entry
            entry.slot = new
        self._columns.moved.clear()

    def _count(self, peer: bytes, offer_id: bytes, *, present: bool) -> None:
        ids = self._of_peer.setdefault(peer, set())
        crowd = self._by_count.setdefault(len(ids), {})
        crowd.pop(peer, None)
        if not crowd:
            del self._by_count[len(ids)]
        (ids.add if present else ids.remove)(offer_id)
        if ids:
            self._by_count.setdefault(len(ids), {})[peer] = None
        else:
            del self._of_peer[peer]
            self._judged.pop(peer, None)

    def _crowded(self, peer: bytes) -> None:
        """Evict until the bounds hold: a peer's oldest word first, then from the peer with most.

        The victim of the total bound is the peer with the most offers (of equals the largest key),
        so that a flood from few peers costs those peers, and one from many costs no rig with fewer.
        """
        while len(self._of_peer.get(peer, ())) > self._per_peer_max:
            self._evict(peer)
        while len(self._entries) > self._offers_max:
            self._evict(max(self._by_count[max(self._by_count)]))

    def _evict(self, peer: bytes) -> None:
        oldest = min(self._of_peer[peer], key=lambda o: (self._entries[peer, o].sequence, o))
        self._counts.evicted += 1
        self._remove((peer, oldest))

    def _hold(self, name: bytes, raw: bytes) -> None:
        if name:
            self._envelopes.setdefault(name, _Envelope(raw)).users += 1

    def _let_go(self, name: bytes) -> None:
        if name:
            envelope = self._envelopes[name]
            envelope.users -= 1
            if not envelope.users:
                del self._envelopes[name]


def _check(peer: bytes, offer: Offer, now: float) -> None:
    if offer.peer != peer:
        raise RefusedError("an offer names another peer than the one that signed it")
    if offer.num_gpus > offer.num_units:
        raise RefusedError("an offer has more free units than units")
    if offer.expires_at_s > now + OFFER_LIFETIME_MAX_S + CLOCK_SKEW_S:
        raise RefusedError(
            "an offer lives longer than an hour", hint="check the clocks of both machines"
        )
