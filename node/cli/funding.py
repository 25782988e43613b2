"""Funding: what a seller's money lacks, as one plan: mint, deposit, stake, authorise, gas.

The shortfall is arithmetic over what the chain says now, so a plan that broke off is finished by
asking again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from market.errors import FundsError
from market.units import format_money
from node.cli.purse import (
    COIN_DECIMALS,
    Carried,
    Money,
    Wish,
    calls_of,
    perform,
    show_unsigned,
)
from node.cli.settings import TESTNET_TOKEN, Settings
from node.cli.sitting import BEFORE, WAITS, Sitting

if TYPE_CHECKING:
    from node.adapters.ethereum.purse import Purse
    from node.ports import Account

ALLOWED_DAYS: Final = 30
EXPIRES_SOON_S: Final = 24 * 3600
FEES_WEI: Final = 10**15  # a few calls, on a test network's worst day


@dataclass(frozen=True, slots=True)
class Needs:
    """What is wanted: base units of the token, and wei for the operator."""

    stake: int
    allowance: int
    gas_wei: int


@dataclass(frozen=True, slots=True)
class Gap:
    """What is missing of it: `tokens` in the wallet, then what each step has to move."""

    tokens: int
    deposit: int
    stake: int
    allowance: int
    gas_wei: int

    def __bool__(self) -> bool:
        """Whether anything is."""
        return bool(self.stake or self.allowance or self.gas_wei)


def gap(needs: Needs, has: Account, now: float, *, same_key: bool = False) -> Gap:
    """What is missing; `same_key`: the wallet is its own operator and needs no allowance.

    An allowance is used up by what is locked: it is renewed when half of it is gone, or when its
    last day begins. Gas likewise.
    """
    stake = max(0, needs.stake - has.stake - has.locked)
    deposit = max(0, stake - has.free)
    expired = has.operator_expires_at_s - now < EXPIRES_SOON_S
    renew = not same_key and (expired or 2 * has.operator_allowance < needs.allowance)
    return Gap(
        tokens=max(0, deposit - has.tokens),
        deposit=deposit,
        stake=stake,
        allowance=needs.allowance if renew else 0,
        gas_wei=needs.gas_wei if 2 * has.gas < needs.gas_wei else 0,
    )


async def fund(
    sitting: Sitting,
    money: Money,
    settings: Settings,
    owner: bytes,
    operator: bytes,
    wanted: Callable[[int], Needs],
) -> dict[str, Any]:
    """Show what there is and what is missing, and move it in one confirmed plan.

    `wanted` is given the token's decimals. Raises FundsError if the wallet itself has too little.
    """
    while True:
        missing = await _look(sitting, money, settings, owner, operator, wanted)
        if not missing:
            sitting.end("nothing is missing", BEFORE)
            return {}

        async def wish(purse: Purse, owner: bytes) -> Wish:
            return await _plan(purse, owner, operator, wanted, settings)

        carried = await perform(money, settings, wish)
        if carried.done is not None:
            cost = _coins(carried.done.wei)
            sitting.end(f"{len(carried.hashes)} transactions, for {cost} of the chain's coin")
            return {"transactions": carried.hashes}
        if not _signed_elsewhere(sitting, carried, settings):
            return {"unsigned": calls_of(carried, settings)}


async def _look(
    sitting: Sitting,
    money: Money,
    settings: Settings,
    owner: bytes,
    operator: bytes,
    wanted: Callable[[int], Needs],
) -> Gap:
    from node.adapters.ethereum.purse import open_purse
    from node.cli.chain import chain_config

    async with open_purse(chain_config(settings), None) as purse:
        has, coin = await purse.account(owner, operator), await purse.account(owner, owner)
        info = purse.info
    said = {name: format_money(units, info.decimals) for name, units in (
        ("in the wallet", has.tokens), ("free in the escrow", has.free),
        ("staked", has.stake + has.locked), ("allowed", has.operator_allowance),
    )}  # fmt: skip
    listed = ", ".join(f"{amount} {name}" for name, amount in said.items())
    sitting.note(f"{info.symbol}: {listed}; {_coins(coin.gas)} of the chain's coin in the wallet")
    missing = gap(wanted(info.decimals), has, time.time(), same_key=operator == owner)
    if missing.tokens and not _mints(settings):
        raise FundsError(
            f"the wallet 0x{owner.hex()} lacks {format_money(missing.tokens, info.decimals)} "
            f"{info.symbol}",
            hint="send it that, and say the same again",
        )
    if missing and not money.unsigned and coin.gas < missing.gas_wei + FEES_WEI:
        lacks = _coins(missing.gas_wei + FEES_WEI - coin.gas)
        raise FundsError(
            f"the wallet 0x{owner.hex()} lacks {lacks} of the chain's coin, for fees and the "
            "operator's gas",
            hint="send it that, and say the same again; --gas asks for less",
        )
    return missing


def _coins(wei: int) -> str:
    """To six digits: what is below is noise to whoever reads it."""
    return f"{wei / 10**COIN_DECIMALS:.6f}".rstrip("0").rstrip(".")


def _mints(settings: Settings) -> bool:
    """Whether the token is play money that anybody makes for himself."""
    return settings.network == "devnet" or settings.token == TESTNET_TOKEN


async def _plan(
    purse: Purse, owner: bytes, operator: bytes, wanted: Callable[[int], Needs], settings: Settings
) -> Wish:
    from node.adapters.ethereum.pending import Call

    has, info, plans = await purse.account(owner, operator), purse.info, purse.plans
    needs = wanted(info.decimals)
    missing = gap(needs, has, time.time(), same_key=operator == owner)
    calls: list[Call] = []
    words: list[str] = []

    def add(text: str, more: tuple[Call, ...]) -> None:
        words.append(text)
        calls.extend(more)

    def said(units: int) -> str:
        return f"{format_money(units, info.decimals)} {info.symbol}"

    if missing.tokens and _mints(settings):
        add(f"mint {said(missing.tokens)} of play money", plans.mint(owner, missing.tokens))
    if missing.deposit:
        sign = purse.wallet.sign_permit if purse.wallet is not None else None
        into = await plans.deposit(owner, missing.deposit, sign, arriving=missing.tokens)
        add(f"deposit {said(missing.deposit)}", into)
    if missing.stake:
        add(f"stake {said(missing.stake)}", plans.stake(missing.stake))
    if missing.allowance:
        until = int(time.time()) + ALLOWED_DAYS * 86_400
        day = time.strftime("%Y-%m-%d", time.gmtime(until))
        words_ = f"let the operator lock {said(missing.allowance)} in all until {day}"
        add(words_, plans.authorise(operator, missing.allowance, until))
    if missing.gas_wei:
        add(
            f"send the operator {_coins(missing.gas_wei)} for gas",
            (Call(operator, "0x", missing.gas_wei),),
        )
    return Wish(", ".join(words), tuple(calls))


def _signed_elsewhere(sitting: Sitting, carried: Carried, settings: Settings) -> bool:
    """Show what to sign; True once somebody says that it is done."""
    if sitting.as_json:
        sitting.end(f"to sign with the wallet: {carried.wish.words}", WAITS)
        return False
    show_unsigned(carried, settings, as_json=False)
    if sitting.pause("signed and mined?"):
        return True
    sitting.end("waits until the wallet has signed these", WAITS)
    return False
