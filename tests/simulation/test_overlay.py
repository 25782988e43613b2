"""The network of a gang between simulated nodes: who may join, what passes, what is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock

from market.codec import decode, encode
from market.errors import RefusedError, UnreachableError
from market.job import JobState
from market.limits import (
    GANG_FRAME_BYTES_MAX,
    GANG_IDLE_S,
    GANG_PACKETS_PER_S_MAX,
    GANG_QUEUE_BYTES_MAX,
    GANG_QUEUES_BYTES_MAX,
)
from market.messages import Join, Joined, Member
from market.overlay import Drop, address
from market.signing import agreement_id
from node.ports import GANG_NETWORK, Channel, Check
from node.tunnels.overlay import Overlay
from tests.packets import data_of, packet, udp
from tests.simulation.escrow import DOMAIN
from tests.simulation.sandbox import SimWork
from tests.simulation.shopper import open_shoppers
from tests.simulation.test_buying import market
from tests.simulation.test_gang import envs, gang_of
from tests.simulation.world import MILLION, Machine, World, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def work_of(machine: Machine) -> SimWork:
    """The one job on this machine."""
    (work,) = machine.sandbox.work.values()
    return work


def rank_of(machine: Machine) -> int:
    return int(envs(machine)["SOUK_NODE_RANK"])


@asynccontextmanager
async def running(seed: int, nodes: int = 2) -> AsyncIterator[tuple[World, list[Machine], Machine]]:
    """A gang that runs, its providers by rank, and a requester."""
    async with open_world(seed) as world:
        sellers, buyer = await market(world, *[MILLION] * nodes)
        job_id = await gang_of(world, buyer, "work 300 greet", nodes)
        with trio.fail_after(60):
            while world.job(buyer, job_id).state is not JobState.RUNNING:
                await trio.sleep(1)
        await trio.sleep(3)
        yield world, sorted(sellers, key=rank_of), buyer


async def joined(machine: Machine, other: Machine, agreement: bytes) -> Joined | None:
    """What `other` says to a machine that wants to join."""
    assert machine.control is not None
    async with machine.control.ports.link.open(other.signer.peer, "gang") as channel:
        await channel.send(encode(Join(agreement)))
        answer = await channel.receive()
        return decode(Joined, answer) if answer is not None else None


async def test_packets_pass_between_the_nodes_and_back(autojump_clock: MockClock) -> None:
    async with running(171, 3) as (_, nodes, _):
        works = [work_of(node) for node in nodes]
        assert data_of(works[1].heard[0]) == b"hello"
        works[1].sending.append(udp(address(1), address(0), b"to zero"))
        works[2].sending += [udp(address(2), address(0), b"a"), udp(address(2), address(1), b"b")]
        await trio.sleep(3)
        assert sorted(data_of(one) for one in works[0].heard) == [b"a", b"to zero"]
        assert data_of(works[1].heard[-1]) == b"b"
        told = envs(nodes[2])
        assert told["SOUK_NODE_IPS"].splitlines() == [address(0), address(1), address(2)]
        assert (told["MASTER_ADDR"], told["PET_MASTER_PORT"]) == (address(0), "29500")
        assert told["GLOO_SOCKET_IFNAME"] == told["NCCL_SOCKET_IFNAME"] == "souk0"


async def test_what_a_job_may_not_send_never_leaves(autojump_clock: MockClock) -> None:
    async with running(172) as (_, nodes, _):
        first, second = (work_of(node) for node in nodes)
        before = len(second.heard)
        first.sending += [
            udp(address(1), address(1), b"spoofed"), udp(address(0), "192.168.1.1", b"out"),
            udp(address(0), "224.0.0.1", b"all"), b"", bytes(99),
            packet(address(0), address(1), bytes(8), 17, fragment=0x2000),
            udp(address(0), address(1), b"good"),
        ]  # fmt: skip
        await trio.sleep(3)
        assert [data_of(one) for one in second.heard[before:]] == [b"good"]


async def test_a_hostile_member_gets_in_only_what_is_its_own(autojump_clock: MockClock) -> None:
    async with running(173, 3) as (_, nodes, _):
        work, agreement = work_of(nodes[0]), agreement_of(nodes[0])
        hostile = nodes[1]
        assert hostile.control is not None
        before = len(work.heard)
        async with hostile.control.ports.link.open(nodes[0].signer.peer, "gang") as channel:
            await channel.send(encode(Join(agreement)))
            assert decode(Joined, await channel.receive() or b"") == Joined("", "")
            bad = [
                udp(address(2), address(0), b"another"), udp(address(0), address(0), b"yours"),
                udp(address(1), address(2), b"pass it on"), udp(address(1), "127.0.0.1", b"loop"),
            ]  # fmt: skip
            await channel.send(b"".join(bad) + udp(address(1), address(0), b"own"))
            await trio.sleep(3)
            assert [data_of(one) for one in work.heard[before:]] == [b"own"]
            await channel.send(b"half a packet, and no more of it")
            assert await channel.receive() is None
        async with hostile.control.ports.link.open(nodes[0].signer.peer, "gang") as channel:
            await channel.send(encode(Join(agreement)))
            await channel.receive()
            await channel.send(bytes(GANG_FRAME_BYTES_MAX + 1))
            assert await channel.receive() is None
        assert len(work.heard) == before + 1


async def test_nobody_else_may_join(autojump_clock: MockClock) -> None:
    async with running(174) as (world, nodes, buyer):
        stranger = world.add("stranger")
        await stranger.start()
        agreement = agreement_of(nodes[0])
        for machine in (stranger, buyer):
            answer = await joined(machine, nodes[0], agreement)
            assert answer is not None
            assert answer.code == "refused"
        answer = await joined(nodes[1], nodes[0], bytes(32))
        assert answer is not None
        assert answer.code == "refused"
        answer = await joined(nodes[1], nodes[0], agreement)
        assert answer == Joined("", "")
        assert stranger.control is not None
        for junk in (b"", b"junk", bytes(200)):
            link = stranger.control.ports.link
            async with link.open(nodes[0].signer.peer, "gang") as channel:
                await channel.send(junk)
                assert await channel.receive() is None


async def test_a_gang_that_is_over_takes_no_more(autojump_clock: MockClock) -> None:
    async with running(175) as (world, nodes, buyer):
        agreement = agreement_of(nodes[0])
        assert buyer.control is not None
        (job,) = buyer.control.jobs.all()
        await buyer.control.jobs.cancel(job["id"])
        await world.until_over(buyer, bytes.fromhex(job["id"]), 60)
        answer = await joined(nodes[1], nodes[0], agreement)
        assert answer is not None
        assert answer.code == "refused"


async def test_a_gang_that_moves_has_new_tunnels(autojump_clock: MockClock) -> None:
    async with running(176) as (world, nodes, buyer):
        spare = world.add("spare", units=1, price=MILLION)
        await spare.start()
        old = agreement_of(nodes[0])
        await nodes[1].power_cut()
        with trio.fail_after(300):
            while not spare.sandbox.work or not nodes[0].sandbox.work:
                await trio.sleep(1)
            while agreement_of(nodes[0]) == old or not work_of(spare).started_at:
                await trio.sleep(1)
        await trio.sleep(15)
        again = sorted((nodes[0], spare), key=rank_of)
        work_of(again[1]).sending.append(udp(address(1), address(0), b"here now"))
        await trio.sleep(5)
        assert data_of(work_of(again[0]).heard[-1]) == b"here now"


async def test_a_restarted_provider_takes_hold_again(autojump_clock: MockClock) -> None:
    async with running(177) as (_, nodes, _):
        await nodes[1].crash()
        work_of(nodes[0]).sending.append(udp(address(0), address(1), b"lost"))
        await trio.sleep(2)
        await nodes[1].start()
        await trio.sleep(10)
        before = len(work_of(nodes[1]).heard)
        work_of(nodes[0]).sending.append(udp(address(0), address(1), b"again"))
        await trio.sleep(5)
        assert [data_of(one) for one in work_of(nodes[1]).heard[before:]] == [b"again"]


async def test_a_rig_that_can_make_no_interface_quotes_no_gang(autojump_clock: MockClock) -> None:
    async with open_world(178) as world:
        sellers, buyer = await market(world, MILLION, 2 * MILLION)
        able = world.add("able", units=1, price=3 * MILLION)
        await able.start()
        assert sellers[0].control is not None
        sellers[0].sandbox.checks = (Check(GANG_NETWORK, False, False, "there is no /dev/net/tun"),)
        await sellers[0].crash()
        await sellers[0].start()
        await trio.sleep(10)
        job_id = await gang_of(world, buyer, "work 20", 2)
        await trio.sleep(15)
        assert world.job(buyer, job_id).state is JobState.RUNNING
        assert not sellers[0].sandbox.work
        await world.until_over(buyer, job_id, 100)
        alone = await world.submit(buyer, "work 5")
        assert (await world.until_over(buyer, alone, 100)).state is JobState.SUCCEEDED
        assert sellers[0].journal_agreements(), "it sells to those who want one node"


async def test_an_acceptance_that_misnames_the_gang_is_refused(autojump_clock: MockClock) -> None:
    async with open_world(179) as world:
        seller = world.add("seller", units=1, price=MILLION)
        await seller.start()
        (shopper,) = await open_shoppers(world, "shopper")
        await trio.sleep(10)
        quote = await shopper.until_quoted(await shopper.want())
        me = Member(agreement_id(quote.terms, DOMAIN), seller.signer.peer, "")
        other = Member(bytes(32), bytes(32), "")
        for rank, nodes, members, said in (
            (2, 2, (me, other), "begin at 0"),
            (0, 2, (), "all of them"),
            (0, 2, (me,), "all of them"),
            (0, 2, (me, other, other), "all of them"),
            (0, 1, (me,), "all of them"),
            (1, 2, (me, other), "not the member"),
            (0, 2, (replace(me, agreement=bytes(32)), other), "not the member"),
            (0, 2, (replace(me, peer=bytes(32)), other), "not the member"),
            (0, 2, (me, replace(me, agreement=bytes(32))), "different peers"),
            (0, 3, (me, other, other), "different peers"),
        ):
            with pytest.raises(RefusedError, match=said):
                await shopper.accept(quote, rank, nodes, members)
        await shopper.accept(quote, 0, 2, (me, other))
        (a,) = seller.journal_agreements()
        assert a.members == (me, other)


def agreement_of(machine: Machine) -> bytes:
    """The id of the agreement that the machine's one job runs under."""
    (name,) = machine.sandbox.work
    return bytes.fromhex(name)


class Pipe:
    """An interface that has what it is given, and keeps what it is sent."""

    def __init__(self, packets: list[bytes]) -> None:
        self.packets = packets
        self.heard: list[bytes] = []

    async def receive(self) -> bytes:
        while not self.packets:
            await trio.sleep(1)
        return self.packets.pop(0)

    def receive_nowait(self) -> bytes | None:
        return self.packets.pop(0) if self.packets else None

    def send(self, packet: bytes) -> None:
        self.heard.append(packet)


class Slow:
    """A channel to a peer that takes what it is sent only once it is told to."""

    peer = bytes(32)

    def __init__(self) -> None:
        self.opened = 0
        self.closed = 0
        self.open_to_more = trio.Event()
        self.frames: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        await self.open_to_more.wait()
        self.frames.append(frame)

    async def receive(self) -> bytes | None:
        await trio.sleep_forever()

    @asynccontextmanager
    async def to(self, rank: int) -> AsyncIterator[Channel]:
        """As an opener."""
        del rank
        self.opened += 1
        try:
            yield self  # type: ignore[misc]
        finally:
            self.closed += 1


def overlay_of(packets: list[bytes], slow: Slow, nodes: int = 2) -> tuple[Overlay, Pipe]:
    pipe = Pipe(packets)
    return Overlay(0, nodes, pipe, slow.to), pipe


async def test_what_nobody_takes_is_dropped_and_bounded(autojump_clock: MockClock) -> None:
    size = 50_000
    many = 3 * GANG_QUEUE_BYTES_MAX // size
    packets = [udp(address(0), address(1), bytes(size - 28)) for _ in range(many)]
    slow = Slow()
    overlay, _ = overlay_of(packets, slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        await trio.sleep(5)
        fits = GANG_QUEUE_BYTES_MAX // size
        # Besides what waits, a frame or two are on their way.
        assert many - fits - 2 * GANG_FRAME_BYTES_MAX // size <= overlay.dropped[Drop.FULL]
        assert overlay.dropped[Drop.FULL] <= many - fits
        slow.open_to_more.set()
        await trio.sleep(5)
        assert sum(map(len, slow.frames)) == size * (many - overlay.dropped[Drop.FULL])
        assert max(map(len, slow.frames)) <= GANG_FRAME_BYTES_MAX
        assert slow.opened == 1
        nursery.cancel_scope.cancel()


async def test_all_lanes_together_are_bounded(autojump_clock: MockClock) -> None:
    nodes, size = 64, 60_000
    packets = [
        udp(address(0), address(rank), bytes(size - 28))
        for _ in range(GANG_QUEUE_BYTES_MAX // size)
        for rank in range(1, nodes)
    ]
    offered = size * len(packets)
    overlay, _ = overlay_of(packets, Slow(), nodes)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        await trio.sleep(20)
        kept = offered - size * overlay.dropped[Drop.FULL]
        in_flight = (nodes - 1) * GANG_FRAME_BYTES_MAX
        assert kept <= GANG_QUEUES_BYTES_MAX + in_flight < offered
        nursery.cancel_scope.cancel()


async def test_what_has_gone_waits_no_more(autojump_clock: MockClock) -> None:
    slow = Slow()
    slow.open_to_more.set()
    overlay, pipe = overlay_of([], slow)
    size = 60_000
    rounds = 2 * GANG_QUEUES_BYTES_MAX // (20 * size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        for _ in range(rounds):
            pipe.packets += [udp(address(0), address(1), bytes(size - 28))] * 20
            await trio.sleep(2)
        assert not overlay.dropped
        assert overlay.bytes_out == rounds * 20 * size > GANG_QUEUES_BYTES_MAX
        nursery.cancel_scope.cancel()


async def test_an_idle_channel_is_closed_and_opened_again(autojump_clock: MockClock) -> None:
    slow = Slow()
    slow.open_to_more.set()
    overlay, pipe = overlay_of([udp(address(0), address(1), b"one")], slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        await trio.sleep(GANG_IDLE_S / 2)
        assert (slow.opened, slow.closed) == (1, 0)
        await trio.sleep(GANG_IDLE_S)
        assert (slow.opened, slow.closed) == (1, 1)
        pipe.packets.append(udp(address(0), address(1), b"two"))
        await trio.sleep(3)
        assert (slow.opened, len(slow.frames)) == (2, 2)
        nursery.cancel_scope.cancel()


async def test_a_flood_of_small_packets_keeps_to_its_rate(autojump_clock: MockClock) -> None:
    """A job may not take this node's core from the others."""
    packets = [udp(address(0), "1.1.1.1", b"") for _ in range(5 * GANG_PACKETS_PER_S_MAX)]
    overlay, _ = overlay_of(packets, Slow())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        await trio.sleep(2)
        assert overlay.dropped[Drop.DESTINATION] == pytest.approx(
            2 * GANG_PACKETS_PER_S_MAX, rel=0.1
        )
        nursery.cancel_scope.cancel()


async def test_the_newest_channel_of_a_node_is_the_one(autojump_clock: MockClock) -> None:
    """One whose peer died without a word must not keep the next one out."""
    overlay, pipe = overlay_of([], Slow())

    class Saying(Slow):
        async def receive(self) -> bytes | None:
            await self.open_to_more.wait()
            self.open_to_more = trio.Event()
            return udp(address(1), address(0), b"x")

    old, new = Saying(), Saying()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        nursery.start_soon(overlay.take, old, 1)
        await trio.sleep(1)
        nursery.start_soon(overlay.take, new, 1)
        await trio.sleep(1)
        old.open_to_more.set()
        await trio.sleep(1)
        assert pipe.heard == []
        new.open_to_more.set()
        await trio.sleep(1)
        assert len(pipe.heard) == 1
        nursery.cancel_scope.cancel()


async def test_a_node_that_does_not_answer_costs_what_waits_for_it(
    autojump_clock: MockClock,
) -> None:
    tries: list[int] = []

    @asynccontextmanager
    async def nobody(rank: int) -> AsyncIterator[Channel]:
        tries.append(rank)
        raise UnreachableError("nobody is there")
        yield

    pipe = Pipe([udp(address(0), address(1), b"one")])
    overlay = Overlay(0, 2, pipe, nobody)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(overlay.run)
        for _ in range(5):
            await trio.sleep(3)
            pipe.packets.append(udp(address(0), address(1), b"again"))
        await trio.sleep(3)
        assert overlay.dropped[Drop.UNREACHABLE] == len(tries) == 6
        nursery.cancel_scope.cancel()
