"""Errands: what a cold wallet is asked to sign, as calldata, and what came of it. Holds no key."""

from __future__ import annotations

from typing import Any, assert_never

from web3 import Web3

from market.errands import (
    Approve,
    Authorise,
    CompleteUnstake,
    Deposit,
    DepositWithPermit,
    Errand,
    Revoke,
    Stake,
    Unstake,
    Withdraw,
)
from market.errors import ChainError, SignatureError
from node.adapters.ethereum.contract import call, reason, result
from node.adapters.ethereum.rpc import Rpc, RpcError, number, raw
from node.ports import Outcome, Unsigned

_PERMIT = [
    ("owner", "address"), ("spender", "address"), ("value", "uint256"), ("nonce", "uint256"),
    ("deadline", "uint256"),
]  # fmt: skip
_DOMAIN = [
    ("name", "string"), ("version", "string"), ("chainId", "uint256"),
    ("verifyingContract", "address"),
]  # fmt: skip


class Errands:
    """Implements the port `Errands` over one RPC connection."""

    def __init__(self, rpc: Rpc, chain_id: int, escrow: bytes, token: bytes) -> None:
        """`rpc` is shared with the chain adapter."""
        self._rpc = rpc
        self._chain_id = chain_id
        self._escrow = escrow
        self._token = token

    @property
    def endpoints(self) -> tuple[str, ...]:
        """As configured."""
        return self._rpc.urls

    def unsigned(self, errand: Errand) -> Unsigned:
        """The call that carries it out."""
        token, escrow = map(Web3.to_checksum_address, (self._token, self._escrow))
        to = self._escrow
        match errand:
            case Approve(amount):
                to, data = self._token, call("TestToken", "approve", escrow, amount)
            case Deposit(amount):
                data = call("Escrow", "deposit", token, amount)
            case DepositWithPermit(amount, deadline_s, signature):
                if len(signature) != 65:
                    raise SignatureError("a permit's signature has 65 bytes")
                r, s, v = signature[:32], signature[32:64], signature[64]
                v = v + 27 if v < 27 else v
                data = call("Escrow", "depositWithPermit", token, amount, deadline_s, v, r, s)
            case Withdraw(amount):
                data = call("Escrow", "withdraw", token, amount)
            case Stake(amount):
                data = call("Escrow", "stake", token, amount)
            case Unstake(amount):
                data = call("Escrow", "unstake", token, amount)
            case CompleteUnstake():
                data = call("Escrow", "completeUnstake", token)
            case Authorise(operator, allowance, expires_at_s):
                key = Web3.to_checksum_address(operator)
                data = call("Escrow", "authorise", key, token, allowance, expires_at_s)
            case Revoke(operator):
                data = call("Escrow", "revoke", Web3.to_checksum_address(operator), token)
            case _:
                assert_never(errand)
        return Unsigned(to, bytes.fromhex(data[2:]))

    async def refusal(self, wallet: bytes, unsigned: Unsigned) -> str:
        """The error name the chain would answer it with now; empty if it would be taken."""
        asked = {
            "from": Web3.to_checksum_address(wallet),
            "to": Web3.to_checksum_address(unsigned.to),
            "data": "0x" + unsigned.data.hex(),
        }
        try:
            await self._rpc.ask("eth_estimateGas", asked)
        except RpcError as problem:
            if problem.data:
                return reason(problem.data)
            text = str(problem).lower()
            if "insufficient funds" in text:
                return "insufficient funds"
            if "revert" in text:
                return "reverted"
            raise
        return ""

    async def permit(self, wallet: bytes, amount: int, deadline_s: int) -> dict[str, Any] | None:
        """EIP-2612 typed data for eth_signTypedData_v4; None if the token has no permit."""
        owner, token, escrow = map(Web3.to_checksum_address, (wallet, self._token, self._escrow))
        try:
            (nonce,) = await self._view("nonces", owner)
            (separator,) = await self._view("DOMAIN_SEPARATOR")
            (name,) = await self._view("name")
        except (RpcError, ChainError, ValueError):
            return None
        domain = {
            "name": name, "version": "1", "chainId": self._chain_id, "verifyingContract": token,
        }  # fmt: skip
        if _separator(domain) != bytes(separator):
            return None  # it writes its domain in another way: a signature would be worth nothing
        message = {
            "owner": owner, "spender": escrow, "value": str(amount), "nonce": str(nonce),
            "deadline": str(deadline_s),
        }  # fmt: skip
        types = {
            kind: [{"name": name, "type": type_} for name, type_ in fields]
            for kind, fields in (("EIP712Domain", _DOMAIN), ("Permit", _PERMIT))
        }
        return {"domain": domain, "types": types, "primaryType": "Permit", "message": message}

    async def outcome(self, tx: bytes) -> Outcome:
        """What became of a transaction."""
        name = "0x" + tx.hex()
        receipt = await self._rpc.ask("eth_getTransactionReceipt", name)
        if isinstance(receipt, dict) and receipt.get("blockNumber"):
            mined = number(receipt["blockNumber"])
            if number(receipt.get("status")) == 1:
                return Outcome(True, mined, "")
            return Outcome(True, mined, await self._why(name, mined))
        known = await self._rpc.ask("eth_getTransactionByHash", name)
        return Outcome(isinstance(known, dict), 0, "")

    async def _why(self, name: str, mined: int) -> str:
        sent = await self._rpc.ask("eth_getTransactionByHash", name)
        if not isinstance(sent, dict):
            return "reverted"
        asked = {key: sent[key] for key in ("from", "to", "value") if key in sent}
        asked["data"] = sent.get("input", "0x")
        try:
            await self._rpc.ask("eth_call", asked, hex(mined))
        except RpcError as problem:
            return reason(problem.data)
        return "reverted"

    async def _view(self, function: str, *arguments: object) -> Any:
        data = call("TestToken", function, *arguments)
        to = Web3.to_checksum_address(self._token)
        answer = await self._rpc.ask("eth_call", {"to": to, "data": data}, "latest")
        return result("TestToken", function, raw(answer))


def _separator(domain: dict[str, Any]) -> bytes:
    """EIP-712's domain separator."""
    kind = f"EIP712Domain({','.join(f'{type_} {name}' for name, type_ in _DOMAIN)})"
    words = Web3().codec.encode(
        ["bytes32", "bytes32", "bytes32", "uint256", "address"],
        [
            Web3.keccak(text=kind), Web3.keccak(text=domain["name"]),
            Web3.keccak(text=domain["version"]), domain["chainId"], domain["verifyingContract"],
        ],
    )  # fmt: skip
    return bytes(Web3.keccak(words))
