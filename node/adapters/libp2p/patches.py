"""Patches: what py-libp2p 0.8.1 has as module constants or gets wrong, put right once at start-up.

Each patch names its defect. `apply` first checks that everything it replaces still exists, so a
new libp2p fails here, loudly, and not in a stranger's hands. Knows nothing of the market.
"""

from __future__ import annotations

import inspect
import logging
import os
import struct
from typing import Any

import libp2p.network.connection.swarm_connection as swarm_connection
import libp2p.network.swarm as swarm
import libp2p.pubsub.pubsub as pubsub
import libp2p.pubsub.rpc_queue as rpc_queue
import libp2p.stream_muxer.yamux.yamux as yamux
import structlog
import trio
from libp2p.network.connection.exceptions import RawConnError
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.stream_muxer.exceptions import MuxedStreamError

from node.adapters.libp2p.bounds import (
    CREDIT_WAIT_S,
    OUT_QUEUE_MAX,
    UNREAD_BYTES_MAX,
    WRITE_STALL_S,
)

log = structlog.get_logger(__name__)

_EXPECTED: tuple[tuple[Any, str], ...] = (
    (pubsub, "SUBSCRIPTION_CHANNEL_SIZE"),
    (pubsub, "RpcQueue"),
    (pubsub.Pubsub, "continuously_read_stream"),
    (pubsub.Pubsub, "push_msg"),
    (pubsub.Pubsub, "write_msg"),
    (pubsub.Pubsub, "_handle_dead_peer"),
    (rpc_queue, "DefaultMaxMessageSize"),
    (swarm, "_HAPPY_EYEBALLS_DELAY"),
    (swarm.Swarm, "upgrade_inbound_raw_conn"),
    (swarm.Swarm, "add_conn"),
    (swarm.Swarm, "unblock_peer"),
    (swarm_connection, "logging"),
    (swarm_connection.SwarmConn, "_handle_muxed_stream"),
    (yamux.Yamux, "_read_data_body"),
    (yamux.Yamux, "_write_frame"),
    (GossipSub, "publish"),
    (GossipSub, "send_rpc"),
    (GossipSub, "send_recent_messages"),
    (GossipSub, "flush_pending_messages"),
    (GossipSub, "_emit_control_msgs"),
    (GossipSub, "handle_ihave"),
    (GossipSub, "handle_iwant"),
    (GossipSub, "handle_graft"),
    (GossipSub, "handle_prune"),
)
_WINDOW_WAIT = "trio.move_on_after(5.0)"  # what makes yamux.YamuxStream.write give up

_HEADER = struct.Struct(yamux.YAMUX_HEADER_FORMAT)
_FRAME_BYTES = yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE
_CREDIT_POLL_S = 0.01

_stock_read_data_body = yamux.Yamux._read_data_body
_stock_write = yamux.YamuxStream.write
_applied = False


class _RoomyQueue(rpc_queue.RpcQueue):  # type: ignore[misc]
    """Defect 7: 32 waiting frames per peer lose a tenth of a burst of 400."""

    def __init__(
        self, max_size: int = OUT_QUEUE_MAX, max_message_size: int = rpc_queue.DefaultMaxMessageSize
    ) -> None:
        super().__init__(max_size, max_message_size)


def self_test() -> None:
    """Assert that every attribute this package replaces or leans on exists in this libp2p."""
    missing = [f"{owner.__name__}.{name}" for owner, name in _EXPECTED if not hasattr(owner, name)]
    assert not missing, f"this libp2p is not the one we patch: no {', '.join(missing)}"
    assert _WINDOW_WAIT in inspect.getsource(_stock_write), "YamuxStream.write waits differently"


def apply() -> None:
    """Patch libp2p, once per process."""
    global _applied
    if _applied:
        return
    self_test()
    _applied = True
    quiet = logging.getLogger("libp2p")
    quiet.setLevel(logging.CRITICAL)  # it logs ordinary events as errors; we log our own
    logging.getLogger("libp2p.network.auto_connector").setLevel(logging.CRITICAL)
    swarm_connection.logging = quiet  # it logs to the root logger

    pubsub.RpcQueue = _RoomyQueue
    swarm._HAPPY_EYEBALLS_DELAY = 0.0  # defect 11: every dial waited 250 ms for nothing
    os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")  # defect 12: a frame per small read
    yamux.Yamux._read_data_body = _read_bounded
    yamux.Yamux._write_frame = _write_whole
    yamux.YamuxStream.write = _write_patiently
    swarm_connection.SwarmConn._handle_muxed_stream = _contain(
        swarm_connection.SwarmConn._handle_muxed_stream
    )


async def _read_bounded(self: Any, length: int) -> Any:
    """A peer that ignores its window could fill our memory: yamux only logs that. Cut it off."""
    unread = sum(map(len, self.stream_buffers.values()))
    if unread + length > UNREAD_BYTES_MAX:
        log.warning("peer overran its window", peer=str(self.peer_id), unread=unread)
        raise trio.TooSlowError  # the one error that closes the connection from every call site
    return await _stock_read_data_body(self, length)


async def _write_whole(self: Any, data: bytes) -> None:
    """A frame is written whole or the connection dies: half a frame would corrupt every stream.

    Cancelling a request must not cancel the socket write underneath it.
    """
    async with self._write_lock:
        with trio.CancelScope(
            shield=True, deadline=trio.current_time() + WRITE_STALL_S
        ) as patience:
            await self.secured_conn.write(data)
    if patience.cancelled_caught:
        self.event_shutting_down.set()
        await self.secured_conn.close()
        raise RawConnError("the socket has taken nothing for too long")
    await trio.lowlevel.checkpoint()


async def _write_patiently(self: Any, data: bytes) -> None:
    """Defect 9: the stock writer gives up after five seconds without credit, and locks more."""
    sent = 0
    while sent < len(data):
        if self.closed or self.send_closed:
            raise MuxedStreamError("the stream is closed")
        size = min(self.send_window, _FRAME_BYTES, len(data) - sent)
        if size <= 0:
            await _wait_for_credit(self)
            continue
        self.send_window -= size  # nothing awaits between the look and this, so no lock
        header = _HEADER.pack(0, yamux.TYPE_DATA, 0, self.stream_id, size)
        await self.conn._write_frame(header + data[sent : sent + size])
        sent += size


async def _wait_for_credit(stream: Any) -> None:
    with trio.move_on_after(CREDIT_WAIT_S):
        while stream.send_window <= 0 and not stream.closed:  # noqa: ASYNC110
            await trio.sleep(_CREDIT_POLL_S)
        return
    raise MuxedStreamError("the reader has given no credit for too long")


def _contain(handle: Any) -> Any:
    async def contained(self: Any, muxed_stream: Any) -> None:
        """Defect 2: what goes wrong on one stream must not end the host."""
        try:
            await handle(self, muxed_stream)
        except Exception as problem:
            log.debug("stream failed", peer=str(self.muxed_conn.peer_id), problem=repr(problem))

    return contained
