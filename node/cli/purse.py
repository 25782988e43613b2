"""Purse: how every command about money goes: check, show, ask, send, show. Decides no amount.

    souk deposit 10
      deposit 10 tUSD for 0x7099… in the escrow 0xe7f1… on chain 31337 (devnet)
      1 transaction, about 96,000 gas, at most 0.00020 of the chain's coin
      do it? [y/N]

With --unsigned nothing is asked and nothing sent: the calls are printed for a wallet elsewhere.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from market.errors import ChainRefusedError, FundsError, MarketError, SpecError
from market.units import format_money, parse_money
from node.cli.options import Common
from node.cli.output import say, write_facts, write_json, write_lines
from node.cli.readers import SettingsError
from node.cli.run import UnconfirmedError
from node.cli.settings import Settings

if TYPE_CHECKING:
    from node.adapters.ethereum.pending import Call
    from node.adapters.ethereum.purse import Done, Purse

NOBODY: Final = bytes(20)
COIN_DECIMALS: Final = 18


@Parameter(name="*")
@dataclass(frozen=True)
class Money:
    """Who signs, and whether to ask."""

    wallet_file: Path | None = None
    "The wallet's key file; otherwise the one in the node's directory."
    password_file: Path | None = None
    "File with the wallet's password."
    unsigned: Annotated[bool, Parameter(negative="")] = False
    "Print what to sign for a wallet elsewhere; send nothing."
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False
    "Do not ask."


DEFAULT_MONEY = Money()


@dataclass(frozen=True)
class Wish:
    """What a command wants: in words, and the calls it takes. `typed` is what may be signed too."""

    words: str
    plan: tuple[Call, ...]
    typed: dict[str, Any] | None = None


Wishing = Callable[["Purse", bytes], Awaitable[Wish]]
"""(purse, owner) -> what to do."""


@dataclass(frozen=True)
class Carried:
    """A wish that was carried out, or, where `done` is None, is to be signed elsewhere."""

    wish: Wish
    owner: bytes
    done: Done | None = None

    @property
    def hashes(self) -> list[str]:
        """The transactions."""
        return ["0x" + tx.hex() for tx in self.done.transactions] if self.done else []


def carry_out(money: Money, common: Common, wishing: Wishing) -> int:
    """The whole of a money command; its exit code. Raises MarketError."""
    import trio

    settings = common.settings()
    carried = trio.run(perform, money, settings, wishing)
    if carried.done is None:
        show_unsigned(carried, settings, as_json=common.as_json)
        return 0
    words, done = carried.wish.words, carried.done
    if common.as_json:
        write_json({
            "done": words, "wallet": "0x" + carried.owner.hex(), "transactions": carried.hashes,
            "gas_used": done.gas, "cost_wei": str(done.wei),
        })  # fmt: skip
        return 0
    say(f"done: {words}; it cost {format_money(done.wei, COIN_DECIMALS)} of the chain's coin")
    explorer = settings.explorer.rstrip("/")
    write_lines([f"{explorer}/tx/{one}" if explorer else one for one in carried.hashes])
    return 0


async def perform(money: Money, settings: Settings, wishing: Wishing) -> Carried:
    """Check, show, ask and send; or, for a wallet elsewhere, only check. Raises MarketError."""
    from node.adapters.ethereum.purse import open_purse
    from node.cli.chain import chain_config

    config = chain_config(settings)
    owner, key = owner_of(money, settings)
    async with open_purse(config, key) as purse:
        wish = await wishing(purse, owner)
        if money.unsigned:
            return Carried(wish, owner)
        try:
            cost = await purse.cost(wish.plan)
            _show(wish, owner, settings)
            count = len(wish.plan)
            part = f" for the first {cost.known}" if cost.known < count else ""
            say(
                f"{count} transaction{'s' * (count > 1)}, about {cost.gas:,} gas{part}, "
                f"at most {format_money(cost.most_wei, COIN_DECIMALS)} of the chain's coin"
            )
            confirm(yes=money.yes, question="do it?")
            return Carried(wish, owner, await purse.perform(wish.plan))
        except ChainRefusedError as problem:
            raise _explained(problem) from problem


def amount_of(text: str, purse: Purse) -> int:
    """Whole tokens as base units; more than 0. Raises SpecError."""
    amount = parse_money(text, purse.info.decimals)
    if amount == 0:
        raise SpecError("an amount of 0 does nothing", hint="name what to move, like 10.50")
    return amount


def keys_dir(settings: Settings) -> Path:
    """Where the node's keys, and perhaps the wallet's, lie."""
    return settings.data_dir / "keys"


def password(named: Path | None, question: str) -> bytes | None:
    """From a file, from systemd, or asked for on a terminal; None if there is none of these."""
    from node.adapters.keystore.password import credential, read_password
    from node.adapters.keystore.wallet import WALLET_CREDENTIAL

    path = named or credential(WALLET_CREDENTIAL)
    if path is not None:
        return read_password(path)
    if sys.stdin.isatty() and sys.stderr.isatty():
        import getpass

        return getpass.getpass(f"{question}: ", sys.stderr).encode() or None
    return None


def confirm(*, yes: bool, question: str) -> None:
    """Ask on the terminal. Raises UnconfirmedError unless the answer is yes."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UnconfirmedError("there is no terminal to ask on", hint="say yes with -y")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UnconfirmedError("nothing was sent", hint="nothing was spent")


def operator_of(settings: Settings) -> bytes:
    """The address of this node's operator key; nothing if it has none yet."""
    from node.adapters.keystore.signer import OPERATOR_FILE, OPERATOR_KEYSTORE
    from node.adapters.keystore.wallet import address_of

    for name in (OPERATOR_KEYSTORE, OPERATOR_FILE):
        path = keys_dir(settings) / name
        if path.is_file():
            return address_of(path) or b""
    return b""


def owner_of(money: Money, settings: Settings) -> tuple[bytes, bytes | None]:
    """The wallet's address, and its key unless another wallet signs."""
    from node.adapters.keystore.wallet import address_of, find, is_locked, unlock

    if money.unsigned and money.wallet_file is None and settings.wallet is not None:
        return settings.wallet, None
    path = find(keys_dir(settings), money.wallet_file)
    address = address_of(path)
    if settings.wallet is not None and address is not None and address != settings.wallet:
        raise SettingsError(
            f"the settings name the wallet 0x{settings.wallet.hex()}, {path} holds "
            f"0x{address.hex()}",
            hint="correct wallet, or name the right file with --wallet-file",
        )
    if money.unsigned and address is not None:
        return address, None
    locked = is_locked(path.read_bytes()[:64])
    key = unlock(path, password(money.password_file, f"password of {path}") if locked else None)
    from node.adapters.keystore.signer import FileSigner

    return FileSigner(bytes(32), key).operator, key


def _show(wish: Wish, owner: bytes, settings: Settings) -> None:
    escrow = (settings.escrow or b"").hex()
    say(
        f"{wish.words}, as 0x{owner.hex()}, in the escrow 0x{escrow} "
        f"on chain {settings.chain_id} ({settings.network})"
    )


def calls_of(carried: Carried, settings: Settings) -> list[dict[str, Any]]:
    """What the wallet is to sign, as wallets take it."""
    return [
        {
            "from": "0x" + carried.owner.hex(), "to": "0x" + step.to.hex(), "data": step.data,
            "value": hex(step.value), "chainId": hex(settings.chain_id),
        }
        for step in carried.wish.plan
    ]  # fmt: skip


def show_unsigned(carried: Carried, settings: Settings, *, as_json: bool) -> None:
    """The calls for a wallet elsewhere."""
    wish, calls = carried.wish, calls_of(carried, settings)
    if as_json:
        write_json({"unsigned": calls, "wish": wish.words, "typed_data": _as_text(wish.typed)})
        return
    _show(wish, carried.owner, settings)
    say(f"sign and send these {len(calls)} in order with the wallet; nothing was sent from here")
    for call in calls:
        write_facts(dict(call))
    if wish.typed is not None:
        say("or sign the permit of --json (EIP-712) and call depositWithPermit")


def _as_text(typed: dict[str, Any] | None) -> dict[str, Any] | None:
    """Numbers as decimal text: JavaScript would round what a token of 18 decimals counts."""
    if typed is None:
        return None
    message = {
        name: str(value) if isinstance(value, int) else value
        for name, value in typed["message"].items()
    }
    return {**typed, "message": message}


_REASONS: Final = {
    "Escrow_InsufficientFree": ("the escrow holds less free money than that", "souk deposit"),
    "Escrow_InsufficientStake": ("less stake is free of agreements than that", "souk stake add"),
    "Escrow_StillThawing": ("the stake still thaws", "souk wallet shows until when"),
    "Escrow_ZeroAmount": ("there is nothing to move", "souk wallet shows what there is"),
    "ERC20InsufficientBalance": ("the wallet has less of the token", "send it some first"),
}


def _explained(problem: ChainRefusedError) -> MarketError:
    if problem.reason in _REASONS:
        words, hint = _REASONS[problem.reason]
        return FundsError(words, hint=hint)
    return ChainRefusedError(f"the contract refuses: {problem.reason}", reason=problem.reason,
                             hint="souk wallet shows what there is")  # fmt: skip
