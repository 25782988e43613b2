"""World: a local chain, two providers and a requester as real `souk up` processes, for one suite.

It lives in a thread of its own, because Playwright's loop and trio's cannot share one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import trio

from market.errors import MarketError
from node.adapters.devices.discover import discover
from node.adapters.disk.blobs import open_blobs
from node.adapters.ethereum.deployment import LOCAL
from node.adapters.ethereum.devnet import CHAIN_ID, Devnet, run_devnet
from node.adapters.ethereum.rpc import Rpc
from node.adapters.keystore.signer import load_or_create
from node.adapters.libp2p.identity import peer_id
from node.adapters.oci.base_image import build_base_image
from node.adapters.oci.driver import OciSandbox
from node.cli.daemon import to_place
from node.cli.settings import load
from node.client.http import Node as Client

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[2]
MILLION = 1_000_000
READY_S = 60.0
MINTED = 200
QUICK = replace(LOCAL, thaw_period=3)  # stake thaws while a test can wait for it


@dataclass
class Node:
    """One process of `souk up`."""

    name: str
    home: Path
    key: bytes
    wallet: bytes = b""
    operator: bytes = b""
    key_of_peer: bytes = b""
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    port: int = 0
    peer: str = ""

    @property
    def config(self) -> Path:
        return self.home / "config.toml"

    def ask(self, path: str) -> Any:
        """Over its socket, as the CLI does."""
        return Client(self.home / "data" / "node.sock").get(path)

    def post(self, path: str, body: Any) -> Any:
        """Likewise."""
        return Client(self.home / "data" / "node.sock").post(path, body)

    def start(self, *, same_port: bool = False) -> None:
        """Start the process; see `wait`."""
        if same_port:
            text = self.config.read_text()
            self.config.write_text(text.replace('"127.0.0.1:0"', f'"127.0.0.1:{self.port}"'))
        with (self.home / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node.cli.main", "up", "--config", str(self.config)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_dies_with_parent,
            )  # fmt: skip

    def wait(self) -> Node:
        """Until it answers."""
        assert self.process is not None
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(MarketError):
                status = self.ask("/api/status")
                if status.get("url"):
                    self.url, self.peer = status["url"], status["peer"]
                    self.port = urlsplit(self.url).port or 0
                    return self
            time.sleep(0.2)
        raise AssertionError(f"{self.name}: {(self.home / 'node.log').read_text()[-2000:]}")

    def tell(self, number: int) -> None:
        """Tell the process, if there is one."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process and wait until it is gone."""
        self.tell(number)
        if self.process is not None:
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


def _dies_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


@dataclass
class World:
    """Chain and nodes. Made by `start`, gone without trace after `stop`."""

    home: Path = field(
        default_factory=lambda: Path(tempfile.mkdtemp(prefix="gridsouk-web-", dir="/var/tmp"))
    )
    nodes: list[Node] = field(default_factory=list)
    guests: list[Node] = field(default_factory=list)  # others that end with it
    devnet: Devnet | None = None

    def start(self, *, ready: bool = False) -> World:
        """The requester's node answers; with `ready` its wallet has deposited and authorised too.

        Providers and the image of the jobs may still be in the making: see `wait_for_offers`.
        """
        self._begun, self._failure = threading.Event(), None
        self._image = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._live, ready))
        self._thread.start()
        self._begun.wait()
        if self._failure is not None:
            self.stop()
            raise self._failure
        first, port = self.nodes[0], free_port()
        address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(first.key_of_peer)}"
        for node, sold in zip(self.nodes, ("18.00", "21.60", None), strict=True):
            listen, known = (port, "") if node is first else (0, f'"{address}"')
            node.config.write_text(toml(node, self.devnet, listen, known, sold))
            node.start()
        self.requester.wait()
        return self

    @property
    def requester(self) -> Node:
        return self.nodes[2]

    def wait_for_offers(self) -> None:
        """Until both providers sell, and a job can be handed in."""
        assert self._image.wait(READY_S), "the base image is built"
        for node in self.nodes:
            node.wait()
        deadline = time.monotonic() + READY_S
        while len(self.requester.ask("/api/offers")) < 2:
            assert time.monotonic() < deadline, "two offers are heard"
            time.sleep(0.2)

    def stop(self) -> None:
        """End all of it."""
        for node in (*self.nodes, *self.guests):
            node.tell(signal.SIGKILL)
        for node in (*self.nodes, *self.guests):
            node.kill()  # what it would do on the way out is no part of these tests
        try:
            if self.nodes and all(node.config.exists() for node in self.nodes):
                trio.run(self._scrub)
        finally:
            with contextlib.suppress(trio.RunFinishedError):  # it never got so far
                trio.from_thread.run_sync(self._over.set, trio_token=self._trio)
            self._thread.join()
            shutil.rmtree(self.home, ignore_errors=True)

    def on_chain(self, work: Callable[[Devnet, Rpc], Awaitable[T]]) -> T:
        """Do something on the chain, from any thread."""

        async def do() -> T:
            assert self.devnet is not None
            async with Rpc((self.devnet.url,)) as rpc:
                return await work(self.devnet, rpc)

        return trio.from_thread.run(do, trio_token=self._trio)

    async def _live(self, ready: bool) -> None:
        self._trio, self._over = trio.lowlevel.current_trio_token(), trio.Event()
        try:
            async with run_devnet(windows=QUICK) as self.devnet, Rpc((self.devnet.url,)) as rpc:
                names = ("provider-1", "provider-2", "requester")
                for index, name in enumerate(names):
                    node = Node(name, self.home / name, self.devnet.keys[index + 1])
                    (node.home / "data" / "images").mkdir(parents=True)
                    self.nodes.append(node)
                async with trio.open_nursery() as building:
                    building.start_soon(trio.to_thread.run_sync, self._build)
                    async with trio.open_nursery() as nursery:
                        for index, node in enumerate(self.nodes):
                            nursery.start_soon(self._fund, node, rpc, index, ready)
                    self._begun.set()
                    await self._over.wait()
        except Exception as problem:
            self._failure = problem
            self._begun.set()
            await self._over.wait()

    def _build(self) -> None:
        """Without numpy and without compiling: jobs here say hello and count."""
        image = self.nodes[2].home / "data" / "images" / "base.tar"
        build_base_image(image, (), compiled=False)
        self._image.set()

    async def _fund(self, node: Node, rpc: Rpc, index: int, ready: bool) -> None:
        assert self.devnet is not None
        signer = load_or_create(node.home / "data" / "keys")
        wallet = self.devnet.wallet(rpc, index + 1)
        node.wallet, node.operator = wallet.address, signer.operator
        node.key_of_peer = signer.peer
        await wallet.mint(wallet.address, MINTED * MILLION)
        await wallet.send_gas(signer.operator, 10**18)
        if index < 2 or ready:
            await wallet.deposit(50 * MILLION)
            await wallet.authorise(signer.operator, 50 * MILLION, int(time.time()) + 30 * 86_400)
        if index < 2:
            await wallet.stake(20 * MILLION)

    async def _scrub(self) -> None:
        for node in self.nodes[:2]:
            place = to_place(load(node.config))
            assert place.sandbox is not None
            blobs = await open_blobs(node.home / "data" / "blobs", bytes_max=1 << 40,
                                     pinned=frozenset)  # fmt: skip
            sandbox = OciSandbox(place.sandbox, blobs, discover(place.declared))
            for work in await sandbox.works():
                await sandbox.scrub(work)


def free_port() -> int:
    """A port nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def toml(node: Node, devnet: Devnet | None, port: int, bootstrap: str, price: str | None) -> str:
    """A node's configuration; with a price it sells one CPU unit."""
    assert devnet is not None
    lines = [
        'network = "devnet"',
        f'rpc = ["{devnet.url}"]',
        f"chain_id = {CHAIN_ID}",
        f'escrow = "0x{devnet.escrow.hex()}"',
        f'token = "0x{devnet.token.hex()}"',
        f'wallet = "0x{node.wallet.hex()}"',
        f'listen = ["/ip4/127.0.0.1/tcp/{port}"]',
        f"bootstrap = [{bootstrap}]",
        f'data_dir = "{node.home / "data"}"',
        f'web = "127.0.0.1:{node.port}"',
    ]
    if price is not None:
        mark = f"web{os.getpid()}-{node.name[-1]}"
        lines += [
            "[provider]", f'price_per_hour = "{price}"', 'collateral_per_unit = "2.00"',
            'geolocation = "local"', "cpu_cores = 1", 'cpu_ram = "1GB"', 'disk_space = "1GB"',
            "[[provider.units]]", 'name = "CPU"', "count = 1", 'ram = "1GB"',
            "[sandbox]", f'instance = "{mark}"',
            f"uid_base = {600_000 + 65_536 * 4 * int(node.name[-1])}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"
