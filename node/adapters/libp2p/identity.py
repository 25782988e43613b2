"""Identity: a peer's Ed25519 key and its libp2p PeerId are the same 32 bytes. Knows no network.

A PeerId of an Ed25519 key is the identity multihash of the key's protobuf, so each is cut from the
other without a lookup: https://github.com/libp2p/specs/blob/master/peer-ids/peer-ids.md
"""

from __future__ import annotations

from typing import Any

from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from market.errors import UnreachableError
from node.adapters.libp2p.bounds import ADDRESS_BYTES_MAX

KEY_BYTES = 32
_PREFIX = bytes.fromhex("002408011220")  # identity multihash, 36 bytes, key type 1, 32 bytes
_DIRECT = ("tcp", "p2p")
_THROUGH_A_RELAY = ("tcp", "p2p", "p2p-circuit", "p2p")
_HINT = "write it like /ip4/203.0.113.7/tcp/4001/p2p/12D3Koo..."


def key_pair(seed: bytes) -> Any:
    """libp2p's key pair of a 32-byte Ed25519 seed."""
    assert len(seed) == KEY_BYTES
    return create_new_key_pair(seed)


def peer_id(key: bytes) -> Any:
    """The PeerId of a raw Ed25519 public key."""
    assert len(key) == KEY_BYTES, "a peer is named by its 32-byte Ed25519 key"
    return ID(_PREFIX + key)


def peer_key(id_bytes: bytes) -> bytes | None:
    """The raw Ed25519 key inside a PeerId's bytes, or None if it is of any other kind."""
    if len(id_bytes) != len(_PREFIX) + KEY_BYTES or not id_bytes.startswith(_PREFIX):
        return None
    return id_bytes[len(_PREFIX) :]


def key_of(host: Any) -> bytes:
    """The key of a libp2p host."""
    key = peer_key(host.get_id().to_bytes())
    assert key is not None, "our hosts have Ed25519 keys"
    return key


def parse_address(text: str) -> tuple[bytes, Any]:
    """A multiaddress that names its peer as (key, the transport part of it).

    The transport is an IP address or a name with a TCP port, or that of a relay and
    /p2p/<relay>/p2p-circuit. Raises UnreachableError for anything that this node could not dial.
    """
    try:
        address = Multiaddr(text)
        protocols = tuple(protocol.name for protocol in address.protocols())
        transport_text, _, named = str(address).rpartition("/p2p/")
        key = peer_key(ID.from_string(named).to_bytes())
        transport = Multiaddr(transport_text)
    except (MultiaddrError, ValueError, KeyError, LookupError, TypeError) as problem:
        raise UnreachableError(f"{text!r} is not an address of a peer", hint=_HINT) from problem
    if key is None:
        raise UnreachableError(f"{text!r} does not name an Ed25519 peer", hint=_HINT)
    if protocols[1:] not in (_DIRECT, _THROUGH_A_RELAY):
        raise UnreachableError(f"{text!r} is not reached by TCP", hint=_HINT)
    if protocols[0] not in ("ip4", "ip6", "dns", "dns4", "dns6"):
        raise UnreachableError(f"{text!r} is not reached by IP or DNS", hint=_HINT)
    if len(str(address).encode()) > ADDRESS_BYTES_MAX:
        raise UnreachableError(f"an address of {len(str(address).encode())} bytes", hint=_HINT)
    if protocols[1:] == _THROUGH_A_RELAY:
        relay = parse_address(str(address).partition("/p2p-circuit")[0])[0]
        if relay == key:
            raise UnreachableError(f"{text!r} leads through the peer itself", hint=_HINT)
    return key, transport


def format_address(transport: object, key: bytes) -> str:
    """The multiaddress of a peer at a transport address, ending in its peer id."""
    return f"{transport}/p2p/{peer_id(key)}"
