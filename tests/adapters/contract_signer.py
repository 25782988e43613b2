"""The contract of the port Signer, for keys in files and for simulated ones alike.

Each law takes a `Factory`: the same number gives the same keys, another number others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from nacl.signing import VerifyKey

from market.errors import SignatureError
from market.signing import keccak, recover
from node.ports import Signer

Factory = Callable[[int], Signer]


async def the_same_keys_come_back(factory: Factory) -> None:
    one, again, other = factory(1), factory(1), factory(2)
    assert (one.peer, one.operator) == (again.peer, again.operator)
    assert one.peer != other.peer
    assert one.operator != other.operator
    assert (len(one.peer), len(one.operator)) == (32, 20)


async def peers_verify_what_it_signs(factory: Factory) -> None:
    signer = factory(1)
    signature = signer.sign(b"text")
    assert len(signature) == 64
    assert VerifyKey(signer.peer).verify(b"text", signature) == b"text"


async def the_chain_recovers_the_operator(factory: Factory) -> None:
    signer = factory(1)
    versions = set()
    for number in range(16):  # enough that both parities of R have come
        digest = keccak(bytes([number]))
        signature = signer.sign_digest(digest)
        assert recover(digest, signature) == signer.operator  # refuses a high s, and v but 27, 28
        versions.add(signature[64])
    assert versions == {27, 28}
    assert signer.sign_digest(digest) == signature


async def only_the_reader_opens_a_sealed_box(factory: Factory) -> None:
    writer, reader, other = factory(1), factory(2), factory(3)
    box = writer.seal_for(reader.peer, b"secret")
    assert b"secret" not in box
    assert reader.unseal(box) == b"secret"
    for nobody in (writer, other):
        with pytest.raises(SignatureError):
            nobody.unseal(box)


async def a_damaged_box_does_not_open(factory: Factory) -> None:
    signer = factory(1)
    box = signer.seal_for(signer.peer, b"secret")
    for damaged in (b"", box[:20], box[:-1], box[:-1] + bytes([box[-1] ^ 1]), bytes(len(box))):
        with pytest.raises(SignatureError):
            signer.unseal(damaged)


async def nothing_is_sealed_for_what_is_no_key(factory: Factory) -> None:
    signer = factory(1)
    for nobody in (b"", bytes(32), b"\x01" + bytes(31), b"\xff" * 32, b"short"):
        with pytest.raises(SignatureError):
            signer.seal_for(nobody, b"secret")


CONTRACT: tuple[Callable[[Factory], Awaitable[None]], ...] = (
    the_same_keys_come_back,
    peers_verify_what_it_signs,
    the_chain_recovers_the_operator,
    only_the_reader_opens_a_sealed_box,
    a_damaged_box_does_not_open,
    nothing_is_sealed_for_what_is_no_key,
)
