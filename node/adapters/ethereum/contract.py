"""Contract: the escrow's ABI. Orders to calldata, reverts to error names; logs are in events.py."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from eth_utils.abi import collapse_if_tuple
from web3 import Web3

from market.escrow import (
    Answer,
    ChainOrder,
    Challenge,
    Claim,
    ClaimOffline,
    CloseSigned,
    Extend,
    Finalize,
    Open,
    OpenMany,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
)
from market.signing import keccak
from market.terms import Heartbeat, Settlement, Terms, Voucher


@functools.cache
def artifact(name: str) -> dict[str, Any]:
    """A committed build: ABI and bytecode. From the wheel, or from the checkout."""
    packaged = resources.files("node").joinpath("../contracts/artifacts", f"{name}.json")
    path = Path(str(packaged)).resolve()
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


@functools.cache
def _contract(name: str) -> Any:
    return Web3().eth.contract(abi=artifact(name)["abi"])


def call(name: str, function: str, *arguments: object) -> str:
    """Calldata in hex."""
    encoded: str = _contract(name).encode_abi(function, args=list(arguments))
    return encoded


def result(name: str, function: str, data: bytes) -> tuple[Any, ...]:
    """What a view function returned."""
    entry = next(
        item for item in artifact(name)["abi"]
        if item.get("type") == "function" and item["name"] == function
    )  # fmt: skip
    types = [collapse_if_tuple(output) for output in entry["outputs"]]
    decoded: tuple[Any, ...] = Web3().codec.decode(types, data)
    return decoded


@functools.cache
def _errors() -> dict[bytes, str]:
    found = {}
    for name in ("Escrow", "TestToken"):
        for entry in artifact(name)["abi"]:
            if entry.get("type") == "error":
                types = ",".join(collapse_if_tuple(item) for item in entry["inputs"])
                found[keccak(f"{entry['name']}({types})".encode())[:4]] = entry["name"]
    return found


def reason(data: str) -> str:
    """The name of the error in revert data, or what there is of it."""
    try:
        selector = bytes.fromhex(data.removeprefix("0x")[:8])
    except ValueError:
        return "reverted"
    return _errors().get(selector, f"reverted 0x{selector.hex()}" if selector else "reverted")


def terms_tuple(terms: Terms) -> tuple[Any, ...]:
    """Terms as the ABI coder wants them."""
    p, m, t = terms.parties, terms.money, terms.timing
    parties = tuple(
        Web3.to_checksum_address(address)
        for address in (
            p.requester, p.provider, p.requester_signer, p.provider_signer, p.token, p.arbiter,
        )
    )  # fmt: skip
    money = (
        m.deposit, m.collateral, m.price_per_hour, m.bond, m.slash_bps, m.victim_share_bps,
        m.equivocation_bps,
    )  # fmt: skip
    timing = (
        t.open_by_s, t.duration_s, t.start_grace_s, t.window_s, t.claim_window_s,
        t.offline_allowance_s, t.arbiter_window_s,
    )  # fmt: skip
    return (parties, money, timing, terms.units, terms.job, terms.salt)


def _voucher(v: Voucher) -> tuple[Any, ...]:
    return (v.agreement, v.amount, v.ack, v.last)


def _heartbeat(h: Heartbeat) -> tuple[Any, ...]:
    return (h.agreement, h.sequence, h.at_s, h.metered_s, h.challenge, h.state)


def _settlement(s: Settlement) -> tuple[Any, ...]:
    return (s.agreement, s.paid, s.slashed)


_BARE: Final = {
    RequesterClose: "requesterClose", ProviderClose: "providerClose", Finalize: "finalize",
    Slash: "slash",
}  # fmt: skip
"""Orders that say nothing but which agreement is meant."""


def calldata(order: ChainOrder) -> str:
    """An order as the escrow's calldata, in hex."""
    terms = terms_tuple(order.terms)
    match order:
        case OpenMany(opens=opens):
            return call(
                "Escrow", "openMany", [terms_tuple(one.terms) for one in opens],
                [one.requester_signature for one in opens],
                [one.provider_signature for one in opens],
            )  # fmt: skip
        case Extend(extension=e, requester_signature=r, provider_signature=p):
            return call("Escrow", "extend", terms, (e.agreement, e.deposit, e.duration_s), r, p)
        case Open(requester_signature=requester, provider_signature=provider):
            return call("Escrow", "open", terms, requester, provider)
        case Claim(voucher=voucher, signature=signature):
            return call("Escrow", "claim", terms, _voucher(voucher), signature)
        case ClaimOffline(heartbeat=heartbeat, signature=signature):
            return call("Escrow", "claimOffline", terms, _heartbeat(heartbeat), signature)
        case Settle(voucher=voucher, signature=signature):
            return call("Escrow", "settle", terms, _voucher(voucher), signature)
        case CloseSigned(settlement=settlement, requester_signature=r, provider_signature=p):
            return call("Escrow", "closeSigned", terms, _settlement(settlement), r, p)
        case RequesterClose() | ProviderClose() | Finalize() | Slash():
            return call("Escrow", _BARE[type(order)], terms)
        case Challenge(voucher=voucher, signature=signature, nonce=nonce):
            return call("Escrow", "challenge", terms, _voucher(voucher), signature, nonce)
        case Answer(heartbeat=heartbeat, signature=signature):
            return call("Escrow", "answer", terms, _heartbeat(heartbeat), signature)
