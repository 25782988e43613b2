"""Devnet: a local chain for demonstrations and tests, with escrow and test token deployed."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass

import trio
from eth_account import Account as KeyAccount

from market.errors import ChainError
from node.adapters.ethereum.deployment import LOCAL, Windows
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.settings import ChainConfig
from node.adapters.ethereum.wallet import Wallet

MNEMONIC = "test test test test test test test test test test test junk"
CHAIN_ID = 31337
KEYS = 10  # as many as anvil funds
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Devnet:
    """A running local chain. `keys` are anvil's public test keys: never use them elsewhere."""

    url: str
    escrow: bytes
    token: bytes
    keys: tuple[bytes, ...]
    chain_id: int = CHAIN_ID

    @property
    def config(self) -> ChainConfig:
        """For `open_chain`."""
        return ChainConfig((self.url,), self.chain_id, self.escrow, self.token, poll_s=0.25)

    def wallet(self, rpc: Rpc, index: int) -> Wallet:
        """The wallet of one test key."""
        return Wallet(rpc, self.keys[index], self.chain_id, self.escrow, self.token)


def _dies_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_keys(count: int) -> tuple[bytes, ...]:
    """The first keys of the public test mnemonic."""
    KeyAccount.enable_unaudited_hdwallet_features()
    return tuple(
        bytes(KeyAccount.from_mnemonic(MNEMONIC, account_path=f"m/44'/60'/0'/0/{index}").key)
        for index in range(count)
    )


@asynccontextmanager
async def run_devnet(
    anvil: str | None = None,
    *,
    port: int = 0,
    block_time_s: float = 1,
    chain_id: int = CHAIN_ID,
    windows: Windows = LOCAL,
) -> AsyncIterator[Devnet]:
    """A chain that makes a block each `block_time_s` (0: one per transaction) until the exit.

    With another chain id it stands in for that chain in a rehearsal.

    Raises ChainError if anvil is missing or does not start.
    """
    port = port or free_port()
    process = launch(anvil, port=port, block_time_s=block_time_s, chain_id=chain_id)
    url = f"http://127.0.0.1:{port}"
    try:
        yield await deploy(url, process, chain_id, windows)
    finally:
        process.terminate()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(process.wait)


def launch(
    anvil: str | None = None, *, port: int, block_time_s: float = 1, chain_id: int = CHAIN_ID
) -> subprocess.Popen[bytes]:
    """The process of a local chain, which ends with ours. Raises ChainError if there is none."""
    program = anvil or os.environ.get("ANVIL", "anvil")
    command = [
        program, "--host", "127.0.0.1", "--port", str(port), "--silent", "--chain-id",
        str(chain_id), "--mnemonic", MNEMONIC, "--hardfork", "cancun",
    ]  # fmt: skip
    if block_time_s:
        command += ["--block-time", str(block_time_s)]
    try:
        return subprocess.Popen(  # a fork, and it must get the death signal
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=_dies_with_parent,
        )  # fmt: skip
    except OSError as problem:
        raise ChainError(f"{program} cannot be started", hint="run: ./run setup") from problem


async def deploy(
    url: str, process: subprocess.Popen[bytes], chain_id: int = CHAIN_ID, windows: Windows = LOCAL
) -> Devnet:
    """Test token and escrow on a fresh local chain, by its first test key. Raises ChainError."""
    async with Rpc((url,)) as rpc:
        await _until_up(rpc, process)
        keys = test_keys(KEYS)
        deployer = Wallet(rpc, keys[0], chain_id, bytes(20), bytes(20))
        token = await deployer.deploy("TestToken")
        escrow = await deployer.deploy("Escrow", astuple(windows))
    return Devnet(url, escrow, token, keys, chain_id)


async def _until_up(rpc: Rpc, process: subprocess.Popen[bytes]) -> None:
    with trio.move_on_after(START_S):
        while process.poll() is None:
            try:
                await rpc.ask("eth_chainId")
                return
            except ChainError:
                await trio.sleep(0.1)
    raise ChainError("the local chain did not start", hint="run: ./run setup")
