"""Inbox in the simulated world: who asks what of whom, and gets nothing unless it is theirs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from market.messages import (
    Beat,
    Done,
    LogPart,
    Message,
    Pay,
    ReadLog,
    Refused,
    Release,
    Request,
    Status,
    Stop,
)
from market.signing import seal, verify
from tests.samples import beat, pay
from tests.simulation.memory import SimSigner
from tests.simulation.world import MILLION, Machine, World, open_world

STRANGER = SimSigner(666)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@asynccontextmanager
async def working() -> AsyncIterator[tuple[World, Machine, Machine, bytes]]:
    """A seller that works for a buyer, and the agreement between them."""
    async with open_world(3) as world:
        seller, buyer = world.add("seller", units=1, price=MILLION), world.add("buyer")
        for machine in (seller, buyer):
            await machine.start()
        await trio.sleep(10)
        await world.submit(buyer, "work 60")
        await trio.sleep(12)
        (row,) = world.requesters_agreements(buyer)
        (work,) = seller.sandbox.work
        assert row["phase"] == "running"
        yield world, seller, buyer, bytes.fromhex(work)


async def ask(
    world: World, signer: SimSigner, to: Machine, message: Request, *, via: bytes | None = None,
    reader: bytes | None = None, network: str = "sim",
) -> Message:  # fmt: skip
    """What `to` answers to a request that `signer` signed and `via` brought."""
    data = seal(
        message, author=signer.peer, to=reader or to.signer.peer, network=network,
        sequence=2**62, now=world.clock.now(), lifetime_s=60, sign=signer.sign,
    )  # fmt: skip
    return await answer(world, to, data, via or signer.peer)


async def answer(world: World, to: Machine, data: bytes, via: bytes) -> Message:
    answerer = world.wire.nodes[to.signer.peer]._answerer
    assert answerer is not None
    reply = await answerer(via, data)
    return verify(reply, network="sim", reader=via, now=world.clock.now()).message


def code(reply: Message) -> str:
    return reply.code if isinstance(reply, Refused) else type(reply).__name__


async def test_the_parties_are_answered(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, buyer, id_):
        told = await ask(world, buyer.signer, seller, Status(id_))
        assert isinstance(told, Beat)
        assert told.heartbeat.agreement == id_
        output = await ask(world, buyer.signer, seller, ReadLog(id_, 0))
        assert isinstance(output, LogPart)
        assert output.data.startswith(b"sec0000")


async def test_a_stranger_is_told_that_there_is_nothing(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, _, id_):
        for id_asked in (id_, bytes(32)):
            for message in (Status(id_asked), ReadLog(id_asked, 0), Stop(id_asked, "ha"),
                            Release(id_asked)):  # fmt: skip
                reply = await ask(world, STRANGER, seller, message)
                assert reply == Refused("not-found", "there is no such agreement between us")
        assert len(seller.sandbox.work) == 1, "nobody else stops the work"


async def test_each_side_is_asked_only_for_its_own_part(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, buyer, id_):
        assert code(await ask(world, seller.signer, buyer, Status(id_))) == "not-found"
        newest = await ask(world, buyer.signer, seller, Status(id_))
        assert isinstance(newest, Beat)
        assert code(await ask(world, buyer.signer, seller, newest)) == "not-found"
        assert await ask(world, seller.signer, buyer, newest) == Done()


async def test_only_the_author_delivers_its_letter(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, buyer, id_):
        reply = await ask(world, buyer.signer, seller, Status(id_), via=STRANGER.peer)
        assert code(reply) == "bad-signature"
        other = await ask(world, buyer.signer, seller, Status(id_), reader=STRANGER.peer)
        assert code(other) == "bad-signature"
        assert code(await ask(world, buyer.signer, seller, Status(id_), network="x")) == "malformed"
        assert code(await answer(world, seller, b"hello", STRANGER.peer)) == "malformed"


async def test_a_reply_is_not_a_request(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, buyer, _):
        assert code(await ask(world, buyer.signer, seller, Done())) == "refused"  # type: ignore[arg-type]


async def test_forged_money_and_forged_heartbeats_are_refused(autojump_clock: MockClock) -> None:
    async with working() as (world, seller, buyer, id_):
        voucher = pay(10**6).voucher
        own = type(voucher)(id_, voucher.amount, voucher.ack, True)
        for signature in (b"", b"s" * 65, STRANGER.sign_digest(bytes(32))):
            reply = await ask(world, buyer.signer, seller, Pay(own, signature))
            assert code(reply) == "bad-signature"
        newest = await ask(world, buyer.signer, seller, Status(id_))
        assert isinstance(newest, Beat)
        told_wrong = Beat(newest.heartbeat, newest.signature, beat().report)
        assert code(await ask(world, seller.signer, buyer, told_wrong)) == "bad-signature"
        unsigned = Beat(newest.heartbeat, b"s" * 65, newest.report)
        assert code(await ask(world, seller.signer, buyer, unsigned)) == "bad-signature"
