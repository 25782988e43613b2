"""Wallet: the key that owns the money, what it has, and whom it lets spend some of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cyclopts import App

from market.errors import MarketError, NotFoundError, SpecError
from market.units import format_money, parse_duration_s, parse_money
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_facts, write_json, write_lines
from node.cli.purse import (
    COIN_DECIMALS,
    DEFAULT_MONEY,
    NOBODY,
    Money,
    Wish,
    amount_of,
    carry_out,
    keys_dir,
    operator_of,
    password,
)
from node.cli.readers import SettingsError, read_address
from node.cli.settings import Settings, config_path
from node.client.http import NodeDownError

if TYPE_CHECKING:
    from node.adapters.ethereum.purse import Purse

KEY_BYTES_MAX: Final = 64 * 1024
UNLIMITED: Final = 2**128 - 1
EXPIRES_MAX: Final = 2**40 - 1

wallet = App(name="wallet", help="The wallet that owns the money, and its node's allowance.")


@wallet.default
def show(*, common: Common = DEFAULT) -> int:
    """Show what the wallet has in the escrow, and what its node may use of it."""
    try:
        found = common.node().get("/api/wallet")
    except NodeDownError:
        found = _ask_the_chain(common.settings())
    if common.as_json:
        write_json({"wallet": found})
    else:
        write_facts({name: _readable(name, value) for name, value in found.items()})
    return 0


wallet.command(show, name="show")


@wallet.command
def new(*, password_file: Path | None = None, common: Common = DEFAULT) -> int:
    """Make a wallet of this machine's own: a key file only these commands use.

    Parameters
    ----------
    password_file
        File with the password that locks it. Asked for on a terminal if missing.
    """
    from node.adapters.keystore.wallet import new_key

    return _keep(new_key(), password_file, common)


@wallet.command(name="import")
def take(
    source: str,
    *,
    source_password_file: Path | None = None,
    password_file: Path | None = None,
    common: Common = DEFAULT,
) -> int:
    """Take over the key of a wallet you have.

    Parameters
    ----------
    source
        A file with a web3 keystore (version 3) or the key as 64 hex digits; - for standard input.
    source_password_file
        File with the password of that keystore.
    password_file
        File with the password that locks it here.
    """
    return _keep(read_source(source, source_password_file), password_file, common)


@wallet.command
def authorise(
    operator: str | None = None,
    *,
    allowance: str,
    expires: str = "30d",
    money: Money = DEFAULT_MONEY,
    common: Common = DEFAULT,
) -> int:
    """Let a node's key lock the wallet's money in agreements, up to an allowance, until a day.

    What it locks is used up even if it comes back; a second call replaces the first.

    Parameters
    ----------
    operator
        The key's address; this node's own if missing.
    allowance
        In whole tokens, like 50, or unlimited.
    expires
        How long from now, like 30d.
    """

    async def wish(purse: Purse, _owner: bytes) -> Wish:
        key = _operator(operator, common.settings())
        until = int(time.time()) + parse_duration_s(expires)
        if until > EXPIRES_MAX:
            raise SpecError(f"{expires!r} is too long", hint="like 30d")
        units = UNLIMITED if allowance == "unlimited" else amount_of(allowance, purse)
        shown = (
            "all" if units == UNLIMITED else format_money(units, purse.info.decimals)
        ) + f" {purse.info.symbol}"
        day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(until))
        words = f"let 0x{key.hex()} lock up to {shown} until {day}"
        return Wish(words, purse.plans.authorise(key, units, until))

    return carry_out(money, common, wish)


@wallet.command
def revoke(
    operator: str | None = None, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT
) -> int:
    """Let a node's key lock nothing any more. Agreements that run go on.

    Parameters
    ----------
    operator
        The key's address; this node's own if missing.
    """

    async def wish(purse: Purse, _owner: bytes) -> Wish:
        key = _operator(operator, common.settings())
        return Wish(f"let 0x{key.hex()} lock nothing any more", purse.plans.revoke(key))

    return carry_out(money, common, wish)


@wallet.command
def gas(
    amount: str, operator: str | None = None, *,
    money: Money = DEFAULT_MONEY, common: Common = DEFAULT,
) -> int:  # fmt: skip
    """Send the node's key some of the chain's own coin, which transactions cost.

    Parameters
    ----------
    amount
        In whole coins, like 0.05.
    operator
        The key's address; this node's own if missing.
    """
    from node.adapters.ethereum.pending import Call

    async def wish(_purse: Purse, _owner: bytes) -> Wish:
        key = _operator(operator, common.settings())
        wei = parse_money(amount, COIN_DECIMALS)
        if not wei:
            raise SpecError("an amount of 0 does nothing", hint="like 0.05")
        words = f"send {format_money(wei, COIN_DECIMALS)} of the chain's coin to 0x{key.hex()}"
        return Wish(words, (Call(key, "0x", wei),))

    return carry_out(money, common, wish)


@wallet.command
def mint(amount: str, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Make test money for the wallet. Only the test token of a test network does that.

    Parameters
    ----------
    amount
        In whole tokens, like 100.
    """

    async def wish(purse: Purse, owner: bytes) -> Wish:
        units = amount_of(amount, purse)
        words = f"mint {format_money(units, purse.info.decimals)} {purse.info.symbol}"
        return Wish(words, purse.plans.mint(owner, units))

    return carry_out(money, common, wish)


def _readable(name: str, value: Any) -> object:
    if name in ("allowance_expires", "thaws_at"):
        if not value:
            return None
        if value >= EXPIRES_MAX:
            return "never"
        return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(value))
    return "unlimited" if name == "allowance" and len(str(value)) > 30 else value


def read_source(source: str, source_password_file: Path | None) -> bytes:
    """The key in a file somebody brings, or on standard input. Raises MarketError."""
    from node.adapters.keystore.password import read_password
    from node.adapters.keystore.wallet import read_key

    digits = source.removeprefix("0x")
    if len(digits) == 64 and not set(digits.lower()) - set("0123456789abcdef"):
        raise SpecError(
            "a key on the command line is seen by every program on this machine",
            hint="write it to a file of your own, or pipe it to: souk wallet import -",
        )
    if source == "-":
        text = sys.stdin.buffer.read(KEY_BYTES_MAX)
    else:
        try:
            with Path(source).expanduser().open("rb") as file:
                text = file.read(KEY_BYTES_MAX)
        except OSError as problem:
            raise NotFoundError(f"{source}: {problem.strerror}", hint="check the path") from problem
    opening = read_password(source_password_file) if source_password_file else None
    return read_key(text, opening, source)


def keep(key: bytes, password_file: Path | None, settings: Settings) -> Path:
    """Keep a wallet's key here, locked but for play money; its file. Raises MarketError."""
    from node.adapters.keystore.wallet import save

    locking = password(password_file, "a password for the new wallet file")
    if locking is None and settings.network != "devnet":
        raise MarketError(
            "a wallet on a real network must be locked by a password",
            hint="write one to a file of your own (chmod 600): --password-file FILE",
        )
    path = save(keys_dir(settings), key, locking)
    if locking is None:
        say(f"{path} is not locked: right for a local chain's play money, and for nothing else")
    return path


def _keep(key: bytes, password_file: Path | None, common: Common) -> int:
    from node.adapters.keystore.wallet import address_of

    path = keep(key, password_file, common.settings())
    address = address_of(path) or NOBODY
    if common.as_json:
        write_json({"address": "0x" + address.hex(), "file": str(path)})
        return 0
    say(f"kept in {path}; back it up, and its password")
    say(f"name it in {common.config or config_path()}:")
    write_lines([f'wallet = "0x{address.hex()}"'])
    return 0


def _operator(named: str | None, settings: Settings) -> bytes:
    """The address that is meant; this node's own if none is named."""
    return own_operator(settings) if named is None else read_address(named)


def own_operator(settings: Settings) -> bytes:
    """The address of this node's own key, which is made if it never ran."""
    from node.adapters.keystore.signer import load_or_create

    known = operator_of(settings)
    if known:
        return known
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    return load_or_create(keys_dir(settings), settings.password_file).operator


def _ask_the_chain(settings: Settings) -> dict[str, Any]:
    """As the node would answer, while none runs."""
    import trio

    from node.adapters.ethereum.purse import open_purse
    from node.adapters.keystore.wallet import address_of, find
    from node.cli.chain import chain_config

    owner = settings.wallet
    if owner is None:
        try:
            owner = address_of(find(keys_dir(settings)))
        except NotFoundError:
            raise SettingsError(
                "wallet: missing", hint=f"souk wallet new, or add it to {config_path()}"
            ) from None
    if owner is None:
        raise SettingsError("wallet: missing", hint=f"add it to {config_path()}")
    config, key, address = chain_config(settings), operator_of(settings), owner

    async def ask() -> dict[str, Any]:
        async with open_purse(config, None) as purse:
            account, info = await purse.account(address, key or NOBODY), purse.info
        amounts = {
            "in_wallet": account.tokens, "deposited": account.free, "stake": account.stake,
            "locked": account.locked, "thawing": account.thawing,
            "allowance": account.operator_allowance,
        }  # fmt: skip
        return {
            "wallet": "0x" + address.hex(),
            "operator": "0x" + key.hex() if key else None,
            "chain_id": config.chain_id,
            "escrow": "0x" + config.escrow.hex(),
            "token": info.symbol,
            **{name: format_money(units, info.decimals) for name, units in amounts.items()},
            "thaws_at": account.thaws_at_s or None,
            "allowance_expires": account.operator_expires_at_s,
            "gas_wei": str(account.gas) if key else None,
        }

    return trio.run(ask)
