"""Town: a whole market on this machine: a local chain and a few nodes, each a process of `souk up`.

`souk devnet` lives in one, and the demo kills people there. Wallets are anvil's public test keys:
play money. Whatever happens, nothing of it is left when the town is left.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from market.errors import MarketError
from node.adapters.devices.discover import discover
from node.adapters.disk.blobs import open_blobs
from node.adapters.ethereum.devnet import Devnet, run_devnet
from node.adapters.ethereum.rpc import Rpc
from node.adapters.keystore.signer import load_or_create
from node.adapters.oci.driver import OciSandbox
from node.cli.daemon import to_place
from node.cli.settings import load

MILLION: Final = 1_000_000  # base units of a whole test token
READY_S: Final = 120.0
FUNDS: Final = 100 * MILLION
DEPOSIT: Final = 50 * MILLION
STAKE: Final = 20 * MILLION


class TownError(MarketError):
    """The nodes of the local market did not come up."""

    code = "devnet"


@dataclass
class Member:
    """One node: where it lives, what it asks (None: it only requests), and its process."""

    name: str
    home: Path
    price_per_hour: str | None = None
    instance: str = "devnet"
    extra: Mapping[str, str] = field(default_factory=dict)  # TOML for top, provider, and the end
    network: str = "devnet"  # or custom: the same chain under the rules of a public network
    wallet: bytes = b""
    operator: bytes = b""
    process: subprocess.Popen[bytes] | None = None
    peer: str = ""
    url: str = ""

    @property
    def config(self) -> Path:
        """Its configuration file."""
        return self.home / "config.toml"

    @property
    def data(self) -> Path:
        """Its directory."""
        return self.home / "data"

    def client(self) -> httpx.AsyncClient:
        """Asks this node over its own socket, as the commands do."""
        transport = httpx.AsyncHTTPTransport(uds=str(self.data / "node.sock"))
        return httpx.AsyncClient(transport=transport, base_url="http://node", timeout=20)

    def start(self) -> None:
        """`souk up`, in its own process group, ended by the kernel if we die."""
        with (self.home / "node.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "node.cli.main", "up", "--config", str(self.config)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=_dies_with_parent,
            )  # fmt: skip

    def kill(self, number: int) -> None:
        """Send a signal and wait until the process is gone."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(15)
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    async def until_ready(self) -> None:
        """Wait until it answers. Raises TownError with the end of its log."""
        with trio.move_on_after(READY_S):
            while self.process is not None and self.process.poll() is None:
                with contextlib.suppress(httpx.HTTPError):
                    async with self.client() as client:
                        status: dict[str, Any] = (await client.get("/api/status")).json()
                    self.peer, self.url = status["peer"], status["url"] or ""
                    return
                await trio.sleep(0.3)
        tail = (self.home / "node.log").read_text(errors="replace")[-1500:]
        raise TownError(f"{self.name} did not start:\n{tail}")

    def toml(self, devnet: Devnet, bootstrap: Sequence[str]) -> str:
        """Its configuration."""
        listed = ", ".join(f'"{address}"' for address in bootstrap)
        lines = [
            f'network = "{self.network}"',
            "confirmations = 1",
            f'rpc = ["{devnet.url}"]',
            f"chain_id = {devnet.chain_id}",
            f'escrow = "0x{devnet.escrow.hex()}"',
            f'token = "0x{devnet.token.hex()}"',
            f'wallet = "0x{self.wallet.hex()}"',
            'listen = ["/ip4/127.0.0.1/tcp/0"]',
            f"bootstrap = [{listed}]",
            f'data_dir = "{self.data}"',
            'web = "127.0.0.1:0"',
            self.extra.get("top", ""),
        ]
        if self.price_per_hour is not None:
            number = int(self.name.rpartition("-")[2])
            lines += [
                "[provider]", self.extra.get("provider", ""),
                f'price_per_hour = "{self.price_per_hour}"',
                'collateral_per_unit = "2.00"', 'geolocation = "local"', "cpu_cores = 1",
                'cpu_ram = "1GB"', 'disk_space = "1GB"',
                "[[provider.units]]", 'name = "CPU"', "count = 1", 'ram = "1GB"',
                "[sandbox]", f'instance = "{self.instance}-{number}"',
                f"uid_base = {300_000 + 65_536 * 4 * number}",
            ]  # fmt: skip
        return "\n".join([*lines, self.extra.get("end", "")]) + "\n"


@dataclass(frozen=True)
class Town:
    """The chain and the nodes on it, providers first."""

    devnet: Devnet
    members: tuple[Member, ...]
    bootstrap: str  # the address of its first node

    @property
    def providers(self) -> tuple[Member, ...]:
        """Who sells."""
        return tuple(one for one in self.members if one.price_per_hour is not None)

    @property
    def requester(self) -> Member:
        """Who only requests."""
        return self.members[-1]


@asynccontextmanager
async def open_town(members: Sequence[Member], said: Callable[[str], None]) -> AsyncIterator[Town]:
    """Chain and nodes, up and funded. `said` hears what happens. Raises MarketError."""
    async with run_devnet() as devnet, Rpc((devnet.url,)) as rpc:
        said(f"local chain at {devnet.url}, escrow 0x{devnet.escrow.hex()}")
        try:
            async with trio.open_nursery() as nursery:
                for index, member in enumerate(members):
                    member.data.mkdir(parents=True, exist_ok=True)
                    nursery.start_soon(partial(_fund, member, devnet, rpc, index + 1))
            bootstrap: list[str] = []
            for member in members:
                member.config.write_text(member.toml(devnet, bootstrap))
                member.start()
                await member.until_ready()
                async with member.client() as client:
                    status = (await client.get("/api/status")).json()
                bootstrap = bootstrap or status["addresses"][:1]
                pid = member.process.pid if member.process else "?"
                said(f"{member.name}: process {pid}, peer {member.peer[:12]}")
            yield Town(devnet, tuple(members), bootstrap[0] if bootstrap else "")
        finally:
            with trio.CancelScope(shield=True):
                for member in members:
                    await trio.to_thread.run_sync(member.kill, signal.SIGTERM)
                for member in members:
                    if member.config.exists():
                        await _scrub(member)


async def _fund(member: Member, devnet: Devnet, rpc: Rpc, index: int) -> None:
    """A wallet with test money in the escrow, and the node's key authorised to use some of it."""
    signer = load_or_create(member.data / "keys")
    wallet = devnet.wallet(rpc, index)
    member.wallet, member.operator = wallet.address, signer.operator
    await wallet.mint(wallet.address, FUNDS)
    await wallet.deposit(DEPOSIT)
    if member.price_per_hour is not None:
        await wallet.stake(STAKE)
    await wallet.authorise(signer.operator, DEPOSIT, int(time.time()) + 30 * 86_400)
    await wallet.send_gas(signer.operator, 10**18)


async def _scrub(member: Member) -> None:
    """What runs on without its node is ended too."""
    settings = load(member.config)
    if settings.provider is None:
        return
    place = to_place(settings)
    assert place.sandbox is not None, "who sells has a sandbox"
    blobs = await open_blobs(place.data_dir / "blobs", bytes_max=1 << 40, pinned=frozenset)
    sandbox = OciSandbox(
        place.sandbox, blobs, discover(place.declared, place.data_dir / "units.json")
    )
    for work in await sandbox.works():
        await sandbox.scrub(work)


def _dies_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
