"""Wallet: what a person does with a cold key. Used by the CLI and by set-up, never by the node.

A *plan* is the calls that a wish takes, in order; it can be shown, estimated, handed to a wallet
elsewhere, or carried out here with the key.
"""

from __future__ import annotations

from typing import Any

from eth_account import Account as KeyAccount
from web3 import Web3

from market.errors import ChainError
from node.adapters.ethereum.contract import call
from node.adapters.ethereum.outbox import Outbox
from node.adapters.ethereum.pending import Call, Pace
from node.adapters.ethereum.plans import Plans
from node.adapters.ethereum.provider import creation
from node.adapters.ethereum.rpc import Rpc
from node.adapters.ethereum.sender import Sender

FEE_CAP_WEI = 200_000_000_000


class Wallet:
    """One key, one escrow, one token. Amounts in base units."""

    def __init__(
        self, rpc: Rpc, key: bytes, chain_id: int, escrow: bytes, token: bytes,
        fee_cap_wei: int = FEE_CAP_WEI, pace: Pace | None = None,
    ) -> None:  # fmt: skip
        """The key stays in this object and is shown to nobody."""
        account = KeyAccount.from_key(key)
        self.address: bytes = bytes.fromhex(account.address[2:])
        self.plans = Plans(rpc, chain_id, escrow, token)
        self._sign_typed = account.sign_typed_data
        self._token = token
        self.sender = Sender(rpc, key, chain_id, fee_cap_wei, Outbox.in_memory(), pace)

    async def perform(self, plan: tuple[Call, ...]) -> bytes:
        """Carry out the calls one after another; the hash of the last transaction.

        Raises ChainRefusedError with the contract's reason, and then the rest is not sent.
        """
        tx = b""
        for step in plan:
            tx = (await self.sender.send(step)).tx
        if not tx:
            raise ChainError("there is nothing to do")
        return tx

    def sign_permit(self, permit: dict[str, Any]) -> bytes:
        """r, s, v of an EIP-2612 permit."""
        return bytes(self._sign_typed(full_message=permit).signature)

    async def deposit(self, amount: int) -> bytes:
        """Move tokens of the wallet into the escrow's ledger; one transaction with a permit."""
        plan = await self.plans.deposit(self.address, amount, self.sign_permit)
        return await self.perform(plan)

    async def stake(self, amount: int) -> bytes:
        """Move deposited money into the stake that backs agreements."""
        return await self.perform(self.plans.stake(amount))

    async def authorise(self, operator: bytes, allowance: int, expires_at_s: int) -> bytes:
        """Let a node's key open agreements with up to `allowance`, until then."""
        return await self.perform(self.plans.authorise(operator, allowance, expires_at_s))

    async def withdraw(self, amount: int) -> bytes:
        """Take free money out of the ledger, back to the wallet."""
        return await self.perform(self.plans.withdraw(amount))

    async def mint(self, to: bytes, amount: int) -> bytes:
        """Make test money. Works with the test token only."""
        data = call("TestToken", "mint", Web3.to_checksum_address(to), amount)
        return await self.perform((Call(self._token, data),))

    async def send_gas(self, to: bytes, wei: int) -> bytes:
        """Give a node's key what it needs for transactions."""
        return await self.perform((Call(to, "0x", wei),))

    async def deploy(self, name: str, *arguments: object) -> bytes:
        """Deploy a committed build; returns its address."""
        made = await self.sender.send(Call(b"", creation(name, *arguments)))
        return made.contract
