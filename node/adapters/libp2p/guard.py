"""Guard: one choke point for connections and one for streams, so that no peer can end the host.

Wraps the methods of one host, before it runs. Decides who may stay connected, not what is said.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from typing import Any

import structlog
import trio
from libp2p.network.exceptions import SwarmException

from node.adapters.libp2p.bounds import HALF_OPEN_PER_IP_MAX, INBOUND_STREAMS_PER_PEER_MAX
from node.adapters.libp2p.identity import peer_key

log = structlog.get_logger(__name__)


class Guard:
    """The guard of one host."""

    def __init__(self, host: Any, denied: Callable[[bytes], bool]) -> None:
        """`denied` says whether the peer of this key is cut off."""
        self._host = host
        self._swarm = host.get_network()
        self._denied = denied
        self._half_open: defaultdict[str, deque[trio.CancelScope]] = defaultdict(deque)
        self._streams: Counter[bytes] = Counter()
        self._negotiate = host._swarm_stream_handler
        self._upgrade = self._swarm.upgrade_inbound_raw_conn
        self._add = self._swarm.add_conn
        self._swarm.set_stream_handler(self._serve_stream)
        self._swarm.upgrade_inbound_raw_conn = self._admit
        self._swarm.add_conn = self._register
        self.refused = 0

    async def _serve_stream(self, stream: Any) -> None:
        """Every inbound stream of every protocol passes here; its failure ends the stream only."""
        peer = stream.muxed_conn.peer_id.to_bytes()
        self._streams[peer] += 1
        try:
            if self._streams[peer] > INBOUND_STREAMS_PER_PEER_MAX:
                self.refused += 1
                await stream.reset()
                return
            await self._negotiate(stream)
        except Exception as problem:
            log.debug("stream failed", peer=peer.hex(), problem=repr(problem))
            await discard(stream)
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]

    async def _admit(self, raw: Any, address: Any) -> Any:
        """Handshake an inbound connection, then hold its slot for just as long as it lives.

        Stock libp2p holds the slot until the host stops (defect 3). Of too many handshakes from one
        address the oldest gives way: an honest one is done in milliseconds, a slow loris is not.
        """
        remote = raw.get_remote_address()
        ip = remote[0] if remote else ""
        waiting = self._half_open[ip]
        scope = trio.CancelScope()
        waiting.append(scope)
        if len(waiting) > HALF_OPEN_PER_IP_MAX:
            self.refused += 1
            waiting.popleft().cancel()
        try:
            with scope:
                muxed = await self._upgrade(raw, address)
        finally:
            if scope in waiting:
                waiting.remove(scope)
            if not waiting and self._half_open.get(ip) is waiting:
                del self._half_open[ip]
        if scope.cancelled_caught:
            raise ConnectionError("gave way to a newer handshake")
        for connection in self._swarm.connections.get(muxed.peer_id, []):
            if connection.muxed_conn is muxed:
                await connection.event_closed.wait()
                break
        raise ConnectionError("finished")  # the caller now closes the socket and frees the slot

    async def _register(self, muxed: Any, direction: str = "unknown") -> Any:
        """Refuse, before it counts as a connection, a peer without an Ed25519 key or cut off."""
        key = peer_key(muxed.peer_id.to_bytes())
        if key is None or self._denied(key):
            self.refused += 1
            log.info("peer refused", peer=str(muxed.peer_id), cut_off=key is not None)
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await muxed.close()
            raise SwarmException("this peer is not accepted")
        return await self._add(muxed, direction=direction)


async def discard(stream: Any) -> None:
    """Reset a stream, whatever state it is in; never raises and never waits long."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
        try:
            await stream.reset()
        except Exception as problem:
            log.debug("reset failed", problem=repr(problem))


async def close_quietly(connection: Any) -> None:
    """Close a connection, whatever state it is in; never raises and never waits long."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
        try:
            await connection.close()
        except Exception as problem:
            log.debug("close failed", problem=repr(problem))
