"""Signing: our EIP-712 digests are those of eth_account, and of the contract's golden file."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import pytest
from eth_account import Account
from eth_account.messages import _hash_eip191_message, encode_typed_data

from market.errors import SignatureError
from market.signing import (
    Domain,
    agreement_id,
    check_signer,
    heartbeat_digest,
    keccak,
    recover,
    settlement_digest,
    voucher_digest,
)
from market.terms import Heartbeat, Money, Parties, Settlement, Terms, Timing, Voucher
from tests.samples import AGREEMENT_ID, TX, terms

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "eip712.json").read_text())
DOMAIN = Domain(
    int(GOLDEN["domain"]["chainId"]), bytes.fromhex(GOLDEN["domain"]["verifyingContract"][2:])
)
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
KEY = coincurve.PrivateKey(bytes.fromhex(GOLDEN["key"][2:]))
ADDRESS = bytes.fromhex(GOLDEN["address"][2:])
DIGEST = keccak(b"something to sign")


def sign(digest: bytes) -> bytes:
    raw = KEY.sign_recoverable(digest, hasher=None)
    return raw[:64] + bytes([27 + raw[64]])


def words(message: dict[str, Any], *names: str) -> list[Any]:
    """The fields of a golden message as we hold them: bytes and integers."""
    found = (message[name] for name in names)
    return [
        bytes.fromhex(item[2:]) if isinstance(item, str) and item.startswith("0x")
        else item if isinstance(item, bool) else int(item)
        for item in found
    ]  # fmt: skip


def golden_terms(message: dict[str, Any]) -> Terms:
    parties, money, timing = message["parties"], message["money"], message["timing"]
    named = {kind: [field["name"] for field in GOLDEN["types"][kind]] for kind in GOLDEN["types"]}
    return Terms(
        Parties(*words(parties, *named["Parties"])),
        Money(*words(money, *named["Money"])),
        Timing(*words(timing, *named["Timing"])),
        *words(message, "units", "job", "salt"),
    )


@pytest.mark.parametrize("vector", GOLDEN["terms"])
def test_terms_as_the_contract_hashes_them(vector: dict[str, Any]) -> None:
    digest = agreement_id(golden_terms(vector["message"]), DOMAIN)
    assert digest.hex() == vector["digest"][2:]
    assert recover(digest, bytes.fromhex(vector["signature"][2:])) == ADDRESS


@pytest.mark.parametrize("vector", GOLDEN["vouchers"])
def test_vouchers_as_the_contract_hashes_them(vector: dict[str, Any]) -> None:
    voucher = Voucher(*words(vector["message"], "agreement", "amount", "ack", "last"))
    assert voucher_digest(voucher, DOMAIN).hex() == vector["digest"][2:]


@pytest.mark.parametrize("vector", GOLDEN["heartbeats"])
def test_heartbeats_as_the_contract_hashes_them(vector: dict[str, Any]) -> None:
    names = ("agreement", "sequence", "at", "meteredSeconds", "challenge", "state")
    heartbeat = Heartbeat(*words(vector["message"], *names))
    assert heartbeat_digest(heartbeat, DOMAIN).hex() == vector["digest"][2:]


@pytest.mark.parametrize("vector", GOLDEN["settlements"])
def test_settlements_as_the_contract_hashes_them(vector: dict[str, Any]) -> None:
    settlement = Settlement(*words(vector["message"], "agreement", "paid", "slashed"))
    assert settlement_digest(settlement, DOMAIN).hex() == vector["digest"][2:]


def by_eth_account(message: dict[str, Any], types: dict[str, list[str]]) -> bytes:
    domain = {
        "name": "gridsouk", "version": "1", "chainId": DOMAIN.chain_id,
        "verifyingContract": DOMAIN.contract,
    }  # fmt: skip
    fields = {
        name: [dict(zip(("type", "name"), field.split(), strict=True)) for field in listed]
        for name, listed in types.items()
    }
    return bytes(_hash_eip191_message(encode_typed_data(domain, fields, message)))


def test_the_smaller_digests_as_eth_account_makes_them() -> None:
    ids = {"agreement": AGREEMENT_ID}
    voucher = ["bytes32 agreement", "uint96 amount", "bytes32 ack", "bool last"]
    assert voucher_digest(Voucher(AGREEMENT_ID, 2**96 - 1, TX, True), DOMAIN) == by_eth_account(
        {**ids, "amount": 2**96 - 1, "ack": TX, "last": True}, {"Voucher": voucher}
    )
    heartbeat = [
        "bytes32 agreement", "uint64 sequence", "uint40 at", "uint32 meteredSeconds",
        "uint48 challenge", "bytes32 state",
    ]  # fmt: skip
    assert heartbeat_digest(Heartbeat(AGREEMENT_ID, 1, 2, 3, 4, TX), DOMAIN) == by_eth_account(
        {**ids, "sequence": 1, "at": 2, "meteredSeconds": 3, "challenge": 4, "state": TX},
        {"Heartbeat": heartbeat},
    )
    settlement = ["bytes32 agreement", "uint96 paid", "uint96 slashed"]
    assert settlement_digest(Settlement(AGREEMENT_ID, 5, 6), DOMAIN) == by_eth_account(
        {**ids, "paid": 5, "slashed": 6}, {"Settlement": settlement}
    )


def test_terms_as_eth_account_hashes_them() -> None:
    value = terms(units=2**255 + 1)
    types = {
        kind: [f"{field['type']} {field['name']}" for field in GOLDEN["types"][kind]]
        for kind in ("Terms", "Parties", "Money", "Timing")
    }

    def told(kind: str, part: Any) -> dict[str, Any]:
        held = (getattr(part, name) for name in type(part).__dataclass_fields__)
        return dict(zip((f["name"] for f in GOLDEN["types"][kind]), held, strict=True))

    message = {
        **told("Terms", value), "parties": told("Parties", value.parties),
        "money": told("Money", value.money), "timing": told("Timing", value.timing),
    }  # fmt: skip
    assert agreement_id(value, DOMAIN) == by_eth_account(message, types)


def test_a_digest_is_bound_to_one_contract_and_one_chain() -> None:
    other = (Domain(DOMAIN.chain_id + 1, DOMAIN.contract), replace(DOMAIN, contract=bytes(20)))
    voucher = Voucher(AGREEMENT_ID, 1, TX, False)
    assert len({voucher_digest(voucher, domain) for domain in (DOMAIN, *other)}) == 3


def test_a_signature_names_its_key() -> None:
    assert recover(DIGEST, sign(DIGEST)) == ADDRESS
    check_signer(DIGEST, sign(DIGEST), ADDRESS)
    assert Account.from_key(GOLDEN["key"]).address == GOLDEN["address"]


def test_another_key_or_text_is_refused() -> None:
    with pytest.raises(SignatureError, match="another key"):
        check_signer(DIGEST, sign(DIGEST), bytes(20))
    with pytest.raises(SignatureError):
        check_signer(keccak(b"something else"), sign(DIGEST), ADDRESS)


def test_the_mirrored_signature_is_refused() -> None:
    good = sign(DIGEST)
    high = ORDER - int.from_bytes(good[32:64], "big")
    mirrored = good[:32] + high.to_bytes(32, "big") + bytes([55 - good[64]])
    with pytest.raises(SignatureError, match="high s"):
        recover(DIGEST, mirrored)


@pytest.mark.parametrize(
    "damage",
    [
        lambda good: good[:64] + bytes([good[64] - 27]),
        lambda good: good[:64] + b"\x1d",
        lambda good: good[:64],
        lambda good: good + b"\x00",
        lambda good: b"",
        lambda good: bytes(64) + b"\x1b",
        lambda good: b"\xff" * 32 + good[32:],
        lambda good: good[:32] + bytes(32) + good[64:],
    ],
)
def test_a_damaged_signature_is_refused(damage: Any) -> None:
    with pytest.raises(SignatureError):
        recover(DIGEST, damage(sign(DIGEST)))
