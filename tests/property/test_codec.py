"""Codec: every value comes back, and any bytes at all are a value in its one form or an error."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from market.agreement import Agreement
from market.codec import decode, encode
from market.errors import CodecError
from market.job import Job
from market.messages import KINDS, Done, Envelope, Fetch, Fetched, Pay, Sealing, Status, Sync
from market.terms import Terms
from tests.samples import AGREEMENT_ID, pay, terms, values

TRAVELS = (*KINDS.values(), Envelope, Sealing, Fetch, Fetched, Terms, Agreement, Job)
PAY = encode(pay(70_000))
RAW_PAY = msgpack.unpackb(PAY)


@pytest.mark.parametrize("kind", TRAVELS, ids=lambda kind: kind.__name__)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_what_is_encoded_comes_back(kind: type, data: st.DataObject) -> None:
    value = data.draw(values(kind))
    assert decode(kind, encode(value)) == value


@settings(deadline=None)
@given(st.sampled_from(TRAVELS), st.binary(max_size=300))
@example(Sync, b"")
@example(Sync, b"\xdd\xff\xff\xff\xff")
@example(Sync, b"\xc6\xff\xff\xff\xff")
@example(Done, b"\xd6\xff\x00\x00\x00\x00")
def test_any_bytes_give_a_value_or_a_codec_error(kind: type, data: bytes) -> None:
    try:
        value = decode(kind, data)
    except CodecError:
        return
    assert encode(value) == data


@settings(max_examples=60, deadline=None)
@given(
    values(KINDS["quote"]),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3), st.integers(0, 3)), max_size=3),
)
def test_damaged_bytes_give_a_value_or_a_codec_error(
    quote: object, cuts: list[tuple[int, bytes, int]]
) -> None:
    data = encode(quote)
    for place, fresh, gone in cuts:
        place %= len(data) + 1
        data = data[:place] + fresh + data[place + gone :]
    try:
        value = decode(KINDS["quote"], data)
    except CodecError:
        return
    assert encode(value) == data


_ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text()
    | st.binary() | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8)),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(_ANYTHING, st.sampled_from(("agreement", "amount", "ack", "last")))
def test_any_value_in_any_field_is_checked(value: object, field: str) -> None:
    raw = {"signature": b"", "voucher": {**RAW_PAY["voucher"], field: value}}
    data = msgpack.packb(raw, use_bin_type=True)
    try:
        decoded = decode(Pay, data)
    except CodecError:
        return
    assert encode(decoded) == data


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (PAY + b"\x00", "not msgpack"),
        (PAY[:-1], "not msgpack"),
        (PAY.replace(b"\xce\x00\x01\x11\x70", b"\xcf\x00\x00\x00\x00\x00\x01\x11\x70"), "canonic"),
        (PAY.replace(b"\xce\x00\x01\x11\x70", b"\xcb" + bytes(8)), "must be an integer"),
        (PAY.replace(b"\xce\x00\x01\x11\x70", b"\xc3"), "must be an integer"),
        (PAY.replace(b"\xce\x00\x01\x11\x70", b"\xff"), "from 0 to"),
        (PAY.replace(b"\xa4last\xc2", b"\xa4last\x00"), "true or false"),
        (PAY.replace(b"\xa4last", b"\xa4lost"), "exactly the fields"),
        (b"\xc0", "exactly the fields"),
        (b"\xd6\xff" + bytes(4), "max_ext_len"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, says: str) -> None:
    with pytest.raises(CodecError, match=says):
        decode(Pay, data)


def test_nothing_is_said_twice_and_all_keys_are_in_order() -> None:
    key = b"\xa9agreement\xc4\x20" + AGREEMENT_ID
    assert decode(Status, b"\x81" + key) == Status(AGREEMENT_ID)
    with pytest.raises(CodecError, match="canonical"):
        decode(Status, b"\x82" + key + key)
    voucher = RAW_PAY["voucher"]
    backwards = {"voucher": voucher, "signature": RAW_PAY["signature"]}
    with pytest.raises(CodecError, match="canonical"):
        decode(Pay, msgpack.packb(backwards, use_bin_type=True))


def test_a_large_integer_has_one_form() -> None:
    value = terms(units=2**70)
    raw = msgpack.unpackb(encode(value))
    assert raw["units"] == (2**70).to_bytes(9, "big")
    raw["units"] = (2**70).to_bytes(10, "big")
    with pytest.raises(CodecError, match="canonical"):
        decode(Terms, msgpack.packb(raw, use_bin_type=True))


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a", b"\xdd\x00\x04\x00\x00"])
@pytest.mark.parametrize("depth", [9, 500, 5000])
def test_depth_has_an_end(opening: bytes, depth: int) -> None:
    with pytest.raises(CodecError):
        decode(Sync, opening * depth + b"\xc0")


def test_a_list_is_not_believed_to_be_longer_than_any_of_ours() -> None:
    with pytest.raises(CodecError, match="exceeds max_array_len"):
        decode(Sync, b"\xdd\x00\x00\x10\x01")


def test_size_has_an_end() -> None:
    with pytest.raises(CodecError, match="at most 8"):
        decode(Done, bytes(9), size_max=8)


def test_a_value_past_its_bounds_is_never_encoded() -> None:
    with pytest.raises(AssertionError, match="does not travel"):
        encode({"a": 1.5})
