"""Plans: which calls a wish about money takes. Signs nothing, sends nothing, knows no key."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from web3 import Web3

from market.errors import ChainError, FundsError
from node.adapters.ethereum.contract import call
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.provider import Contracts
from node.adapters.ethereum.rpc import Rpc

PERMIT_S: Final = 3600  # a permit signed now is used within minutes, or not at all


class Plans:
    """For one escrow and one token. Amounts in base units."""

    def __init__(self, rpc: Rpc, chain_id: int, escrow: bytes, token: bytes) -> None:
        """Asks nothing yet."""
        self._chain_id = chain_id
        self._escrow = escrow
        self._token = token
        self._contracts = Contracts(rpc, escrow)
        self._coin = self._contracts.at("TestToken", token)

    async def deposit(
        self,
        owner: bytes,
        amount: int,
        sign: Callable[[dict[str, Any]], bytes] | None = None,
        *,
        arriving: int = 0,
    ) -> tuple[Call, ...]:
        """One call with a permit (EIP-2612) if the token takes them and `sign` is there; else two.

        `arriving` is what earlier calls of the same plan bring into the wallet. Raises FundsError
        if it has less, ChainError.
        """
        address, checked = Web3.to_checksum_address(self._escrow), Web3.to_checksum_address(owner)
        has = await self._contracts.view(self._coin.functions.balanceOf(checked))
        if has + arriving < amount:
            raise FundsError(
                f"the wallet 0x{owner.hex()} has less of the token than that",
                hint="send it some first; souk wallet shows what it has",
            )
        permit = await self.permit(owner, amount) if sign is not None else None
        token = Web3.to_checksum_address(self._token)
        if permit is not None and sign is not None:
            signature = sign(permit)
            data = call(
                "Escrow", "depositWithPermit", token, amount, permit["message"]["deadline"],
                signature[64], signature[:32], signature[32:64],
            )  # fmt: skip
            return (Call(self._escrow, data),)
        allowed = await self._contracts.view(self._coin.functions.allowance(checked, address))
        into = Call(self._escrow, call("Escrow", "deposit", token, amount))
        if allowed >= amount:
            return (into,)
        return (Call(self._token, call("TestToken", "approve", address, amount)), into)

    async def permit(self, owner: bytes, amount: int) -> dict[str, Any] | None:
        """The EIP-712 message that lets the escrow take `amount`; None if the token has none.

        Its domain is the one that the token states (ERC-5267), so that nothing is guessed.
        """
        view, coin = self._contracts.view, self._coin.functions
        try:
            nonce = await view(coin.nonces(Web3.to_checksum_address(owner)))
            _, name, version, chain_id, contract, _, _ = await view(coin.eip712Domain())
        except ChainError:
            return None
        if chain_id != self._chain_id or bytes.fromhex(contract[2:]) != self._token:
            return None
        return {
            "types": {
                "EIP712Domain": _fields(
                    "string name,string version,uint256 chainId,address verifyingContract"
                ),
                "Permit": _fields(
                    "address owner,address spender,uint256 value,uint256 nonce,uint256 deadline"
                ),
            },
            "primaryType": "Permit",
            "domain": {
                "name": name, "version": version, "chainId": chain_id,
                "verifyingContract": contract,
            },
            "message": {
                "owner": Web3.to_checksum_address(owner),
                "spender": Web3.to_checksum_address(self._escrow),
                "value": amount, "nonce": nonce, "deadline": int(time.time()) + PERMIT_S,
            },
        }  # fmt: skip

    def withdraw(self, amount: int) -> tuple[Call, ...]:
        """Free balance back to the wallet."""
        return self._one("withdraw", self._named_token, amount)

    def stake(self, amount: int) -> tuple[Call, ...]:
        """Free balance to stake."""
        return self._one("stake", self._named_token, amount)

    def thaw(self, amount: int) -> tuple[Call, ...]:
        """Stake to thawing; the clock starts anew for all that thaws."""
        return self._one("unstake", self._named_token, amount)

    def take_thawed(self) -> tuple[Call, ...]:
        """What has thawed to the free balance."""
        return self._one("completeUnstake", self._named_token)

    def authorise(self, operator: bytes, allowance: int, expires_at_s: int) -> tuple[Call, ...]:
        """Let a node's key lock up to `allowance` until then."""
        key = Web3.to_checksum_address(operator)
        return self._one("authorise", key, self._named_token, allowance, expires_at_s)

    def revoke(self, operator: bytes) -> tuple[Call, ...]:
        """Let it lock nothing any more."""
        return self._one("revoke", Web3.to_checksum_address(operator), self._named_token)

    def mint(self, to: bytes, amount: int) -> tuple[Call, ...]:
        """Test money; only a test token has such a function."""
        data = call("TestToken", "mint", Web3.to_checksum_address(to), amount)
        return (Call(self._token, data),)

    @property
    def _named_token(self) -> str:
        return str(Web3.to_checksum_address(self._token))

    def _one(self, function: str, *arguments: object) -> tuple[Call, ...]:
        return (Call(self._escrow, call("Escrow", function, *arguments)),)


def _fields(text: str) -> list[dict[str, str]]:
    return [dict(zip(("type", "name"), part.split(), strict=True)) for part in text.split(",")]
