"""Hostile images: nothing they hold reaches beyond their own tree. Needs no root and no runtime."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
from pathlib import Path

import pytest
import zstandard

from market.errors import IntegrityError, MarketError, NotFoundError, SandboxError
from market.terms import Artifact
from node.adapters.oci import images, staging
from node.adapters.oci.layout import this_machine
from node.adapters.oci.shared import SharedFiles
from tests.adapters.registry.server import make_index, make_manifest
from tests.simulation.memory import MemoryBlobs

KIND = "application/vnd.oci.image"


def entry(name: str, data: bytes = b"", mode: int = 0o644, **changes: object) -> tuple[object, ...]:
    """One entry of a layer."""
    made = tarfile.TarInfo(name)
    made.size, made.mode = len(data), mode
    for field, value in changes.items():
        setattr(made, field, value)
    return made, data


def directory(name: str, mode: int = 0o755) -> tuple[object, ...]:
    """A directory of a layer."""
    return entry(name, mode=mode, type=tarfile.DIRTYPE)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[object, ...]:
    """A link of a layer."""
    return entry(name, type=kind, linkname=target)


def layer(*entries: tuple[object, ...]) -> bytes:
    """The tar of a layer."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for made, data in entries:
            assert isinstance(made, tarfile.TarInfo)
            assert isinstance(data, bytes)
            tar.addfile(made, io.BytesIO(data))
    return target.getvalue()


def write_image(path: Path, *layers: bytes, kind: str = "tar", spoil: bool = False) -> Path:
    """An OCI layout with these layers; `spoil` changes a byte of the last one afterwards."""
    config = json.dumps({"config": {"Env": ["A=1"], "WorkingDir": "/w"}}).encode()
    blobs = [config, *layers]
    described = [
        {"digest": f"sha256:{hashlib.sha256(blob).hexdigest()}", "size": len(blob)}
        for blob in blobs
    ]
    manifest = {
        "config": described[0],
        "layers": [{"mediaType": f"{KIND}.layer.v1.{kind}", **each} for each in described[1:]],
    }
    body = json.dumps(manifest).encode()
    digest = hashlib.sha256(body).hexdigest()
    index = json.dumps({"manifests": [{"digest": f"sha256:{digest}", "size": len(body)}]}).encode()
    files = [("index.json", index), (f"blobs/sha256/{digest}", body)]
    files += [(f"blobs/sha256/{hashlib.sha256(blob).hexdigest()}", blob) for blob in blobs]
    if spoil:
        name, data = files[-1]
        files[-1] = (name, data[:-1] + bytes([data[-1] ^ 1]))
    path.write_bytes(layer(*(entry(name, data) for name, data in files)))
    return path


def unpack(archive: Path, target: Path) -> images.Image:
    """Unpacked under small bounds; what it shares with others lies out of the test's sight."""
    files = SharedFiles(target.parent.with_name(target.parent.name + "-files"))
    return images.unpack(archive, target, files, bytes_max=1 << 20, entries_max=100)


def unpacked(tmp_path: Path, *layers: bytes, kind: str = "tar") -> Path:
    """The tree of an image with these layers."""
    archive = write_image(tmp_path / "image.tar", *layers, kind=kind)
    target = tmp_path / "image"
    return unpack(archive, target).root


def test_an_honest_image_is_unpacked_layer_over_layer(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path,
        layer(
            directory("usr"), directory("usr/lib"), link("lib", "usr/lib"), entry("usr/old"),
            directory("gone"), entry("gone/x", b"x"), directory("swept"), entry("swept/y", b"y"),
        ),
        layer(
            entry("lib/through", b"t"), entry("usr/.wh.old"), entry(".wh.gone"),
            entry("swept/.wh..wh..opq"), entry("swept/z", b"z"), link("usr/hard", "lib/through",
                                                                      tarfile.LNKTYPE),
        ),
    )  # fmt: skip
    assert (root / "usr/lib/through").read_bytes() == b"t"
    assert (root / "usr/hard").read_bytes() == b"t"
    assert not (root / "usr/old").exists()
    assert not (root / "gone").exists()
    assert [path.name for path in (root / "swept").iterdir()] == ["z"]
    found = images.find(tmp_path / "image")
    assert found is not None
    assert (found.envs, found.cwd) == (("A=1",), "/w")


def test_compressed_layers_are_read(tmp_path: Path) -> None:
    root = unpacked(tmp_path, gzip.compress(layer(entry("x", b"y"))), kind="tar+gzip")
    assert (root / "x").read_bytes() == b"y"


def test_setuid_bits_are_dropped_and_all_can_read(tmp_path: Path) -> None:
    root = unpacked(
        tmp_path, layer(entry("su", b"x", mode=0o6750), entry("secret", mode=0o600),
                        directory("closed", mode=0o2700))
    )  # fmt: skip
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in root.iterdir()}
    assert modes == {"su": 0o754, "secret": 0o644, "closed": 0o755}


HOSTILE = {
    "climbing path": [entry("../escape", b"x")],
    "path that climbs inside": [directory("a"), entry("a/../../escape", b"x")],
    "absolute path": [entry("/escape", b"x")],
    "character device": [entry("null", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "block device": [entry("disk", type=tarfile.BLKTYPE, devmajor=254)],
    "fifo": [entry("pipe", type=tarfile.FIFOTYPE)],
    "hard link that climbs": [link("x", "../../escape", tarfile.LNKTYPE)],
    "too many entries": [entry(str(number)) for number in range(101)],
    "too many bytes": [entry("big", bytes((1 << 20) + 1))],
    "too deep": [entry("/".join("d" * 80), b"x")],
    "whiteout of the parent": [entry(".wh...", b"")],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_layer_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(SandboxError):
        unpacked(tmp_path, layer(*HOSTILE[name]))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tar"]


@pytest.mark.parametrize("target", ["/", "/etc", "../../..", "/proc/self/root", "up/../../.."])
def test_links_are_resolved_inside_the_image(tmp_path: Path, target: str) -> None:
    outside = tmp_path / "etc"
    outside.mkdir()
    try:
        root = unpacked(tmp_path, layer(link("a", target)), layer(entry("a/gridsouk-escape", b"x")))
    except SandboxError:
        root = tmp_path / "image" / "rootfs"
    assert list(outside.iterdir()) == []
    for escape in ("/gridsouk-escape", "/etc/gridsouk-escape"):
        assert not os.path.exists(escape)
    found = [path for path in tmp_path.rglob("gridsouk-escape") if root not in path.parents]
    assert found == []


def test_a_file_never_lands_where_a_link_points(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    root = unpacked(tmp_path, layer(link("a", str(victim))), layer(entry("a", b"replaced")))
    assert victim.read_text() == "untouched"
    assert (root / "a").read_bytes() == b"replaced"


def test_a_bomb_is_refused_while_it_unpacks(tmp_path: Path) -> None:
    """Behind an entry of no known kind, whose bytes are skipped and count all the same."""
    bomb = layer(entry("x", bytes(8 << 20), type=b"Q"))
    with pytest.raises(SandboxError):
        unpacked(tmp_path, gzip.compress(bomb), kind="tar+gzip")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_huge_header_is_refused_before_it_is_read(tmp_path: Path, kind: bytes) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = kind, 1 << 40
    with pytest.raises(SandboxError, match="header of"):
        unpacked(tmp_path, header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))


def test_a_sparse_bomb_is_refused(tmp_path: Path) -> None:
    made = tarfile.TarInfo("big")
    made.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0",
                        "GNU.sparse.realsize": str(1 << 40), "GNU.sparse.name": "big"}  # fmt: skip
    made.size = 512
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(made, io.BytesIO(b"1\n1099511627775\n1\n".ljust(512, b"\0")))
    with pytest.raises(SandboxError, match="sparse"):
        unpacked(tmp_path, target.getvalue())


def test_a_spoilt_layer_is_not_unpacked(tmp_path: Path) -> None:
    archive = write_image(tmp_path / "image.tar", layer(entry("x", b"y")), spoil=True)
    with pytest.raises(IntegrityError):
        unpack(archive, tmp_path / "image")
    assert images.find(tmp_path / "image") is None


@pytest.mark.parametrize(
    "data", [b"", b"not a tar", bytes(10240), layer(entry("index.json", b"{}")),
             layer(entry("index.json", b"[]")), layer(entry("index.json", b"\xff"))]
)  # fmt: skip
def test_what_is_no_image_says_so(tmp_path: Path, data: bytes) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(data)
    with pytest.raises(MarketError):
        unpack(archive, tmp_path / "image")


def bomb(size: int) -> bytes:
    """A layer of one file of so many zeros."""
    return layer(entry("x", bytes(size)))


def test_zstd_layers_are_read_and_bounded(tmp_path: Path) -> None:
    packed = zstandard.ZstdCompressor().compress(layer(entry("x", b"y")))
    assert (unpacked(tmp_path, packed, kind="tar+zstd") / "x").read_bytes() == b"y"
    packed = zstandard.ZstdCompressor().compress(bomb(8 << 20))
    with pytest.raises(SandboxError):
        unpacked(tmp_path, packed, kind="tar+zstd")
    with pytest.raises(SandboxError):
        unpacked(tmp_path, packed[: len(packed) // 2], kind="tar+zstd")
    with pytest.raises(SandboxError):
        unpacked(tmp_path, b"\x28\xb5\x2f\xfd" + bytes(64), kind="tar+zstd")


@pytest.mark.parametrize("kind", ["tar+xz", "squashfs", "foreign.tar+gzip", "tar+gzipx"])
def test_a_layer_of_another_kind_is_refused(tmp_path: Path, kind: str) -> None:
    with pytest.raises(SandboxError, match="cannot be read"):
        unpacked(tmp_path, layer(entry("x", b"y")), kind=kind)


async def lent(tmp_path: Path, *blobs: bytes, name: str = "img") -> Path:
    """The image whose manifest is the first blob, as the driver gets it from a registry's parts."""
    store = MemoryBlobs()
    for data in blobs:
        await store.put(data)
    digest = hashlib.sha256(blobs[0]).digest()
    image = Artifact(f"example.org/x@sha256:{digest.hex()}", digest, 0)
    await images.lend_image(store, image, tmp_path / name)
    return tmp_path / name


async def test_an_image_of_parts_is_unpacked_for_this_machine(tmp_path: Path) -> None:
    config, one = b'{"config": {"Env": ["A=1"]}}', gzip.compress(layer(entry("x", b"y")))
    manifest = make_manifest(config, (one, "tar+gzip"))
    other = make_manifest(config, (b"", "tar"))
    index = make_index(("s390x", other), (this_machine(), manifest))
    folder = await lent(tmp_path, index, manifest, config, one)
    found = unpack(folder, tmp_path / "out")
    assert (found.root / "x").read_bytes() == b"y"
    assert found.envs == ("A=1",)


async def test_parts_that_are_not_what_the_manifest_says_are_refused(tmp_path: Path) -> None:
    config, one = b"{}", layer(entry("x", b"y"))
    lying = make_manifest(config, (one, "tar")).replace(
        f'"size": {len(one)}'.encode(), f'"size": {len(one) + 1}'.encode()
    )
    folder = await lent(tmp_path, lying, config, one)
    with pytest.raises(IntegrityError, match="bytes, not"):
        unpack(folder, tmp_path / "out")
    (folder / "blobs/sha256" / hashlib.sha256(one).hexdigest()).write_bytes(one[:-1] + b"x")
    with pytest.raises(IntegrityError, match="other bytes"):
        unpack(folder, tmp_path / "out")
    with pytest.raises(NotFoundError):
        await lent(tmp_path, make_manifest(config, (one, "tar")), config, name="lacking")


async def test_an_index_of_indexes_without_end_is_left(tmp_path: Path) -> None:
    blobs = [make_manifest(b"{}")]
    for _ in range(5):
        blobs.insert(0, make_index((this_machine(), blobs[0])))
    with pytest.raises(SandboxError, match="nests too deep"):
        await lent(tmp_path, *blobs)


async def test_an_image_for_another_machine_says_for_which(tmp_path: Path) -> None:
    other = make_manifest(b"{}")
    with pytest.raises(SandboxError, match="made for s390x"):
        await lent(tmp_path, make_index(("s390x", other)), other)


@pytest.mark.parametrize(
    ("wanted", "given"),
    [
        ("", "/out"),
        ("/", "/out"),
        ("/app/src/", "/app/src"),
        ("/app/file", "/out"),
        ("/app/gone", "/out"),
        ("/app/link", "/out"),
        ("/link/src", "/out"),
        ("/proc/self/fd/7", "/out"),
        ("/proc", "/out"),
        ("/app/../../etc", "/out"),
        ("/dev/fd/8", "/out"),
    ],
)
def test_a_working_directory_leads_nowhere_else(tmp_path: Path, wanted: str, given: str) -> None:
    (tmp_path / "app/src").mkdir(parents=True)
    (tmp_path / "app/file").touch()
    (tmp_path / "app/link").symlink_to("/proc/self/fd/7")
    (tmp_path / "link").symlink_to("app")
    assert staging.safe_cwd(tmp_path, wanted) == given
