"""Provider: web3.py over our own RPC. `AsyncWeb3` needs asyncio only for its default provider; with
this one its contracts, calls and codecs run under trio, with failover and checks beneath.

Not for `wait_for_transaction_receipt` and batches, which reach for an event loop themselves.
"""

from __future__ import annotations

import functools
from typing import Any

from web3 import AsyncWeb3
from web3.exceptions import Web3Exception
from web3.providers.async_base import AsyncJSONBaseProvider

from market.errors import ChainError
from node.adapters.ethereum.answers import AnswerError
from node.adapters.ethereum.contract import artifact
from node.adapters.ethereum.rpc import Rpc


class TrioProvider(AsyncJSONBaseProvider):  # type: ignore[misc]  # web3 is untyped here
    """Hands web3's requests to an `Rpc`."""

    global_ccip_read_enabled = False  # no contract tells this node to fetch an address (EIP-3668)

    def __init__(self, rpc: Rpc) -> None:
        """Shares the connection and its failover."""
        super().__init__()
        self._rpc = rpc

    async def make_request(self, method: str, params: Any) -> dict[str, Any]:
        """As web3 wants it. Raises RpcError or ChainError, never web3's own."""
        result: Any = await self._rpc.ask(method, *(params or ()))
        return {"jsonrpc": "2.0", "id": 0, "result": result}

    async def is_connected(self, show_traceback: bool = False) -> bool:
        """Whoever asks finds out."""
        return True


class Contracts:
    """The escrow, and tokens, as web3's contracts."""

    def __init__(self, rpc: Rpc, escrow: bytes) -> None:
        """Asks nothing yet."""
        self.web3: Any = AsyncWeb3(TrioProvider(rpc))
        self.escrow: Any = self.at("Escrow", escrow)

    def at(self, name: str, address: bytes) -> Any:
        """A contract of a committed build."""
        checksummed = AsyncWeb3.to_checksum_address(address)
        return self.web3.eth.contract(address=checksummed, abi=artifact(name)["abi"])

    async def view(self, function: Any, block: int | None = None) -> Any:
        """What a bound function returns at a block (None: the newest). Raises ChainError."""
        try:
            return await function.call(block_identifier="latest" if block is None else block)
        except (
            Web3Exception,
            ValueError,
            TypeError,
            OverflowError,
        ) as problem:  # of web3, never ours
            raise AnswerError("the contract's answer makes no sense") from problem


@functools.cache
def creation(name: str, *arguments: object) -> str:
    """The data of a deployment of a committed build, in hex."""
    built = artifact(name)
    factory: Any = AsyncWeb3().eth.contract(abi=built["abi"], bytecode=built["bytecode"])
    data = factory.constructor(*arguments).data_in_transaction
    if not isinstance(data, str):
        raise ChainError(f"{name} cannot be deployed")
    return data
