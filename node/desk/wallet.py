"""Wallet's desk: what a page's wallet may sign, prepared and explained, and what came of it.

Amounts come and go as decimal text of whole tokens. No key is here: the wallet signs and sends, the
node says what to sign, warns before it would be refused, and watches until it is mined.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Final

import structlog
import trio

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
from market.errors import ChainError, RefusedError, SpecError
from market.units import format_money, parse_money
from node.config import Config
from node.desk.rows import address_text
from node.ports import Account, Errands, Ports

log = structlog.get_logger("wallet")
WATCHED_MAX: Final = 256  # transactions remembered; the oldest goes
LOOK_S: Final = 1.0
UNKNOWN_S: Final = 120.0  # a transaction that no endpoint has seen for so long was never sent
AUTHORISE_MAX_S: Final = 365 * 24 * 3600
UNLIMITED: Final = 2**128 - 1

_AMOUNTS: Final[dict[str, type[Any]]] = {
    "approve": Approve,
    "deposit": Deposit,
    "withdraw": Withdraw,
    "stake": Stake,
    "unstake": Unstake,
}
REFUSALS: Final = {
    "Escrow_InsufficientFree": ("the escrow holds less free money than that for this wallet",
                                "deposit more, or wait until agreements are settled"),
    "Escrow_InsufficientStake": ("less unlocked stake is there than that",
                                 "stake is free again when its agreements are over"),
    "Escrow_StillThawing": ("the stake is still thawing", "come back when its time is over"),
    "Escrow_ZeroAmount": ("nothing would move: the amount is zero", "write an amount above zero"),
    "ERC20InsufficientBalance": ("the wallet holds fewer tokens than that",
                                 "write a smaller amount"),
    "ERC20InsufficientAllowance": ("the escrow was not allowed to take so much",
                                   "approve it first"),
    "ERC2612ExpiredSignature": ("the permit is too old", "sign it again"),
    "ERC2612InvalidSigner": ("the permit was signed by another account",
                             "choose the account that deposits in your wallet"),
    "insufficient funds": ("the wallet has too little of the chain's own coin to pay for gas",
                           "send it some, then try again"),
}  # fmt: skip
"""What a refusal means, and what to do about it, by the contract's error name."""


@dataclass(frozen=True, slots=True)
class Watched:
    """A transaction of a page's wallet; `state` is pending, mined, failed or lost."""

    tx: bytes
    what: str
    wallet: bytes
    since: float
    state: str = "pending"
    block: int = 0
    problem: str = ""


class WalletDesk:
    """Asks the chain."""

    def __init__(self, config: Config, ports: Ports) -> None:
        """Watches nothing yet."""
        self._config = config
        self._ports = ports
        self._watched: OrderedDict[bytes, Watched] = OrderedDict()
        self._wake = trio.Event()
        self.version = 0

    async def holdings(self, wallet: bytes) -> dict[str, Any]:
        """What escrow and token hold for any wallet, and what this node may use. ChainError."""
        account = await self._ports.chain.account(wallet, self._ports.signer.operator)
        info = self._ports.chain.info
        return {
            "wallet": address_text(wallet),
            "is_nodes": wallet == self._config.wallet,
            "nodes_wallet": address_text(self._config.wallet),
            "operator": address_text(self._ports.signer.operator),
            "operator_gas_wei": str(account.gas),
            "chain_id": info.domain.chain_id,
            "escrow": address_text(info.domain.contract),
            "token": address_text(info.token),
            "symbol": info.symbol,
            "tokens": self._money(account.tokens),
            "free": self._money(account.free),
            "stake": self._money(account.stake),
            "locked": self._money(account.locked),
            "thawing": self._money(account.thawing),
            "thaws_at": account.thaws_at_s or None,
            "allowance": self._allowance(account),
            "allowance_expires": account.operator_expires_at_s or None,
            "allowance_live": account.operator_expires_at_s > self._ports.clock.now(),
            "now": self._ports.clock.now(),
        }

    def chain(self) -> dict[str, Any]:
        """What a wallet needs to add this node's chain (EIP-3085)."""
        info = self._ports.chain.info
        return {
            "chain_id": info.domain.chain_id,
            "name": self._config.network,
            "rpc": list(self._errands().endpoints),
            "explorer": info.explorer,
        }

    async def prepare(self, wallet: bytes, kind: str, fields: dict[str, Any]) -> dict[str, Any]:
        """The transaction for `eth_sendTransaction`, and why it would be refused, if it would.

        Raises SpecError for an errand that cannot be meant, ChainError.
        """
        errand = self._errand(kind, fields)
        unsigned = self._errands().unsigned(errand)
        refusal = await self._errands().refusal(wallet, unsigned)
        said, hint = REFUSALS.get(refusal, (f"the chain would refuse it: {refusal}", ""))
        return {
            "transaction": {
                "from": address_text(wallet),
                "to": address_text(unsigned.to),
                "data": "0x" + unsigned.data.hex(),
                "value": "0x0",
            },
            "chain_id": self._ports.chain.info.domain.chain_id,
            "what": self._words(errand),
            "refusal": {"name": refusal, "message": said, "hint": hint} if refusal else None,
        }

    async def permit(self, wallet: bytes, amount_text: str) -> dict[str, Any]:
        """Typed data for a deposit with one transaction; None where the token has no permit."""
        amount = self._amount("amount", amount_text)
        data = await self._errands().permit(wallet, amount)
        return {"typed_data": data, "deadline": int(data["message"]["deadline"]) if data else None}

    async def vouch(self, wallet: bytes, digest: bytes, signature: bytes) -> None:
        """Raise SignatureError unless the contract at `wallet` signed so (ERC-1271). ChainError."""
        await self._errands().vouch(wallet, digest, signature)

    def watch(self, tx: bytes, what: str, wallet: bytes) -> dict[str, Any]:
        """Look for this transaction until it is mined or lost."""
        if tx not in self._watched:
            self._watched[tx] = Watched(tx, what, wallet, self._ports.clock.now())
            while len(self._watched) > WATCHED_MAX:
                self._watched.popitem(last=False)
            self._told()
            self._wake.set()
        return self._row(self._watched[tx])

    def watched(self) -> list[dict[str, Any]]:
        """Every transaction of a page that is remembered, newest first."""
        return [self._row(one) for one in reversed(self._watched.values())]

    async def run(self) -> None:
        """Watch for ever."""
        while True:
            pending = [one for one in self._watched.values() if one.state == "pending"]
            if not pending:
                self._wake = trio.Event()
                await self._wake.wait()
                continue
            for one in pending:
                await self._look(one)
            await trio.sleep(LOOK_S)

    async def _look(self, one: Watched) -> None:
        try:
            outcome = await self._errands().outcome(one.tx)
        except ChainError as problem:
            log.info("cannot look for a transaction", problem=str(problem))
            return
        if outcome.block:
            state = "failed" if outcome.problem else "mined"
            after = replace(one, state=state, block=outcome.block, problem=outcome.problem)
        elif not outcome.known and self._ports.clock.now() - one.since > UNKNOWN_S:
            after = replace(one, state="lost")
        else:
            return
        if one.tx in self._watched:
            self._watched[one.tx] = after
            self._told()

    def _told(self) -> None:
        self.version += 1

    def _row(self, one: Watched) -> dict[str, Any]:
        said, hint = REFUSALS.get(one.problem, (one.problem, ""))
        return {
            "tx": "0x" + one.tx.hex(),
            "what": one.what,
            "wallet": address_text(one.wallet),
            "since": one.since,
            "state": one.state,
            "block": one.block or None,
            "problem": said,
            "hint": hint,
        }

    def _errands(self) -> Errands:
        if self._ports.errands is None:
            raise RefusedError("this node's chain takes no errands from a page")
        return self._ports.errands

    def _errand(self, kind: str, fields: dict[str, Any]) -> Errand:
        if kind in _AMOUNTS:
            made: Errand = _AMOUNTS[kind](self._amount("amount", fields.get("amount")))
            return made
        operator = self._ports.signer.operator
        match kind:
            case "deposit_with_permit":
                return DepositWithPermit(
                    self._amount("amount", fields.get("amount")),
                    _whole("deadline", fields.get("deadline")),
                    _hex("signature", fields.get("signature"), 65),
                )
            case "complete_unstake":
                return CompleteUnstake()
            case "authorise":
                expires_at_s = _whole("expires", fields.get("expires"))
                now = self._ports.clock.now()
                if not now < expires_at_s <= now + AUTHORISE_MAX_S:
                    raise SpecError("expires: must lie within a year from now")
                allowance = self._amount("allowance", fields.get("allowance"))
                return Authorise(operator, allowance, expires_at_s)
            case "revoke":
                return Revoke(operator)
            case _:
                raise SpecError(f"there is no errand called {kind!r}")

    def _words(self, errand: Errand) -> str:
        symbol = self._ports.chain.info.symbol
        match errand:
            case Authorise(allowance=allowance):
                return f"Authorise this node for {self._money(allowance)} {symbol}"
            case Revoke():
                return "Take back this node's authorisation"
            case CompleteUnstake():
                return "Take thawed stake back"
            case DepositWithPermit(amount=amount):
                return f"Deposit {self._money(amount)} {symbol}"
            case _:
                return f"{type(errand).__name__} {self._money(errand.amount)} {symbol}"

    def _allowance(self, account: Account) -> str:
        if account.operator_allowance >= UNLIMITED:
            return "unlimited"
        return self._money(account.operator_allowance)

    def _amount(self, name: str, text: object) -> int:
        decimals = self._ports.chain.info.decimals
        try:
            return parse_money(str(text or "").strip(), decimals)
        except SpecError as problem:
            raise SpecError(f"{name}: {problem}", hint=problem.hint) from None

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)


def _whole(name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**40:
        raise SpecError(f"{name}: must be a whole number of Unix seconds")
    return value


def _hex(name: str, value: object, size: int) -> bytes:
    try:
        data = bytes.fromhex(str(value).removeprefix("0x"))
    except ValueError:
        data = b""
    if len(data) != size:
        raise SpecError(f"{name}: must be {size} bytes in hex")
    return data
