"""Shortcut: a direct connection in the place of a relayed one, as soon as one of the two can dial.

Both ends try: a peer that called a hidden one through a relay is often dialled back by it at once.
The relayed connection goes when no channel runs over it any more, or when there was no business
with the peer for long. Punches no holes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import (
    ADDRESSES_PER_PEER_MAX,
    DIAL_BACK_S,
    RELAYED_UNUSED_S,
    SHORTCUT_AGAIN_S,
    SHORTCUT_FIRST_S,
)
from node.adapters.libp2p.circuit import is_circuit, is_relayed
from node.adapters.libp2p.guard import close_quietly
from node.adapters.libp2p.identity import parse_address, peer_id
from node.adapters.libp2p.peers import Peers
from node.ports import Clock

log = structlog.get_logger(__name__)

_LASTING = ("/gridsouk/requests/1",)  # of our protocols: opened again by itself


class Shortcut:
    """For the relayed peers of one host."""

    def __init__(
        self,
        host: Any,
        peers: Peers,
        book: AddressBook,
        clock: Clock,
        rejoin: Callable[[Any], Awaitable[Any]],
    ) -> None:
        """`rejoin` opens gossip with a PeerId again, once its old connection is closed."""
        self._host = host
        self._swarm = host.get_network()
        self._peers = peers
        self._book = book
        self._clock = clock
        self._rejoin = rejoin
        self._tries: dict[bytes, tuple[int, float]] = {}  # how many, and when the next one is due

    async def run(self, interval_s: float) -> None:
        """Until cancelled."""
        while True:
            infos = self._peers.infos()
            connected = {info.peer for info in infos}
            self._tries = {key: due for key, due in self._tries.items() if key in connected}
            for info in infos:
                if info.relayed and info.outbound and self._is_unused(info.peer):
                    log.info("relayed peer let go, unused", peer=info.peer.hex())
                    await self._peers.drop(info.peer)
                elif info.relayed:
                    await self._consider(info.peer)
                elif info.peer in self._tries:
                    await self._leave_relay(info.peer)
            await trio.sleep(interval_s)

    async def _consider(self, peer: bytes) -> None:
        """Dial directly, soon after it was met (its addresses come by then), and now and then."""
        now = trio.current_time()
        tries, due = self._tries.get(peer, (0, now + SHORTCUT_FIRST_S))
        if now >= due:
            for address in self._addresses(peer):
                if await self._dial(peer, address):
                    break
            tries, due = tries + 1, now + min(SHORTCUT_AGAIN_S, SHORTCUT_FIRST_S * 4 ** (tries + 1))
        self._tries[peer] = tries, due

    def _addresses(self, peer: bytes) -> list[str]:
        """Direct ones: those in the book, and what it claims if anybody might dial that.

        It may claim what it likes; a private address would be one in our own network.
        """
        known = [one for one in self._book.addresses(peer) if not is_circuit(one)]
        try:
            claims = [str(claim) for claim in self._host.get_peerstore().addrs(peer_id(peer))]
        except Exception as problem:  # the library's own error for a peer it does not know
            log.debug("no claims", peer=peer.hex(), problem=repr(problem))
            claims = []
        for claim in claims:
            parts = claim.split("/")
            if (
                len(parts) >= 5
                and parts[3] == "tcp"
                and not is_circuit(claim)
                and _global(parts[2])
            ):
                known.append(f"/{parts[1]}/{parts[2]}/tcp/{parts[4]}/p2p/{peer_id(peer)}")
        return list(dict.fromkeys(known))[:ADDRESSES_PER_PEER_MAX]

    async def _dial(self, peer: bytes, address: str) -> bool:
        raw: Any = None
        try:
            with trio.fail_after(DIAL_BACK_S):
                raw = await TCP().dial(Multiaddr(str(parse_address(address)[1])))
                await self._swarm.upgrade_outbound_raw_conn(raw, peer_id(peer))
        except Exception as problem:  # the library's dozen kinds, all meaning no
            log.debug("no shortcut", peer=peer.hex(), address=address, problem=repr(problem))
            if raw is not None:
                await close_quietly(raw)
            return False
        self._book.reached(peer, address, self._clock.now())
        return True

    def _relayed(self, peer: bytes) -> list[Any]:
        connections = self._swarm.connections.get(peer_id(peer), ())
        return [one for one in connections if is_relayed(one.muxed_conn)]

    def _is_unused(self, peer: bytes) -> bool:
        """Whether we, who called it, have had no business with it for long."""
        long_ago = trio.current_time() - self._peers.used_at(peer) > RELAYED_UNUSED_S
        return long_ago and not any(map(_has_channel, self._relayed(peer)))

    async def _leave_relay(self, peer: bytes) -> None:
        relayed = self._relayed(peer)
        for connection in relayed:
            if _has_channel(connection):
                return
            await close_quietly(connection)
        if relayed:
            log.info("relay left", peer=peer.hex())
            await self._rejoin(peer_id(peer))
        del self._tries[peer]


def _has_channel(connection: Any) -> bool:
    protocols = [str(stream.get_protocol() or "") for stream in connection.get_streams()]
    return any(one.startswith("/gridsouk/") and one not in _LASTING for one in protocols)


def _global(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_global
    except ValueError:
        return False
