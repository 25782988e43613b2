"""Codec: values to canonical bytes and back. Knows types and bounds, no message and no signature.

Canonical msgpack: maps with sorted text keys, the shortest integer, no floats, no extension types,
nothing twice. A dataclass travels as a map of its field names. What a field may hold is said by
its type: `U32`, `Text64`, `Hash`, `tuple[X, ...]` with `Count`. `decode(encode(v)) == v`, and any
bytes at all either decode to a value that encodes to those same bytes or raise CodecError.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import types
import typing
from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar, Union

import msgpack

from market.errors import CodecError
from market.limits import DEPTH_MAX, ENVELOPE_BYTES_MAX, LIST_ITEMS_MAX

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, slots=True)
class Between:
    """An integer of at least `low` and at most `high`."""

    low: int
    high: int


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """Text (in UTF-8 bytes), bytes or a tuple of at least `low` and at most `high`."""

    low: int
    high: int


U8 = Annotated[int, Between(0, 2**8 - 1)]
U16 = Annotated[int, Between(0, 2**16 - 1)]
U32 = Annotated[int, Between(0, 2**32 - 1)]
U40 = Annotated[int, Between(0, 2**40 - 1)]
U48 = Annotated[int, Between(0, 2**48 - 1)]
U63 = Annotated[int, Between(0, 2**63 - 1)]
U96 = Annotated[int, Between(0, 2**96 - 1)]
U256 = Annotated[int, Between(0, 2**256 - 1)]
I32 = Annotated[int, Between(-(2**31), 2**31 - 1)]
Id = Annotated[bytes, Count(16, 16)]
Hash = Annotated[bytes, Count(32, 32)]
PeerKey = Annotated[bytes, Count(32, 32)]
Address = Annotated[bytes, Count(20, 20)]
ChainSignature = Annotated[bytes, Count(0, 1024)]  # 65 from a key, more from a contract wallet
Text64 = Annotated[str, Count(0, 64)]
Text256 = Annotated[str, Count(0, 256)]

_Decoder = Callable[[Any, str], Any]
_BIG = 2**64  # msgpack's integers end here; larger ones travel as big-endian bytes


def encode(value: object) -> bytes:
    """The canonical bytes of a value built from dataclasses, ints, text, bytes, tuples and enums.

    Asserts that the value holds to its own declared bounds: breaking one is our bug.
    """
    packed: bytes = msgpack.packb(_plain(value), use_bin_type=True)
    return packed


def decode(kind: type[T], data: bytes, *, size_max: int = ENVELOPE_BYTES_MAX) -> T:
    """The value of type `kind` in `data`. Raises CodecError, and nothing else, for any bytes."""
    if len(data) > size_max:
        raise CodecError(f"{len(data)} bytes, at most {size_max} are read")
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            max_str_len=size_max,
            max_bin_len=size_max,
            max_array_len=LIST_ITEMS_MAX,  # each is room taken before one item is read
            max_map_len=1024,
            max_ext_len=0,
        )
    except (ValueError, RecursionError, msgpack.exceptions.UnpackException) as problem:
        raise CodecError(f"not msgpack: {problem}") from problem
    value = _decoder(typing.cast(Any, kind))(raw, kind.__name__)
    if encode(value) != data:
        raise CodecError(f"{kind.__name__} is not in its canonical form")
    return typing.cast(T, value)


def clip(text: str) -> str:
    """As much of the start of `text` as a `Text256` holds: its bound is in bytes."""
    return text.encode(errors="replace")[:256].decode(errors="ignore")


def describe(kind: Any) -> str:
    """A field's type as the protocol document writes it: `u32`, `bytes(32)`, `list(0..8) of …`."""
    base, bound = _unwrap(kind)
    origin = typing.get_origin(base)
    if origin in (Union, types.UnionType):
        inner = [a for a in typing.get_args(base) if a is not type(None)]
        return f"{describe(inner[0])} or nil"
    if origin is tuple:
        limit = f"({bound.low}..{bound.high})" if isinstance(bound, Count) else ""
        return f"list{limit} of {describe(typing.get_args(base)[0])}"
    if base is int and isinstance(bound, Between):
        return f"int {bound.low}..{_power(bound.high)}"
    if base in (str, bytes) and isinstance(bound, Count):
        span = str(bound.high) if bound.low == bound.high else f"{bound.low}..{bound.high}"
        return f"{'text' if base is str else 'bytes'}({span})"
    return str(getattr(base, "__name__", base))


def _power(high: int) -> str:
    bits = (high + 1).bit_length() - 1
    return f"2^{bits}-1" if high + 1 == 1 << bits and bits >= 16 else str(high)


def _plain(value: object) -> object:
    match value:
        case enum.Enum():
            return value.value
        case bool() | str() | bytes() | None:
            return value
        case int():
            if -(2**63) <= value < _BIG:
                return value
            return value.to_bytes((value.bit_length() + 7) // 8, "big")
        case tuple():
            return [_plain(item) for item in value]
        case _ if dataclasses.is_dataclass(value):
            return {name: _plain(getattr(value, name)) for name in _names(type(value))}
    raise AssertionError(f"{type(value).__name__} does not travel")


def _names(kind: type[Any]) -> tuple[str, ...]:
    if kind not in _NAMES:
        _NAMES[kind] = tuple(sorted(field.name for field in dataclasses.fields(kind)))
    return _NAMES[kind]


_NAMES: Final[dict[type[Any], tuple[str, ...]]] = {}  # one entry a kind of value


def _unwrap(kind: Any) -> tuple[Any, Between | Count | None]:
    if typing.get_origin(kind) is Annotated:
        base, *notes = typing.get_args(kind)
        inner, bound = _unwrap(base)
        for note in notes:
            if isinstance(note, Between | Count):
                bound = note
        return inner, bound
    return kind, None


@functools.cache
def _decoder(kind: Any, depth: int = 0) -> _Decoder:
    base, bound = _unwrap(kind)
    assert depth < DEPTH_MAX, f"{kind} nests too deep"
    origin = typing.get_origin(base)
    if origin in (Union, types.UnionType):
        return _optional(base, depth)
    if origin is tuple:
        return _sequence(base, bound, depth)
    if isinstance(base, type) and issubclass(base, enum.Enum):
        return _enumeration(base)
    if dataclasses.is_dataclass(base):
        return _record(typing.cast(type, base), depth)
    if base is int:
        assert isinstance(bound, Between), f"an int travels with a bound: {kind}"
        return _integer(bound)
    if base in (str, bytes):
        assert isinstance(bound, Count), f"text and bytes travel with a bound: {kind}"
        return _sized(base, bound)
    assert base is bool, f"{kind} does not travel"
    return _boolean


def _boolean(raw: Any, where: str) -> bool:
    if not isinstance(raw, bool):
        raise CodecError(f"{where} must be true or false")
    return raw


def _integer(bound: Between) -> _Decoder:
    def read(raw: Any, where: str) -> int:
        if isinstance(raw, bytes) and bound.high >= _BIG and 8 < len(raw) <= 32:
            raw = int.from_bytes(raw, "big")
        if type(raw) is not int or not bound.low <= raw <= bound.high:
            raise CodecError(f"{where} must be an integer from {bound.low} to {bound.high}")
        return raw

    return read


def _sized(base: type, bound: Count) -> _Decoder:
    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, str | bytes) or not isinstance(raw, base):
            raise CodecError(f"{where} must be {'text' if base is str else 'bytes'}")
        size = len(raw.encode()) if isinstance(raw, str) else len(raw)
        if not bound.low <= size <= bound.high:
            raise CodecError(f"{where} must have {bound.low} to {bound.high} bytes, not {size}")
        return raw

    return read


def _sequence(base: Any, bound: Between | Count | None, depth: int) -> _Decoder:
    inner = _decoder(typing.get_args(base)[0], depth + 1)
    assert isinstance(bound, Count), f"a tuple travels with a bound: {base}"
    low, high = bound.low, bound.high

    def read(raw: Any, where: str) -> tuple[Any, ...]:
        if not isinstance(raw, list) or not low <= len(raw) <= high:
            raise CodecError(f"{where} must be a list of {low} to {high}")
        return tuple(inner(item, f"{where}[{index}]") for index, item in enumerate(raw))

    return read


def _optional(base: Any, depth: int) -> _Decoder:
    kinds = [arg for arg in typing.get_args(base) if arg is not type(None)]
    assert len(kinds) == 1, f"only 'X or nothing' travels, not {base}"
    inner = _decoder(kinds[0], depth)
    return lambda raw, where: None if raw is None else inner(raw, where)


def _enumeration(base: type[enum.Enum]) -> _Decoder:
    known = {member.value: member for member in base}

    def read(raw: Any, where: str) -> enum.Enum:
        if not isinstance(raw, str) or raw not in known:
            raise CodecError(f"{where} must be one of {', '.join(map(str, known))}")
        return known[raw]

    return read


def _record(base: type, depth: int) -> _Decoder:
    hints = typing.get_type_hints(base, include_extras=True)
    names = [field.name for field in dataclasses.fields(base)]
    parts = {name: _decoder(hints[name], depth + 1) for name in names}

    def read(raw: Any, where: str) -> Any:
        if not isinstance(raw, dict) or raw.keys() != parts.keys():
            raise CodecError(f"{where} must have exactly the fields {', '.join(sorted(parts))}")
        return base(**{name: part(raw[name], f"{where}.{name}") for name, part in parts.items()})

    return read
