"""Answers: what an RPC endpoint said, read as if a stranger had said it. Knows no network.

Each reader takes a decoded JSON value and returns what it stands for, or raises AnswerError: then
the endpoint is at fault, and another may be asked.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any, Final

from market.errors import ChainError

RECURSION_MAX: Final = 1000  # Python's own default
DATA_HEX_MAX: Final = 2 * 1024 * 1024  # no field of a log or a call of ours is near a MiB
LOGS_MAX: Final = 100_000  # more than any range holds; asked for again in smaller ones


class AnswerError(ChainError):
    """The RPC endpoint answered something that makes no sense."""


@dataclass(frozen=True, slots=True)
class Header:
    """A block: its number, hash, its parent's hash, its time, and the base fee of its gas."""

    number: int
    hash: bytes
    parent: bytes
    at_s: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True)
class Log:
    """One event as the chain has it, undecoded. `at_s` is 0 where the endpoint does not say."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block: int
    block_hash: bytes
    index: int
    tx: bytes
    at_s: int


@dataclass(frozen=True, slots=True)
class Receipt:
    """A mined transaction. `contract` is the address it made, or nothing."""

    tx: bytes
    ok: bool
    block: int
    block_hash: bytes
    gas_used: int
    gas_price_wei: int
    contract: bytes


def parsed(body: bytes) -> Any:
    """The JSON in `body`. Raises AnswerError, also for what nests deeper than any answer does.

    py_ecc, which eth_account brings, raises Python's recursion limit so far that such nesting
    would overflow the stack of the process; it is put back before a stranger's bytes are read.
    """
    if sys.getrecursionlimit() > RECURSION_MAX:
        sys.setrecursionlimit(RECURSION_MAX)
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise AnswerError("the RPC endpoint answered something that is not JSON") from problem


def number(value: object) -> int:
    """A hex quantity."""
    if isinstance(value, str) and value.startswith("0x") and 2 < len(value) <= 66:
        try:
            return int(value[2:], 16)
        except ValueError:
            pass
    raise AnswerError("the RPC endpoint answered something that is not a number")


def raw(value: object) -> bytes:
    """Hex data."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= DATA_HEX_MAX:
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise AnswerError("the RPC endpoint answered something that is not hex data")


def sized(value: object, size: int) -> bytes:
    """Hex data of exactly `size` bytes."""
    found = raw(value)
    if len(found) != size:
        raise AnswerError(f"the RPC endpoint answered {len(found)} bytes for {size}")
    return found


def mapping(value: object) -> dict[str, Any]:
    """An object."""
    if isinstance(value, dict):
        return value
    raise AnswerError("the RPC endpoint answered something that is not an object")


def header(value: object) -> Header:
    """A block without its transactions."""
    block = mapping(value)
    return Header(
        number=number(block.get("number")),
        hash=sized(block.get("hash"), 32),
        parent=sized(block.get("parentHash"), 32),
        at_s=number(block.get("timestamp")),
        base_fee_wei=number(block.get("baseFeePerGas", "0x0")),
    )


def receipt(value: object) -> Receipt | None:
    """A receipt; None while the transaction is not mined."""
    if value is None:
        return None
    found = mapping(value)
    if found.get("status") is None or found.get("blockHash") is None:
        return None
    made = found.get("contractAddress")
    return Receipt(
        tx=sized(found.get("transactionHash"), 32),
        ok=number(found["status"]) == 1,
        block=number(found.get("blockNumber")),
        block_hash=sized(found["blockHash"], 32),
        gas_used=number(found.get("gasUsed", "0x0")),
        gas_price_wei=number(found.get("effectiveGasPrice", "0x0")),
        contract=b"" if made is None else sized(made, 20),
    )


def logs(value: object) -> tuple[Log, ...]:
    """Events in chain order, each once; those of abandoned blocks are left out."""
    if not isinstance(value, list) or len(value) > LOGS_MAX:
        raise AnswerError("the RPC endpoint answered something that is not a list of logs")
    found = [_log(mapping(one)) for one in value if not mapping(one).get("removed")]
    placed = {(log.block, log.index): log for log in found}
    return tuple(placed[place] for place in sorted(placed))


def _log(log: dict[str, Any]) -> Log:
    topics = log.get("topics")
    if not isinstance(topics, list) or not 1 <= len(topics) <= 4:
        raise AnswerError("the RPC endpoint answered a log without topics")
    at = log.get("blockTimestamp")
    return Log(
        address=sized(log.get("address"), 20),
        topics=tuple(sized(topic, 32) for topic in topics),
        data=raw(log.get("data")),
        block=number(log.get("blockNumber")),
        block_hash=sized(log.get("blockHash"), 32),
        index=number(log.get("logIndex")),
        tx=sized(log.get("transactionHash"), 32),
        at_s=0 if at is None else number(at),
    )
