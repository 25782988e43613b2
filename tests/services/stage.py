"""Stage: a chain, nodes as processes and a registry with the base image, for tests of the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from node.adapters.oci.base_image import build_base_image
from node.cli.town import Member, open_town
from tests.adapters.registry.server import Registry, serving

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 240.0  # the machine may be busy with other things


@dataclass
class Stage:
    """Everything that is up."""

    home: Path
    registry: Registry
    nodes: dict[str, Member] = field(default_factory=dict)

    @property
    def requester(self) -> Member:
        return self.nodes["requester"]

    def souk(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command of the requester's."""
        words = arguments[1:]  # what stands behind -- is for somebody else
        cut = words.index("--") if "--" in words else len(words)
        ours = ["--config", str(self.requester.config)]
        return subprocess.run(
            [*souk(arguments[0]), *words[:cut], *ours, *words[cut:]],
            capture_output=True, text=True, timeout=240, cwd=ROOT, check=False, **options,
        )  # fmt: skip

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A command of the requester's that goes on."""
        return subprocess.Popen(
            [*souk(arguments[0]), *arguments[1:], "--config", str(self.requester.config)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT,
        )  # fmt: skip

    async def job(self, id_: str) -> dict[str, Any]:
        """The job as its node shows it."""
        async with self.requester.client() as client:
            found: dict[str, Any] = (await client.get(f"/api/jobs/{id_}")).json()
            return found

    async def until(self, id_: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until something holds of the job."""
        job: dict[str, Any] = {}
        with trio.move_on_after(PATIENCE_S):
            while not holds(job := await self.job(id_)):
                await trio.sleep(0.2)
            return job
        raise AssertionError(f"{job}\n{self.logs()}")

    async def log(self, id_: str) -> str:
        """The job's output."""
        async with self.requester.client() as client:
            return (await client.get(f"/api/jobs/{id_}/log")).text

    def logs(self) -> str:
        """The nodes' own."""
        return "\n".join(
            f"--- {name}\n{(node.home / 'node.log').read_text()[-4000:]}"
            for name, node in self.nodes.items()
        )


def souk(command: str) -> list[str]:
    """How the program is called."""
    return [sys.executable, "-m", "node.cli.main", command]


def fill(registry: Registry, archive: Path, name: str) -> bytes:
    """Put an OCI layout's image into the registry; returns its digest."""
    with tarfile.open(archive) as tar:
        files = {
            member.name: tar.extractfile(member).read()  # type: ignore[union-attr]
            for member in tar.getmembers()
            if member.isfile()
        }
    index = json.loads(files["index.json"])
    digest = bytes.fromhex(index["manifests"][0]["digest"].removeprefix("sha256:"))
    blobs = [data for path, data in files.items() if path.startswith("blobs/")]
    manifest = files[f"blobs/sha256/{digest.hex()}"]
    return registry.put(name, "1", manifest, *blobs)


@asynccontextmanager
async def open_stage(
    home: Path, registry: Registry, providers: int, extra: dict[str, str]
) -> AsyncIterator[Stage]:
    """Providers one to n and a requester, all in contact; whatever happens, all is removed."""
    await trio.to_thread.run_sync(_image, home, registry)
    sells = [
        Member(f"provider-{n}", home / f"provider-{n}", "18.00", f"svc{os.getpid()}", extra=extra)
        for n in range(1, providers + 1)
    ]
    buys = Member("requester", home / "requester", extra={"end": extra.get("end", "")})
    async with open_town([*sells, buys], lambda _: None) as town:
        stage = Stage(home, registry, {one.name: one for one in town.members})
        async with buys.client() as client:
            with trio.fail_after(PATIENCE_S):
                while len((await client.get("/api/offers")).json()) < providers:
                    await trio.sleep(0.2)
        yield stage


@asynccontextmanager
async def measuring_stage(providers: int) -> AsyncIterator[tuple[Stage, Path, Registry]]:
    """A stage for a bench, with a home and a registry of its own."""
    registry = Registry()
    with tempfile.TemporaryDirectory(prefix="gridsouk-bench-", dir="/var/tmp") as text:
        with serving(registry):
            end = f'[registries."{registry.host}"]\nprivate = true\ninsecure = true'
            async with open_stage(Path(text), registry, providers, {"end": end}) as stage:
                yield stage, Path(text), registry


def _image(home: Path, registry: Registry) -> None:
    build_base_image(home / "base.tar", ())
    fill(registry, home / "base.tar", "souk/base")
