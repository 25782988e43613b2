"""Wire vectors: writes wire.json. Knows docs/PROTOCOL.md and neither market/ nor node/.

Reads the tables of the page, makes three examples of every message, frame and value in them (the
least that its bounds allow, one of the most, one in between), and packs them as the page says, with
stock msgpack; signs envelopes with PyNaCl and digests with eth_account. pytest holds our codec to
it, and so does the peer in tests/foreign.

    uv run python -m tests.golden.wire           # write
    uv run python -m tests.golden.wire --check   # exit 1 if the file differs

In the file an integer is a decimal string (JSON readers lose uint256s), bytes are hexadecimal.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

import msgpack
from nacl.signing import SigningKey

from tests.golden.generate import DOMAIN, KEY, TYPES, USES, digest_of

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "PROTOCOL.md"
FILE = HERE / "wire.json"
SEED = bytes(range(32))
PREFIX = b"gridsouk/envelope/1\n"
NETWORK = "devnet-31337"
EVERYBODY = bytes(32)
SOMEBODY = bytes(SigningKey(bytes([7]) * 32).verify_key)
TYPED = ("Terms", "Voucher", "Heartbeat", "Extension")


class Page:
    """The tables of the page."""

    def __init__(self, text: str) -> None:
        self.fields: dict[str, dict[str, str]] = {}
        self.words: dict[str, list[str]] = {}
        self.messages: list[str] = []
        for section in re.split(r"^##+ ", text, flags=re.M):
            title = section.splitlines()[0].strip()
            rows = [
                [cell.strip() for cell in row.split("|")]
                for row in re.findall(r"^\| (.*)\|$", section, flags=re.M)
            ]
            if rows and rows[0][0] == "field":
                self.fields[title] = {name.strip("`"): kind for name, kind, *_ in rows[1:]}
            elif rows and rows[0][0] == "word in the envelope":
                self.messages = [re.findall(r"`(.*)`", row[0])[0] for row in rows[1:]]
            elif found := re.search(r"^One of (`.*`)\.$", section, flags=re.M):
                self.words[title] = re.findall(r"`([^`]*)`", found[1])
        for name in self.messages:
            self.fields.setdefault(name, {})

    def example(self, kind: str, way: str, where: str = "") -> Any:
        """A value of a type, as plain Python: `way` is least, most or between."""
        where = where or kind
        if kind.endswith(" or nil"):
            return None if way == "least" else self.example(kind[:-7], way, where)
        if found := re.fullmatch(r"list\((\d+)\.\.(\d+)\) of (.*)", kind):
            low, high = int(found[1]), int(found[2])
            scalar = not found[3].startswith("[")
            count = {"least": low, "most": min(high, 17 if scalar else 3)}.get(way, max(low, 1))
            return [self.example(found[3], way, f"{where}[{index}]") for index in range(count)]
        if found := re.fullmatch(r"int (\S+)\.\.(\S+)", kind):
            return _integer(_bound(found[1]), _bound(found[2]), way, where)
        if found := re.fullmatch(r"(text|bytes)\((\d+)(?:\.\.(\d+))?\)", kind):
            low, high = int(found[2]), int(found[3] or found[2])
            return _text(low, high, way) if found[1] == "text" else _bytes(low, high, way, where)
        if kind == "bool":
            return way == "most"
        found = re.fullmatch(r"\[(\w+)\]\(#\w+\)", kind)
        name = found[1] if found else kind
        if name in self.words:
            return self.words[name][{"least": 0, "most": -1}.get(way, 1)]
        fields = self.fields[name].items()
        return {field: self.example(inner, way, f"{where}.{field}") for field, inner in fields}


def _bound(text: str) -> int:
    power = re.fullmatch(r"2\^(\d+)-1", text)
    return 2 ** int(power[1]) - 1 if power else int(text)


def _integer(low: int, high: int, way: str, where: str) -> int:
    if way != "between":
        return low if way == "least" else high
    # Of some size that the name of the place decides, so that every form of msgpack comes up.
    noise = int.from_bytes(hashlib.sha256(where.encode()).digest(), "big")
    bits = 1 + noise % max(1, (high - low).bit_length())
    value = low + (noise >> 8) % (1 << bits)
    return -value if low < 0 and noise & 1 and -value >= low else min(value, high)


def _much(high: int) -> int:
    """Not all that a bound allows, but enough for each form of a length."""
    return 300 if high > 4096 else min(high, 40)


def _text(low: int, high: int, way: str) -> str:
    size = {"least": low, "most": max(low, _much(high))}.get(way, min(high, max(low, 31)))
    letters = "é" * (size // 2) if way == "most" else "a" * size
    return letters + "z" * (size - len(letters.encode()))


def _bytes(low: int, high: int, way: str, where: str) -> bytes:
    size = {"least": low, "most": max(low, _much(high))}.get(way, max(low, min(high, 65)))
    seed = hashlib.sha256(where.encode()).digest()
    filled = {"least": b"\0" * size, "most": b"\xff" * size}
    return filled.get(way, (seed * (size // 32 + 1))[:size])


def pack(value: Any) -> bytes:
    """What the page's "Encoding" says, by stock msgpack."""
    packed: bytes = msgpack.packb(_sorted(value), use_bin_type=True)
    return packed


def _sorted(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool) and value >= 2**64:
        return value.to_bytes((value.bit_length() + 7) // 8, "big")
    return value


def shown(value: Any) -> Any:
    """A value for JSON."""
    if isinstance(value, dict):
        return {name: shown(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shown(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def envelopes(page: Page) -> list[dict[str, Any]]:
    key = SigningKey(SEED)
    rows = []
    for index, (kind, to) in enumerate([("wanted", EVERYBODY), ("quote", SOMEBODY)]):
        envelope = {
            "version": 1,
            "network": NETWORK,
            "kind": kind,
            "author": bytes(key.verify_key),
            "to": to,
            "sequence": 1_800_000_000_000_000_001 + index,
            "issued_at_ms": 1_800_000_000_000,
            "expires_at_ms": 1_800_000_060_000,
            "body": pack(page.example(kind, "between")),
        }
        packed = pack(envelope)
        signature = key.sign(PREFIX + packed).signature
        sealing = pack({"envelope": packed, "signature": signature})
        rows.append({**shown(envelope), "signature": signature.hex(), "sealing": sealing.hex()})
    return rows


def frames() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for kind, number, payload in [(0, 1, b"sealing"), (1, 2**40, b""), (2, 1, b"\xff" * 3)]:
        data = struct.pack(">IBQ", 9 + len(payload), kind, number) + payload
        rows.append({"stream": "requests", "kind": kind, "id": str(number),
                     "payload": payload.hex(), "bytes": data.hex()})  # fmt: skip
    for kind, size, payload in [
        (0, 5, b"hello"),
        (0, 0, b""),
        (1, 5, b""),
        (2, 0, b""),
        (3, 0, b""),
    ]:
        data = struct.pack(">BI", kind, size) + payload
        rows.append({"stream": "channel", "kind": kind, "size": size,
                     "payload": payload.hex(), "bytes": data.hex()})  # fmt: skip
    return rows


def refused(page: Page) -> list[dict[str, str]]:
    """Bytes that are no canonical value of their kind, and why."""
    fields = pack({"code": "ab", "message": "cd"})
    name = b"\xa4code\xa2ab"
    message = b"\xa7message\xa2cd"
    rows = [
        ("refused", b"", "nothing"),
        ("refused", fields[:-1], "cut short"),
        ("refused", fields + b"\xc0", "bytes behind the end"),
        ("refused", b"\x82" + message + name, "fields not in their order"),
        ("refused", b"\x82" + name + name, "a field twice"),
        ("refused", b"\x81" + name, "a field is missing"),
        ("refused", b"\x83" + name + message + b"\xa1x\xc0", "a field too many"),
        ("refused", b"\xde\x00\x02" + name + message, "a long form of the map"),
        ("refused", b"\x82\xa4code\xd9\x02ab" + message, "a long form of a text"),
        ("refused", b"\x82\xa4code\xc4\x02ab" + message, "bytes where text must be"),
        ("refused", b"\x82\xa4code\xa1\xff" + message, "no UTF-8"),
        ("refused", b"\x82\xc4\x04code\xa2ab" + message, "a field's name is bytes"),
        ("refused", pack({"code": "a" * 65, "message": ""}), "longer than its bound"),
        ("refused", b"\x92" + b"\xa2ab\xa2cd", "a list where a value must be"),
        ("Fetched", b"\x81\xaasize_bytes\xcc\x01", "a long form of an integer"),
        ("Fetched", b"\x81\xaasize_bytes\xff", "a negative integer"),
        ("Fetched", b"\x81\xaasize_bytes\xcb" + struct.pack(">d", 1.0), "a float"),
        ("Fetched", b"\x81\xaasize_bytes\xc3", "true where an integer must be"),
        ("Fetched", b"\x81\xaasize_bytes\xcf" + b"\xff" * 8, "greater than its bound"),
        ("Fetched", b"\x81\xaasize_bytes\xd4\x01\x01", "an extension"),
        ("Fetched", b"\xc0", "nil where a value must be"),
    ]
    terms = page.example("Terms", "most")
    packed = pack(terms)
    whole = b"\xc4\x20" + b"\xff" * 32
    assert packed.endswith(b"\xa5units" + whole)
    head = packed.removesuffix(whole)
    rows += [
        ("Terms", head + b"\xc4\x21\x00" + b"\xff" * 32, "leading zeros of a large integer"),
        ("Terms", head + b"\xc4\x08" + b"\xff" * 8, "bytes of an integer below 2^64"),
        ("Terms", head + b"\xc4\x21" + b"\x01" * 33, "an integer of 33 bytes"),
    ]
    return [{"kind": kind, "bytes": data.hex(), "why": why} for kind, data, why in rows]


def digests(page: Page) -> list[dict[str, Any]]:
    """EIP-712 of our values: the fields of the type in the order of our table."""
    rows = []
    for kind in TYPED:
        for way in ("least", "between", "most"):
            value = page.example(kind, way)
            digest, signature = digest_of(kind, _typed(kind, value))
            rows.append({"kind": kind, "value": shown(value), "digest": digest[2:],
                         "signature": signature[2:]})  # fmt: skip
    return rows


def _typed(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    typed = {}
    for field, inner in zip(TYPES[kind], value.values(), strict=True):
        name = field["type"]
        if name in USES.get("Terms", ()):
            inner = _typed(name, inner)
        elif isinstance(inner, bytes):
            inner = "0x" + inner.hex()
        typed[field["name"]] = inner
    return typed


def vectors() -> dict[str, Any]:
    """All of the file."""
    page = Page(PAGE.read_text(encoding="utf-8"))
    examples = []
    for kind in page.fields:
        for way in ("least", "between", "most"):
            value = page.example(kind, way)
            examples.append({"kind": kind, "value": shown(value), "bytes": pack(value).hex()})
    return {
        "about": "docs/PROTOCOL.md in bytes; made by tests/golden/wire.py. Integers are decimal "
        "strings, bytes are hexadecimal.",
        "seed": SEED.hex(),
        "reader": SOMEBODY.hex(),
        "now_ms": "1800000030000",
        "domain": {name: str(value).lower() for name, value in DOMAIN.items()},
        "chain_key": KEY,
        "values": examples,
        "refused": refused(page),
        "envelopes": envelopes(page),
        "frames": frames(),
        "digests": digests(page),
    }


def text() -> str:
    """The file as it should be: a line for each example, so that a change can be read."""
    lines = []
    for name, value in vectors().items():
        if isinstance(value, list):
            rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in value)
            lines.append(f" {json.dumps(name)}: [\n{rows}\n ]")
        else:
            lines.append(f" {json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def main() -> None:
    """Write, or check."""
    if "--check" in sys.argv[1:]:
        sys.exit(0 if FILE.exists() and FILE.read_text(encoding="utf-8") == text() else 1)
    FILE.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
