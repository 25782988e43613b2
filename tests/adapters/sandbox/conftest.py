"""Fixtures of the sandbox tests: one base image, one blob store, and one of each engine."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from market.terms import Artifact
from node.adapters.disk.blobs import open_blobs
from node.adapters.oci.base_image import build_base_image
from tests.adapters.sandbox.harness import (
    DRIVERS,
    ENGINES,
    MIB,
    Driver,
    engine,
    engine_folder,
    missing_for,
    small_settings,
)

Engines = Callable[[str], Path]


@pytest.fixture(scope="session")
def base_image(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes, int]:
    """The base image without packages: its file, hash and size. An emulated machine is given it."""
    given = os.environ.get("GRIDSOUK_BASE_IMAGE")
    if given:
        with open(given, "rb") as file:
            hashed = hashlib.file_digest(file, "sha256").digest()
        return Path(given), hashed, os.path.getsize(given)
    path = tmp_path_factory.mktemp("image") / "base.tar"
    hash_, size = build_base_image(path, ())
    return path, hash_, size


@pytest.fixture(scope="session")
def driver_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared state, so that the image is unpacked once."""
    return tmp_path_factory.mktemp("sandbox")


@pytest.fixture(scope="session")
def engines() -> Iterator[Engines]:
    """The socket of an engine. All are started when the first is asked for, side by side."""
    coming: dict[str, Future[tuple[ExitStack, Path]]] = {}

    def start(kind: str) -> tuple[ExitStack, Path]:
        stack = ExitStack()
        try:
            folder = stack.enter_context(engine_folder())
            return stack, stack.enter_context(engine(kind, folder))
        except BaseException:
            stack.close()
            raise

    with ThreadPoolExecutor(len(ENGINES)) as threads:

        def ask(kind: str) -> Path:
            for each in ENGINES:
                if each not in coming and not missing_for(each):
                    coming[each] = threads.submit(start, each)
            return coming[kind].result()[1]

        yield ask
        begun = [one.result()[0] for one in coming.values() if not one.exception()]
        for closing in [threads.submit(stack.close) for stack in begun]:
            closing.result()


async def open_driver(
    kind: str, root: Path, base_image: tuple[Path, bytes, int], engines: Engines
) -> Driver:
    """A sandbox over one of the four; skipped without root and its program, failed in CI."""
    missing = missing_for(kind)
    if missing:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(missing)
    path, hash_, size = base_image
    changes: dict[str, object] = {"runtime": kind}
    if kind in ENGINES:
        changes = {"runtime": "", "driver": "engine", "socket": engines(kind)}
    if kind == "remapped":
        changes["run_dir"] = engines(kind).with_name("mounts")
    settings = small_settings(root / kind, f"test-{kind}-{os.getpid()}", **changes)
    blobs = await open_blobs(root / "blobs", bytes_max=1024 * MIB, pinned=tuple)
    if await blobs.size(hash_) is None:
        await blobs.put_file(str(path))
    return Driver(settings, blobs, Artifact("base", hash_, size), kind)


@pytest.fixture
async def driver(
    driver_root: Path, base_image: tuple[Path, bytes, int], engines: Engines
) -> AsyncIterator[Driver]:
    """The default sandbox, runc's; its jobs are scrubbed afterwards."""
    made = await open_driver("runc", driver_root, base_image, engines)
    try:
        yield made
    finally:
        await made.scrub()


@pytest.fixture(params=DRIVERS)
async def each_driver(
    request: pytest.FixtureRequest,
    driver_root: Path,
    base_image: tuple[Path, bytes, int],
    engines: Engines,
) -> AsyncIterator[Driver]:
    """Every sandbox there is, one after the other."""
    made = await open_driver(request.param, driver_root, base_image, engines)
    try:
        yield made
    finally:
        await made.scrub()
