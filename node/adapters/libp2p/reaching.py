"""Reaching: how this node is reached, and how it reaches others: directly, or through relays.

Puts together dial-back, reservations, relay, dialler and shortcut. Knows no topic.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio
from libp2p.identity.identify_push.identify_push import push_identify_to_peers

from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import NEGOTIATE_S
from node.adapters.libp2p.circuit import HOP, circuit_address, is_circuit
from node.adapters.libp2p.dialback import DialBack
from node.adapters.libp2p.dialler import Dialler
from node.adapters.libp2p.host import NetworkConfig
from node.adapters.libp2p.identity import format_address, key_of, parse_address, peer_id
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.relay import Relay
from node.adapters.libp2p.reservations import Reservations
from node.adapters.libp2p.shortcut import Shortcut
from node.ports import Clock, Reach

log = structlog.get_logger(__name__)


class Reaching:
    """The five of one host."""

    def __init__(
        self,
        config: NetworkConfig,
        host: Any,
        peers: Peers,
        book: AddressBook,
        clock: Clock,
        *,
        learned: list[str],
        ask: Callable[[bytes, bytes, float], Awaitable[bytes]],
        denied: Callable[[bytes], bool],
        strike: Callable[[bytes, float], None],
        rejoin: Callable[[Any], Awaitable[Any]],
    ) -> None:
        """`learned` is kept to the addresses that this node has beside those it listens on.

        `ask` puts a dial-back to a peer; `strike` takes PeerId bytes and points; `rejoin` opens
        gossip with a PeerId again.
        """
        self._learned = learned
        self._config = config
        self._host = host
        self._key = key_of(host)
        bootstrap = [parse_address(address)[0] for address in config.bootstrap]
        declared = config.reachable
        if declared is None and config.announce:
            declared = True  # who names an address says that it works
        self._dial_back = DialBack(
            host, peers, declared=declared, bootstrap=bootstrap,
            ports=self._ports, ask=ask, changed=self._readdressed,
        )  # fmt: skip
        self._reservations = Reservations(
            host, peers, bootstrap=bootstrap,
            wanted=lambda: self._dial_back.reachable is False,
            denied=denied, changed=self._readdressed,
        )  # fmt: skip
        self._relay = Relay(
            host, peers, clock,
            offered=self._relaying, strike=strike, bytes_per_s=config.relay_bytes_per_s,
        )  # fmt: skip
        host.set_stream_handler(HOP, self._relay.serve)
        self._shortcut = Shortcut(host, peers, book, clock, rejoin)
        self.dial = Dialler(host, peers, book, self._reservations, clock, denied).dial
        self.tell = self._dial_back.tell

    def start(self, nursery: trio.Nursery) -> None:
        """Find out how we are reached, and see to it, until the nursery is cancelled."""
        nursery.start_soon(self._dial_back.run, self._config.keeper_interval_s)
        nursery.start_soon(self._reservations.run, self._config.keeper_interval_s)
        nursery.start_soon(self._shortcut.run, self._config.keeper_interval_s)

    def reach(self) -> Reach:
        """Whether others can dial this node, and through which relays if they cannot."""
        return Reach(self._dial_back.reachable, self._reservations.relays(), self._relaying())

    def through_us(self, peer: bytes) -> tuple[str, ...]:
        """The addresses of a peer that has a reservation here; none if it has not."""
        if not self._relay.reserved(peer):
            return ()
        own = [str(one) for one in self._host.get_addrs() if not is_circuit(str(one))]
        return tuple(f"{circuit_address(one)}/p2p/{peer_id(peer)}" for one in own[:2])

    def statistics(self) -> dict[str, int]:
        """What we hold at others, and what others have here."""
        held = len(self._reservations.relays())
        return {"reservations": held, **self._relay.statistics()}

    def _ports(self) -> tuple[int, ...]:
        bound = self._host.get_transport_addrs()
        return tuple(dict.fromkeys(int(address.value_for_protocol("tcp")) for address in bound))

    def _relaying(self) -> bool:
        if self._config.relay is not None:
            return self._config.relay
        return self._dial_back.reachable is True

    async def _readdressed(self) -> None:
        """Our addresses have changed: tell who is connected."""
        ways = (*self._dial_back.addresses, *self._reservations.addresses())
        self._learned[:] = [format_address(way, self._key) for way in ways]
        with trio.move_on_after(NEGOTIATE_S):
            try:
                await push_identify_to_peers(self._host)
            except Exception as problem:  # the library's own, of a peer that has just gone
                log.debug("addresses not pushed", problem=repr(problem))
