"""Peers: who is connected, how far away they are, and that the silent ones are dropped.

A connection that only looks alive (no FIN, no answer) is found by an application ping.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

import structlog
import trio
from libp2p.abc import INotifee
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.protocol_muxer.exceptions import MultiselectClientError
from libp2p.rcmgr import Direction

from market.units import UnixTime
from node.adapters.libp2p.bounds import JOINED_MAX
from node.adapters.libp2p.circuit import is_relayed
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import format_address, peer_id, peer_key
from node.adapters.libp2p.inbox import Inbox
from node.ports import Clock, PeerInfo

log = structlog.get_logger(__name__)

_PING_BYTES = 32
_NOT_SPOKEN = "protocols not supported"  # how the library words multistream's `na`
_SMOOTHING = 8  # of the round trip, as TCP does it (RFC 6298)


@dataclass(slots=True)
class _Peer:
    address: str
    outbound: bool
    connected_at: UnixTime
    relayed: bool
    rtt_us: int | None = None
    used_at: float = field(default_factory=trio.current_time)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)


class Peers:
    """The connected peers of one host, by key."""

    def __init__(
        self,
        host: Any,
        nursery: trio.Nursery,
        clock: Clock,
        *,
        ping_interval_s: float,
        ping_timeout_s: float,
    ) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._nursery = nursery
        self._clock = clock
        self._interval_s = ping_interval_s
        self._timeout_s = ping_timeout_s
        self._peers: dict[bytes, _Peer] = {}
        self._listeners: WeakSet[Inbox[bytes]] = WeakSet()
        self._swarm.register_notifee(_Notifee(self))

    def __contains__(self, peer: bytes) -> bool:
        return peer in self._peers

    def __len__(self) -> int:
        return len(self._peers)

    def infos(self) -> tuple[PeerInfo, ...]:
        """Who is connected now, by key."""
        return tuple(
            PeerInfo(
                peer=key,
                address=peer.address,
                outbound=peer.outbound,
                rtt_us=peer.rtt_us,
                connected_at=peer.connected_at,
                relayed=peer.relayed,
            )
            for key, peer in sorted(self._peers.items())
        )

    def is_direct(self, peer: bytes) -> bool:
        """Whether a connection to this peer runs through nobody else."""
        known = self._peers.get(peer)
        return known is not None and not known.relayed

    def address(self, peer: bytes) -> str:
        """Where this connected peer is, in full."""
        return self._peers[peer].address

    def use(self, peer: bytes) -> None:
        """There is business with this peer: a request or a channel, either way."""
        known = self._peers.get(peer)
        if known is not None:
            known.used_at = trio.current_time()

    def used_at(self, peer: bytes) -> float:
        """When there last was business with this connected peer (trio's time)."""
        return self._peers[peer].used_at

    def joined(self) -> AsyncIterator[bytes]:
        """Each peer as it connects, from now on."""
        joins = Inbox[bytes](JOINED_MAX)
        self._listeners.add(joins)
        return joins

    async def drop(self, peer: bytes) -> None:
        """Close every connection to this peer."""
        await self._swarm.close_peer(peer_id(peer))

    def connected(self, connection: Any) -> None:
        """A connection was made."""
        key = peer_key(connection.muxed_conn.peer_id.to_bytes())
        if key is None:
            return
        outbound, relayed = _is_outbound(connection), is_relayed(connection.muxed_conn)
        known = self._peers.get(key)
        if known is not None:
            known.outbound = known.outbound or outbound
            if known.relayed and not relayed:
                known.relayed, known.address, known.rtt_us = False, _remote(connection, key), None
                log.info("peer reached directly", peer=key.hex(), address=known.address)
            return
        peer = _Peer(_remote(connection, key), outbound, self._clock.now(), relayed)
        self._peers[key] = peer
        log.debug("peer connected", peer=key.hex(), address=peer.address, outbound=outbound)
        self._nursery.start_soon(self._watch, key, peer)
        for listener in self._listeners:
            listener.put(key)

    def disconnected(self, connection: Any) -> None:
        """A connection was closed; perhaps not the only one to that peer."""
        id_ = connection.muxed_conn.peer_id
        key = peer_key(id_.to_bytes())
        if key is None or key not in self._peers:
            return
        others = [one for one in self._swarm.connections.get(id_, ()) if not one.is_closed]
        if others:
            known = self._peers[key]
            known.outbound = any(map(_is_outbound, others))
            if not known.relayed and all(is_relayed(one.muxed_conn) for one in others):
                known.relayed, known.address = True, _remote(others[0], key)
            return
        self._peers.pop(key).scope.cancel()
        log.debug("peer disconnected", peer=key.hex())

    async def _watch(self, key: bytes, peer: _Peer) -> None:
        with peer.scope:
            while True:
                with trio.move_on_after(self._timeout_s) as patience:
                    try:
                        measured = await self._ping(key)
                    except Exception as problem:  # whatever the library raises: it did not answer
                        log.debug("ping failed", peer=key.hex(), problem=repr(problem))
                        measured = None
                if patience.cancelled_caught or measured is None:
                    log.info("peer does not answer, dropped", peer=key.hex())
                    await self.drop(key)
                    return
                rtt_us = peer.rtt_us
                peer.rtt_us = (
                    measured if rtt_us is None else rtt_us + (measured - rtt_us) // _SMOOTHING
                )
                await trio.sleep(self._interval_s)

    async def _ping(self, key: bytes) -> int:
        """One round trip in microseconds over libp2p's own protocol; -> never less than 1.

        A peer need not speak it. That it says so is an answer too, and its time a bound.
        """
        sent_at = trio.current_time()
        try:
            stream = await self._host.new_stream(peer_id(key), [PING])
        except StreamFailure as problem:
            if not _declined(problem):
                raise
            return max(1, int((trio.current_time() - sent_at) * 1_000_000))
        try:
            token = secrets.token_bytes(_PING_BYTES)
            sent_at = trio.current_time()
            await stream.write(token)
            answer = b""
            while len(answer) < _PING_BYTES:
                answer += await stream.read(_PING_BYTES - len(answer))
            if answer != token:
                raise ValueError("the peer answered a ping that was not sent")
            return max(1, int((trio.current_time() - sent_at) * 1_000_000))
        finally:
            await discard(stream)


class _Notifee(INotifee):  # type: ignore[misc]
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def connected(self, network: Any, conn: Any) -> None:
        self._peers.connected(conn)

    async def disconnected(self, network: Any, conn: Any) -> None:
        self._peers.disconnected(conn)

    async def opened_stream(self, network: Any, stream: Any) -> None: ...

    async def closed_stream(self, network: Any, stream: Any) -> None: ...

    async def listen(self, network: Any, multiaddr: Any) -> None: ...

    async def listen_close(self, network: Any, multiaddr: Any) -> None: ...


def _declined(problem: StreamFailure) -> bool:
    """Whether the peer answered that it does not speak the protocol: not silence, not an end."""
    cause = problem.__cause__
    return isinstance(cause, MultiselectClientError) and _NOT_SPOKEN in str(cause)


def _is_outbound(connection: Any) -> bool:
    return bool(connection.direction == Direction.OUTBOUND)


def _remote(connection: Any, key: bytes) -> str:
    if is_relayed(connection.muxed_conn):
        return format_address(connection.muxed_conn.get_transport_addresses()[0], key)
    remote = connection.muxed_conn.get_remote_address()
    if remote is None:
        return format_address("", key)
    family = "ip6" if ":" in remote[0] else "ip4"
    return format_address(f"/{family}/{remote[0]}/tcp/{remote[1]}", key)
