"""One local chain per module, put back to the same state before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import trio

from node.adapters.ethereum.devnet import deploy, free_port, launch
from node.adapters.ethereum.rpc import Rpc
from tests.adapters.contract_chain import ChainWorld
from tests.adapters.ethereum.proxy import Proxy, open_proxy
from tests.adapters.ethereum.stage import Stage, fund, open_world


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A chain with two funded parties."""
    port = free_port()
    process = launch(port=port, block_time_s=0)
    try:
        yield trio.run(fund, f"http://127.0.0.1:{port}", process, deploy)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
async def rpc(stage: Stage) -> AsyncIterator[Rpc]:
    """Straight to the chain, for what a test does to it."""
    async with Rpc((stage.devnet.url,)) as rpc:
        await rpc.ask("evm_revert", stage.snapshot)
        stage.snapshot = await rpc.ask("evm_snapshot")
        yield rpc


@pytest.fixture
async def proxy(stage: Stage, rpc: Rpc) -> AsyncIterator[Proxy]:
    """A second way to the chain, that can be made to fail."""
    async with open_proxy(stage.devnet.url) as opened:
        yield opened


@pytest.fixture
async def world(stage: Stage, rpc: Rpc) -> AsyncIterator[ChainWorld]:
    """Both parties, straight on the chain."""
    async with open_world(stage, rpc) as opened:
        yield opened


def pytest_collection_modifyitems(items: list[Any]) -> None:
    """All of this folder needs anvil."""
    for item in items:
        if "adapters/ethereum" in str(item.path):
            item.add_marker(pytest.mark.chain)
