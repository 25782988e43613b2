"""Contract: the ABI of escrow and token. Orders to calldata, logs to facts, reverts to names.

Knows no endpoint and no account. What it decodes came from an endpoint, and may be anything.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from eth_abi import decode as abi_decode
from eth_abi import encode as abi_encode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple

import node
from market.errors import ChainError
from market.escrow import (
    Answer,
    Answered,
    ChainFact,
    ChainOrder,
    Challenge,
    Challenged,
    Claim,
    Claimed,
    Closed,
    CloseSigned,
    Closing,
    Finalize,
    Open,
    Opened,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
    Slashed,
)
from market.signing import keccak
from market.terms import Heartbeat, Settlement, Terms, Voucher
from node.adapters.ethereum.rpc import number, raw

FACTS: Final = frozenset(
    {"Opened", "Claimed", "Challenged", "Answered", "Closing", "Closed", "Slashed"}
)
TOPICS_MAX: Final = 4  # of a log, by the EVM


@functools.cache
def artifact(name: str) -> dict[str, Any]:
    """A committed build: ABI and bytecode, from beside the package `node` (wheel and checkout)."""
    assert node.__file__ is not None, "an ordinary package"
    folder = Path(node.__file__).resolve().parents[1] / "contracts" / "artifacts"
    loaded: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return loaded


def is_deployed_code(name: str, code: bytes) -> bool:
    """Whether this is the build's code, but for what its constructor wrote into it."""
    expected = bytearray.fromhex(artifact(name)["deployedBytecode"].removeprefix("0x"))
    found = bytearray(code)
    if len(found) != len(expected):
        return False
    for places in artifact(name)["immutableReferences"].values():
        for place in places:
            span = slice(place["start"], place["start"] + place["length"])
            found[span] = expected[span]
    return found == expected


# Functions.


@dataclass(frozen=True, slots=True)
class _Function:
    selector: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def _types(parameters: list[dict[str, Any]]) -> tuple[str, ...]:
    return tuple(collapse_if_tuple(parameter) for parameter in parameters)


def _entry_hash(entry: dict[str, Any]) -> bytes:
    return keccak(f"{entry['name']}({','.join(_types(entry['inputs']))})".encode())


@functools.cache
def _function(name: str, function: str) -> _Function:
    (entry,) = (
        item for item in artifact(name)["abi"]
        if item["type"] == "function" and item["name"] == function
    )  # fmt: skip
    return _Function(_entry_hash(entry)[:4], _types(entry["inputs"]), _types(entry["outputs"]))


def call(name: str, function: str, *arguments: object) -> str:
    """Calldata in hex. Addresses are `0x…` or 20 bytes."""
    found = _function(name, function)
    return "0x" + (found.selector + abi_encode(found.inputs, arguments)).hex()


def result(name: str, function: str, data: bytes) -> tuple[Any, ...]:
    """What a view function returned; addresses as `0x…`. Raises ChainError."""
    try:
        decoded: tuple[Any, ...] = abi_decode(_function(name, function).outputs, data)
    except (DecodingError, UnicodeDecodeError, OverflowError) as problem:
        raise ChainError(f"{name}.{function} answered something else than its ABI") from problem
    return decoded


def creation(name: str, *arguments: object) -> str:
    """The data of the transaction that deploys a build, in hex."""
    (inputs,) = (
        _types(item["inputs"]) for item in artifact(name)["abi"] if item["type"] == "constructor"
    )
    code = bytes.fromhex(artifact(name)["bytecode"].removeprefix("0x"))
    return "0x" + (code + abi_encode(inputs, arguments)).hex()


@functools.cache
def _errors() -> dict[bytes, str]:
    return {
        _entry_hash(entry)[:4]: entry["name"]
        for name in ("Escrow", "TestToken")
        for entry in artifact(name)["abi"]
        if entry["type"] == "error"
    }


def reason(data: str) -> str:
    """The name of the error in revert data, or what there is of it."""
    try:
        selector = bytes.fromhex(data.removeprefix("0x")[:8])
    except ValueError:
        return "reverted"
    return _errors().get(selector, f"reverted 0x{selector.hex()}" if selector else "reverted")


# Orders.


def terms_tuple(terms: Terms) -> tuple[Any, ...]:
    """Terms as the ABI coder wants them."""
    p, m, t = terms.parties, terms.money, terms.timing
    parties = (
        p.requester, p.provider, p.requester_signer, p.provider_signer, p.token, p.arbiter,
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


def voucher_tuple(v: Voucher) -> tuple[Any, ...]:
    """A voucher as the ABI coder wants it."""
    return (v.agreement, v.amount, v.ack, v.last)


def heartbeat_tuple(h: Heartbeat) -> tuple[Any, ...]:
    """A heartbeat as the ABI coder wants it."""
    return (h.agreement, h.sequence, h.at_s, h.metered_s, h.challenge, h.state)


def settlement_tuple(s: Settlement) -> tuple[Any, ...]:
    """A settlement as the ABI coder wants it."""
    return (s.agreement, s.paid, s.slashed)


def calldata(order: ChainOrder) -> str:
    """An order as the escrow's calldata, in hex."""
    terms = terms_tuple(order.terms)
    match order:
        case Open(requester_signature=requester, provider_signature=provider):
            return call("Escrow", "open", terms, requester, provider)
        case Claim(voucher=voucher, signature=signature):
            return call("Escrow", "claim", terms, voucher_tuple(voucher), signature)
        case Settle(voucher=voucher, signature=signature):
            return call("Escrow", "settle", terms, voucher_tuple(voucher), signature)
        case CloseSigned(settlement=settlement, requester_signature=r, provider_signature=p):
            return call("Escrow", "closeSigned", terms, settlement_tuple(settlement), r, p)
        case RequesterClose():
            return call("Escrow", "requesterClose", terms)
        case ProviderClose():
            return call("Escrow", "providerClose", terms)
        case Finalize():
            return call("Escrow", "finalize", terms)
        case Challenge(voucher=voucher, signature=signature, nonce=nonce):
            return call("Escrow", "challenge", terms, voucher_tuple(voucher), signature, nonce)
        case Answer(heartbeat=heartbeat, signature=signature):
            return call("Escrow", "answer", terms, heartbeat_tuple(heartbeat), signature)
        case Slash():
            return call("Escrow", "slash", terms)


# Logs.


@dataclass(frozen=True, slots=True)
class _Event:
    name: str
    indexed: tuple[tuple[str, str], ...]  # name, type
    plain: tuple[tuple[str, str], ...]


@functools.cache
def _events() -> dict[bytes, _Event]:
    found = {}
    for entry in artifact("Escrow")["abi"]:
        if entry["type"] == "event" and entry["name"] in FACTS:
            pairs = [(item["name"], collapse_if_tuple(item), item["indexed"])
                     for item in entry["inputs"]]  # fmt: skip
            found[_entry_hash(entry)] = _Event(
                entry["name"],
                tuple((name, kind) for name, kind, indexed in pairs if indexed),
                tuple((name, kind) for name, kind, indexed in pairs if not indexed),
            )
    return found


def topics() -> tuple[str, ...]:
    """The first topic, in hex, of every event that is a fact."""
    return tuple("0x" + topic.hex() for topic in _events())


def topic_of(event: str) -> str:
    """The first topic, in hex, of this event."""
    (topic,) = (topic for topic, known in _events().items() if known.name == event)
    return "0x" + topic.hex()


@dataclass(frozen=True, slots=True)
class Log:
    """One log of the escrow, decoded. `said` are the event's fields; addresses are 20 bytes."""

    event: str
    said: dict[str, Any]
    block: int
    block_hash: bytes
    index: int
    tx: bytes

    @property
    def id(self) -> bytes:
        """The agreement's."""
        return bytes(self.said["id"])


def read_log(answer: object, escrow: bytes) -> Log:
    """The log in an answer. Raises ChainError if it is not one of the escrow's facts."""
    if not isinstance(answer, dict) or raw(answer.get("address"), 20) != escrow:
        raise ChainError("the RPC endpoint answered something that is not the escrow's log")
    words = answer.get("topics")
    if not isinstance(words, list) or not 0 < len(words) <= TOPICS_MAX:
        raise ChainError("the RPC endpoint answered a log without topics")
    event = _events().get(raw(words[0], 32))
    if event is None or len(words) != 1 + len(event.indexed):
        raise ChainError("the RPC endpoint answered a log that was not asked for")
    data = b"".join(raw(word, 32) for word in words[1:])
    try:
        values = (
            *abi_decode([kind for _, kind in event.indexed], data),
            *abi_decode([kind for _, kind in event.plain], raw(answer.get("data"))),
        )
    except (DecodingError, OverflowError) as problem:
        raise ChainError(f"the RPC endpoint answered an unreadable {event.name}") from problem
    fields = (*event.indexed, *event.plain)
    said = {
        name: bytes.fromhex(value[2:]) if kind == "address" else value
        for (name, kind), value in zip(fields, values, strict=True)
    }
    return Log(
        event.name, said, number(answer.get("blockNumber")), raw(answer.get("blockHash"), 32),
        number(answer.get("logIndex")), raw(answer.get("transactionHash"), 32),
    )  # fmt: skip


def fact(log: Log, at_s: int, *, by_provider: bool = False) -> ChainFact:
    """The fact in a log of a block of time `at_s`; `by_provider` says whose a `Closing` is."""
    said, id_, tx = log.said, log.id, log.tx
    match log.event:
        case "Opened":
            return Opened(id_, at_s, tx)
        case "Claimed":
            return Claimed(id_, said["paid"], tx)
        case "Challenged":
            return Challenged(id_, said["nonce"], said["deadline"], tx)
        case "Answered":
            return Answered(id_, tx)
        case "Closing":
            return Closing(id_, by_provider, said["deadline"], tx)
        case "Closed":
            return Closed(id_, said["paid"], said["refunded"], tx)
    assert log.event == "Slashed", "only facts are read"
    return Slashed(id_, said["slashed"], said["toVictim"], said["burned"], tx)
