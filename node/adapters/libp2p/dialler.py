"""Dialler: connects to a peer by the first of its addresses that works, relays last."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from market.errors import UnreachableError
from node.adapters.libp2p.addressbook import AddressBook
from node.adapters.libp2p.bounds import DIAL_S
from node.adapters.libp2p.circuit import is_circuit, relay_address
from node.adapters.libp2p.identity import parse_address, peer_id
from node.adapters.libp2p.peers import Peers
from node.adapters.libp2p.reservations import Reservations
from node.ports import Clock


class Dialler:
    """Dials for one host."""

    def __init__(
        self,
        host: Any,
        peers: Peers,
        book: AddressBook,
        reservations: Reservations,
        clock: Clock,
        denied: Callable[[bytes], bool],
    ) -> None:
        """`denied` says whether a peer is cut off."""
        self._host = host
        self._swarm = host.get_network()
        self._peers = peers
        self._book = book
        self._reservations = reservations
        self._clock = clock
        self._denied = denied

    async def dial(self, peer: bytes, addresses: tuple[str, ...]) -> None:
        """Connect, directly if that works. Raises UnreachableError."""
        if self._denied(peer):
            raise UnreachableError(f"peer {peer.hex()[:16]} is cut off for misbehaving")
        problem: Exception | None = None
        for address in sorted(addresses, key=is_circuit):  # stable: the best first among its kind
            try:
                with trio.fail_after(DIAL_S):
                    if is_circuit(address):
                        await self._dial_through(peer, relay_address(address))
                    else:
                        await self._dial_directly(peer, parse_address(address)[1])
                self._book.reached(peer, address, self._clock.now())
                return
            except Exception as failure:  # the library raises a dozen kinds, all meaning this
                problem = failure
        raise UnreachableError(
            f"peer {peer.hex()[:16]} could not be dialled",
            hint="check that it runs and that its address is reachable from here",
        ) from problem

    async def _dial_directly(self, peer: bytes, transport: Any) -> None:
        name = peer_id(peer)
        self._swarm.unblock_peer(name)  # it refuses a minute of dials after a failure
        store = self._host.get_peerstore()
        store.clear_addrs(name)  # what the peer claims by itself is not for dialling
        store.add_addrs(name, [transport], 3600)
        await self._swarm.dial_peer(name)

    async def _dial_through(self, peer: bytes, address: str) -> None:
        relay, transport = parse_address(address)
        if self._denied(relay):
            raise UnreachableError(f"relay {relay.hex()[:16]} is cut off for misbehaving")
        if not self._peers.is_direct(relay):
            await self._dial_directly(relay, transport)
            self._book.reached(relay, address, self._clock.now())
        await self._reservations.dial(peer, relay, self._peers.address(relay))
