"""Stage: a chain, nodes as processes and a registry with the base image, for tests of the whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from node.adapters.ethereum.devnet import Devnet, run_devnet
from node.adapters.ethereum.rpc import Rpc
from node.adapters.oci.base_image import build_base_image
from scripts.demo import ROOT, Node, _toml, fund, scrub, until_offers, until_ready
from tests.adapters.registry.server import Registry

PATIENCE_S = 60.0


@dataclass
class Stage:
    """Everything that is up."""

    home: Path
    devnet: Devnet
    registry: Registry
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def requester(self) -> Node:
        return self.nodes["requester"]

    def souk(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """A command of the requester's."""
        return subprocess.run(
            [*souk(arguments[0]), *arguments[1:], "--config", str(self.requester.config)],
            capture_output=True, text=True, timeout=60, cwd=ROOT, check=False, **options,
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
    """Providers one to n and a requester, all in contact; whatever happens, all is removed.

    `extra` is TOML by the table it belongs to: `top`, `provider` or `end`.
    """
    await trio.to_thread.run_sync(_image, home, registry)
    names = [f"provider-{number}" for number in range(1, providers + 1)] + ["requester"]
    async with run_devnet() as devnet, Rpc((devnet.url,)) as rpc:
        stage = Stage(home, devnet, registry, {name: Node(name, home / name) for name in names})
        try:
            bootstrap = ""
            for index, (name, node) in enumerate(stage.nodes.items()):
                (node.home / "data").mkdir(parents=True)
                sells = name != "requester"
                await fund(node, devnet, rpc, index + 1, provider=sells)
                text = _toml(node, devnet, bootstrap, "18.00" if sells else None)
                text = text.replace("/sandbox", "/sandbox").replace("demo-", f"svc{os.getpid()}-")
                text = text.replace("[provider]", f"[provider]\n{extra.get('provider', '')}")
                node.config.write_text(f"{text}\n{extra.get('end', '')}\n")
                node.start()
                status = await until_ready(node)
                bootstrap = bootstrap or f'"{status["addresses"][0]}"'
            await until_offers(stage.requester, providers)
            yield stage
        finally:
            with trio.CancelScope(shield=True):
                for node in stage.nodes.values():
                    await trio.to_thread.run_sync(node.kill, signal.SIGTERM)
                await scrub([node for node in stage.nodes.values() if node.config.exists()])


def _image(home: Path, registry: Registry) -> None:
    build_base_image(home / "base.tar", ())
    fill(registry, home / "base.tar", "souk/base")
