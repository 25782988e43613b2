"""Bulletin: a job has one open demand, and nobody is believed further than the chain goes."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from market.codec import encode
from market.limits import DEMANDS_PER_PEER_MAX, ENVELOPE_BYTES_MAX, GOSSIP_BYTES_MAX
from market.messages import Offers, Sync, Unwanted, Wanted
from market.signing import EVERYBODY, Signed
from market.terms import Demand
from market.units import UnixTime
from node.atlas import Atlas
from node.bulletin import Bulletin
from node.config import devnet_rules
from node.mail import Mail
from tests.simulation.devices import SimClock
from tests.simulation.memory import SimSigner
from tests.simulation.network import SimLink, Wire
from tests.unit.offers import demand_of, key, offer_of

EARNED_PPM = 300_000


async def bulletin() -> Bulletin:
    """One that hears nothing but what a test says."""
    wire = Wire(Random(1))
    link, clock, signer = SimLink(SimSigner(1).peer, wire), SimClock(), SimSigner(1)
    mail = Mail("sim", signer, clock, link, link)
    return Bulletin(
        devnet_rules(), mail, link, link, clock, Atlas(link), lambda: (), lambda wallet: EARNED_PPM
    )


def said(message: object, author: bytes, sequence: int) -> Signed[object]:
    now = UnixTime(SimClock().now())
    return Signed(
        message, author, EVERYBODY, sequence, now, UnixTime(now + 60), b"raw%d" % sequence
    )


def live(demand: Demand) -> Demand:
    return replace(demand, expires_at_s=int(SimClock().now()) + 60)


async def test_an_offer_is_believed_as_far_as_its_wallet_has_earned() -> None:
    room = await bulletin()
    expires = int(SimClock().now()) + 60
    boast = offer_of(reliability_ppm=1_000_000, expires_at_s=expires)
    modest = offer_of(2, reliability_ppm=200_000, expires_at_s=expires)
    for offer in (boast, modest):
        room.hear(said(Offers((offer,), 0, 1), offer.peer, 1))
    assert [room.book.believed(o).reliability_ppm for o in (boast, modest)] == [EARNED_PPM, 200_000]
    quoted = replace(boast, peer=key(77))  # never heard in gossip
    assert room.believed(quoted).reliability_ppm == EARNED_PPM


async def test_a_newer_round_takes_the_place_of_the_one_before() -> None:
    room = await bulletin()
    first = live(demand_of(1))
    second = replace(first, demand_id=bytes([9]) * 16, round=1)
    other = replace(live(demand_of(3)), job_id=bytes([3]) * 16)
    for sequence, demand in ((5, first), (6, other), (7, second), (6, first)):
        room.hear(said(Wanted(demand), first.peer, sequence))
    assert set(room.demands) == {second.demand_id, other.demand_id}
    room.hear(said(Unwanted(second.demand_id), key(1), 9))
    assert second.demand_id in room.demands, "only who asked may withdraw"
    room.hear(said(Unwanted(second.demand_id), first.peer, 9))
    assert set(room.demands) == set(room.heard_at) == {other.demand_id}


async def test_fat_demands_do_not_stop_the_sync() -> None:
    """One requester may gossip 64 demands of 16 KiB; with them no reply would fit an envelope."""
    room = await bulletin()
    for number in range(DEMANDS_PER_PEER_MAX):
        fat = replace(live(demand_of(number)), peer=key(1), job_id=bytes([number]) * 16)
        raw = bytes([number]) * GOSSIP_BYTES_MAX
        room.hear(replace(said(Wanted(fat), key(1), number), raw=raw))
    honest = replace(live(demand_of(200)), peer=key(2))
    room.hear(said(Wanted(honest), key(2), 200))
    assert len(room.demands) == DEMANDS_PER_PEER_MAX + 1
    synced = room.synced(Sync(()))
    assert b"raw200" in synced.envelopes
    assert len(synced.envelopes) > 1
    assert len(encode(synced)) <= ENVELOPE_BYTES_MAX - 192 * 1024 - 4096
