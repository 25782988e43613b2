"""The simulated escrow keeps the contract of the port Chain, so that simulations mean something."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import trio

from market.units import UnixTime
from tests.adapters.contract_chain import *  # noqa: F403
from tests.adapters.contract_chain import FUNDS, STAKE, ChainWorld, Party
from tests.simulation.chain import Blocks, SimChain
from tests.simulation.escrow import Ledger
from tests.simulation.memory import SimSigner

BLOCK_S = 0.005  # of real time: the contract's tests do not know that there may be a mock clock


@pytest.fixture
async def world() -> AsyncIterator[ChainWorld]:
    ledger, time_s = Ledger(), 1_800_000_000
    blocks = Blocks(ledger, lambda: UnixTime(time_s), BLOCK_S)
    parties = []
    for number in (1, 2):
        signer, wallet = SimSigner(number), bytes([number]) * 20
        ledger.deposit(wallet, FUNDS)
        ledger.authorise(wallet, signer.operator)
        parties.append(Party(wallet, signer, SimChain(blocks, signer.operator, random.Random(1))))
    ledger.lock_stake(parties[1].wallet, STAKE)

    async def now() -> int:
        return time_s

    async def pass_time(seconds: int) -> None:
        nonlocal time_s
        time_s += seconds
        blocks.add_block()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(blocks.mine)
        yield ChainWorld(*parties, now=now, pass_time=pass_time)
        nursery.cancel_scope.cancel()
    assert ledger.total() == 2 * FUNDS
