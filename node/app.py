"""App: one running node, put together. The same in life and in simulation.

`run_node(config, ports)` knows only ports; `node/live.py` and `tests/simulation` fill them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import cast

import structlog
import trio
from trio import TaskStatus  # type: ignore[attr-defined]  # trio-typing's stubs hide it

from market.agreement import Agreement, Role
from market.duties import Duty, Submit
from market.errors import ChainError, ChainRefusedError, MarketError
from market.events import Event, OrderRefused
from node.artifacts import PROTOCOL, Artifacts
from node.atlas import NOTE as PLACE_NOTE
from node.atlas import Atlas
from node.bandwidth import PROTOCOL as BANDWIDTH
from node.bandwidth import Bandwidth
from node.bulletin import Bulletin
from node.certify import PROTOCOL as CHALLENGE
from node.certify import Certifier
from node.challenger import Challenger
from node.config import Config
from node.control import Control, Rooms
from node.demands import Demands
from node.holdings import Holdings
from node.images import Images
from node.inbox import Inbox
from node.keeper import Keeper, Noted
from node.machine import Machine
from node.mail import Mail
from node.ports import ChainBatch, Ports
from node.provider import Provider
from node.queue import Queue
from node.requester import Requester
from node.shop import Shop
from node.staging import Stager
from node.standing import Standing
from node.trace import span
from node.tunnels.accept import PROTOCOL as TUNNEL
from node.tunnels.accept import TunnelServer
from node.tunnels.dial import Dialler
from node.tunnels.egress import Egress
from node.tunnels.enter import Entrance
from node.tunnels.execute import PROTOCOL as EXEC
from node.tunnels.execute import ExecutionServer
from node.tunnels.gang import PROTOCOL as GANG
from node.tunnels.gang import Gangs
from node.wishes import Wishes

log = structlog.get_logger("node")
TRADE_PAUSE_S = 0.05  # a flood of demands is looked at so often at most
LOOK_ROUND_S = 5.0
BRING_AGAIN_S = 15.0
BRING_S = 1.0  # an image that only its requester may fetch is begun before anybody is chosen
MEASURE_S = 5.0  # a map needs some dozens of samples of each neighbour, and then only upkeep
NOTE_ROUNDS = 30  # measurements between two notes in the journal
CHAIN_PAUSE_S = 2.0  # between attempts to follow a chain that cannot be reached


async def run_node(
    config: Config,
    ports: Ports,
    *,
    task_status: TaskStatus[Control] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run until cancelled. Started with the node's `Control` once the journal is read."""
    keeper = Keeper(ports.journal, ports.clock, config.rules.tick_s)
    await keeper.load()
    mail = Mail(config.network, ports.signer, ports.clock, ports.link, ports.gossip)
    holdings = Holdings(keeper, ports.clock)
    artifacts = Artifacts(ports.link, ports.blobs, holdings.may_fetch, holdings.is_coming)
    atlas = Atlas(ports.link, keeper.notes.get(PLACE_NOTE))
    standing = Standing(ports.clock, keeper.notes)
    keeper.witness = standing.witness

    def who_has(image: bytes) -> list[bytes]:
        heard = (offer for offer in bulletin.book.offers() if image in offer.cached_images)
        return [offer.peer for offer in heard if offer.peer != ports.signer.peer]

    images = Images(ports, artifacts, who_has)
    await images.load()
    holdings.images = images
    ports.blobs.keep(holdings.needed)
    bandwidth = Bandwidth(ports.link, ports.entropy)
    certifier = Certifier(ports, keeper, bandwidth.measure)
    challenger = Challenger(ports, keeper)
    shop = Shop(
        config, ports, keeper, images, certifier, lambda: atlas.here,
        lambda: standing.reliability_ppm(config.wallet),
    )  # fmt: skip
    machine = Machine(ports.devices, ports.clock, keeper.taken_units)
    stager = Stager(ports, keeper, artifacts, images)
    provider = Provider(config, ports, keeper, mail, stager, shop, machine)
    bulletin = Bulletin(
        config.rules, mail, ports.gossip, ports.link, ports.clock, atlas, shop.offers,
        standing.reliability_ppm,
    )  # fmt: skip
    queue = Queue(
        config.rules, shop, keeper, bulletin, provider.propose, provider.can_pay, standing.paid_for
    )
    bulletin.judge = challenger.judge
    requester = Requester(ports, keeper, mail, artifacts)
    demands = Demands(config, ports, keeper, mail, bulletin)
    wishes = Wishes(ports, keeper, mail, bulletin, demands)
    inbox = Inbox(ports, keeper, mail, bulletin, provider, requester, wishes)
    ports.link.answer(inbox.answer)
    ports.link.accept(PROTOCOL, artifacts.serve)
    ports.link.accept(CHALLENGE, certifier.serve)
    ports.link.accept(BANDWIDTH, bandwidth.serve)
    gangs = _open_jobs(ports, keeper)
    dialler, entrance = Dialler(keeper, ports.link), Entrance(keeper, ports.link)

    async def perform(duty: Duty, agreement: Agreement) -> Iterable[Event]:
        with span(type(duty).__name__, agreement.job_id, agreement.id):
            if isinstance(duty, Submit):
                return await _submit(ports, duty)
            room = provider if agreement.role is Role.PROVIDER else requester
            return await room.perform(duty, agreement)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper.run, perform, wishes.perform)
        nursery.start_soon(_follow_chain, ports, keeper)
        nursery.start_soon(bulletin.listen)
        nursery.start_soon(bulletin.speak)
        nursery.start_soon(bulletin.greet)
        nursery.start_soon(_mind_machine, machine, shop, bulletin)
        nursery.start_soon(_trade, config, ports, keeper, bulletin, queue)
        nursery.start_soon(Egress(ports, keeper, shop).run, config.rules.tick_s)
        nursery.start_soon(gangs.run, config.rules.tick_s)
        nursery.start_soon(challenger.run, bulletin)
        nursery.start_soon(_look_round, images)
        nursery.start_soon(_bring, images, keeper)
        nursery.start_soon(_measure, atlas, keeper)
        log.info("node is up", peer=ports.signer.peer.hex()[:12], network=config.network)
        rooms = Rooms(
            keeper, bulletin, demands, shop, queue, images, dialler, entrance, certifier, challenger
        )
        control = Control(config, ports, rooms)
        nursery.start_soon(control.run)
        task_status.started(control)


def _open_jobs(ports: Ports, keeper: Keeper) -> Gangs:
    """Whatever leads into a job that runs here: its ports, programs beside it, its gang."""
    ports.link.accept(TUNNEL, TunnelServer(keeper, ports.sandbox).serve)
    ports.link.accept(EXEC, ExecutionServer(keeper, ports.sandbox).serve)
    gangs = Gangs(keeper, ports.link, ports.sandbox)
    ports.link.accept(GANG, gangs.serve)
    return gangs


async def _trade(
    config: Config, ports: Ports, keeper: Keeper, bulletin: Bulletin, queue: Queue
) -> None:
    """Look at open demands, and at what our offers have become."""
    taken = -1
    while True:
        again_s = await queue.consider(ports.clock.now())
        if keeper.taken_units() != taken:
            taken = keeper.taken_units()
            bulletin.stir()
        with trio.move_on_after(min(again_s, config.rules.tick_s)):
            await bulletin.wait_demand()
        await trio.sleep(TRADE_PAUSE_S)


async def _mind_machine(machine: Machine, shop: Shop, bulletin: Bulletin) -> None:
    """A machine that lets strangers' code out must not advertise, nor units that are not well."""
    shop.unusable = lambda: machine.unusable
    await shop.examine()
    bulletin.stir()
    await machine.run(bulletin.stir)


async def _look_round(images: Images) -> None:
    """See now and then what is cached here."""
    while True:
        await images.look()
        await trio.sleep(LOOK_ROUND_S)


async def _bring(images: Images, keeper: Keeper) -> None:
    """What only this node may fetch it fetches for the jobs that it gives away."""
    again_at: dict[bytes, float] = {}
    while True:
        live = (job.manifest.image for job in keeper.jobs.values() if not job.over)
        for image in dict.fromkeys(live):
            if trio.current_time() < again_at.get(image.hash, 0.0):
                continue
            try:
                await images.bring(image)
            except MarketError as problem:
                again_at[image.hash] = trio.current_time() + BRING_AGAIN_S
                log.warning("a private image cannot be fetched", image=image.path,
                            problem=str(problem))  # fmt: skip
        await trio.sleep(BRING_S)


async def _measure(atlas: Atlas, keeper: Keeper) -> None:
    """Find out where this node is: often at first, then now and then; the journal remembers."""
    rounds = 0
    while True:
        before = atlas.note()
        atlas.measure()
        rounds += 1
        if rounds % NOTE_ROUNDS == 0 and atlas.note() != before:
            await keeper.post(Noted(PLACE_NOTE, atlas.note()))
        await trio.sleep(MEASURE_S if rounds > NOTE_ROUNDS else 1.0)


async def _follow_chain(ports: Ports, keeper: Keeper) -> None:
    """Hand the keeper every confirmed fact, from where the journal ends, over any outage."""
    while True:
        try:
            # Closed at once when it is cancelled between two facts, not when somebody collects it.
            told = cast("AsyncGenerator[ChainBatch, None]", ports.chain.facts(keeper.block))
            async with aclosing(told):
                async for batch in told:
                    await keeper.post(batch)
        except ChainError as problem:
            log.warning("the chain cannot be followed", problem=str(problem))
        await trio.sleep(CHAIN_PAUSE_S)


async def _submit(ports: Ports, duty: Submit) -> Iterable[Event]:
    name = type(duty.order).__name__
    try:
        tx = await ports.chain.submit(duty.order)
    except ChainRefusedError as problem:
        log.info("the contract refused", order=name, reason=problem.reason or str(problem),
                 agreement=duty.agreement.hex()[:12])  # fmt: skip
        return (OrderRefused(name, problem.reason or str(problem)),)
    log.info("on chain", order=name, agreement=duty.agreement.hex()[:12], tx=tx.hex()[:12])
    return ()
