"""The registry client against one on the loopback: its contract, its patience, its limits."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from market.errors import (
    IntegrityError,
    LimitError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from market.image import Reference
from node.adapters.registry import auth
from node.adapters.registry.client import RegistryClient, open_registry
from node.adapters.registry.settings import Host, RegistrySettings
from node.ports import Registry as RegistryPort
from tests.adapters.registry.server import Registry, make_manifest, serving
from tests.simulation.registry import SimRegistry

CONFIG = b'{"config": {}}'
LAYER = random.Random(3).randbytes(700_000)
LAYER_DIGEST = hashlib.sha256(LAYER).digest()
MANIFEST = make_manifest(CONFIG, (LAYER, "tar"))
DIGEST = hashlib.sha256(MANIFEST).digest()


@asynccontextmanager
async def client(
    registry: Registry, *more: Registry, stall_s: float = 5.0, **host: object
) -> AsyncIterator[tuple[RegistryClient, Reference]]:
    """A client that may ask these registries, and a reference to the image in the first."""
    registry.put("org/x", "1", MANIFEST, CONFIG, LAYER)
    allowed = {"private": True, "insecure": True}
    hosts = {each.host: Host(**allowed) for each in more}  # type: ignore[arg-type]
    hosts[registry.host] = Host(**{**allowed, **host})  # type: ignore[arg-type]
    async with open_registry(RegistrySettings(hosts, stall_s, retry_s_max=2.0)) as made:
        yield made, Reference(registry.host, "org/x", "1")


async def whole(port: RegistryPort, reference: Reference, digest: bytes, offset: int = 0) -> bytes:
    """A blob's bytes from `offset` on."""
    data = bytearray()
    async with port.blob(reference, digest, offset) as parts:
        async for part in parts:
            data += part
    return bytes(data)


# The port's contract, for the simulated registry and for the real client.


async def keeps_the_contract(port: RegistryPort, reference: Reference) -> None:
    assert await port.manifest(reference) == MANIFEST
    pinned = Reference(reference.host, reference.name, "", DIGEST)
    assert await port.manifest(pinned) == MANIFEST
    assert await whole(port, pinned, LAYER_DIGEST) == LAYER
    assert await whole(port, pinned, LAYER_DIGEST, 600_000) == LAYER[600_000:]
    assert port.is_open(reference)
    with pytest.raises(NotFoundError):
        await port.manifest(Reference(reference.host, "org/x", "2"))
    with pytest.raises(NotFoundError):
        await whole(port, pinned, bytes(32))
    with pytest.raises(LimitError):
        await whole(port, pinned, LAYER_DIGEST, len(LAYER))
    async with port.blob(pinned, LAYER_DIGEST, 0) as parts:
        async for part in parts:
            assert LAYER.startswith(part)
            break  # a transfer may be left half way


async def test_the_simulated_registry_keeps_the_contract() -> None:
    sim = SimRegistry()
    sim.put("org/x", "1", MANIFEST, CONFIG, LAYER)
    await keeps_the_contract(sim, Reference("example.org", "org/x", "1"))


@pytest.mark.parametrize("mode", ["none", "token"])
async def test_the_client_keeps_the_contract(mode: str) -> None:
    with serving(Registry(auth=mode)) as registry:
        async with client(registry) as (port, reference):
            await keeps_the_contract(port, reference)
        assert registry.tokens == (1 if mode == "token" else 0)  # one serves all questions


# Who is asked, and with what.


async def test_a_name_and_a_password_are_read_from_their_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    for mode in ("token", "basic"):
        with serving(Registry(auth=mode, users={"ann": "s3cret"})) as registry:
            async with client(registry) as (port, reference):
                with pytest.raises(RefusedError, match=r"does not let us have|wants a name"):
                    await port.manifest(reference)
            file = tmp_path / "password"
            async with client(registry, username="ann", password_file=file) as (port, reference):
                assert not port.is_open(reference)
                assert await port.manifest(reference) == MANIFEST


@pytest.mark.parametrize("mode", ["token", "basic"])
async def test_credentials_are_not_for_the_jobs_of_others(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\n")
    with serving(Registry(auth=mode, users={"ann": "s3cret"})) as registry:
        async with client(registry, username="ann", password_file=file) as (port, reference):
            assert await port.manifest(reference) == MANIFEST
            theirs = port.for_others()
            assert theirs.is_open(reference)
            with pytest.raises(RefusedError, match=r"does not let us have|wants a name"):
                await theirs.manifest(reference)
            with pytest.raises(RefusedError):
                await whole(theirs, reference, LAYER_DIGEST)
        async with client(
            registry, username="ann", password_file=file, for_jobs=True
        ) as (port, reference):  # fmt: skip
            assert await port.for_others().manifest(reference) == MANIFEST


async def test_credentials_do_not_follow_a_redirect(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret")
    with serving() as cdn, serving(Registry(auth="basic", users={"ann": "s3cret"})) as registry:
        registry.redirect = f"http://{cdn.host}"
        cdn.blobs[LAYER_DIGEST] = LAYER
        async with client(registry, cdn, username="ann",
                          password_file=tmp_path / "password") as (port, reference):  # fmt: skip
            assert await whole(port, reference, LAYER_DIGEST, 100) == LAYER[100:]
        assert [given for _, _, given in cdn.asked] == [""]
        assert [asked for _, asked, _ in cdn.asked] == ["bytes=100-"]


async def test_a_stranger_s_image_cannot_reach_into_the_machine() -> None:
    with serving() as registry:
        registry.put("org/x", "1", MANIFEST)
        async with open_registry(RegistrySettings()) as port:
            for host in (registry.host, f"localhost:{registry.port}", "169.254.169.254", "[::1]:5"):
                with pytest.raises(RefusedError, match="public internet"):
                    await port.manifest(Reference(host, "org/x", "1"))
        # Insecure is not private, and private is not insecure.
        for known in (Host(insecure=True), Host(private=True)):
            async with open_registry(RegistrySettings({registry.host: known})) as port:
                with pytest.raises((RefusedError, UnreachableError)):
                    await port.manifest(Reference(registry.host, "org/x", "1"))
        assert registry.asked == []


async def test_a_redirect_reaches_no_further_than_a_reference() -> None:
    with serving() as inside, serving() as registry:
        inside.blobs[LAYER_DIGEST] = LAYER
        async with client(registry) as (port, reference):
            for target in (
                f"http://{inside.host}", f"https://{inside.host}", f"http://localhost:{inside.port}",
                "file:///etc", "http://[::ffff:127.0.0.1]:1", "gopher://x", "http://u:p@example.org",
            ):  # fmt: skip
                registry.redirect = target
                with pytest.raises((RefusedError, UnreachableError)):
                    await whole(port, reference, LAYER_DIGEST)
        assert inside.asked == []


async def test_a_circle_of_redirects_is_left() -> None:
    with serving() as registry:
        registry.redirect = f"http://{registry.host}/v2/org/x/blobs/sha256:{'0' * 64}?"
        async with client(registry) as (port, reference):
            with pytest.raises((UnreachableError, NotFoundError)):
                await whole(port, reference, LAYER_DIGEST)


# What may go wrong on the way.


async def test_a_registry_without_ranges_is_read_from_the_start() -> None:
    with serving(Registry(ranges=False)) as registry:
        async with client(registry) as (port, reference):
            assert await whole(port, reference, LAYER_DIGEST, 123_456) == LAYER[123_456:]


async def test_a_wrong_manifest_is_not_taken() -> None:
    with serving() as registry:
        async with client(registry) as (port, reference):
            registry.spoil.add(DIGEST)
            with pytest.raises(IntegrityError):
                await port.manifest(Reference(reference.host, "org/x", "", DIGEST))


async def test_a_transfer_that_breaks_off_says_so() -> None:
    with serving(Registry(cut_after=200_000)) as registry:
        async with client(registry) as (port, reference):
            with pytest.raises(UnreachableError, match="broke off"):
                await whole(port, reference, LAYER_DIGEST)
            assert await whole(port, reference, LAYER_DIGEST) == LAYER


async def test_a_busy_registry_is_asked_again_but_not_for_ever() -> None:
    with serving(Registry(busy=2)) as registry:
        async with client(registry) as (port, reference):
            assert await port.manifest(reference) == MANIFEST
            registry.busy = 100
            with pytest.raises(UnreachableError, match="busy"):
                await port.manifest(reference)
            registry.busy, registry.retry_after = 1, "3600"
            with pytest.raises(UnreachableError, match="3600"):
                await port.manifest(reference)


async def test_a_silent_registry_is_left() -> None:
    with serving(Registry(pause_s=1.0)) as registry:
        async with client(registry, stall_s=0.2) as (port, reference):
            with trio.fail_after(20), pytest.raises(UnreachableError):
                await whole(port, reference, LAYER_DIGEST)


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"token": 5}', b'{"token": "a\\nb"}',
                                    b'{"token": "x", "expires_in": [1]}', b"[" * 9999])  # fmt: skip
def test_what_is_no_token_is_refused(answer: bytes) -> None:
    with pytest.raises(UnreachableError):
        auth.parse_token(answer)


@pytest.mark.parametrize("header", ["", "Negotiate", "Bearer", 'Bearer service="x"'])
def test_an_unknown_challenge_is_refused(header: str) -> None:
    with pytest.raises(RefusedError):
        auth.parse_challenge(header)
