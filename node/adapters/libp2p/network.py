"""Network: the ports Gossip and Link over one libp2p host. The composition, and the way down.

TCP, Noise and yamux only; meshsub 1.1 only; Ed25519 peers only. Knows bytes, topics and peers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import structlog
import trio
from libp2p.custom_types import TProtocol
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from market.errors import LimitError, MarketError, UnreachableError
from market.limits import GOSSIP_BYTES_MAX
from node.adapters.libp2p import patches
from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import (
    CHANNELS_PER_PEER_MAX,
    HEARD_MAX,
    NEGOTIATE_S,
    STRIKE_BLAMED,
)
from node.adapters.libp2p.channel import WireChannel
from node.adapters.libp2p.guard import Guard, discard
from node.adapters.libp2p.host import NetworkConfig, check_free, new_guarded_host
from node.adapters.libp2p.identity import key_of, parse_address, peer_id, peer_key
from node.adapters.libp2p.inbox import Inbox
from node.adapters.libp2p.peerkeeper import PeerKeeper
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.pubsub import LeanGossipSub, LeanPubsub, mesh_sizes
from node.adapters.libp2p.reaching import Reaching
from node.adapters.libp2p.requests import ASK, ASK_DIAL_BACK, ASK_PEERS, Requests
from node.adapters.libp2p.strikes import Strikes
from node.adapters.libp2p.wire import Pace
from node.ports import Answerer, Channel, ChannelHandler, Clock, Heard, PeerInfo, Reach

log = structlog.get_logger(__name__)

REQUESTS = TProtocol("/gridsouk/requests/1")
_CLOSE_S = 3.0
_ANSWERER_WAIT_S = 5.0  # a request that comes while the node is still being put together


class Network:
    """Both ports. Made by `run_network`."""

    def __init__(
        self, config: NetworkConfig, seed: bytes, clock: Clock, nursery: trio.Nursery
    ) -> None:
        self._config = config
        self._clock = clock
        self._nursery = nursery
        learned: list[str] = []
        self._host = new_guarded_host(config, seed, learned)
        self._swarm = self._host.get_network()
        self.key = key_of(self._host)
        self._counts: Counter[str] = Counter()
        self._strikes = Strikes(self._cut_off)
        self._guard = Guard(self._host, self._denied)
        self._inbox = Inbox[Heard](HEARD_MAX)
        self._router = LeanGossipSub(self._strike)
        self._pubsub = LeanPubsub(
            self._host, self._router, frozenset(config.topics),
            self._deliver, self._strike, self._denied,
        )  # fmt: skip
        self._pace = Pace(config.bulk_bytes_per_s)
        self._channels: Counter[bytes] = Counter()
        self._peers = Peers(
            self._host, nursery, clock,
            ping_interval_s=config.ping_interval_s, ping_timeout_s=config.ping_timeout_s,
        )  # fmt: skip
        self._book = AddressBook(config.address_book)
        self._reaching = Reaching(
            config, self._host, self._peers, self._book, clock,
            learned=learned, ask=self._ask_dial_back, denied=self._denied, strike=self._strike,
            rejoin=self._pubsub.ensure_peer_stream,
        )  # fmt: skip
        self._keeper = PeerKeeper(
            me=self.key,
            bootstrap=config.bootstrap,
            book=self._book,
            peers=self._peers,
            peerstore=self._host.get_peerstore(),
            min_peers=config.min_peers,
            interval_s=config.keeper_interval_s,
            dial=self._reaching.dial,
            ask=self._ask_peers,
            denied=self._denied,
            through_us=self._reaching.through_us,
        )
        self._requests = Requests(
            nursery,
            self._open_requests,
            {ASK: self._answer, ASK_PEERS: self._keeper.tell, ASK_DIAL_BACK: self._reaching.tell},
            self._counts,
        )
        self._answerer: Answerer | None = None
        self._answerer_set = trio.Event()
        self._host.set_stream_handler(REQUESTS, self._requests.serve)

    # Gossip.

    async def publish(self, topic: str, data: bytes) -> None:
        """Hand `data` to the mesh. Returns when queued; raises LimitError if it is too large."""
        assert topic in self._config.topics, f"this node does not carry {topic}"
        if len(data) > GOSSIP_BYTES_MAX:
            raise LimitError(f"a message of {len(data)} bytes, at most {GOSSIP_BYTES_MAX} travel")
        await self._pubsub.publish(topic, data)

    def heard(self) -> AsyncIterator[Heard]:
        """Every message of our topics since the start or the last reader; never our own."""
        return self._inbox

    def blame(self, via: bytes) -> None:
        """Count a strike against a peer; enough of them and it is cut off for a while."""
        self._counts["blamed"] += 1
        self._strikes.strike(via, STRIKE_BLAMED, trio.current_time())

    # Link.

    def answer(self, answerer: Answerer) -> None:
        """Set, once, who answers requests."""
        assert self._answerer is None, "the answerer is set once"
        self._answerer = answerer
        self._answerer_set.set()

    def accept(self, protocol: str, handler: ChannelHandler) -> None:
        """Set, once, who serves channels of this protocol; until then they are refused."""
        name = _channel_protocol(protocol)
        assert name not in self._host.get_mux().handlers, f"{protocol} is accepted once"

        async def serve(stream: Any) -> None:
            await self._serve_channel(stream, protocol, handler)

        self._host.set_stream_handler(name, serve)

    async def request(self, peer: bytes, data: bytes, *, timeout_s: float) -> bytes:
        """Ask and wait for the reply. Raises UnreachableError, LimitError."""
        try:
            return await self._requests.ask(peer, data, timeout_s)
        finally:
            self._peers.use(peer)

    @asynccontextmanager
    async def open(self, peer: bytes, protocol: str) -> AsyncIterator[Channel]:
        """A channel of `protocol` to `peer`. Entering raises UnreachableError."""
        stream = await self._new_stream(peer, _channel_protocol(protocol))
        async with self._hold(WireChannel(stream, peer, self._pace, self._counts)) as channel:
            yield channel

    async def connect(self, address: str) -> bytes:
        """Dial a multiaddress that names its peer; returns the peer's key. UnreachableError."""
        peer, _ = parse_address(address)
        if peer == self.key:
            raise UnreachableError("this is our own address", hint="give another node's address")
        if peer not in self._peers:
            await self._reaching.dial(peer, (address,))
        return peer

    def peers(self) -> tuple[PeerInfo, ...]:
        """Who is connected now, by key."""
        now = trio.current_time()
        return tuple(
            replace(info, strikes=self._strikes.points(info.peer, now))
            for info in self._peers.infos()
        )

    def address(self, peer: bytes) -> str:
        """Where another node might reach a connected peer; empty if that is not known."""
        return self._keeper.reached_at(peer)

    def joined(self) -> AsyncIterator[bytes]:
        """The key of each peer as it connects, from now on."""
        return self._peers.joined()

    def addresses(self) -> tuple[str, ...]:
        """Where others can dial this node, each ending in its peer id."""
        return tuple(str(address) for address in self._host.get_addrs())

    def reach(self) -> Reach:
        """Whether others can dial this node, and through which relays if they cannot."""
        return self._reaching.reach()

    def statistics(self) -> dict[str, int]:
        """Counters: what came and went, what was refused, and how many peers there are now."""
        counts = self._counts + self._pubsub.counts
        names = (
            "messages", "published", "duplicates", "invalid", "limited", "dropped_out", "blamed",
            "bytes_in", "bytes_out", "requests_in", "requests_out", "channels_in", "channels_out",
        )  # fmt: skip
        infos = self._peers.infos()
        return {
            **{name: counts[name] for name in names},
            "dropped_in": self._inbox.lost,
            "waiting": len(self._inbox),
            "refused": self._guard.refused,
            "peers": len(infos),
            "outbound": sum(info.outbound for info in infos),
            "peers_relayed": sum(info.relayed for info in infos),
            **self._reaching.statistics(),
            "cut_off": len(self._strikes),
            **{f"mesh {topic}": size for topic, size in sorted(mesh_sizes(self._router).items())},
        }

    # Below: not of the ports.

    async def run_host(
        self,
        stop: trio.Event,
        task_status: Any = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Run libp2p until `stop`; says that it listens, or why it cannot.

        Shielded: were its own tasks cancelled first, sockets would stay open (defect 13).
        """
        listen = [Multiaddr(address) for address in self._config.listen]
        with trio.CancelScope(shield=True):
            async with (
                self._host.run(listen_addrs=listen),
                background_trio_service(self._pubsub),
                background_trio_service(self._router),
            ):
                try:
                    task_status.started(await self._start(len(listen)))
                    await stop.wait()
                finally:
                    with trio.move_on_after(_CLOSE_S):
                        await self._book.save()
                        await self._host.close()

    async def _start(self, listeners: int) -> MarketError | None:
        if len(self._swarm.listeners) < listeners:
            return MarketError(
                f"cannot listen on all of {', '.join(self._config.listen)}",
                hint="is another node running here? use another port, or port 0 for any free one",
            )
        await self._book.load()
        await self._pubsub.wait_until_ready()
        for topic in self._config.topics:
            # Its own queue of 32 stays empty: `_deliver` takes messages before it (defect 7).
            await self._pubsub.subscribe(topic)
        self._nursery.start_soon(self._keeper.run)
        self._reaching.start(self._nursery)
        log.info("network up", peer=self.key.hex(), addresses=self.addresses())
        return None

    def _deliver(self, topic: str, data: bytes, author: bytes) -> None:
        self._inbox.put(Heard(topic=topic, data=data, via=author))

    def _denied(self, peer: bytes) -> bool:
        return self._strikes.denied(peer, trio.current_time())

    def _strike(self, id_bytes: bytes, points: float) -> None:
        peer = peer_key(id_bytes)
        if peer is not None:
            self._strikes.strike(peer, points, trio.current_time())

    def _cut_off(self, peer: bytes) -> None:
        log.warning("peer cut off for misbehaving", peer=peer.hex())
        self._nursery.start_soon(self._peers.drop, peer)

    async def _answer(self, peer: bytes, data: bytes) -> bytes:
        with trio.move_on_after(_ANSWERER_WAIT_S):
            await self._answerer_set.wait()
        assert self._answerer is not None, "nobody answers requests"
        self._peers.use(peer)
        return await self._answerer(peer, data)

    async def _ask_peers(self, peer: bytes, data: bytes, timeout_s: float) -> bytes:
        if peer not in self._peers:
            raise UnreachableError("only peers we are connected to are asked where others are")
        return await self._requests.ask(peer, data, timeout_s, ASK_PEERS)

    async def _ask_dial_back(self, peer: bytes, data: bytes, timeout_s: float) -> bytes:
        return await self._requests.ask(peer, data, timeout_s, ASK_DIAL_BACK)

    async def _open_requests(self, peer: bytes) -> Any:
        return await self._new_stream(peer, REQUESTS)

    async def _new_stream(self, peer: bytes, protocol: TProtocol) -> Any:
        if peer == self.key:
            raise UnreachableError("this is our own key", hint="a node does not dial itself")
        if peer not in self._peers:
            await self._reach(peer)
        try:
            with trio.fail_after(NEGOTIATE_S):
                return await self._host.new_stream(peer_id(peer), [protocol])
        except Exception as problem:  # the library raises a dozen kinds, all meaning this
            raise UnreachableError(f"peer {peer.hex()[:16]} does not take {protocol}") from problem

    async def _reach(self, peer: bytes) -> None:
        """Connect where we know the peer to be, or else where our peers do. UnreachableError."""
        known = self._keeper.addresses_for(peer)
        try:
            await self._reaching.dial(peer, known)
        except UnreachableError:
            others = set(await self._keeper.find(peer)) - set(known)
            if not others or self._denied(peer):
                raise
            await self._reaching.dial(peer, tuple(sorted(others)))

    async def _serve_channel(self, stream: Any, protocol: str, handler: ChannelHandler) -> None:
        peer = peer_key(stream.muxed_conn.peer_id.to_bytes())
        assert peer is not None, "the guard accepts Ed25519 peers only"
        if self._channels[peer] >= CHANNELS_PER_PEER_MAX:
            await discard(stream)
            return
        self._channels[peer] += 1
        self._counts["channels_in"] += 1
        try:
            channel = WireChannel(stream, peer, self._pace, self._counts)
            async with self._hold(channel):
                await handler(channel)
        except MarketError as problem:
            log.debug("channel ended", peer=peer.hex(), protocol=protocol, problem=str(problem))
        except Exception:  # a handler's bug costs this channel, not the node
            log.exception("channel handler failed", peer=peer.hex(), protocol=protocol)
        finally:
            self._channels[peer] -= 1
            if not self._channels[peer]:
                del self._channels[peer]

    @asynccontextmanager
    async def _hold(self, channel: WireChannel) -> AsyncIterator[Channel]:
        """Run a channel. Its reader lives in our nursery, so that its user sees plain errors."""
        self._nursery.start_soon(channel.run)
        try:
            yield channel
        except BaseException:
            channel.abort("its user failed")
            raise
        finally:
            self._peers.use(channel.peer)
        await channel.close()


def _channel_protocol(name: str) -> TProtocol:
    return TProtocol(f"/gridsouk/{name}/1")


@asynccontextmanager
async def run_network(config: NetworkConfig, seed: bytes, clock: Clock) -> AsyncIterator[Network]:
    """Run a node's network; it listens by the time it is yielded, and is gone without trace after.

    `seed` is the 32-byte Ed25519 seed of the node's peer key. Raises MarketError if it cannot
    listen. An error of the body comes out as it is, not in a group.
    """
    patches.apply()
    await check_free(config.listen)
    failure: Exception | None = None
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        network = Network(config, seed, clock, nursery)
        try:
            failure = await nursery.start(network.run_host, stop)
            if failure is None:
                yield network
        except Exception as problem:
            failure = problem
        finally:
            nursery.cancel_scope.cancel()
            stop.set()
    if failure is not None:
        raise failure
