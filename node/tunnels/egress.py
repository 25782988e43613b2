"""Egress: the way out of a job, only as far as its provider sold it and its job file named it.

A job has no network but itself. If it may reach something, this node listens on one port inside
it, as an HTTP proxy that knows CONNECT; targets are looked up in both lists, names are resolved
here, and the bytes are counted and bounded. Everything else is not there at all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from market.agreement import Agreement, Phase, Role
from market.errors import LimitError, MarketError, RefusedError, SandboxError, SpecError
from market.messages import WorkState
from market.overlay import addresses
from market.reach import Target
from market.terms import Env, Manifest
from market.units import MIB, format_bytes
from node.keeper import Keeper
from node.ports import Pipe, Ports
from node.shop import Shop
from node.tunnels.connect import OPEN, parse_connect, read_head, refusal

log = structlog.get_logger("egress")
PORT: Final = 3128  # inside the job; the customary port of a proxy
CONNECTIONS_MAX: Final = 64  # per job
QUESTION_S: Final = 30.0
READ_BYTES: Final = 64 * 1024
RETRY_S: Final = 1.0


def egress_envs(manifest: Manifest, num_nodes: int = 1) -> tuple[Env, ...]:
    """What programs are told of the way out; none if there is none. It leads to no other node."""
    if not manifest.egress:
        return ()
    url = f"http://127.0.0.1:{PORT}"
    own = {env.name for env in manifest.envs}
    near = ",".join(("localhost", "127.0.0.1", *(addresses(num_nodes) if num_nodes > 1 else ())))
    told = {
        "HTTPS_PROXY": url, "https_proxy": url, "ALL_PROXY": url, "all_proxy": url,
        "NO_PROXY": near, "no_proxy": near,
    }  # fmt: skip
    return tuple(Env(name, value) for name, value in told.items() if name not in own)


@dataclass
class Meter:
    """One job's bytes, both ways together."""

    left: int
    used: int = 0
    refused: int = 0
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def take(self, count: int) -> None:
        """Count. Raises LimitError when more than was sold would have gone."""
        self.used += count
        if self.used > self.left:
            raise LimitError(f"the job has used its {format_bytes(self.left)} of network")


class Egress:
    """The proxies of this node's running jobs."""

    def __init__(self, ports: Ports, keeper: Keeper, shop: Shop) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._shop = shop
        self.meters: dict[bytes, Meter] = {}

    async def run(self, tick_s: float) -> None:
        """Open a proxy in each job that was sold one, as long as it runs."""
        async with trio.open_nursery() as nursery:
            while True:
                wanted = {a.id: a for a in self._keeper.agreements.values() if _wants(a)}
                for key, meter in list(self.meters.items()):
                    if key not in wanted:
                        meter.scope.cancel()
                for key, a in wanted.items():
                    if key not in self.meters:
                        selling = self._shop.selling
                        mib = selling.egress_mib_max if selling else 0
                        self.meters[key] = Meter(mib * MIB)
                        nursery.start_soon(self._serve, a)
                await trio.sleep(tick_s)

    async def _serve(self, a: Agreement) -> None:
        meter = self.meters[a.id]
        try:
            with meter.scope:
                while True:
                    try:
                        await self._listen(a, meter)
                    except SandboxError as problem:
                        log.info("a job's proxy waits", agreement=a.id.hex()[:12],
                                 problem=str(problem))  # fmt: skip
                    await trio.sleep(RETRY_S)
        finally:
            del self.meters[a.id]
            log.info("a job's way out is closed", agreement=a.id.hex()[:12],
                     bytes=meter.used, refused=meter.refused)  # fmt: skip

    async def _listen(self, a: Agreement, meter: Meter) -> None:
        limit = trio.Semaphore(CONNECTIONS_MAX)
        problems: list[SandboxError] = []
        async with (
            self._ports.sandbox.listen(a.id.hex(), PORT) as listener,
            trio.open_nursery() as nursery,
        ):
            try:
                while True:
                    await limit.acquire()
                    taken = await listener.accept()
                    nursery.start_soon(self._connection, taken, a, meter, limit)
            except SandboxError as problem:
                problems.append(problem)
                nursery.cancel_scope.cancel()
        raise problems[0]

    async def _connection(self, taken, a: Agreement, meter: Meter, limit: trio.Semaphore) -> None:  # type: ignore[no-untyped-def]
        try:
            async with taken as pipe:
                await self._answer(pipe, a, meter)
        except MarketError as problem:
            log.debug("a connection of a job ended", problem=str(problem))
        finally:
            limit.release()

    async def _answer(self, pipe: Pipe, a: Agreement, meter: Meter) -> None:
        with trio.move_on_after(QUESTION_S) as patience:
            head, rest = await read_head(pipe)
        if patience.cancelled_caught:
            return
        try:
            target = parse_connect(head)
            self._check(a, target)
        except (RefusedError, SpecError) as problem:
            meter.refused += 1
            log.info("a job was kept in", agreement=a.id.hex()[:12], problem=str(problem))
            status = 400 if isinstance(problem, SpecError) else 403
            await pipe.send(refusal(status, f"{problem} {problem.hint}".strip()))
            return
        opened = False
        try:
            async with self._ports.outside.connect(target) as outside:
                await pipe.send(OPEN)
                opened = True
                if rest:
                    meter.take(len(rest))
                    await outside.send(rest)
                await _carry(pipe, outside, meter)
        except MarketError as problem:
            if opened:
                raise
            meter.refused += isinstance(problem, RefusedError)
            await pipe.send(refusal(502, str(problem)))

    def _check(self, a: Agreement, target: Target) -> None:
        """Both lists name it. The provider's is that of now: it may have been narrowed."""
        assert a.manifest is not None
        selling = self._shop.selling
        if str(target) not in a.manifest.egress:
            raise RefusedError(f"the job file does not name {target}",
                               hint=f"write it in egress: [{target}]")  # fmt: skip
        if selling is None or str(target) not in selling.egress:
            raise RefusedError(f"the provider does not sell a way to {target}")


async def _carry(inside: Pipe, outside: Pipe, meter: Meter) -> None:
    """Both ways until both have ended, every byte counted."""
    problems: list[MarketError] = []
    async with trio.open_nursery() as nursery:

        async def carry(source: Pipe, target: Pipe) -> None:
            try:
                while data := await source.receive(READ_BYTES):
                    meter.take(len(data))
                    await target.send(data)
                await target.close_write()
            except MarketError as problem:
                problems.append(problem)
                nursery.cancel_scope.cancel()

        nursery.start_soon(carry, inside, outside)
        nursery.start_soon(carry, outside, inside)
    if problems:
        raise problems[0]


def _wants(a: Agreement) -> bool:
    if a.role is not Role.PROVIDER or a.manifest is None or not a.manifest.egress:
        return False
    return a.phase is Phase.RUNNING and a.report.work is WorkState.RUNNING
