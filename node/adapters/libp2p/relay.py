"""Relay: carries bytes between peers that cannot reach each other, within bounds.

    RESERVE            a peer connected to us may be called through us, as long as it stays
    CONNECT <target>   a circuit to a peer with a live reservation; to nobody else, ever

Reads nothing of what it carries. Speaks the standard's protocol (see `circuit`), in code of our
own (docs/adr/0023): the library's has no bounds that hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import structlog
import trio

from market.errors import UnreachableError
from node.adapters.libp2p.bounds import (
    CONNECTIONS_MAX,
    GOODBYE_S,
    NEGOTIATE_S,
    RELAY_ASKS_BURST,
    RELAY_ASKS_PER_S,
    RELAY_CIRCUIT_S,
    RELAY_CIRCUITS_MAX,
    RELAY_CIRCUITS_PER_PEER_MAX,
    RELAY_IDLE_S,
    RELAY_RESERVATION_S,
    RELAY_RESERVATIONS_MAX,
    RELAY_RESERVATIONS_PER_IP_MAX,
    RELAY_SLICE_BYTES,
    STRIKE_LIMITED,
    STRIKE_MALFORMED,
)
from node.adapters.libp2p.circuit import (
    STOP,
    HopMessage,
    MalformedCircuitError,
    Status,
    StopMessage,
    expect_ok,
    hold_window,
    is_relayed,
    read_message,
    write_message,
)
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import peer_id, peer_key
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.strikes import Buckets
from node.adapters.libp2p.wire import Pace, Wire
from node.ports import Clock

log = structlog.get_logger(__name__)


class Relay:
    """What this node does for peers that others cannot dial."""

    def __init__(
        self,
        host: Any,
        peers: Peers,
        clock: Clock,
        *,
        offered: Callable[[], bool],
        strike: Callable[[bytes, float], None],
        bytes_per_s: float,
    ) -> None:
        """`offered` says whether we relay at all; `strike` takes PeerId bytes and points."""
        self._host = host
        self._peers = peers
        self._clock = clock
        self.offered = offered
        self._strike = strike
        self._pace = Pace(bytes_per_s)
        self._asks = Buckets(RELAY_ASKS_PER_S, RELAY_ASKS_BURST, CONNECTIONS_MAX * 2)
        self._reservations: dict[bytes, tuple[float, str]] = {}  # until when, from which IP
        self._circuits: Counter[bytes] = Counter()  # by peer: each counts at both ends
        self._open = 0
        self.counts: Counter[str] = Counter()

    def reserved(self, peer: bytes) -> bool:
        """Whether this peer may be called through us now."""
        until, _ = self._reservations.get(peer, (0.0, ""))
        return self.offered() and until > trio.current_time() and self._peers.is_direct(peer)

    def statistics(self) -> dict[str, int]:
        """What we carry now, what we carried, and what we refused."""
        self._tidy()
        return {
            "relay_reservations": len(self._reservations),
            "relay_circuits": self._open,
            "relay_bytes": self.counts["bytes"],
            "relay_refused": self.counts["refused"],
        }

    async def serve(self, stream: Any) -> None:
        """Answer one question, and carry what comes after it."""
        id_ = stream.muxed_conn.peer_id.to_bytes()
        peer = peer_key(id_)
        assert peer is not None, "the guard accepts Ed25519 peers only"
        wire = Wire(stream, Counter())
        try:
            with trio.fail_after(NEGOTIATE_S):
                question: Any = await read_message(wire, HopMessage)
            target = peer_key(question.peer.id) if question.type == HopMessage.CONNECT else None
            refusal = self._refusal(stream, peer, question.type, target)
            if refusal is not None:
                self.counts["refused"] += 1
                log.info("relaying refused", peer=peer.hex(), status=refusal)
                await _say_last(wire, HopMessage(type=HopMessage.STATUS, status=refusal))
            elif target is None:
                await self._reserve(wire, peer)
            else:
                async with self._slot(peer, target):
                    await self._connect(wire, peer, target)
        except MalformedCircuitError as problem:
            self.counts["refused"] += 1
            log.info("malformed circuit message", peer=peer.hex(), problem=str(problem))
            self._strike(id_, STRIKE_MALFORMED)
        except (UnreachableError, trio.TooSlowError) as problem:
            log.debug("circuit ended", peer=peer.hex(), problem=str(problem))
        finally:
            await discard(stream)

    def _refusal(self, stream: Any, peer: bytes, kind: int, target: bytes | None) -> int | None:
        """Why not, as a status of the protocol; None if it may be."""
        status: int | None = None
        if not self._asks.take(peer, trio.current_time()):
            self._strike(stream.muxed_conn.peer_id.to_bytes(), STRIKE_LIMITED)
            status = Status.RESOURCE_LIMIT_EXCEEDED
        elif not self.offered() or is_relayed(stream.muxed_conn):
            status = Status.PERMISSION_DENIED  # no circuit over a circuit: nobody could bound it
        elif kind == HopMessage.RESERVE:
            if not self._has_room(peer, _ip(stream)):
                status = Status.RESERVATION_REFUSED
            else:
                until = trio.current_time() + RELAY_RESERVATION_S
                self._reservations[peer] = (until, _ip(stream))
        elif kind != HopMessage.CONNECT:
            status = Status.UNEXPECTED_MESSAGE
        elif target is None or target == peer or not self.reserved(target):
            status = Status.NO_RESERVATION
        elif (
            self._open >= RELAY_CIRCUITS_MAX
            or max(self._circuits[peer], self._circuits[target]) >= RELAY_CIRCUITS_PER_PEER_MAX
        ):
            status = Status.RESOURCE_LIMIT_EXCEEDED
        return status

    def _has_room(self, peer: bytes, ip: str) -> bool:
        self._tidy()
        others = [where for key, (_, where) in self._reservations.items() if key != peer]
        return (
            len(others) < RELAY_RESERVATIONS_MAX
            and others.count(ip) < RELAY_RESERVATIONS_PER_IP_MAX
        )

    def _tidy(self) -> None:
        for peer in [peer for peer in self._reservations if not self.reserved(peer)]:
            del self._reservations[peer]

    async def _reserve(self, wire: Wire, peer: bytes) -> None:
        log.debug("reservation", peer=peer.hex(), reservations=len(self._reservations))
        answer = HopMessage(type=HopMessage.STATUS, status=Status.OK)
        answer.reservation.expire = int(self._clock.now()) + RELAY_RESERVATION_S
        answer.reservation.addrs.extend(one.to_bytes() for one in self._host.get_addrs()[:4])
        answer.limit.duration = RELAY_CIRCUIT_S
        await _say_last(wire, answer)

    @asynccontextmanager
    async def _slot(self, *ends: bytes) -> AsyncIterator[None]:
        self._open += 1
        self._circuits.update(ends)
        try:
            yield
        finally:
            self._open -= 1
            self._circuits.subtract(ends)
            self._circuits += Counter()  # keeps only what is above zero

    async def _connect(self, wire: Wire, peer: bytes, target: bytes) -> None:
        answer = HopMessage(type=HopMessage.STATUS, status=Status.CONNECTION_FAILED)
        far: Wire | None = None
        try:
            try:
                with trio.fail_after(NEGOTIATE_S):
                    far = await self._call(peer, target)
            except Exception as problem:  # whatever the library raises: it was not reached
                log.debug("call failed", target=target.hex(), problem=repr(problem))
            if far is None:
                await _say_last(wire, answer)
                return
            answer.status = Status.OK
            answer.limit.duration = RELAY_CIRCUIT_S
            await write_message(wire, answer)
            self.counts["circuits"] += 1
            log.debug("circuit", peer=peer.hex(), target=target.hex(), circuits=self._open)
            await self._splice(wire, far)
        finally:
            if far is not None:
                await discard(far.stream)

    async def _call(self, peer: bytes, target: bytes) -> Wire:
        stream = await self._host.new_stream(peer_id(target), [STOP])
        try:
            wire = Wire(stream, Counter())
            message = StopMessage(type=StopMessage.CONNECT)
            message.peer.id = peer_id(peer).to_bytes()
            message.limit.duration = RELAY_CIRCUIT_S
            await write_message(wire, message)
            expect_ok(await read_message(wire, StopMessage), StopMessage)
        except BaseException:
            await discard(stream)
            raise
        return wire

    async def _splice(self, one: Wire, other: Wire) -> None:
        """Both ways, until one end lets go, nothing has come for long, or its time is up."""
        for wire in (one, other):
            hold_window(wire.stream)
        moved_at = [trio.current_time()]
        async with trio.open_nursery() as nursery:
            nursery.cancel_scope.deadline = trio.current_time() + RELAY_CIRCUIT_S
            for source, sink in ((one, other), (other, one)):
                nursery.start_soon(self._pump, source, sink, moved_at, nursery.cancel_scope)

    async def _pump(
        self, source: Wire, sink: Wire, moved_at: list[float], scope: trio.CancelScope
    ) -> None:
        try:
            while trio.current_time() - moved_at[0] < RELAY_IDLE_S:
                with trio.move_on_after(RELAY_IDLE_S):
                    data = await source.some(RELAY_SLICE_BYTES)
                    moved_at[0] = trio.current_time()
                    await self._pace.wait(len(data))
                    await sink.write(data)
                    self.counts["bytes"] += len(data)
        except UnreachableError as problem:
            log.debug("circuit end let go", problem=str(problem))
        finally:
            scope.cancel()


async def _say_last(wire: Wire, message: Any) -> None:
    """Write, and give the peer time to read it: a reset may overtake what was written."""
    await write_message(wire, message)
    with trio.move_on_after(GOODBYE_S):
        await wire.stream.close_write()
        await wire.read(1)


def _ip(stream: Any) -> str:
    remote = stream.muxed_conn.get_remote_address()
    return remote[0] if remote else ""
