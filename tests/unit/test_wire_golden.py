"""Our codec, envelopes, frames and digests against tests/golden/wire.json, byte for byte.

The file is made from docs/PROTOCOL.md by tests/golden/wire.py, which knows none of our code; the
peer in tests/foreign holds itself to the same file.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from pathlib import Path
from typing import Any, Union

import pytest
from nacl.signing import SigningKey

from market import messages, signing, terms
from market.certificate import Certificate, Certified
from market.codec import decode, encode
from market.errors import CodecError
from market.messages import KINDS, Accept, Manifest, Quote, Wanted
from market.signing import Domain, agreement_id, check_signer, seal, verify
from market.units import UnixTime
from node.adapters.libp2p import channel, requests
from node.adapters.libp2p.dialback import Tried, TryMe
from node.adapters.libp2p.peerkeeper import Known
from tests.golden import wire

GOLDEN = json.loads(wire.FILE.read_text(encoding="utf-8"))
NAMED: dict[str, type[Any]] = {
    **{name: value for room in (terms, messages) for name, value in vars(room).items()
       if isinstance(value, type)},
    **KINDS, "Known": Known, "TryMe": TryMe, "Tried": Tried,
    "Certificate": Certificate, "Certified": Certified,
}  # fmt: skip
NOW = UnixTime(int(GOLDEN["now_ms"]) / 1000)
DOMAIN = Domain(
    int(GOLDEN["domain"]["chainId"]), bytes.fromhex(GOLDEN["domain"]["verifyingContract"][2:])
)


def value_of(hint: Any, shown: Any) -> Any:
    """A value of ours from the file's words, by its type."""
    if typing.get_origin(hint) is typing.Annotated:
        return value_of(typing.get_args(hint)[0], shown)
    if typing.get_origin(hint) in (Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return None if shown is None else value_of(inner[0], shown)
    if typing.get_origin(hint) is tuple:
        return tuple(value_of(typing.get_args(hint)[0], item) for item in shown)
    if hint is int:
        return int(shown)
    if hint is bytes:
        return bytes.fromhex(shown)
    if hint in (str, bool):
        return shown
    if issubclass(hint, enum.Enum):
        return hint(shown)
    hints = typing.get_type_hints(hint, include_extras=True)
    assert shown.keys() == hints.keys()
    return hint(**{name: value_of(inner, shown[name]) for name, inner in hints.items()})


def test_the_file_is_what_the_page_says() -> None:
    assert wire.text() == wire.FILE.read_text(encoding="utf-8"), "python -m tests.golden.wire"


def test_the_file_has_every_message_and_frame() -> None:
    kinds = {row["kind"] for row in GOLDEN["values"]}
    assert set(KINDS) <= kinds
    frames = [
        name for name, value in vars(messages).items()
        if dataclasses.is_dataclass(value) and value.__module__ == messages.__name__  # type: ignore[union-attr]
        and name.lower() not in KINDS
    ]  # fmt: skip
    assert set(frames) <= kinds


@pytest.mark.parametrize("row", GOLDEN["values"], ids=lambda row: row["kind"])
def test_values_are_the_same_bytes(row: dict[str, Any]) -> None:
    kind, data = NAMED[row["kind"]], bytes.fromhex(row["bytes"])
    value = value_of(kind, row["value"])
    assert (encode(value), decode(kind, data)) == (data, value)


@pytest.mark.parametrize("row", GOLDEN["refused"], ids=lambda row: row["why"])
def test_other_bytes_are_refused(row: dict[str, str]) -> None:
    with pytest.raises(CodecError):
        decode(NAMED[row["kind"]], bytes.fromhex(row["bytes"]))


@pytest.mark.parametrize("row", GOLDEN["envelopes"], ids=lambda row: row["kind"])
def test_an_envelope_is_sealed_and_opened(row: dict[str, Any]) -> None:
    key = SigningKey(bytes.fromhex(GOLDEN["seed"]))
    message = decode(KINDS[row["kind"]], bytes.fromhex(row["body"]))
    assert isinstance(message, Wanted | Quote)
    issued_at, expires_at = int(row["issued_at_ms"]) / 1000, int(row["expires_at_ms"]) / 1000
    sealed = seal(
        message, author=bytes(key.verify_key), to=bytes.fromhex(row["to"]), network=row["network"],
        sequence=int(row["sequence"]), now=UnixTime(issued_at), lifetime_s=expires_at - issued_at,
        sign=lambda data: key.sign(data).signature,
    )  # fmt: skip
    assert sealed == bytes.fromhex(row["sealing"])
    opened = verify(sealed, network=row["network"], reader=bytes.fromhex(GOLDEN["reader"]), now=NOW)
    assert (opened.message, opened.author) == (message, bytes(key.verify_key))


@pytest.mark.parametrize("row", GOLDEN["frames"], ids=lambda row: f"{row['stream']} {row['kind']}")
def test_frames_are_the_same_bytes(row: dict[str, Any]) -> None:
    payload = bytes.fromhex(row["payload"])
    if row["stream"] == "requests":
        assert row["kind"] in (requests.ASK, requests.ASK_PEERS, requests._REPLY)
        made = requests._frame(row["kind"], int(row["id"]), payload)
    else:
        made = channel._HEADER.pack(row["kind"], row["size"]) + payload
    assert made == bytes.fromhex(row["bytes"])


def test_the_kinds_of_channel_frames_are_those_of_the_page() -> None:
    rows = [row for row in GOLDEN["frames"] if row["stream"] == "channel"]
    kinds = (channel._DATA, channel._DATA, channel._ACK, channel._END, channel._ENDED)
    assert tuple(row["kind"] for row in rows) == kinds
    assert [bool(row["payload"]) for row in rows] == [True, False, False, False, False]


@pytest.mark.parametrize("row", GOLDEN["digests"], ids=lambda row: row["kind"])
def test_digests_and_their_signatures(row: dict[str, Any]) -> None:
    value = value_of(NAMED[row["kind"]], row["value"])
    made = {
        "Terms": agreement_id,
        "Voucher": signing.voucher_digest,
        "Heartbeat": signing.heartbeat_digest,
        "Extension": signing.extension_digest,
    }[row["kind"]](value, DOMAIN)  # type: ignore[operator]
    assert made == bytes.fromhex(row["digest"])
    address = json.loads((Path(wire.HERE) / "eip712.json").read_text())["address"]
    check_signer(made, bytes.fromhex(row["signature"]), bytes.fromhex(address[2:]))


def test_the_examples_hold_what_an_agreement_is_made_of() -> None:
    """A manifest in an accept and the terms in a quote: the deepest that travels."""
    accept = next(row for row in GOLDEN["values"] if row["kind"] == "accept")
    value = value_of(Accept, accept["value"])
    assert isinstance(value.manifest, Manifest)
