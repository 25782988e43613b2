"""Reservations: being reachable through relays, and reaching others through theirs.

Holds up to RELAYS_MAX reservations while this node is not reachable; renews them, and takes others
when a relay is gone. Takes circuits only from relays that it chose. See `circuit` for the words.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog
import trio
from multiaddr import Multiaddr

from market.errors import UnreachableError
from node.adapters.libp2p.bounds import (
    NEGOTIATE_S,
    RELAY_REFUSED_S,
    RELAY_RESERVATION_S,
    RELAYS_MAX,
)
from node.adapters.libp2p.circuit import (
    HOP,
    STOP,
    CircuitConnection,
    HopMessage,
    Status,
    StopMessage,
    circuit_address,
    expect_ok,
    is_relayed,
    read_message,
    write_message,
)
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import format_address, parse_address, peer_id, peer_key
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.wire import Wire

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Held:
    address: str  # the relay's, in full
    renew_at: float
    until: float


class Reservations:
    """The circuits of one node that end here, and those that begin here."""

    def __init__(
        self,
        host: Any,
        peers: Peers,
        *,
        bootstrap: Iterable[bytes],
        wanted: Callable[[], bool],
        denied: Callable[[bytes], bool],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """`wanted` says whether we need relays; `changed` is told that our addresses are others."""
        self._host = host
        self._swarm = host.get_network()
        self._peers = peers
        self._bootstrap = tuple(bootstrap)
        self._wanted = wanted
        self._denied = denied
        self._changed = changed
        self._held: dict[bytes, _Held] = {}
        self._refused_until: dict[bytes, float] = {}
        host.set_stream_handler(STOP, self.serve)

    def relays(self) -> tuple[bytes, ...]:
        """Through whom we may be called, the oldest reservation first."""
        return tuple(self._held)

    def addresses(self) -> tuple[str, ...]:
        """Where we may be called, without our own id."""
        return tuple(circuit_address(held.address) for held in self._held.values())

    async def run(self, interval_s: float) -> None:
        """Until cancelled."""
        while True:
            before = self.addresses()
            await self._tend()
            if self.addresses() != before:
                log.info("reachable through relays", relays=[key.hex() for key in self._held])
                await self._changed()
            await trio.sleep(interval_s)

    async def _tend(self) -> None:
        now = trio.current_time()
        for relay, held in list(self._held.items()):
            if not self._wanted() or held.until <= now or not self._peers.is_direct(relay):
                del self._held[relay]
            elif held.renew_at <= now and relay not in self._refused_until:
                await self._reserve(relay)
        self._refused_until = {
            relay: until for relay, until in self._refused_until.items() if until > now
        }
        for relay in self._candidates():
            if not self._wanted() or len(self._held) >= RELAYS_MAX:
                return
            await self._reserve(relay)

    def _candidates(self) -> list[bytes]:
        """Whom to ask: those the owner named, then those we chose; no stranger who came to us."""
        chosen = [info.peer for info in self._peers.infos() if info.outbound and not info.relayed]
        named = [key for key in self._bootstrap if self._peers.is_direct(key)]
        return [
            key
            for key in dict.fromkeys((*named, *chosen))
            if key not in self._held and key not in self._refused_until
        ]

    async def _reserve(self, relay: bytes) -> None:
        now = trio.current_time()
        try:
            with trio.fail_after(NEGOTIATE_S):
                answer = await self._ask(relay, HopMessage(type=HopMessage.RESERVE))
        except Exception as problem:  # the library's dozen kinds, and ours
            log.debug("no reservation", relay=relay.hex(), problem=repr(problem))
            self._refused_until[relay] = now + RELAY_REFUSED_S
            return
        address = _best(self._peers.address(relay), answer.reservation.addrs, relay)
        # Its clock is not ours: the expiry it names is not compared with anything here.
        self._held[relay] = _Held(address, now + RELAY_RESERVATION_S / 2, now + RELAY_RESERVATION_S)

    async def _ask(self, relay: bytes, message: Any) -> Any:
        stream = await self._host.new_stream(peer_id(relay), [HOP])
        try:
            wire = Wire(stream, Counter())
            await write_message(wire, message)
            answer: Any = await read_message(wire, HopMessage)
            expect_ok(answer, HopMessage)
            return answer
        finally:
            await discard(stream)

    async def dial(self, peer: bytes, relay: bytes, address: str) -> None:
        """Connect to `peer` through a relay that we are connected to; `address` is the relay's.

        Raises UnreachableError.
        """
        try:
            stream = await self._host.new_stream(peer_id(relay), [HOP])
        except Exception as problem:  # the library raises a dozen kinds, all meaning this
            raise UnreachableError(f"peer {relay.hex()[:16]} does not relay") from problem
        try:
            wire = Wire(stream, Counter())
            message = HopMessage(type=HopMessage.CONNECT)
            message.peer.id = peer_id(peer).to_bytes()
            await write_message(wire, message)
            expect_ok(await read_message(wire, HopMessage), HopMessage)
            circuit = CircuitConnection(wire, address, initiator=True)
            await self._swarm.upgrade_outbound_raw_conn(circuit, peer_id(peer))
        except UnreachableError:
            await discard(stream)
            raise
        except Exception as problem:
            await discard(stream)
            raise UnreachableError("the peer did not answer through the relay") from problem
        except BaseException:
            await discard(stream)
            raise

    async def serve(self, stream: Any) -> None:
        """A relay says that somebody calls: a connection like any other, if we chose the relay."""
        relay = peer_key(stream.muxed_conn.peer_id.to_bytes())
        assert relay is not None, "the guard accepts Ed25519 peers only"
        wire = Wire(stream, Counter())
        try:
            with trio.fail_after(NEGOTIATE_S):
                question: Any = await read_message(wire, StopMessage)
                caller = peer_key(question.peer.id)
                held = self._held.get(relay)
                answer = StopMessage(type=StopMessage.STATUS, status=Status.OK)
                if held is None or is_relayed(stream.muxed_conn):
                    answer.status = Status.PERMISSION_DENIED
                elif question.type != StopMessage.CONNECT:
                    answer.status = Status.UNEXPECTED_MESSAGE
                elif caller is None or self._denied(caller):
                    answer.status = Status.PERMISSION_DENIED
                await write_message(wire, answer)
            if held is not None and answer.status == Status.OK:
                circuit = CircuitConnection(wire, held.address, initiator=False)
                # Holds until the connection ends; the guard counts its handshake like any other.
                await self._swarm.upgrade_inbound_raw_conn(circuit, Multiaddr(held.address))
        except (UnreachableError, trio.TooSlowError) as problem:
            log.debug("call not taken", relay=relay.hex(), problem=repr(problem))
        finally:
            await discard(stream)


def _best(dialled: str, claimed: Iterable[bytes], relay: bytes) -> str:
    """The address at which others most likely reach the relay: ours, or a global one it names."""
    for data in (None, *claimed):
        try:
            address = dialled if data is None else str(Multiaddr(data))
            key, transport = parse_address(address)
            host = str(transport).split("/")[2]
            if key == relay and ipaddress.ip_address(host).is_global:
                return format_address(transport, key)
        except (UnreachableError, ValueError, LookupError):
            continue
    return dialled
