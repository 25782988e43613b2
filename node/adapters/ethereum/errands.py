"""Errands: what a cold wallet is asked to sign, as calldata, and what came of it. Holds no key."""

from __future__ import annotations

from typing import Any, Final, assert_never

import trio
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
from market.errors import SignatureError
from node.adapters.ethereum.answers import AnswerError, number, raw
from node.adapters.ethereum.contract import call, reason
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.plans import Plans
from node.adapters.ethereum.rpc import Rpc, RpcError
from node.ports import Outcome, Unsigned

VOUCHED: Final = bytes.fromhex("1626ba7e").ljust(32, b"\0")  # what ERC-1271 says for yes
NOT_DEPLOYED: Final = bytes.fromhex("6492") * 16  # ends the signature of a wallet yet to be (6492)
DELEGATED: Final = bytes.fromhex("ef0100")  # EIP-7702: the code of an account that has a key, too
VOUCH_GAS: Final = 1_500_000  # several passkeys checked in Solidity; a loop ends here
VOUCH_S: Final = 10.0  # the browser's user waits
VOUCH_BYTES_MAX: Final = 1024  # the answer is one word; gas alone would let a stranger send 2 MiB


class Errands:
    """Implements the port `Errands` over one RPC connection."""

    def __init__(self, rpc: Rpc, chain_id: int, escrow: bytes, token: bytes) -> None:
        """`rpc` is shared with the chain adapter."""
        self._rpc = rpc
        self._escrow = escrow
        self._token = token
        self._plans = Plans(rpc, chain_id, escrow, token)

    @property
    def endpoints(self) -> tuple[str, ...]:
        """As configured."""
        return tuple(one.url for one in self._rpc.endpoints.all)

    def unsigned(self, errand: Errand) -> Unsigned:
        """The call that carries it out."""
        made = self._call(errand)
        return Unsigned(made.to, bytes.fromhex(made.data[2:]))

    def _call(self, errand: Errand) -> Call:
        token, escrow = map(Web3.to_checksum_address, (self._token, self._escrow))
        match errand:
            case Approve(amount):
                return Call(self._token, call("TestToken", "approve", escrow, amount))
            case Deposit(amount):
                return Call(self._escrow, call("Escrow", "deposit", token, amount))
            case DepositWithPermit(amount, deadline_s, signature):
                if len(signature) != 65:
                    raise SignatureError("a permit's signature has 65 bytes")
                r, s, v = signature[:32], signature[32:64], signature[64]
                v = v + 27 if v < 27 else v
                data = call("Escrow", "depositWithPermit", token, amount, deadline_s, v, r, s)
                return Call(self._escrow, data)
            case Withdraw(amount):
                (made,) = self._plans.withdraw(amount)
            case Stake(amount):
                (made,) = self._plans.stake(amount)
            case Unstake(amount):
                (made,) = self._plans.thaw(amount)
            case CompleteUnstake():
                (made,) = self._plans.take_thawed()
            case Authorise(operator, allowance, expires_at_s):
                (made,) = self._plans.authorise(operator, allowance, expires_at_s)
            case Revoke(operator):
                (made,) = self._plans.revoke(operator)
            case _:
                assert_never(errand)
        return made

    async def refusal(self, wallet: bytes, unsigned: Unsigned) -> str:
        """The error name the chain would answer it with now; empty if it would be taken."""
        asked = {
            "from": Web3.to_checksum_address(wallet),
            "to": Web3.to_checksum_address(unsigned.to),
            "data": "0x" + unsigned.data.hex(),
        }
        try:
            await self._rpc.ask("eth_estimateGas", asked, read=number)
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

    async def permit(self, wallet: bytes, amount: int) -> dict[str, Any] | None:
        """EIP-2612 typed data for eth_signTypedData_v4; None if the token has no permit.

        Its numbers are decimal text: JavaScript would round what a token of 18 decimals counts.
        """
        if await self._is_contract(wallet):
            return None  # tokens take a key's permit only
        data = await self._plans.permit(wallet, amount)
        if data is None:
            return None
        message = {
            key: str(value) if isinstance(value, int) else value
            for key, value in data["message"].items()
        }
        return {**data, "message": message}

    async def vouch(self, wallet: bytes, digest: bytes, signature: bytes) -> None:
        """The contract at `wallet` says whether the signature is its own, on bounded gas and time.

        Raises SignatureError unless it does, ChainError.
        """
        if signature.endswith(NOT_DEPLOYED):
            raise SignatureError(
                "the wallet's contract is not deployed yet",
                hint="send its first transaction, for example the deposit's approval",
            )
        if not await self._is_contract(wallet):
            raise SignatureError(
                "another account signed than the one that asked", hint="choose it in your wallet"
            )
        padded = signature.ljust(-(-len(signature) // 32) * 32, b"\0")
        words = digest + (64).to_bytes(32, "big") + len(signature).to_bytes(32, "big") + padded
        asked = {
            "to": Web3.to_checksum_address(wallet),
            "data": "0x1626ba7e" + words.hex(),
            "gas": hex(VOUCH_GAS),
        }
        said = b""
        with trio.move_on_after(VOUCH_S) as patience:
            try:
                said = await self._rpc.ask("eth_call", asked, "latest", read=_beginning)
            except RpcError as problem:
                raise SignatureError(
                    "the wallet's contract could not check the signature",
                    hint=f"it says: {reason(problem.data)}; look at its owners and modules",
                ) from problem
        if patience.cancelled_caught:
            raise SignatureError("the wallet's contract took too long to check the signature")
        if len(said) > VOUCH_BYTES_MAX or said[:32] != VOUCHED:
            raise SignatureError(
                "the wallet's contract does not take this signature",
                hint="its owners, and enough of them, must sign",
            )

    async def _is_contract(self, wallet: bytes) -> bool:
        """Whether no key speaks for that address."""
        address = Web3.to_checksum_address(wallet)
        code = await self._rpc.ask("eth_getCode", address, "latest", read=raw)
        return bool(code) and not (code.startswith(DELEGATED) and len(code) == 23)

    async def outcome(self, tx: bytes) -> Outcome:
        """What became of a transaction."""
        name = "0x" + tx.hex()
        receipt: Any = await self._rpc.ask("eth_getTransactionReceipt", name)
        if isinstance(receipt, dict) and receipt.get("blockNumber"):
            mined = number(receipt["blockNumber"])
            if number(receipt.get("status")) == 1:
                return Outcome(True, mined, "")
            return Outcome(True, mined, await self._why(name, mined))
        known: Any = await self._rpc.ask("eth_getTransactionByHash", name)
        return Outcome(isinstance(known, dict), 0, "")

    async def _why(self, name: str, mined: int) -> str:
        sent: Any = await self._rpc.ask("eth_getTransactionByHash", name)
        if not isinstance(sent, dict):
            return "reverted"
        asked = {key: sent[key] for key in ("from", "to", "value") if key in sent}
        asked["data"] = sent.get("input", "0x")
        try:
            await self._rpc.ask("eth_call", asked, hex(mined))
        except RpcError as problem:
            return reason(problem.data)
        return "reverted"


def _beginning(value: object) -> bytes:
    """As much of an answer as is looked at: what a contract adds is no fault of the endpoint's."""
    if not isinstance(value, str):
        raise AnswerError("the RPC endpoint answered something that is not hex data")
    return raw(value[: 2 + 2 * (VOUCH_BYTES_MAX + 1)])
