"""Stage: two parties with money and authorised keys on a local chain. Reused, by snapshots."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from node.adapters.ethereum.answers import number
from node.adapters.ethereum.chain import EthereumChain, open_chain
from node.adapters.ethereum.devnet import Devnet
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.settings import ChainConfig
from node.adapters.keystore.signer import FileSigner
from tests.adapters.contract_chain import FUNDS, STAKE, ChainWorld, Party

SIGNERS = tuple(FileSigner(bytes([n]) * 32, bytes([0x40 + n]) * 32) for n in (1, 2))
UNLIMITED = 2**128 - 1


@dataclass
class Stage:
    """A chain, and its snapshot with both parties funded. Party n has the test wallet n + 1."""

    devnet: Devnet
    snapshot: str

    @property
    def config(self) -> ChainConfig:
        """Quick, because nobody else waits for this chain."""
        return replace(self.devnet.config, poll_s=0.05, resend_s=0.3, stuck_s=1.0, give_up_s=20.0)


async def fund(
    url: str,
    process: subprocess.Popen[bytes],
    deploy: Callable[[str, subprocess.Popen[bytes]], Awaitable[Devnet]],
) -> Stage:
    """FUNDS for each wallet in the escrow, STAKE of the provider's staked, both keys authorised."""
    devnet = await deploy(url, process)
    async with Rpc((url,)) as rpc:
        for index, signer in enumerate(SIGNERS):
            wallet = devnet.wallet(rpc, index + 1)
            await wallet.mint(wallet.address, 2 * FUNDS)
            await wallet.deposit(FUNDS)
            await wallet.authorise(signer.operator, UNLIMITED, 2**40 - 1)
            await wallet.send_gas(signer.operator, 10**18)
        await devnet.wallet(rpc, 2).stake(STAKE)
        return Stage(devnet, await rpc.ask("evm_snapshot"))


@asynccontextmanager
async def open_world(
    stage: Stage, rpc: Rpc, *, urls: tuple[str, ...] = (), **config: Any
) -> AsyncIterator[ChainWorld]:
    """Both parties with their adapters; by way of `urls`, if any are named."""
    chosen = replace(stage.config, urls=urls or (stage.devnet.url,), **config)
    async with (
        open_chain(chosen, SIGNERS[0].operator_key) as first,
        open_chain(replace(chosen, outbox=None), SIGNERS[1].operator_key) as second,
    ):
        yield world_of(stage, rpc, first, second)


def world_of(stage: Stage, rpc: Rpc, first: EthereumChain, second: EthereumChain) -> ChainWorld:
    """A world over two adapters."""
    parties = [
        Party(devnet_address(stage, index + 1), signer, chain)
        for index, (signer, chain) in enumerate(zip(SIGNERS, (first, second), strict=True))
    ]

    async def now() -> int:
        block = await rpc.ask("eth_getBlockByNumber", "latest", False)
        return number(block["timestamp"])

    async def pass_time(seconds: int) -> None:
        await rpc.ask("evm_increaseTime", seconds)
        await rpc.ask("evm_mine")

    return ChainWorld(parties[0], parties[1], now=now, pass_time=pass_time)


def devnet_address(stage: Stage, index: int) -> bytes:
    """The address of a test key."""
    return FileSigner(bytes(32), stage.devnet.keys[index]).operator
