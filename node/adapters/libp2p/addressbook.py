"""Address book: where peers were last reached, kept in a small JSON file. Knows no network.

{"<peer key, hex>": {"addresses": ["/ip4/../tcp/..", ..], "seen": 1766000000.0}, ..}
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from market.errors import UnreachableError
from market.units import UnixTime
from node.adapters.libp2p.bounds import ADDRESSES_MAX, ADDRESSES_PER_PEER_MAX
from node.adapters.libp2p.identity import format_address, parse_address

log = structlog.get_logger(__name__)
_FILE_BYTES_MAX = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """One peer's full multiaddresses, best first, and when one of them last worked (0: never)."""

    addresses: tuple[str, ...]
    seen: UnixTime


class AddressBook:
    """Peers by key, at most ADDRESSES_MAX; the longest unseen make room."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._entries: dict[bytes, Entry] = {}
        self._changed = False
        self.has_news = False  # a place where a peer was reached that the file does not have

    def addresses(self, peer: bytes) -> tuple[str, ...]:
        """Where this peer may be reached, best first; empty if unknown."""
        entry = self._entries.get(peer)
        return entry.addresses if entry else ()

    def peers(self) -> tuple[bytes, ...]:
        """All known peers, the most recently seen first."""
        return tuple(sorted(self._entries, key=lambda key: (-self._entries[key].seen, key)))

    def reached(self, peer: bytes, address: str, now: UnixTime) -> None:
        """The peer was reached there: from now on its first address."""
        known = tuple(one for one in self.addresses(peer) if one != address)
        self.has_news |= self.addresses(peer)[:1] != (address,)
        self._put(peer, Entry((address, *known)[:ADDRESSES_PER_PEER_MAX], now))

    def heard_of(self, peer: bytes, address: str) -> None:
        """Somebody says that the peer is there: kept as a last resort."""
        entry = self._entries.get(peer, Entry((), UnixTime(0.0)))
        if address not in entry.addresses and len(entry.addresses) < ADDRESSES_PER_PEER_MAX:
            self._put(peer, replace(entry, addresses=(*entry.addresses, address)))

    async def load(self) -> None:
        """Read the file; a missing or broken one leaves the book empty."""
        if self._path is None:
            return
        try:
            text = await trio.to_thread.run_sync(_read, self._path)
            for key, entry in json.loads(text).items():
                self._load_entry(bytes.fromhex(key), entry)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as problem:
            log.warning("address book unreadable, starting an empty one", problem=repr(problem))
        self._changed = False

    async def save(self) -> None:
        """Write the file, in one step, if anything changed."""
        if self._path is None or not self._changed:
            return
        self._changed = self.has_news = False
        text = json.dumps(
            {
                key.hex(): {"addresses": entry.addresses, "seen": entry.seen}
                for key, entry in sorted(self._entries.items())
            },
            indent=1,
        )
        try:
            await trio.to_thread.run_sync(_write, self._path, text)
        except OSError as problem:
            log.warning("address book not written", path=str(self._path), problem=repr(problem))

    def _load_entry(self, key: bytes, entry: dict[str, Any]) -> None:
        addresses = []
        for address in entry["addresses"][:ADDRESSES_PER_PEER_MAX]:
            try:
                named, transport = parse_address(address)
            except UnreachableError:
                continue
            if named == key:
                addresses.append(format_address(transport, key))
        if addresses:
            self._put(key, Entry(tuple(addresses), UnixTime(float(entry["seen"]))))

    def _put(self, peer: bytes, entry: Entry) -> None:
        self._entries[peer] = entry
        self._changed = True
        if len(self._entries) > ADDRESSES_MAX:
            del self._entries[self.peers()[-1]]


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return file.read(_FILE_BYTES_MAX)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    os.replace(draft, path)
