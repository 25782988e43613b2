"""Signing: who said it. Ed25519 envelopes between peers, EIP-712 digests for the chain.

`verify` is the only maker of `Signed[...]`, and `proven` of nothing less: what needs authenticity
takes the type. Private keys never come here; a signature arrives from the `Signer` port. Pure
functions over bytes: the libraries used hold no state.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import coincurve
from Crypto.Hash import keccak as _keccak
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from market.codec import decode, encode
from market.errors import CodecError, SignatureError, StaleError
from market.limits import (
    CLOCK_SKEW_S,
    ENVELOPE_BYTES_MAX,
    ENVELOPE_LIFETIME_MAX_S,
    PROTOCOL_VERSION,
)
from market.messages import KINDS, Envelope, Message, Sealing
from market.terms import Extension, Heartbeat, Settlement, Terms, Voucher
from market.units import UnixTime

M = TypeVar("M", covariant=True)
EVERYBODY: bytes = bytes(32)
_PREFIX = b"gridsouk/envelope/1\n"


@dataclass(frozen=True, slots=True)
class Signed(Generic[M]):
    """A message whose author was verified. `raw` are the wire bytes, kept for relaying."""

    message: M
    author: bytes
    to: bytes
    sequence: int
    issued_at: UnixTime
    expires_at: UnixTime
    raw: bytes


def seal(
    message: Message,
    *,
    author: bytes,
    to: bytes,
    network: str,
    sequence: int,
    now: UnixTime,
    lifetime_s: float,
    sign: Callable[[bytes], bytes],
) -> bytes:
    """The wire bytes of `message`, signed by `sign` (Ed25519 over exactly the bytes given)."""
    issued_at_ms = int(now * 1000)
    envelope = encode(
        Envelope(
            version=PROTOCOL_VERSION,
            network=network,
            kind=type(message).__name__.lower(),
            author=author,
            to=to,
            sequence=sequence,
            issued_at_ms=issued_at_ms,
            expires_at_ms=issued_at_ms + int(lifetime_s * 1000),
            body=encode(message),
        )
    )
    return encode(Sealing(envelope=envelope, signature=sign(_PREFIX + envelope)))


def verify(data: bytes, *, network: str, reader: bytes, now: UnixTime) -> Signed[Message]:
    """The message in `data`, if it is well-formed, authentic, current and meant for `reader`.

    Raises CodecError, SignatureError or StaleError, and nothing else, for any bytes.
    """
    sealing = decode(Sealing, data, size_max=ENVELOPE_BYTES_MAX)
    envelope = decode(Envelope, sealing.envelope)
    if envelope.version != PROTOCOL_VERSION:
        raise CodecError(f"protocol {envelope.version}, this node speaks {PROTOCOL_VERSION}")
    if envelope.network != network:
        raise CodecError(f"network {envelope.network!r}, this node is on {network!r}")
    if envelope.to not in (EVERYBODY, reader):
        raise SignatureError("meant for another peer")
    _check_current(envelope, now)
    try:
        crypto_sign_open(sealing.signature + _PREFIX + sealing.envelope, envelope.author)
    except (BadSignatureError, ValueError) as problem:
        raise SignatureError("not signed by its author") from problem
    kind = KINDS.get(envelope.kind)
    if kind is None:
        raise CodecError(f"no message is called {envelope.kind!r}")
    return Signed(
        message=decode(kind, envelope.body),
        author=envelope.author,
        to=envelope.to,
        sequence=envelope.sequence,
        issued_at=UnixTime(envelope.issued_at_ms / 1000),
        expires_at=UnixTime(envelope.expires_at_ms / 1000),
        raw=data,
    )


def _check_current(envelope: Envelope, now: UnixTime) -> None:
    now_ms = now * 1000
    if envelope.expires_at_ms <= now_ms:
        raise StaleError("the message has expired")
    if envelope.issued_at_ms > now_ms + CLOCK_SKEW_S * 1000:
        raise StaleError(
            "the message comes from the future", hint="check the clocks of both machines"
        )
    if envelope.expires_at_ms - envelope.issued_at_ms > ENVELOPE_LIFETIME_MAX_S * 1000:
        raise StaleError("the message asks to live longer than a day")


def check_peer_signature(peer: bytes, data: bytes, signature: bytes) -> None:
    """Raise SignatureError unless `signature` is the peer's (Ed25519) of exactly these bytes."""
    try:
        crypto_sign_open(signature + data, peer)
    except (BadSignatureError, ValueError) as problem:
        raise SignatureError("not signed by its author") from problem


def digest(value: object) -> bytes:
    """SHA-256 of a value's canonical bytes: the hash by which manifests and reports are named."""
    return hashlib.sha256(encode(value)).digest()


def keccak(data: bytes) -> bytes:
    """Keccak-256, as the chain has it."""
    return _keccak.new(digest_bits=256, data=data).digest()


# EIP-712: https://eips.ethereum.org/EIPS/eip-712; golden vectors in tests/golden/eip712.json.

_PARTIES = (
    b"Parties(address requester,address provider,address requesterSigner,"
    b"address providerSigner,address token,address arbiter)"
)
_MONEY = (
    b"Money(uint96 deposit,uint96 collateral,uint96 pricePerHour,uint96 bond,"
    b"uint16 slashBps,uint16 victimShareBps,uint16 equivocationBps)"
)
_TIMING = (
    b"Timing(uint40 openBy,uint32 duration,uint32 startGrace,uint32 window,"
    b"uint32 claimWindow,uint32 offlineAllowance,uint32 arbiterWindow)"
)
_TERMS = b"Terms(Parties parties,Money money,Timing timing,uint256 units,bytes32 job,bytes32 salt)"
_TYPE = {
    "domain": keccak(
        b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    ),
    "parties": keccak(_PARTIES),
    "money": keccak(_MONEY),
    "timing": keccak(_TIMING),
    "terms": keccak(_TERMS + _MONEY + _PARTIES + _TIMING),
    "voucher": keccak(b"Voucher(bytes32 agreement,uint96 amount,bytes32 ack,bool last)"),
    "heartbeat": keccak(
        b"Heartbeat(bytes32 agreement,uint64 sequence,uint40 at,uint32 meteredSeconds,"
        b"uint48 challenge,bytes32 state)"
    ),
    "extension": keccak(b"Extension(bytes32 agreement,uint96 deposit,uint32 duration)"),
    "settlement": keccak(b"Settlement(bytes32 agreement,uint96 paid,uint96 slashed)"),
}


@dataclass(frozen=True, slots=True)
class Domain:
    """The contract an EIP-712 digest is bound to."""

    chain_id: int
    contract: bytes


def agreement_id(terms: Terms, domain: Domain) -> bytes:
    """The EIP-712 digest of the terms: the agreement's name here and on chain."""
    p, m, t = terms.parties, terms.money, terms.timing
    parties = (
        p.requester, p.provider, p.requester_signer, p.provider_signer, p.token, p.arbiter,
    )  # fmt: skip
    money = (
        m.deposit, m.collateral, m.price_per_hour, m.bond,
        m.slash_bps, m.victim_share_bps, m.equivocation_bps,
    )  # fmt: skip
    timing = (
        t.open_by_s, t.duration_s, t.start_grace_s, t.window_s,
        t.claim_window_s, t.offline_allowance_s, t.arbiter_window_s,
    )  # fmt: skip
    return _typed(
        domain, "terms",
        _struct("parties", *parties), _struct("money", *money), _struct("timing", *timing),
        terms.units, terms.job, terms.salt,
    )  # fmt: skip


def voucher_digest(voucher: Voucher, domain: Domain) -> bytes:
    """The digest a requester's operator key signs to promise money."""
    return _typed(
        domain, "voucher", voucher.agreement, voucher.amount, voucher.ack, int(voucher.last)
    )


def heartbeat_digest(heartbeat: Heartbeat, domain: Domain) -> bytes:
    """The digest a provider's operator key signs to state progress."""
    h = heartbeat
    return _typed(
        domain, "heartbeat", h.agreement, h.sequence, h.at_s, h.metered_s, h.challenge, h.state
    )


def extension_digest(extension: Extension, domain: Domain) -> bytes:
    """The digest both sign to make an agreement longer and its deposit larger."""
    e = extension
    return _typed(domain, "extension", e.agreement, e.deposit, e.duration_s)


def settlement_digest(settlement: Settlement, domain: Domain) -> bytes:
    """The digest both sign to end an agreement at once."""
    s = settlement
    return _typed(domain, "settlement", s.agreement, s.paid, s.slashed)


def recover(digest_: bytes, signature: bytes) -> bytes:
    """The address whose key signed `digest_`; 65 bytes r, s, v with v 27 or 28 and low s.

    Raises SignatureError for anything else. Contract wallets (ERC-1271) are checked on chain only.
    """
    half = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise SignatureError("not a 65-byte chain signature")
    if int.from_bytes(signature[32:64], "big") > half:
        raise SignatureError("a malleable signature (high s)")
    try:
        key = coincurve.PublicKey.from_signature_and_message(
            signature[:64] + bytes([signature[64] - 27]), digest_, hasher=None
        )
    except Exception as problem:  # coincurve raises bare Exception and ValueError
        raise SignatureError("the chain signature names no key") from problem
    return keccak(key.format(compressed=False)[1:])[12:]


def check_signer(digest_: bytes, signature: bytes, signer: bytes) -> None:
    """Raise SignatureError unless `signer` (20 bytes) signed `digest_`."""
    if recover(digest_, signature) != signer:
        raise SignatureError("signed by another key than the agreement names")


def _word(value: int | bytes) -> bytes:
    return value.to_bytes(32, "big") if isinstance(value, int) else value.rjust(32, b"\0")


def _struct(kind: str, *fields: int | bytes) -> bytes:
    return keccak(_TYPE[kind] + b"".join(map(_word, fields)))


@functools.lru_cache(maxsize=64)
def _separator(domain: Domain) -> bytes:
    return keccak(
        _TYPE["domain"] + keccak(b"gridsouk") + keccak(b"1")
        + _word(domain.chain_id) + _word(domain.contract)
    )  # fmt: skip


def _typed(domain: Domain, kind: str, *fields: int | bytes) -> bytes:
    return keccak(b"\x19\x01" + _separator(domain) + _struct(kind, *fields))
