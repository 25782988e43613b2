"""Unpacked images: what they share is there once, the bound holds, and a kill leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from market.terms import Artifact
from node.adapters.oci import images
from node.adapters.oci.shared import LEAST_BYTES
from node.adapters.oci.shelf import Shelf, held_bytes
from tests.adapters.sandbox.harness import Driver
from tests.adapters.sandbox.test_images import entry, layer, write_image

KIB = 1024
BASE = layer(entry("base", b"b" * 100 * KIB), entry("small", b"s"))


def shelf(tmp_path: Path, images_max: int = 9, bytes_max: int = 1 << 30) -> Shelf:
    made = Shelf(tmp_path / "images", images_max, bytes_max)
    made.open()
    return made


def put(on: Shelf, name: str, *layers: bytes, at: int = 0) -> Path:
    """An image with these layers, unpacked, used last at that second."""
    archive = write_image(on.directory.parent / f"{name}.tar", *layers)
    made = images.unpack(archive, on.directory / name, on.files, bytes_max=1 << 20, entries_max=99)
    archive.unlink()
    os.utime(on.directory / name, (at, at))
    return made.root


def stored(on: Shelf) -> int:
    """Bytes of the trees and of the shared folder, each file once, without the records."""
    found = held_bytes([on.directory, on.directory.with_name("files")])
    records = [tree / "image.json" for tree in on.directory.iterdir()]
    return sum(found.values()) - sum(record.stat().st_size for record in records)


def test_what_images_share_is_on_the_disk_once(tmp_path: Path) -> None:
    on = shelf(tmp_path)
    one = put(on, "one", BASE, layer(entry("own", b"1" * 10 * KIB)))
    two = put(on, "two", BASE, layer(entry("own", b"2" * 20 * KIB)))
    assert (one / "base").stat().st_ino == (two / "base").stat().st_ino
    assert (two / "base").read_bytes() == b"b" * 100 * KIB
    assert stored(on) == 130 * KIB + 2


def test_files_that_differ_in_their_mode_are_not_shared(tmp_path: Path) -> None:
    on, data = shelf(tmp_path), b"x" * LEAST_BYTES
    plain, program = (
        put(on, f"m{mode:o}", layer(entry("x", data, mode))) for mode in (0o644, 0o755)
    )
    assert os.access(program / "x", os.X_OK)
    assert (plain / "x").stat().st_mode & 0o777 == 0o644


def test_a_layer_that_replaces_a_file_leaves_other_images_theirs(tmp_path: Path) -> None:
    on = shelf(tmp_path)
    one = put(on, "one", BASE)
    two = put(on, "two", BASE, layer(entry("base", b"c" * 50 * KIB)))
    assert (one / "base").read_bytes() == b"b" * 100 * KIB
    assert (two / "base").read_bytes() == b"c" * 50 * KIB


def test_the_images_unused_for_longest_make_room(tmp_path: Path) -> None:
    on = shelf(tmp_path, images_max=2)
    for at, name in enumerate(("old", "used", "young")):
        put(on, name, BASE, at=at)
    on.make_room(frozenset({"used"}))
    assert on.names() == {"used"}
    on.make_room(frozenset({"used"}), coming=2)
    assert on.names() == {"used"}, "never one in use"


def test_large_images_make_room_too_and_what_they_share_counts_once(tmp_path: Path) -> None:
    on = shelf(tmp_path, bytes_max=141 * KIB)
    for at, name in enumerate(("old", "used", "young")):
        put(on, name, BASE, layer(entry("own", name.encode() * 3 * KIB)), at=at)
    recorded = [
        json.loads((on.directory / n / "image.json").read_text())["bytes"] for n in on.names()
    ]
    assert sum(recorded) > 300 * KIB
    on.make_room(frozenset({"used"}))
    assert on.names() == {"old", "used", "young"}
    put(on, "large", layer(entry("own", b"l" * 60 * KIB)), at=9)
    on.make_room(frozenset({"used"}), coming=0)
    assert on.names() == {"used"}, "the shared part stays with it, so it all had to go"


def test_pruning_tells_what_it_freed_and_keeps_what_is_used(tmp_path: Path) -> None:
    on = shelf(tmp_path)
    put(on, "used", BASE)
    put(on, "spare", BASE, layer(entry("own", b"o" * 30 * KIB)))
    before = stored(on)
    freed = on.prune(frozenset({"used"}))
    assert on.names() == {"used"}
    assert 30 * KIB <= freed < 31 * KIB
    assert stored(on) == before - 30 * KIB - 1
    assert on.prune(frozenset()) >= 100 * KIB
    assert stored(on) == 0


KILLED = """
import os, signal, sys
from pathlib import Path
from node.adapters.oci import images, tree
from node.adapters.oci.shelf import Shelf

def killed(self, stream, count=[0], apply=tree.Tree.apply):
    apply(self, stream)
    count[0] += 1
    if count[0] == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

tree.Tree.apply = killed
on = Shelf(Path(sys.argv[1]) / "images", 9, 1 << 30)
on.open()
images.unpack(Path(sys.argv[1]) / "image.tar", on.directory / "one", on.files,
              bytes_max=1 << 20, entries_max=99)
"""


@pytest.mark.parametrize("layers_done", [1, 2])
def test_a_kill_in_the_middle_of_unpacking_leaves_nothing(tmp_path: Path, layers_done: int) -> None:
    layers = (BASE, layer(entry("own", b"o" * 30 * KIB)))
    write_image(tmp_path / "image.tar", *layers)
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(layers_done)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert any(tmp_path.glob("images/one.new/rootfs/base"))
    on = shelf(tmp_path)
    assert on.names() == frozenset()
    assert stored(on) == 0
    assert (put(on, "one", *layers) / "own").read_bytes() == b"o" * 30 * KIB


@pytest.mark.sandbox
async def test_a_sandbox_prunes_what_no_job_of_it_uses(driver: Driver) -> None:
    trees = driver.settings.state_dir / "images"
    workspace = driver.workspace("true")
    await driver.sandbox.prepare(workspace)
    await driver.sandbox.prune()  # what other tests left
    assert await driver.sandbox.prune() == 0
    assert (trees / driver.image.hash.hex()).is_dir()
    await driver.sandbox.scrub(workspace.work_id)
    assert await driver.again().prune() > 1024 * KIB
    assert not any(trees.iterdir())
    _, observed, _ = await driver.finished("true")
    assert observed.exit_code == 0


@pytest.mark.sandbox
async def test_an_image_stays_while_its_job_is_being_placed(driver: Driver, tmp_path: Path) -> None:
    narrow = driver.again(state_dir=tmp_path / "state", images_max=1)
    made = []
    for name in (b"one", b"two", b"three"):
        archive = write_image(tmp_path / "image.tar", layer(entry("own", name)))
        hash_, size = await driver.blobs.put_file(str(archive))
        workspace = driver.workspace("true", unit=len(made))
        image = Artifact("own", hash_, size)
        made.append(replace(workspace, manifest=replace(workspace.manifest, image=image)))
    try:
        async with trio.open_nursery() as nursery:
            for workspace in made:
                nursery.start_soon(narrow.prepare, workspace)
        trees = {tree.name for tree in (tmp_path / "state" / "images").iterdir()}
        assert trees == {workspace.manifest.image.hash.hex() for workspace in made}
    finally:
        for workspace in made:
            await narrow.scrub(workspace.work_id)
