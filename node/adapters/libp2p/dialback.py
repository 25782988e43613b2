"""Dial-back: whether others can dial this node, found out by asking two peers to try.

    asker: "try me on these ports" -> peer: "you come from this IP; there I reached these of them"

The peer dials only the IP that the asker comes from, and only counts it reached when a handshake
proves the asker's key. Verdicts of peers to whom we have a global address count before those of
peers in our own network.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any

import structlog
import trio
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from market.codec import U16, Count, Text64, decode, encode
from market.errors import MarketError
from market.limits import REQUEST_TIMEOUT_S
from node.adapters.libp2p.bounds import (
    CONNECTIONS_MAX,
    DIAL_BACK_PORTS_MAX,
    DIAL_BACK_S,
    DIAL_BACKS_BURST,
    DIAL_BACKS_MAX,
    DIAL_BACKS_PER_S,
    REACH_AGAIN_S,
)
from node.adapters.libp2p.guard import close_quietly
from node.adapters.libp2p.identity import peer_id
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.strikes import Buckets

log = structlog.get_logger(__name__)

_VERDICTS = 2  # that agree; a third peer is asked where two do not


@dataclass(frozen=True, slots=True)
class TryMe:
    """Which TCP ports the asker listens on."""

    ports: Annotated[tuple[U16, ...], Count(0, DIAL_BACK_PORTS_MAX)]


@dataclass(frozen=True, slots=True)
class Tried:
    """Where the asker comes from, and the ports at which its key was proven there."""

    tried: bool  # false: too much asked already, nothing is known
    ip: Text64
    ports: Annotated[tuple[U16, ...], Count(0, DIAL_BACK_PORTS_MAX)]


@dataclass(frozen=True, slots=True)
class _Verdict:
    at: float
    ip: str
    ports: tuple[int, ...]


class DialBack:
    """Both sides: asks for this node, and tries for others."""

    def __init__(
        self,
        host: Any,
        peers: Peers,
        *,
        declared: bool | None,
        bootstrap: Iterable[bytes],
        ports: Callable[[], tuple[int, ...]],
        ask: Callable[[bytes, bytes, float], Awaitable[bytes]],
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        """`declared` is the owner's word, if any. `ask` raises UnreachableError."""
        self._swarm = host.get_network()
        self._peers = peers
        self._declared = declared
        self._bootstrap = tuple(bootstrap)
        self._ports = ports
        self._ask = ask
        self._changed = changed
        self._verdicts: dict[bytes, _Verdict] = {}
        self._asked_at: dict[bytes, float] = {}
        self._asks = Buckets(DIAL_BACKS_PER_S, DIAL_BACKS_BURST, CONNECTIONS_MAX * 2)
        self._trying = 0
        self.reachable = declared
        self.addresses: tuple[str, ...] = ()  # proven by others, without our own id

    async def run(self, interval_s: float) -> None:
        """Until cancelled. Asks again after REACH_AGAIN_S, and whenever a voter has gone."""
        while self._declared is None:
            before = self.reachable, self.addresses
            await self._inquire()
            self._judge()
            if (self.reachable, self.addresses) != before:
                log.info("reachability", reachable=self.reachable, addresses=self.addresses)
                await self._changed()
            await trio.sleep(interval_s)

    async def _inquire(self) -> None:
        """Ask one more peer, unless enough agree."""
        now = trio.current_time()
        ports = self._ports()[:DIAL_BACK_PORTS_MAX]
        for known in (self._asked_at, self._verdicts):
            for peer in [peer for peer in known if not self._peers.is_direct(peer)]:
                del known[peer]
        fresh = [one for one in self._heeded() if now - one.at < REACH_AGAIN_S]
        votes = [bool(one.ports) for one in fresh]
        if max(votes.count(True), votes.count(False)) >= _VERDICTS or not ports:
            return
        infos = sorted(self._peers.infos(), key=lambda info: not info.outbound)
        direct = [info.peer for info in infos if not info.relayed]
        for peer in sorted(direct, key=lambda peer: peer not in self._bootstrap):
            if now - self._asked_at.get(peer, float("-inf")) < REACH_AGAIN_S:
                continue
            self._asked_at[peer] = now
            try:
                answer = await self._ask(peer, encode(TryMe(ports)), REQUEST_TIMEOUT_S)
                tried = decode(Tried, answer)
                ipaddress.ip_address(tried.ip)
            except (MarketError, ValueError) as problem:
                log.debug("no verdict", peer=peer.hex(), problem=str(problem))
                continue
            if tried.tried:
                reached = tuple(port for port in ports if port in tried.ports)
                self._verdicts[peer] = _Verdict(now, tried.ip, reached)
                return

    def _heeded(self) -> list[_Verdict]:
        """Those that count: who sees us at a global address knows better than our neighbours."""
        verdicts = list(self._verdicts.values())
        outside = [one for one in verdicts if ipaddress.ip_address(one.ip).is_global]
        return outside or verdicts

    def _judge(self) -> None:
        heeded = self._heeded()
        if not heeded:
            return  # what was true before all peers went is our best guess
        yes = [one for one in heeded if one.ports]
        self.reachable = len(yes) * 2 > len(heeded)
        proven = [
            f"/{'ip6' if ':' in one.ip else 'ip4'}/{one.ip}/tcp/{port}"
            for one in yes
            for port in one.ports
            if self.reachable
        ]
        self.addresses = tuple(dict.fromkeys(proven))[:DIAL_BACK_PORTS_MAX]

    async def tell(self, peer: bytes, data: bytes) -> bytes:
        """Answer a peer: try it, where it comes from."""
        try:
            ports = decode(TryMe, data).ports
        except MarketError:
            ports = ()
        ip = self._ip(peer)
        may = bool(ip) and self._trying < DIAL_BACKS_MAX
        if not may or not self._asks.take(peer, trio.current_time()):
            return encode(Tried(tried=False, ip=ip, ports=()))
        self._trying += 1
        try:
            reached = [
                port for port in ports if 0 < port < 65_536 and await self._try(peer, ip, port)
            ]
        finally:
            self._trying -= 1
        return encode(Tried(tried=True, ip=ip, ports=tuple(reached)))

    def _ip(self, peer: bytes) -> str:
        """Where the peer's direct connection comes from; empty if it has none."""
        if not self._peers.is_direct(peer):
            return ""
        return self._peers.address(peer).split("/")[2]

    async def _try(self, peer: bytes, ip: str, port: int) -> bool:
        """Whether the peer proves its key there. Leaves no connection behind."""
        address = Multiaddr(f"/{'ip6' if ':' in ip else 'ip4'}/{ip}/tcp/{port}")
        raw: Any = None
        try:
            with trio.fail_after(DIAL_BACK_S):
                raw = await TCP().dial(address)
                await self._swarm.upgrader.upgrade_security(raw, True, peer_id(peer))
        except Exception as problem:  # the library's dozen kinds, all meaning no
            log.debug("dial-back failed", peer=peer.hex(), problem=repr(problem))
            return False
        finally:
            if raw is not None:
                await close_quietly(raw)
        return True
