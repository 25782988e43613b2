"""Pubsub: gossipsub 1.1 with a lean reader and router, and every rude input contained.

Same wire format as stock py-libp2p and js-libp2p. Knows topics and bytes, not what they mean.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
import trio
from google.protobuf.message import DecodeError
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.utils import maybe_consume_signed_record
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from market.limits import GOSSIP_BYTES_MAX
from node.adapters.libp2p.bounds import (
    AUTHOR_BURST,
    AUTHOR_PER_S,
    AUTHORS_MAX,
    CONNECTIONS_MAX,
    FORWARD_BURST,
    FORWARD_PER_S,
    GOSSIP_STREAMS_PER_PEER_MAX,
    IDS_PER_CONTROL_MAX,
    RPC_BYTES_MAX,
    SEEN_MAX,
    SEEN_S,
    STRIKE_FORGED,
    STRIKE_LIMITED,
    STRIKE_MALFORMED,
    WANTED_PER_CONTROL_MAX,
)
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import peer_key
from node.adapters.libp2p.strikes import Buckets

log = structlog.get_logger(__name__)

PROTOCOL = TProtocol("/meshsub/1.1.0")
HEARTBEAT_S = 1  # stock: 120, and up to 60 by "adaptive" gossip (defect 6)
_PREFIX = PUBSUB_SIGNING_PREFIX.encode()
_READ_BYTES = 65_536
_ID_BYTES = 64  # an Ed25519 author and an 8-byte sequence are 46

Deliver = Callable[[str, bytes, bytes], None]
"""(topic, data, author's key) of each new, authentic message."""

Strike = Callable[[bytes, float], None]
"""(PeerId bytes, points)."""


class MalformedError(Exception):
    """A peer's frame that no honest software sends."""


class Seen:
    """Message ids of the last two to four minutes, at most 2 * SEEN_MAX of them."""

    def __init__(self) -> None:
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()
        self._turned_at = trio.current_time()

    def has(self, key: bytes) -> bool:
        """Whether `add` has had this id lately."""
        return key in self._new or key in self._old

    def add(self, key: bytes) -> bool:
        """Remember an id; returns whether it is new."""
        now = trio.current_time()
        if len(self._new) >= SEEN_MAX or now - self._turned_at > SEEN_S:
            self._old, self._new, self._turned_at = self._new, set(), now
        fresh = not self.has(key)
        self._new.add(key)
        return fresh


class LeanGossipSub(GossipSub):  # type: ignore[misc]
    """The mesh: stock heartbeat and degrees, our own sending, nothing remembered per rude topic."""

    def __init__(self, strike: Strike) -> None:
        super().__init__(
            protocols=[PROTOCOL],
            degree=5,
            degree_low=4,
            degree_high=12,  # wide: a narrow one prunes, and PRUNE bars gossip too (defect 8)
            heartbeat_interval=HEARTBEAT_S,
            gossip_window=3,
            gossip_history=5,
            prune_back_off=3,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,  # it drops over 10 messages a second (defect 5)
            eclipse_protection_enabled=False,
            do_px=False,
        )
        # Back-offs are cut to whole seconds, the flood check is not: a GRAFT that was due would be
        # called a flood and PRUNEd again, for as long as the heartbeats stay in step.
        self.graft_flood_threshold = 1.0
        self._strike = strike

    async def publish(self, msg_forwarder: Any, pubsub_msg: Any) -> None:
        """Relay to the mesh; our own messages go to every peer that wants them, up to D_high."""
        self.mcache.put(pubsub_msg)
        topic = pubsub_msg.topicIDs[0]
        receivers = set(self.mesh.get(topic, ()))
        own = pubsub_msg.from_id == self.pubsub.my_id.to_bytes()
        if own:
            for peer in self.pubsub.peer_topics.get(topic, ()):
                if len(receivers) >= self.degree_high:
                    break
                receivers.add(peer)
        receivers -= {msg_forwarder, ID(pubsub_msg.from_id)}
        rpc = rpc_pb2.RPC(publish=[pubsub_msg])
        for peer in receivers:
            queue = self.pubsub.peer_queues.get(peer)
            if queue is not None and not queue.push(rpc):
                self.pubsub.counts["dropped_out"] += 1

    def send_rpc(self, peer_id: Any, rpc: Any, priority: bool = False) -> None:
        """Control and replies, without the 160-byte record of the sender in each (defect 12)."""
        rpc.ClearField("senderRecord")
        super().send_rpc(peer_id, rpc, priority)

    async def send_recent_messages(self, peer_id: Any, topic: str) -> None:
        """Replay the last heartbeats' messages, through the queue: stock writes beside it."""
        for message_id in self.mcache.window(topic):
            message = self.mcache.get(message_id)
            if message is not None:
                self.send_rpc(peer_id, rpc_pb2.RPC(publish=[message]))

    async def flush_pending_messages(self, peer_id: Any) -> None:
        """Nothing is kept for peers that did not ask for it (defect 14)."""

    async def _emit_control_msgs(
        self,
        peers_to_graft: Mapping[Any, list[str]],
        peers_to_prune: Mapping[Any, list[str]],
        peers_to_gossip: Mapping[Any, dict[str, list[bytes]]],
    ) -> None:
        """One control frame per peer; stock hands each the GRAFTs of those before (defect 14)."""
        for peer in {*peers_to_graft, *peers_to_prune, *peers_to_gossip}:
            gossip = peers_to_gossip.get(peer, {})
            control = self.pack_control_msgs(
                [
                    rpc_pb2.ControlIHave(messageIDs=ids[-IDS_PER_CONTROL_MAX:], topicID=topic)
                    for topic, ids in gossip.items()
                ],
                [rpc_pb2.ControlGraft(topicID=topic) for topic in peers_to_graft.get(peer, ())],
                [rpc_pb2.ControlPrune(topicID=topic) for topic in peers_to_prune.get(peer, ())],
            )
            await self.emit_control_message(control, peer)

    async def handle_ihave(self, ihave_msg: Any, sender_peer_id: Any) -> None:
        """Ask for what is new, of topics we carry, within bounds."""
        if self._carried(ihave_msg.topicID, sender_peer_id):
            _trim(ihave_msg.messageIDs, IDS_PER_CONTROL_MAX)
            await super().handle_ihave(ihave_msg, sender_peer_id)

    async def handle_iwant(self, iwant_msg: Any, sender_peer_id: Any) -> None:
        """Answer with at most a megabyte."""
        _trim(iwant_msg.messageIDs, WANTED_PER_CONTROL_MAX)
        await super().handle_iwant(iwant_msg, sender_peer_id)

    async def handle_graft(self, graft_msg: Any, sender_peer_id: Any) -> None:
        """Join the peer to the mesh of a topic we carry."""
        if self._carried(graft_msg.topicID, sender_peer_id):
            await super().handle_graft(graft_msg, sender_peer_id)

    async def handle_prune(self, prune_msg: Any, sender_peer_id: Any) -> None:
        """Take the peer out of the mesh; its exchange of further peers is ignored."""
        if self._carried(prune_msg.topicID, sender_peer_id):
            del prune_msg.peers[:]
            prune_msg.backoff = min(prune_msg.backoff, 60)
            await super().handle_prune(prune_msg, sender_peer_id)

    def _carried(self, topic: str, sender: Any) -> bool:
        """Stock remembers a back-off for every topic name a peer makes up."""
        if topic in self.mesh:
            return True
        self._strike(sender.to_bytes(), STRIKE_LIMITED)
        return False


def _trim(ids: Any, limit: int) -> None:
    kept = [id_ for id_ in ids[:limit] if len(id_) <= _ID_BYTES]
    del ids[:]
    ids.extend(kept)


class LeanPubsub(Pubsub):  # type: ignore[misc]
    """The reader: whole frames from one buffer, checked cheapest first, in order per peer."""

    def __init__(
        self, host: Any, router: LeanGossipSub, topics: frozenset[str], deliver: Deliver,
        strike: Strike,
        denied: Callable[[bytes], bool],
    ) -> None:  # fmt: skip
        super().__init__(host, router, max_inbound_rpc_size=RPC_BYTES_MAX, allowed_topics=topics)
        self.seen_messages.stop()  # a thread; ours is bounded and needs none
        self.seen_messages: Any = Seen()
        # Defect 4: a counter that restarts at the second ignores a restarted node for two minutes.
        self.counter = time.time_ns()
        self.counts: Counter[str] = Counter()
        self._topics = topics
        self._deliver = deliver
        self._strike = strike
        self._denied = denied
        self._forwarders = Buckets(FORWARD_PER_S, FORWARD_BURST, CONNECTIONS_MAX * 2)
        self._authors = Buckets(AUTHOR_PER_S, AUTHOR_BURST, AUTHORS_MAX)
        self._records: dict[Any, bytes] = {}
        self._readers: Counter[Any] = Counter()

    async def stream_handler(self, stream: Any) -> None:
        """Read one inbound stream to its end."""
        peer = stream.muxed_conn.peer_id
        if self._readers[peer] >= GOSSIP_STREAMS_PER_PEER_MAX:
            await discard(stream)
            return
        self._readers[peer] += 1
        try:
            await self.continuously_read_stream(stream)
        finally:
            self._readers[peer] -= 1
            if not self._readers[peer]:
                del self._readers[peer]
                self._records.pop(peer, None)

    async def continuously_read_stream(self, stream: Any) -> None:
        """Cut frames and take each; the peer waits while we work, and nobody else does."""
        peer = stream.muxed_conn.peer_id
        buffer = bytearray()
        try:
            while self.manager.is_running:
                try:
                    data = await stream.read(_READ_BYTES)
                except StreamEOF:
                    return
                self.counts["bytes_in"] += len(data)
                buffer += data
                for frame in _frames(buffer):
                    await self._take(peer, frame)
        except (MalformedError, DecodeError) as problem:
            self.counts["invalid"] += 1
            log.info("malformed gossip frame", peer=str(peer), problem=str(problem))
            self._strike(peer.to_bytes(), STRIKE_MALFORMED)
            await discard(stream)
            self._handle_dead_peer(peer)
        except Exception as problem:
            log.debug("gossip stream ended", peer=str(peer), problem=repr(problem))
            await discard(stream)
            self._handle_dead_peer(peer)

    async def _take(self, peer: Any, frame: bytes) -> None:
        if not self._forwarders.take(peer.to_bytes(), trio.current_time()):
            self._limited(peer)
            return
        rpc = rpc_pb2.RPC()
        rpc.ParseFromString(frame)
        if rpc.HasField("senderRecord"):
            if self._records.get(peer) != rpc.senderRecord:
                if not maybe_consume_signed_record(rpc, self.host, peer):
                    raise MalformedError("a record of the sender that does not verify")
                self._records[peer] = rpc.senderRecord
            rpc.ClearField("senderRecord")
        if len(rpc.subscriptions) > self.max_subscriptions_per_rpc:
            raise MalformedError("too many subscriptions")
        for message in rpc.publish:
            await self.push_msg(peer, message)
        for subscription in rpc.subscriptions:
            self.handle_subscription(peer, subscription)
        if rpc.HasField("control"):
            await self.router.handle_rpc(rpc, peer)

    async def push_msg(self, msg_forwarder: Any, msg: Any) -> None:
        """Take one message, ours or a peer's: cheapest check first, relay what is good and new."""
        if msg_forwarder == self.my_id:
            self.counts["published"] += 1
            self._mark_msg_seen(msg)
            await self.router.publish(msg_forwarder, msg)
            return
        now = trio.current_time()
        if not self._forwarders.take(msg_forwarder.to_bytes(), now):
            self._limited(msg_forwarder)
            return
        message_id = msg.from_id + msg.seqno
        if self.seen_messages.has(message_id):
            self.counts["duplicates"] += 1
            return
        author = peer_key(msg.from_id)
        if author is None:  # of another kind of key: others may let it in, and hand on what it says
            self._limited(msg_forwarder)
            return
        if not _authentic(msg, author):
            self.counts["invalid"] += 1
            self._strike(msg_forwarder.to_bytes(), STRIKE_FORGED)
            return
        if msg.from_id == self.my_id.to_bytes() or self._denied(author):
            return
        if len(msg.topicIDs) != 1 or msg.topicIDs[0] not in self._topics:
            return  # a peer may carry more topics than we do
        self.seen_messages.add(message_id)
        if not self._authors.take(author, now):
            self.counts["limited"] += 1
            self._strike(msg.from_id, STRIKE_LIMITED)
            return
        self.counts["messages"] += 1
        self._deliver(msg.topicIDs[0], msg.data, author)
        await self.router.publish(msg_forwarder, msg)

    async def write_msg(self, stream: Any, rpc_msg: Any) -> bool:
        """Write one frame, counted."""
        self.counts["bytes_out"] += rpc_msg.ByteSize()
        written: bool = await super().write_msg(stream, rpc_msg)
        return written

    def _limited(self, peer: Any) -> None:
        self.counts["limited"] += 1
        self._strike(peer.to_bytes(), STRIKE_LIMITED)


def _authentic(msg: Any, author: bytes) -> bool:
    """Whether the author signed it, within our size: https://github.com/libp2p/specs (pubsub)."""
    if len(msg.data) > GOSSIP_BYTES_MAX or len(msg.seqno) != 8 or len(msg.signature) != 64:
        return False
    bare = rpc_pb2.Message(
        data=msg.data, topicIDs=msg.topicIDs, from_id=msg.from_id, seqno=msg.seqno
    )
    try:
        crypto_sign_open(msg.signature + _PREFIX + bare.SerializeToString(), author)
    except (BadSignatureError, ValueError):
        return False
    return True


def _frames(buffer: bytearray) -> Iterator[bytes]:
    """Cut every whole varint-prefixed frame off the front. Raises MalformedError."""
    start = 0
    try:
        while True:
            size, shift, at = 0, 0, start
            while True:
                if at >= len(buffer):
                    return
                byte = buffer[at]
                at += 1
                size |= (byte & 0x7F) << shift
                if byte < 0x80:
                    break
                shift += 7
                if shift > 28:
                    raise MalformedError("a frame without an end")
            if size > RPC_BYTES_MAX:
                raise MalformedError(f"a frame of {size} bytes")
            if at + size > len(buffer):
                return
            yield bytes(buffer[at : at + size])
            start = at + size
    finally:
        del buffer[:start]


def mesh_sizes(router: LeanGossipSub) -> dict[str, int]:
    """How many peers each topic's mesh has."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for topic, peers in router.mesh.items():
        sizes[topic] = len(peers)
    return dict(sizes)
