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

from market.agreement import Agreement, Phase, Role
from market.duties import Duty, Submit
from market.errors import ChainError, ChainRefusedError
from market.events import Event, OrderRefused
from node.artifacts import PROTOCOL, Artifacts
from node.bulletin import Bulletin
from node.config import Config
from node.control import Control
from node.demands import Demands
from node.inbox import Inbox
from node.keeper import Keeper
from node.mail import Mail
from node.ports import ChainBatch, Ports
from node.provider import Provider
from node.queue import Queue
from node.requester import Requester
from node.shop import Shop
from node.wishes import Wishes

log = structlog.get_logger("node")
TRADE_PAUSE_S = 0.05  # a flood of demands is looked at so often at most
LOOK_ROUND_S = 5.0
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
    artifacts = Artifacts(ports.link, ports.blobs, _may_fetch(keeper))
    shop = Shop(config, ports, keeper)
    provider = Provider(config, ports, keeper, mail, artifacts, shop)
    bulletin = Bulletin(config.rules, mail, ports.gossip, ports.link, ports.clock, shop.offers)
    queue = Queue(config.rules, shop, keeper, bulletin, provider.propose, provider.can_pay)
    requester = Requester(ports, keeper, mail, artifacts)
    demands = Demands(config, ports, keeper, mail, bulletin)
    wishes = Wishes(ports, keeper, mail, bulletin, demands)
    inbox = Inbox(ports, keeper, mail, bulletin, provider, requester, wishes)
    ports.link.answer(inbox.answer)
    ports.link.accept(PROTOCOL, artifacts.serve)

    async def perform(duty: Duty, agreement: Agreement) -> Iterable[Event]:
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
        nursery.start_soon(_trade, config, ports, keeper, bulletin, queue)
        nursery.start_soon(_look_round, shop)
        log.info("node is up", peer=ports.signer.peer.hex()[:12], network=config.network)
        control = Control(config, ports, keeper, bulletin, demands, shop, queue)
        nursery.start_soon(control.run)
        task_status.started(control)


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


async def _look_round(shop: Shop) -> None:
    """See now and then what is cached here."""
    while True:
        await shop.look()
        await trio.sleep(LOOK_ROUND_S)


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


class _may_fetch:  # reads as the question it answers
    """Whether a peer may have a blob: it must stand in a live or recent agreement with it."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    def __call__(self, peer: bytes, hash_: bytes) -> bool:
        """True for what we gave a provider to run, and for what a requester's job left here."""
        for agreement in self._keeper.agreements.values():
            if agreement.peer != peer or agreement.phase is Phase.QUOTED:
                continue
            if agreement.role is Role.REQUESTER and agreement.manifest is not None:
                manifest = agreement.manifest
                given = (manifest.image, *manifest.inputs, manifest.resume)
                if any(artifact is not None and artifact.hash == hash_ for artifact in given):
                    return True
            elif agreement.role is Role.PROVIDER:
                left = (agreement.report.checkpoint, *agreement.report.results)
                if any(artifact is not None and artifact.hash == hash_ for artifact in left):
                    return True
        return False
