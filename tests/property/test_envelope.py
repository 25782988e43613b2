"""Envelopes: any bytes are a signed message or one of three errors; nothing can be altered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.signing import SigningKey

from market.codec import decode, encode
from market.errors import CodecError, MarketError, SignatureError, StaleError
from market.limits import CLOCK_SKEW_S, ENVELOPE_LIFETIME_MAX_S
from market.messages import Envelope, Sealing, Status
from market.signing import EVERYBODY, Signed, seal, verify
from market.units import UnixTime
from tests.samples import AGREEMENT_ID, START_S

KEY = SigningKey(bytes(range(32)))
AUTHOR = bytes(KEY.verify_key)
READER = bytes([7]) * 32
NOW = UnixTime(float(START_S))
PREFIX = b"gridsouk/envelope/1\n"


def sign(data: bytes) -> bytes:
    return bytes(KEY.sign(data).signature)


def sealed(**changes: Any) -> bytes:
    how: dict[str, Any] = {
        "author": AUTHOR, "to": READER, "network": "devnet", "sequence": 9, "now": NOW,
        "lifetime_s": 60.0, "sign": sign, **changes,
    }  # fmt: skip
    return seal(Status(AGREEMENT_ID), **how)


def resealed(**changes: Any) -> bytes:
    """An envelope with other fields, properly signed by its author."""
    envelope = decode(Envelope, decode(Sealing, GOOD).envelope)
    data = encode(replace(envelope, **changes))
    return encode(Sealing(data, sign(PREFIX + data)))


def read(data: bytes, *, now: float = NOW, reader: bytes = READER, network: str = "devnet") -> Any:
    return verify(data, network=network, reader=reader, now=UnixTime(now))


GOOD = sealed()


def test_what_is_sealed_is_read() -> None:
    assert read(GOOD) == Signed(
        message=Status(AGREEMENT_ID), author=AUTHOR, to=READER, sequence=9, issued_at=NOW,
        expires_at=UnixTime(NOW + 60), raw=GOOD,
    )  # fmt: skip


def test_what_is_for_everybody_is_for_anybody() -> None:
    assert read(sealed(to=EVERYBODY), reader=bytes(31) + b"x").to == EVERYBODY


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_our_words(data: bytes) -> None:
    with pytest.raises((CodecError, SignatureError, StaleError)):
        read(data)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.binary(min_size=64, max_size=64))
def test_any_envelope_is_refused_in_our_words(envelope: bytes, signature: bytes) -> None:
    with pytest.raises((CodecError, SignatureError, StaleError)):
        read(encode(Sealing(envelope or b"x", signature)))


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=200), st.sampled_from(("status", "offers", "sync", "nope")))
def test_any_body_of_an_authentic_author_is_refused_in_our_words(body: bytes, kind: str) -> None:
    try:
        read(resealed(body=body, kind=kind))
    except CodecError:
        return
    assert kind in ("status", "offers", "sync")


def test_no_byte_can_be_altered() -> None:
    for place in range(len(GOOD)):
        for flip in (0x01, 0x80):
            damaged = bytearray(GOOD)
            damaged[place] ^= flip
            with pytest.raises((CodecError, SignatureError, StaleError)):
                read(bytes(damaged))


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda: read(GOOD, reader=AUTHOR), SignatureError, "another peer"),
        (lambda: read(GOOD, network="sepolia"), CodecError, "network 'devnet'"),
        (lambda: read(GOOD, now=NOW + 60), StaleError, "expired"),
        (lambda: read(GOOD, now=NOW - CLOCK_SKEW_S - 1), StaleError, "future"),
        (lambda: read(sealed(lifetime_s=ENVELOPE_LIFETIME_MAX_S + 1)), StaleError, "a day"),
        (lambda: read(resealed(version=2)), CodecError, "protocol 2"),
        (lambda: read(resealed(kind="envelope")), CodecError, "no message is called"),
        (lambda: read(resealed(author=READER)), SignatureError, "not signed by its author"),
        (lambda: read(resealed(author=bytes(32))), SignatureError, "not signed by its author"),
        (lambda: read(sealed(sign=lambda data: sign(data[20:]))), SignatureError, "not signed"),
    ],
)
def test_what_is_not_for_here_and_now_is_refused(
    make: Callable[[], object], error: type[MarketError], says: str
) -> None:
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("now", [NOW - CLOCK_SKEW_S, NOW, NOW + 59.9])
def test_a_clock_may_be_a_little_wrong(now: float) -> None:
    assert read(GOOD, now=now).sequence == 9
