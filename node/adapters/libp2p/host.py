"""Host: the settings of the libp2p host, and where it listens. Safe ones: stock's are not.

TCP, Noise and yamux only. Knows no gossip, no request and no peer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio
from libp2p import new_host
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.network.config import ConnectionConfig
from libp2p.rcmgr import new_resource_manager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.transport.tcp.tcp import TCP
from libp2p.utils.address_validation import get_available_interfaces
from multiaddr import Multiaddr

from market.errors import MarketError
from node.adapters.libp2p.bounds import (
    CONNECTIONS_MAX,
    CONNECTIONS_PER_PEER_MAX,
    HANDSHAKE_S,
    NEGOTIATE_S,
    RELAY_BYTES_PER_S,
)
from node.adapters.libp2p.identity import key_pair, parse_address


@dataclass(frozen=True)
class NetworkConfig:
    """Where to listen, whom to know, what to carry."""

    listen: tuple[str, ...]  # such as /ip4/0.0.0.0/tcp/4001; port 0 takes a free one
    bootstrap: tuple[str, ...]  # full multiaddresses, each ending in /p2p/<peer id>
    topics: tuple[str, ...]
    address_book: Path | None = None
    announce: tuple[str, ...] = ()  # /ip4/../tcp/..: what others dial, if not what we listen on
    min_peers: int = 6
    keeper_interval_s: float = 5.0
    ping_interval_s: float = 15.0
    ping_timeout_s: float = 10.0
    # Outgoing channel data of the whole node. Its slices take turns with everything else, so that
    # this is a bound on what one core may be kept busy with, not what keeps requests quick.
    bulk_bytes_per_s: int = 256_000_000
    reachable: bool | None = None  # whether others can dial us; None: ask them
    relay: bool | None = None  # carry others' circuits; None: if we are reachable
    relay_bytes_per_s: int = RELAY_BYTES_PER_S

    def __post_init__(self) -> None:
        assert self.min_peers >= 0
        assert self.keeper_interval_s > 0
        assert self.ping_interval_s > 0
        assert self.ping_timeout_s > 0
        assert self.bulk_bytes_per_s > 0
        assert self.relay_bytes_per_s > 0
        for address in self.bootstrap:
            parse_address(address)


def new_guarded_host(config: NetworkConfig, seed: bytes, learned: list[str]) -> Any:
    """A libp2p host that is not yet running. `seed` is 32 bytes of Ed25519.

    `learned` holds, now and later, the addresses that this node has beside those it listens on.
    """
    keys = key_pair(seed)

    def dialable(bound: list[Any]) -> list[Any]:
        if config.announce:
            return [Multiaddr(address) for address in config.announce]
        return [one for address in bound for one in _on_interfaces(address)]

    # Stock offers plaintext too, by which anybody may claim to be anybody (defect 1).
    noise = Noise(keys, noise_privkey=create_noise_key_pair().private_key)
    host = new_host(
        key_pair=keys,
        sec_opt={NOISE: noise},
        muxer_preference="YAMUX",
        transports=[TCP()],
        addrs_factory=dialable,
        disable_identify_address_discovery=True,
        # Its circuit breaker and memory guesses would let an attacker close the node to all.
        resource_manager=new_resource_manager(
            enable_memory_limits=False,
            enable_memory_pooling=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
        ),
        connection_config=ConnectionConfig(
            max_connections=CONNECTIONS_MAX,
            min_connections=0,
            low_watermark=0,  # stock would dial whatever address any peer claims; we keep peers
            high_watermark=CONNECTIONS_MAX,
            max_connections_per_peer=CONNECTIONS_PER_PEER_MAX,
            inbound_upgrade_timeout=HANDSHAKE_S,
            inbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
            outbound_stream_protocol_negotiation_timeout=NEGOTIATE_S,
        ),
    )
    # The library cuts an address at its first peer id: of one through a relay, only the relay's
    # own would be left, announced as ours. So these are added behind its back.
    own = host.get_addrs
    host.get_addrs = lambda: list(dict.fromkeys((*own(), *map(Multiaddr, learned))))
    return host


async def check_free(listen: tuple[str, ...]) -> None:
    """Raise MarketError if an address is taken.

    libp2p binds with SO_REUSEPORT: two nodes on one port would silently share its callers.
    """
    for address in listen:
        parts = address.split("/")
        if len(parts) != 5 or parts[1] not in ("ip4", "ip6") or parts[3] != "tcp":
            raise MarketError(f"cannot listen on {address!r}", hint="write /ip4/0.0.0.0/tcp/4001")
        family = trio.socket.AF_INET6 if parts[1] == "ip6" else trio.socket.AF_INET
        with trio.socket.socket(family, trio.socket.SOCK_STREAM) as probe:
            probe.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            try:
                await probe.bind((parts[2], int(parts[4])))
            except (OSError, ValueError) as problem:
                raise MarketError(
                    f"cannot listen on {address}: {problem}",
                    hint="is another node running here? use another port, or 0 for any free one",
                ) from problem


def _on_interfaces(bound: Any) -> list[Any]:
    """What a wildcard stands for: nobody can dial 0.0.0.0."""
    _, family, ip, _, port = str(bound).split("/")
    if ip not in ("0.0.0.0", "::"):
        return [bound]
    return [
        address
        for address in get_available_interfaces(int(port))
        if str(address).split("/")[1] == family
    ]
