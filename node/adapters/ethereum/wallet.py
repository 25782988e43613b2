"""Wallet: what a person does with a cold key. Used by the CLI and by set-up, never by the node."""

from __future__ import annotations

from eth_account import Account as KeyAccount
from web3 import Web3

from node.adapters.ethereum.contract import artifact, call
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.transactions import Sender, receipt_hash

FEE_CAP_WEI = 200_000_000_000


class Wallet:
    """One key, one escrow, one token. Amounts in base units."""

    def __init__(self, rpc: Rpc, key: bytes, chain_id: int, escrow: bytes, token: bytes) -> None:
        """The key stays in this object and is shown to nobody."""
        self._rpc = rpc
        self._sender = Sender(rpc, key, chain_id, FEE_CAP_WEI)
        self._escrow = escrow
        self._token = token
        self.address: bytes = bytes.fromhex(KeyAccount.from_key(key).address[2:])

    async def deposit(self, amount: int) -> bytes:
        """Move tokens of the wallet into the escrow's ledger."""
        escrow, token = map(Web3.to_checksum_address, (self._escrow, self._token))
        await self._sender.send(self._token, call("TestToken", "approve", escrow, amount))
        receipt = await self._sender.send(self._escrow, call("Escrow", "deposit", token, amount))
        return receipt_hash(receipt)

    async def stake(self, amount: int) -> bytes:
        """Move deposited money into the stake that backs agreements."""
        token = Web3.to_checksum_address(self._token)
        data = call("Escrow", "stake", token, amount)
        return receipt_hash(await self._sender.send(self._escrow, data))

    async def authorise(self, operator: bytes, allowance: int, expires_at_s: int) -> bytes:
        """Let a node's key open agreements with up to `allowance`, until then."""
        key, token = map(Web3.to_checksum_address, (operator, self._token))
        data = call("Escrow", "authorise", key, token, allowance, expires_at_s)
        return receipt_hash(await self._sender.send(self._escrow, data))

    async def withdraw(self, amount: int) -> bytes:
        """Take free money out of the ledger, back to the wallet."""
        data = call("Escrow", "withdraw", Web3.to_checksum_address(self._token), amount)
        return receipt_hash(await self._sender.send(self._escrow, data))

    async def mint(self, to: bytes, amount: int) -> bytes:
        """Make test money. Works with the test token only."""
        data = call("TestToken", "mint", Web3.to_checksum_address(to), amount)
        return receipt_hash(await self._sender.send(self._token, data))

    async def send_gas(self, to: bytes, wei: int) -> bytes:
        """Give a node's key what it needs for transactions."""
        return receipt_hash(await self._sender.send(to, "0x", wei))

    async def deploy(self, name: str, *arguments: object) -> bytes:
        """Deploy a committed build; returns its address."""
        contract = Web3().eth.contract(
            abi=artifact(name)["abi"], bytecode=artifact(name)["bytecode"]
        )
        data = contract.constructor(*arguments).data_in_transaction
        receipt = await self._sender.send(None, data)
        return bytes.fromhex(str(receipt["contractAddress"])[2:])
