"""Fixtures of the sandbox tests: one base image and one blob store for the whole session."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from market.terms import Artifact
from node.adapters.disk.blobs import open_blobs
from node.adapters.oci.base_image import build_base_image
from tests.adapters.sandbox.harness import MIB, Driver, small_settings


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root and runc these cannot run; with CI=true that is a failure, not a skip."""
    missing = [name for name in ("runc", "mkfs.ext4", "busybox") if shutil.which(name) is None]
    if os.geteuid() == 0 and not missing:
        return
    if os.environ.get("CI") == "true":
        return
    reason = f"needs root, and {', '.join(missing) or 'nothing else'}"
    for item in items:
        if item.get_closest_marker("sandbox"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """The base image without packages: its file, hash and size."""
    path = tmp_path_factory.mktemp("image") / "base.tar"
    hash_, size = build_base_image(path, ())
    return path, hash_, size


@pytest.fixture(scope="session")
def driver_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared state, so that the image is unpacked once."""
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture
async def driver(driver_root: Path, base_image: tuple[Path, bytes, int]) -> AsyncIterator[Driver]:
    """A sandbox whose jobs are scrubbed afterwards."""
    path, hash_, size = base_image
    settings = small_settings(driver_root, f"test-{os.getpid()}")
    blobs = await open_blobs(driver_root / "blobs", bytes_max=1024 * MIB, pinned=tuple)
    if await blobs.size(hash_) is None:
        await blobs.put_file(str(path))
    made = Driver(settings, blobs, Artifact("base", hash_, size))
    try:
        yield made
    finally:
        await made.scrub()
