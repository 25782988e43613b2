"""Transactions: one account's way onto the chain. Nonces in order, fees with a cap.

A revert is found by the estimate, before a nonce is spent. What is stuck is replaced with the same
nonce and higher fees; the first of them to be mined counts.
"""

from __future__ import annotations

from typing import Any, Final

import trio
from eth_account import Account as KeyAccount
from web3 import Web3

from market.errors import ChainError, ChainRefusedError
from node.adapters.ethereum.contract import reason
from node.adapters.ethereum.rpc import Rpc, RpcError, number, raw

GAS_MARGIN_PERCENT: Final = 130  # storage that others touch between estimate and block
BUMP_PERCENT: Final = 120  # a replacement must pay at least 12.5 % more
STUCK_S: Final = 30.0
GIVE_UP_S: Final = 120.0
TIP_WEI: Final = 1_000_000_000


class Sender:
    """Signs and sends for one key; several callers at once are served in turn."""

    def __init__(self, rpc: Rpc, key: bytes, chain_id: int, fee_cap_wei: int) -> None:
        """`fee_cap_wei` bounds what one unit of gas may cost."""
        self._rpc = rpc
        self._account = KeyAccount.from_key(key)
        self._chain_id = chain_id
        self._fee_cap_wei = fee_cap_wei
        self._turn = trio.Lock()
        self._next = -1

    @property
    def address(self) -> str:
        """Checksummed."""
        return str(self._account.address)

    async def send(self, to: bytes | None, data: str, value: int = 0) -> dict[str, Any]:
        """Send, wait until mined, return the receipt.

        Raises ChainRefusedError with the contract's reason if it reverts, ChainError otherwise.
        """
        call: dict[str, Any] = {"from": self.address, "data": data, "value": hex(value)}
        if to is not None:
            call["to"] = Web3.to_checksum_address(to)
        async with self._turn:
            gas = await self._estimate(call) * GAS_MARGIN_PERCENT // 100
            nonce = await self._nonce()
            fees = await self._fees()
            hashes = [await self._broadcast(call, nonce, gas, fees)]
            self._next = nonce + 1
        return await self._wait(call, nonce, gas, fees, hashes)

    async def _estimate(self, call: dict[str, Any]) -> int:
        try:
            return number(await self._rpc.ask("eth_estimateGas", call))
        except RpcError as problem:
            if problem.data or "revert" in str(problem):
                raise ChainRefusedError(reason=reason(problem.data)) from problem
            raise

    async def _nonce(self) -> int:
        pending = number(await self._rpc.ask("eth_getTransactionCount", self.address, "pending"))
        return max(pending, self._next)

    async def _fees(self) -> tuple[int, int]:
        block = await self._rpc.ask("eth_getBlockByNumber", "latest", False)
        base = number(block.get("baseFeePerGas", "0x0")) if isinstance(block, dict) else 0
        most = min(2 * base + TIP_WEI, self._fee_cap_wei)
        if most < base:
            raise ChainError(
                "gas costs more than the configured cap", hint="wait until gas is cheaper"
            )
        return most, min(TIP_WEI, most)

    async def _broadcast(
        self, call: dict[str, Any], nonce: int, gas: int, fees: tuple[int, int]
    ) -> str:
        transaction = {
            "type": 2, "chainId": self._chain_id, "nonce": nonce, "gas": gas,
            "maxFeePerGas": fees[0], "maxPriorityFeePerGas": fees[1],
            "value": int(call["value"], 16), "data": call["data"],
        }  # fmt: skip
        if "to" in call:
            transaction["to"] = call["to"]
        signed = self._account.sign_transaction(transaction)
        name = "0x" + bytes(signed.hash).hex()
        try:
            await self._rpc.ask("eth_sendRawTransaction", "0x" + signed.raw_transaction.hex())
        except RpcError as problem:
            text = str(problem).lower()
            if "already known" in text or "already imported" in text:
                return name
            self._next = -1  # ask the chain again what our nonce is
            raise
        except ChainError:
            self._next = -1
            raise
        return name

    async def _wait(
        self, call: dict[str, Any], nonce: int, gas: int, fees: tuple[int, int], hashes: list[str]
    ) -> dict[str, Any]:
        started = bumped = trio.current_time()
        pause_s = 0.1
        while trio.current_time() - started < GIVE_UP_S:
            for name in hashes:
                receipt = await self._rpc.ask("eth_getTransactionReceipt", name)
                if isinstance(receipt, dict) and receipt.get("status") is not None:
                    return await self._checked(call, receipt)
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 1.3, 2.0)
            if trio.current_time() - bumped > STUCK_S and len(hashes) < 4:
                raised = tuple(min(fee * BUMP_PERCENT // 100, self._fee_cap_wei) for fee in fees)
                fees = (raised[0], raised[1])
                bumped = trio.current_time()
                try:
                    hashes.append(await self._broadcast(call, nonce, gas, fees))
                except RpcError:
                    continue  # one of them was mined meanwhile
        raise ChainError("the transaction was not mined in time", hint="it may still be")

    async def _checked(self, call: dict[str, Any], receipt: dict[str, Any]) -> dict[str, Any]:
        if number(receipt["status"]) == 1:
            return receipt
        try:
            await self._rpc.ask("eth_call", call, receipt.get("blockNumber", "latest"))
        except RpcError as problem:
            raise ChainRefusedError(reason=reason(problem.data)) from problem
        raise ChainRefusedError(reason="reverted")


def receipt_hash(receipt: dict[str, Any]) -> bytes:
    """The hash of the transaction that was mined."""
    return raw(receipt["transactionHash"])
