"""Names of images, their manifests, and addresses that a stranger may not make us speak to."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.errors import MarketError, SandboxError, SpecError
from market.image import (
    Descriptor,
    ImageManifest,
    Index,
    Reference,
    parse_manifest,
    parse_reference,
    registry_reference,
)
from market.reach import Target, is_public, parse_target
from market.terms import Artifact

DIGEST = bytes(range(32))
HEX = f"sha256:{DIGEST.hex()}"


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.12", "docker.io/library/python:3.12"),
        ("org/name", "docker.io/org/name:latest"),
        ("ghcr.io/org/name:v1", "ghcr.io/org/name:v1"),
        (f"ghcr.io/a/b/c@{HEX}", f"ghcr.io/a/b/c@{HEX}"),
        (f"localhost:5000/x:t@{HEX}", f"localhost:5000/x:t@{HEX}"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("127.0.0.1:5000/a-b/c__d.e", "127.0.0.1:5000/a-b/c__d.e:latest"),
    ],
)
def test_a_reference_is_read_as_people_write_it(text: str, whole: str) -> None:
    assert str(parse_reference(text)) == whole
    assert parse_reference(whole) == parse_reference(text)


@pytest.mark.parametrize(
    "text",
    ["", ":", "/x", "UPPER/x", "x:", "x@sha256:00", "x@md5:00", "a//b", "a/../x", "x/../y", "x y",
     "http://example.org/x", "example.org:999999/x", "x:" + "t" * 200, "é/x", "x@", "a/" * 99],
)  # fmt: skip
def test_what_names_no_image_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_reference(text)


def test_an_archive_is_told_from_a_registry_s_image() -> None:
    assert registry_reference(Artifact("base", DIGEST, 1)) is None
    found = registry_reference(Artifact(f"ghcr.io/x@{HEX}", DIGEST, 1))
    assert found == Reference("ghcr.io", "x", "", DIGEST)
    with pytest.raises(SpecError, match="another hash"):
        registry_reference(Artifact(f"ghcr.io/x@{HEX}", bytes(32), 1))


def test_a_name_too_long_to_travel_loses_its_tag() -> None:
    long = Reference("example.org", "n" * 150, "t" * 100)
    assert len(str(long.pinned(DIGEST))) <= 256
    assert long.pinned(DIGEST).tag == ""


def manifest(**changes: object) -> dict[str, object]:
    """A manifest of one layer."""
    part = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": HEX, "size": 3}
    return {"config": {"digest": HEX, "size": 2}, "layers": [part], **changes}


def test_a_manifest_and_an_index_are_read() -> None:
    read = parse_manifest(json.dumps(manifest()).encode())
    assert isinstance(read, ImageManifest)
    assert [part.size_bytes for part in read.layers] == [3]
    entries = [
        {"digest": HEX, "size": 9, "platform": {"os": "linux", "architecture": "amd64"}},
        {"digest": HEX, "size": 8, "platform": {"os": "windows", "architecture": "amd64"}},
        {"digest": HEX, "size": 7, "platform": {"os": "unknown", "architecture": "unknown"}},
    ]
    index = parse_manifest(json.dumps({"manifests": entries}).encode())
    assert isinstance(index, Index)
    assert index.choose("amd64") == Descriptor("", DIGEST, 9)
    assert index.likeliest("arm64") == index.choose("amd64")
    with pytest.raises(SandboxError, match="made for amd64"):
        index.choose("arm64")
    with pytest.raises(SandboxError, match="no machine"):
        Index(()).likeliest("arm64")


LAYER = manifest()["layers"][0]  # type: ignore[index]


@pytest.mark.parametrize(
    "raw",
    [
        manifest(layers=[LAYER] * 129),
        manifest(layers=[{**LAYER, "size": -1}]),
        manifest(layers=[{**LAYER, "size": 2**60}]),
        manifest(layers=[{**LAYER, "size": True}]),
        manifest(layers=[{**LAYER, "size": 2**35}, {**LAYER, "size": 2**35 + 1}]),
        manifest(layers=[{**LAYER, "digest": "sha512:" + "0" * 128}]),
        manifest(layers=[{**LAYER, "digest": "sha256:../../etc"}]),
        manifest(layers=[{**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign"}]),
        manifest(layers=[5]),
        manifest(layers="x"),
        manifest(config=None),
        {"manifests": [{"digest": HEX, "size": 2}] * 257},
        {"manifests": 5},
        {},
        [],
    ],
)
def test_a_hostile_manifest_is_refused(raw: object) -> None:
    with pytest.raises(SandboxError):
        parse_manifest(json.dumps(raw).encode())


@given(st.binary(max_size=200) | st.just(b"[" * 100_000) | st.just(b'{"a":' * 50_000))
def test_any_bytes_are_a_manifest_or_an_error(data: bytes) -> None:
    with pytest.raises(MarketError):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2001:4860:4860::8888", True), ("::ffff:8.8.8.8", True),
        ("64:ff9b::808:808", True),
        ("127.0.0.1", False), ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.0.1", False),
        ("169.254.169.254", False), ("100.64.0.1", False), ("0.0.0.0", False), ("::1", False),
        ("::", False), ("::ffff:127.0.0.1", False), ("::ffff:a9fe:a9fe", False), ("fe80::1", False),
        ("fe80::1%eth0", False), ("fc00::1", False), ("64:ff9b::7f00:1", False), ("ff02::1", False),
        ("64:ff9b:1::a00:1", False), ("2002:7f00:1::1", False), ("::127.0.0.1", False),
        ("224.0.0.1", False), ("255.255.255.255", False), ("198.18.0.1", False), ("x", False),
    ],
)  # fmt: skip
def test_only_the_public_internet_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_targets_are_read() -> None:
    assert parse_target("Data.Example.org.:443") == Target("data.example.org", 443)
    assert str(parse_target("[2001:db8::1]:443")) == "[2001:db8::1]:443"
    for wrong in ("x", "x:", "x:0", "x:70000", "x:1e3", ":443", "a b:1", "[1.2.3.4]:80", "::1:80",
                  "x..y:1", "-x:1", "[fe80::1%e]:1", "a:1:2", "x:٣"):  # fmt: skip
        with pytest.raises(SpecError):
            parse_target(wrong)
