"""Fixtures: a world of real networks on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from node.adapters.libp2p.network import Network
from tests.adapters.contract_network import Start
from tests.adapters.libp2p.world import World, world


@pytest.fixture
async def networks() -> AsyncIterator[World]:
    async with world() as networks:
        yield networks


@pytest.fixture
def start(networks: World) -> Start:
    async def start(number: int) -> Network:
        return await networks.start(number)

    return start
