"""Money: deposit, withdraw and stake. What moves between wallet, escrow and stake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cyclopts import App

from market.errors import FundsError
from market.units import format_money
from node.cli.options import DEFAULT, Common
from node.cli.purse import DEFAULT_MONEY, NOBODY, Money, Wish, amount_of, carry_out

if TYPE_CHECKING:
    from node.adapters.ethereum.purse import Purse

stake = App(name="stake", help="Money that backs what this wallet sells.")


def deposit(amount: str, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Move tokens of the wallet into the escrow, to rent with or to stake.

    Parameters
    ----------
    amount
        In whole tokens, like 10.50.
    """

    async def wish(purse: Purse, owner: bytes) -> Wish:
        units = amount_of(amount, purse)
        sign = purse.wallet.sign_permit if purse.wallet is not None else None
        plan = await purse.plans.deposit(owner, units, sign)
        typed = await purse.plans.permit(owner, units) if purse.wallet is None else None
        return Wish(_words("deposit", units, purse), plan, typed)

    return carry_out(money, common, wish)


def withdraw(amount: str, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Take free money out of the escrow, back to the wallet.

    Parameters
    ----------
    amount
        In whole tokens, like 10.50, or all.
    """

    async def wish(purse: Purse, owner: bytes) -> Wish:
        free = (await purse.account(owner, NOBODY)).free
        units = free if amount == "all" else amount_of(amount, purse)
        if units > free or not units:
            raise FundsError(
                f"only {_text(free, purse)} can be withdrawn now",
                hint="stake leaves by souk stake thaw; agreements give back when they end",
            )
        return Wish(_words("withdraw", units, purse), purse.plans.withdraw(units))

    return carry_out(money, common, wish)


@stake.command
def add(amount: str, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Stake deposited money: it backs agreements as their collateral.

    Parameters
    ----------
    amount
        In whole tokens, like 10.50.
    """

    async def wish(purse: Purse, owner: bytes) -> Wish:
        units = amount_of(amount, purse)
        free = (await purse.account(owner, NOBODY)).free
        if units > free:
            raise FundsError(
                f"only {_text(free, purse)} is deposited and free", hint="souk deposit"
            )
        return Wish(_words("stake", units, purse), purse.plans.stake(units))

    return carry_out(money, common, wish)


@stake.command
def thaw(amount: str, *, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Begin to take stake back; the clock starts anew for all that thaws already.

    Parameters
    ----------
    amount
        In whole tokens, like 10.50, or all that no agreement locks.
    """

    async def wish(purse: Purse, owner: bytes) -> Wish:
        account = await purse.account(owner, NOBODY)
        units = account.stake if amount == "all" else amount_of(amount, purse)
        if units > account.stake or not units:
            raise FundsError(
                f"only {_text(account.stake, purse)} of the stake is free of agreements, "
                f"{_text(account.locked, purse)} is locked",
                hint="what is locked comes free as agreements end",
            )
        return Wish(_words("thaw", units, purse), purse.plans.thaw(units))

    return carry_out(money, common, wish)


@stake.command(name="withdraw")
def take_thawed(*, money: Money = DEFAULT_MONEY, common: Common = DEFAULT) -> int:
    """Make stake that has thawed free again; souk withdraw takes it out."""

    async def wish(purse: Purse, owner: bytes) -> Wish:
        thawing = (await purse.account(owner, NOBODY)).thawing
        if not thawing:
            raise FundsError("no stake is thawing", hint="begin with: souk stake thaw AMOUNT")
        return Wish(_words("free thawed stake of", thawing, purse), purse.plans.take_thawed())

    return carry_out(money, common, wish)


def _text(units: int, purse: Purse) -> str:
    return f"{format_money(units, purse.info.decimals)} {purse.info.symbol}"


def _words(verb: str, units: int, purse: Purse) -> str:
    return f"{verb} {_text(units, purse)}"
