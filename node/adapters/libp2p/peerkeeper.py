"""Peer keeper: enough outbound peers, always. Dials, backs off, asks its peers for others.

Outbound ones count: inbound connections are chosen by others, who may all be one attacker.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
import trio

from market.codec import Count, Text256, decode, encode
from market.errors import MarketError, UnreachableError
from market.limits import REQUEST_TIMEOUT_S
from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import (
    ADDRESS_BYTES_MAX,
    ADDRESSES_SHARED_MAX,
    BACK_OFF_MAX_S,
    BACK_OFF_MIN_S,
    DIALS_MAX,
    FINDERS_MAX,
)
from node.adapters.libp2p.circuit import circuit_address, is_circuit
from node.adapters.libp2p.identity import KEY_BYTES, parse_address, peer_id
from node.adapters.libp2p.peers import Peers
from node.ports import PeerInfo

log = structlog.get_logger(__name__)

_ASK_EVERY_S = 30.0
_SAVE_EVERY_S = 30.0
_NEWS_S = 1.0


@dataclass(frozen=True, slots=True)
class Known:
    """Addresses of peers that the sender can vouch for."""

    addresses: Annotated[tuple[Text256, ...], Count(0, ADDRESSES_SHARED_MAX)]


@dataclass(slots=True)
class _BackOff:
    failures: int
    until: float


class PeerKeeper:
    """Keeps `min_peers` outbound connections."""

    def __init__(
        self,
        *,
        me: bytes,
        bootstrap: tuple[str, ...],
        book: AddressBook,
        peers: Peers,
        peerstore: Any,
        min_peers: int,
        interval_s: float,
        dial: Callable[[bytes, tuple[str, ...]], Awaitable[None]],
        ask: Callable[[bytes, bytes, float], Awaitable[bytes]],
        denied: Callable[[bytes], bool],
        through_us: Callable[[bytes], tuple[str, ...]],
    ) -> None:
        """`dial` and `ask` raise UnreachableError. `bootstrap` addresses must parse.

        `through_us` gives the addresses of a peer that has a reservation here.
        """
        self._me = me
        self._bootstrap: dict[bytes, tuple[str, ...]] = {}
        for address in bootstrap:
            key = parse_address(address)[0]
            if key != me:
                self._bootstrap[key] = (*self._bootstrap.get(key, ()), address)
        self._book = book
        self._peers = peers
        self._peerstore = peerstore
        self._min_peers = min_peers
        self._interval_s = interval_s
        self._dial = dial
        self._ask = ask
        self._denied = denied
        self._through_us = through_us
        self._back_offs: dict[bytes, _BackOff] = {}
        self._dialling: set[bytes] = set()
        self._asked_at = float("-inf")
        self._asked: bytes = b""

    async def run(self) -> None:
        """Until cancelled."""
        saved_at = trio.current_time()
        async with trio.open_nursery() as nursery:
            for key in self._bootstrap:  # all of them at once: whoever is up lets us in
                nursery.start_soon(self._try, key)
            while True:
                for key in self._wanted():
                    nursery.start_soon(self._try, key)
                if self._lacking() > 0 and self._peers:
                    nursery.start_soon(self._ask_around)
                # Killed without a word, a node finds its peers again by this.
                every_s = _NEWS_S if self._book.has_news else _SAVE_EVERY_S
                if trio.current_time() - saved_at > every_s:
                    saved_at = trio.current_time()
                    await self._book.save()
                await trio.sleep(self._interval_s)

    def addresses_for(self, peer: bytes) -> tuple[str, ...]:
        """Where we would dial this peer."""
        return tuple(dict.fromkeys((*self._book.addresses(peer), *self._bootstrap.get(peer, ()))))

    def _own_way(self, peer: bytes) -> tuple[str, ...]:
        """Where to dial a peer for company only: a relay is for those who have business."""
        return tuple(
            address
            for address in self.addresses_for(peer)
            if not is_circuit(address) or address in self._bootstrap.get(peer, ())
        )

    async def find(self, peer: bytes) -> tuple[str, ...]:
        """Ask peers where this one is; what they say is in the book then."""
        asked = [info.peer for info in self._peers.infos() if info.peer != peer]
        asked.sort(key=lambda key: (key not in self._bootstrap, key))
        async with trio.open_nursery() as nursery:
            for one in asked[:FINDERS_MAX]:
                nursery.start_soon(self._learn, one, peer)
        return self.addresses_for(peer)

    def reached_at(self, peer: bytes) -> str:
        """An address of a connected peer that another node may hope to reach it at; or nothing."""
        for info in self._peers.infos():
            if info.peer == peer:
                known = self._vouched(info)
                return next((one for one in known if len(one.encode()) <= ADDRESS_BYTES_MAX), "")
        return ""

    def _vouched(self, info: PeerInfo) -> list[str]:
        """Where a connected peer may be reached, as far as we know it ourselves."""
        known = [info.address] if info.outbound else self._own_claims(info)
        return [*known, *self._through_us(info.peer)]

    async def tell(self, peer: bytes, data: bytes) -> bytes:
        """Answer a peer's question for others (or one: `data` is its key) that it may reach."""
        known: list[str] = []
        for info in self._peers.infos():
            wanted = info.peer == data if len(data) == KEY_BYTES else info.peer != peer
            if wanted and len(known) < ADDRESSES_SHARED_MAX:
                known += self._vouched(info)
        return encode(Known(tuple(dict.fromkeys(known))[:ADDRESSES_SHARED_MAX]))

    def _own_claims(self, info: PeerInfo) -> list[str]:
        """An inbound peer's claims: an address on the host it really connects from, and relays.

        Of a relay only its key is believed, and only if we are connected to it: the address is the
        one we know. Anything else would let a peer aim the whole network's dials at a stranger.
        """
        name = peer_id(info.peer)
        try:
            claims = [str(claim) for claim in self._peerstore.addrs(name)]
        except Exception as problem:  # the library's own error for a peer it does not know
            log.debug("no claims", peer=info.peer.hex(), problem=repr(problem))
            return []
        vouched = [
            f"{circuit_address(relay.address)}/p2p/{name}"
            for relay in self._peers.infos()
            if relay.outbound and not relay.relayed
            if any(f"{circuit_address(f'/p2p/{peer_id(relay.peer)}')}" in one for one in claims)
        ]
        if not info.relayed:
            for claim in claims:
                parts = claim.split("/")
                here = len(parts) >= 5 and parts[2] == info.address.split("/")[2]
                if here and parts[3] == "tcp" and not is_circuit(claim):
                    return [f"/{parts[1]}/{parts[2]}/tcp/{parts[4]}/p2p/{name}", *vouched]
        return vouched

    def _lacking(self) -> int:
        outbound = sum(info.outbound for info in self._peers.infos())
        return self._min_peers - outbound - len(self._dialling)

    def _wanted(self) -> list[bytes]:
        """Whom to dial now: as many as are lacking, the best known first."""
        now = trio.current_time()
        free = min(self._lacking(), DIALS_MAX - len(self._dialling))
        if free <= 0:
            return []
        wanted = []
        for key in dict.fromkeys((*self._bootstrap, *self._book.peers())):
            back_off = self._back_offs.get(key)
            if (
                key == self._me
                or key in self._peers
                or not self._own_way(key)
                or key in self._dialling
                or (back_off is not None and back_off.until > now)
                or self._denied(key)
            ):
                continue
            wanted.append(key)
        return wanted[:free]

    async def _try(self, key: bytes) -> None:
        if key in self._dialling or key in self._peers:
            return
        self._dialling.add(key)
        try:
            await self._dial(key, self._own_way(key))
            self._back_offs.pop(key, None)
        except UnreachableError as problem:
            failures = self._back_offs.get(key, _BackOff(0, 0.0)).failures + 1
            wait_s = min(BACK_OFF_MAX_S, BACK_OFF_MIN_S * 2 ** min(failures - 1, 20))
            self._back_offs[key] = _BackOff(failures, trio.current_time() + wait_s)
            log.debug("dial failed", peer=key.hex(), again_in_s=wait_s, problem=str(problem))
        finally:
            self._dialling.discard(key)

    async def _ask_around(self) -> None:
        """Ask the next peer, in key order, for addresses we do not know."""
        now = trio.current_time()
        infos = self._peers.infos()
        fresh = self._asked == b"" or len(infos) > 1
        if now - self._asked_at < (_ASK_EVERY_S if not fresh else self._interval_s):
            return
        following = [info.peer for info in infos if info.peer > self._asked] or [infos[0].peer]
        self._asked, self._asked_at = following[0], now
        await self._learn(self._asked, b"")

    async def _learn(self, teller: bytes, question: bytes) -> None:
        """Put what one peer says into the book."""
        try:
            known = decode(Known, await self._ask(teller, question, REQUEST_TIMEOUT_S))
        except MarketError as problem:
            log.debug("nothing heard of others", peer=teller.hex(), problem=str(problem))
            return
        here = {_ip(info.address) for info in self._peers.infos() if info.peer == teller}
        for address in known.addresses:
            try:
                key, transport = parse_address(address)
            except UnreachableError:
                continue
            ip = _ip(address)
            strange = ip is None or (_private(ip) and not any(map(_private, here)))
            if key != self._me and not strange:
                self._book.heard_of(key, f"{transport}/p2p/{peer_id(key)}")


def _ip(address: str) -> str | None:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 and parts[1] in ("ip4", "ip6") else None


def _private(ip: str | None) -> bool:
    """A stranger on the Internet has no business to send us into our own network."""
    try:
        return ip is None or not ipaddress.ip_address(ip).is_global
    except ValueError:
        return True
