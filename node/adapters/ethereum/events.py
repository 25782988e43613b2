"""Events: the escrow's logs as the market's values. Knows the ABI; asks nobody.

Decoded by hand over eth_abi: a tenth of what web3's own event objects cost, and the node reads
every log of the contract.
"""

from __future__ import annotations

import functools
import re
from dataclasses import MISSING, dataclass, fields
from typing import Any, Final

from eth_abi import decode as abi_decode
from eth_abi.exceptions import DecodingError
from eth_utils.abi import collapse_if_tuple

from market.chainlog import (
    KINDS,
    AnsweredChallenge,
    ChallengedProvider,
    ClaimedPayment,
    ClosedAgreement,
    ClosingBegun,
    EscrowEvent,
    ExtendedAgreement,
    OpenedAgreement,
    Place,
    StakeSlashed,
)
from market.escrow import (
    Answered,
    ChainFact,
    Challenged,
    Claimed,
    Closed,
    Closing,
    Extended,
    Opened,
    Slashed,
)
from market.signing import keccak
from node.adapters.ethereum.answers import AnswerError, Log
from node.adapters.ethereum.contract import artifact

FACTS: Final = (
    "Opened",
    "Extended",
    "Claimed",
    "Challenged",
    "Answered",
    "Closing",
    "Closed",
    "Slashed",
)
OF_ACCOUNTS: Final = ("Deposited", "Withdrawn", "Staked", "UnstakeStarted", "Unstaked")
OF_OPERATORS: Final = ("Authorised", "Revoked", "AllowanceUsed")


@dataclass(frozen=True, slots=True)
class _Form:
    """How one event lies in a log: types by where they are."""

    name: str
    places: tuple[tuple[str, bool, int], ...]  # our field: is it in the topics, and which there
    indexed: tuple[str, ...]
    others: tuple[str, ...]


@functools.cache
def forms() -> dict[bytes, _Form]:
    """Every event we know, by its first topic."""
    found = {}
    for entry in artifact("Escrow")["abi"]:
        if entry.get("type") != "event" or entry["name"] not in KINDS:
            continue
        ours = {one.name for one in fields(KINDS[entry["name"]])}
        places: list[tuple[str, bool, int]] = []
        indexed: list[str] = []
        others: list[str] = []
        for item in entry["inputs"]:
            kind = collapse_if_tuple(item)
            side = indexed if item["indexed"] else others
            name = _snake(item["name"])
            if name in ours:
                places.append((name, item["indexed"], len(side)))
            side.append(kind)
        needed = {
            one.name for one in fields(KINDS[entry["name"]])
            if one.default is MISSING and one.name != "place"
        }  # fmt: skip
        assert needed <= {name for name, _, _ in places}, f"{entry['name']} has other fields now"
        types = ",".join(collapse_if_tuple(item) for item in entry["inputs"])
        topic = keccak(f"{entry['name']}({types})".encode())
        found[topic] = _Form(entry["name"], tuple(places), tuple(indexed), tuple(others))
    return found


@functools.cache
def topics(*names: str) -> tuple[str, ...]:
    """The first topics of these events, in hex; of all if none is named."""
    return tuple(
        "0x" + topic.hex() for topic, form in forms().items() if not names or form.name in names
    )


def event(log: Log, at_s: int) -> EscrowEvent | None:
    """The event in a log; None if it is none that we know. Raises AnswerError if it is damaged."""
    form = forms().get(log.topics[0])
    if form is None:
        return None
    if len(log.topics) != 1 + len(form.indexed):
        raise AnswerError(f"the RPC endpoint answered a {form.name} log with wrong topics")
    try:
        indexed = [
            abi_decode([kind], topic)[0]
            for kind, topic in zip(form.indexed, log.topics[1:], strict=True)
        ]
        others = abi_decode(form.others, log.data)
    except (DecodingError, ValueError, OverflowError) as problem:
        raise AnswerError(f"the RPC endpoint answered a damaged {form.name} log") from problem
    values = {
        name: _ours((indexed if in_topics else others)[at]) for name, in_topics, at in form.places
    }
    made: EscrowEvent = KINDS[form.name](Place(log.block, log.index, at_s, log.tx), **values)
    return made


def fact(said: EscrowEvent) -> ChainFact | None:
    """What an agreement has to know of an event; None for the rest."""
    at, tx = said.place.at_s, said.place.tx
    match said:
        case OpenedAgreement(id=id_):
            return Opened(id_, at, tx, said.requester, said.provider, said.deposit, said.collateral)
        case ExtendedAgreement(id=id_, extra_deposit=deposit, extra_duration=longer_s):
            return Extended(id_, deposit, longer_s, tx)
        case ClaimedPayment(id=id_, paid=paid):
            return Claimed(id_, paid, tx)
        case ChallengedProvider(id=id_, nonce=nonce, deadline=deadline):
            return Challenged(id_, nonce, deadline, tx)
        case AnsweredChallenge(id=id_):
            return Answered(id_, tx)
        case ClosingBegun(id=id_, by=by, deadline=deadline):
            return Closing(id_, by, deadline, tx)
        case ClosedAgreement(id=id_, paid=paid, refunded=refunded):
            return Closed(id_, paid, refunded, tx)
        case StakeSlashed(id=id_, slashed=slashed, to_victim=to_victim, burned=burned):
            return Slashed(id_, slashed, to_victim, burned, tx)
        case _:
            return None


def _snake(name: str) -> str:
    if name == "from":  # which Python keeps for itself
        return "by"
    return re.sub("[A-Z]", lambda letter: "_" + letter.group().lower(), name)


def _ours(value: Any) -> Any:
    """Addresses as bytes; the rest as it is."""
    return bytes.fromhex(value[2:]) if isinstance(value, str) else value
