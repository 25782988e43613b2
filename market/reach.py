"""Reach: which network addresses a stranger may make this node speak to, and how a target is said.

Only addresses of the public internet: never this machine, its local network or a cloud's metadata.
Pure; whoever connects resolves the name once, asks here, and connects to the very address it asked
about, so that a name cannot change its mind in between.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from market.codec import U16, Text256
from market.errors import SpecError

_HOST: Final = re.compile(r"(?!-)[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?")
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL: Final = ipaddress.ip_network("64:ff9b:1::/48")
_COMPATIBLE: Final = ipaddress.ip_network("::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Target:
    """A host, as a name or a plain address in lower case, and a TCP port."""

    host: Text256
    port: U16

    def __str__(self) -> str:
        """As people write it: `host:port`, `[2001:db8::1]:443`."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_target(text: str) -> Target:
    """The target in `host:port`. Raises SpecError."""
    host, colon, port = text.strip().lower().rpartition(":")
    plain = host.removeprefix("[").removesuffix("]")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or not port.isascii() or not port.isdecimal() or not 0 < int(port[:6]) < 65536:
        raise SpecError(f"{text!r} names no port", hint="write it like data.example.org:443")
    if bracketed:
        if not is_address(plain) or ":" not in plain or "%" in plain:
            raise SpecError(f"{text!r} is not an address", hint="write it like [2001:db8::1]:443")
    elif len(plain) > 253 or not _HOST.fullmatch(plain):
        raise SpecError(f"{text!r} is not a host", hint="write it like data.example.org:443")
    return Target(plain.removesuffix("."), int(port))


def is_address(host: str) -> bool:
    """Whether it is a numeric address, not a name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_public(address: str) -> bool:
    """Whether a numeric address belongs to the public internet, also if wrapped in another.

    IPv4 inside IPv6 (mapped, compatible, 6to4, Teredo, NAT64) counts as the address inside.
    """
    try:
        return _is_public(ipaddress.ip_address(address.partition("%")[0]))
    except ValueError:
        return False


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64_LOCAL:
            return False
        inner: list[ipaddress.IPv4Address] = []
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address.sixtofour is not None:
            inner.append(address.sixtofour)
        if address.teredo is not None:
            inner.extend(address.teredo)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
        if address in _COMPATIBLE:
            return False
        if not all(_is_public(one) for one in inner):
            return False
        if address.is_site_local:
            return False
    special = (
        address.is_private
        or address.is_loopback
        or address.is_link_local
        or address.is_multicast
        or address.is_reserved
        or address.is_unspecified
    )
    return address.is_global and not special
