"""Live: the ports filled with the real network, chain, sandbox and disk. The composition root.

The twin of `tests/simulation/world.py`: the same `run_node` runs in both.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from node.adapters.bench.process import ProcessBench
from node.adapters.devices.declared import Declared
from node.adapters.devices.discover import discover
from node.adapters.disk.blobs import open_blobs
from node.adapters.disk.logs import Logs
from node.adapters.engine.driver import EngineSandbox
from node.adapters.ethereum.chain import open_chain
from node.adapters.ethereum.settings import ChainConfig
from node.adapters.keystore.signer import load_or_create
from node.adapters.libp2p.host import NetworkConfig
from node.adapters.libp2p.network import run_network
from node.adapters.oci.alone import alone
from node.adapters.oci.driver import OciSandbox
from node.adapters.oci.settings import OciSettings
from node.adapters.outside.tcp import TcpOutside
from node.adapters.registry.client import open_registry
from node.adapters.registry.settings import RegistrySettings
from node.adapters.sqlite.journal import open_journal
from node.adapters.system.clock import SystemClock
from node.adapters.system.entropy import SystemEntropy
from node.app import run_node
from node.config import Config
from node.control import Control
from node.nosandbox import NoSandbox
from node.ports import Ports, Sandbox

BLOBS_BYTES_MAX = 64 * 1024**3


@dataclass(frozen=True, slots=True)
class Place:
    """Where a node lives on its machine and whom it knows at first."""

    data_dir: Path
    chain: ChainConfig
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001",)
    bootstrap: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()
    reachable: bool | None = None
    relay: bool | None = None
    relay_kbps: int = 32_000
    password_file: Path | None = None
    declared: Declared | tuple[Declared, ...] | None = None
    sandbox: OciSettings | None = None
    ping_interval_s: float = 15.0
    registries: RegistrySettings = field(default_factory=RegistrySettings)


@asynccontextmanager
async def open_node(config: Config, place: Place) -> AsyncIterator[Control]:
    """A running node; it is on the network and follows the chain by the time it is yielded.

    Raises MarketError, with what to do, if network, chain, keys or sandbox are not usable.
    """
    data = place.data_dir
    await trio.Path(data).mkdir(parents=True, exist_ok=True, mode=0o700)
    signer = load_or_create(data / "keys", place.password_file)
    clock = SystemClock()
    network_config = NetworkConfig(
        listen=place.listen,
        bootstrap=place.bootstrap,
        topics=config.topics,
        address_book=data / "peers.json",
        ping_interval_s=place.ping_interval_s,
        announce=place.announce,
        reachable=place.reachable,
        relay=place.relay,
        relay_bytes_per_s=place.relay_kbps * 125,
    )
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(data / "journal.sqlite"))
        blobs = await open_blobs(data / "blobs", bytes_max=BLOBS_BYTES_MAX, pinned=frozenset)
        registry = await stack.enter_async_context(open_registry(place.registries))
        chain_config = replace(place.chain, outbox=data / "transactions.sqlite")
        chain = await stack.enter_async_context(open_chain(chain_config, signer.operator_key))
        devices = discover(place.declared, data / "units.json")
        sandbox: Sandbox = NoSandbox()
        if config.selling is not None:
            settings = place.sandbox or OciSettings(state_dir=data / "sandbox")
            stack.enter_context(alone(settings))
            make = OciSandbox if settings.driver == "oci" else EngineSandbox
            # It may ask an engine over a socket, or wake what a killed node left asleep.
            sandbox = await trio.to_thread.run_sync(make, settings, blobs, devices)
        network = await stack.enter_async_context(run_network(network_config, signer.seed, clock))
        ports = Ports(
            gossip=network,
            link=network,
            chain=chain,
            sandbox=sandbox,
            devices=devices,
            bench=ProcessBench(data),
            blobs=blobs,
            registry=registry,
            outside=TcpOutside(),
            logs=Logs(data / "logs"),
            journal=journal,
            signer=signer,
            clock=clock,
            entropy=SystemEntropy(),
            errands=chain.errands,
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        control: Control = await nursery.start(run_node, config, ports)
        try:
            yield control
        finally:
            nursery.cancel_scope.cancel()
