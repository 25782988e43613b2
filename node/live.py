"""Live: the ports filled with the real network, chain, sandbox and disk. The composition root.

The twin of `tests/simulation/world.py`: the same `run_node` runs in both.
"""

from __future__ import annotations

import hashlib
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import structlog
import trio

from market.errors import SpecError
from node.adapters.devices.declared import Declared
from node.adapters.devices.discover import discover
from node.adapters.disk.blobs import open_blobs
from node.adapters.disk.logs import Logs
from node.adapters.ethereum.chain import ChainConfig, open_chain
from node.adapters.keystore.signer import load_or_create
from node.adapters.libp2p.host import NetworkConfig
from node.adapters.libp2p.network import run_network
from node.adapters.oci.driver import OciSandbox
from node.adapters.oci.settings import OciSettings
from node.adapters.sqlite.journal import open_journal
from node.adapters.system.clock import SystemClock
from node.adapters.system.entropy import SystemEntropy
from node.app import run_node
from node.cli.settings import Settings, to_config
from node.control import Control
from node.nosandbox import NoSandbox
from node.ports import Devices, Ports, Sandbox
from node.web.server import Serving, serve

BLOBS_BYTES_MAX = 64 * 1024**3
log = structlog.get_logger("live")


async def run(settings: Settings) -> None:
    """Run a node by its settings until SIGTERM or Ctrl-C.

    Raises MarketError, with what to do, if network, chain, keys or sandbox are not usable.
    """
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    async with open_node(settings) as control, trio.open_nursery() as nursery:
        where = partial(serve, socket_path=settings.socket_path, tcp=settings.web)
        serving: Serving = await nursery.start(where, control)
        log.info("ready", socket=str(serving.socket_path), web=serving.url,
                 addresses=control.ports.link.addresses())  # fmt: skip
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                log.info("stopping; jobs go on in their sandboxes")
                nursery.cancel_scope.cancel()
                return


def chain_config(settings: Settings) -> ChainConfig:
    """Where the settings' chain is. Raises SpecError for what they lack."""
    if settings.escrow is None or settings.token is None or not settings.rpc:
        raise SpecError("escrow, token and rpc must be configured", hint="see docs/OPERATIONS.md")
    local = settings.network == "devnet"
    return ChainConfig(
        urls=settings.rpc,
        chain_id=settings.chain_id,
        escrow=settings.escrow,
        token=settings.token,
        confirmations=1 if local else 3,
        poll_s=0.25 if local else 2.0,
    )


def sandbox_settings(settings: Settings) -> OciSettings:
    """Where jobs run. The instance is named after the data directory, to tell nodes apart."""
    state = settings.sandbox.state or settings.data_dir / "sandbox"
    name = hashlib.sha256(str(settings.data_dir).encode()).hexdigest()[:12]
    sold = settings.provider
    return OciSettings(
        state_dir=state,
        instance=f"n{name}",
        runtime=settings.sandbox.runtime,
        cpus=sold.cpu_cores if sold else 1,
        memory_mib=sold.cpu_ram_mib if sold else 1024,
        disk_mib=sold.disk_space_mib if sold else 1024,
    )


def devices_of(settings: Settings) -> Devices:
    """The machine's units: those that the owner declares, else those that a driver finds."""
    groups = settings.provider.units if settings.provider else ()
    if not groups:
        return discover(None)
    first = groups[0]
    return discover(Declared(first.count, first.name, first.ram_mib))


@asynccontextmanager
async def open_node(settings: Settings) -> AsyncIterator[Control]:
    """A running node; it is on the network and follows the chain by the time it is yielded."""
    data = settings.data_dir
    await trio.Path(data).mkdir(parents=True, exist_ok=True, mode=0o700)
    place = chain_config(settings)
    signer = load_or_create(data / "keys")
    clock = SystemClock()
    local = settings.network == "devnet"
    network_config = NetworkConfig(
        listen=settings.listen,
        bootstrap=settings.bootstrap,
        topics=("offers", "demands"),
        address_book=data / "peers.json",
        ping_interval_s=3.0 if local else 15.0,
    )
    async with AsyncExitStack() as stack:
        journal = await stack.enter_async_context(open_journal(data / "journal.sqlite"))
        blobs = await open_blobs(data / "blobs", bytes_max=BLOBS_BYTES_MAX, pinned=frozenset)
        chain = await stack.enter_async_context(open_chain(place, signer.operator_key))
        config = to_config(settings, chain.info.decimals)
        devices = devices_of(settings)
        sandbox: Sandbox = NoSandbox()
        if config.selling is not None:
            sandbox = OciSandbox(sandbox_settings(settings), blobs, devices)
        network = await stack.enter_async_context(run_network(network_config, signer.seed, clock))
        ports = Ports(
            gossip=network,
            link=network,
            chain=chain,
            sandbox=sandbox,
            devices=devices,
            blobs=blobs,
            logs=Logs(data / "logs"),
            journal=journal,
            signer=signer,
            clock=clock,
            entropy=SystemEntropy(),
        )
        nursery = await stack.enter_async_context(trio.open_nursery())
        control: Control = await nursery.start(run_node, config, ports)
        try:
            yield control
        finally:
            nursery.cancel_scope.cancel()
