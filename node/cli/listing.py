"""Listing: `souk provider init`, from nothing to a listed unit in one sitting.

    [1/10] units      what there is to sell          [6/10] doctor   may strangers' code run here?
    [2/10] network    the chain, the escrow          [7/10] money    stake, allowance, gas: one plan
    [3/10] keys       who owns the money             [8/10] start    the node, by systemd if it runs
    [4/10] price      from the market                [9/10] bench    the units, certified
    [5/10] settings   one file                      [10/10] listed   the offer as others hear it

Each step says what it found and what it did. What was done before is recognised by what is there,
never by a note of ours, so the same command goes on wherever it was left. Nothing is written before
it was checked; nothing is spent without a yes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated, Any, Final

from cyclopts import Parameter

from market.errors import MarketError, RefusedError, SpecError
from market.units import parse_money
from node.cli import asking, inventory, opening, settingsfile
from node.cli.answers import NO_ANSWERS, Answers, Texts
from node.cli.funding import Needs, fund
from node.cli.inventory import Machine
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json
from node.cli.owners import settle
from node.cli.purse import COIN_DECIMALS, DEFAULT_MONEY, Money, operator_of
from node.cli.settings import Settings, config_path
from node.cli.sitting import BEFORE, WAITS, Sitting
from node.cli.whereabouts import find_market

STEPS: Final = (
    "units", "network", "keys", "price", "settings", "doctor", "money", "start", "bench", "listed",
)  # fmt: skip
SKIPPABLE: Final = ("doctor", "money", "start", "bench", "listed")
ALLOWANCE_STAKES: Final = 100  # a hundred times all units let: each agreement uses some of it up


@dataclass
class Result:
    """What `--json` says in the end."""

    config: str = ""
    money: dict[str, Any] | None = None
    offers: list[dict[str, Any]] | None = None


def init(
    *,
    cpu_units: int = 0,
    force: Annotated[bool, Parameter(negative="")] = False,
    skip: Texts = (),
    answers: Answers = NO_ANSWERS,
    money: Money = DEFAULT_MONEY,
    common: Common = DEFAULT,
) -> int:
    """From nothing to a listed machine in one sitting; said again, it goes on where it was left.

    Asks on a terminal. Elsewhere it takes flags, or with -y what it would propose.

    Parameters
    ----------
    cpu_units
        So many CPU units to sell where the driver finds no GPU.
    force
        Write a [provider] table anew where there is one.
    skip
        A step to leave out: doctor, money, start, bench or listed. May be repeated.
    """
    sitting = Sitting(STEPS, yes=money.yes, as_json=common.as_json, skip=skip)
    for name in set(skip) - set(SKIPPABLE):
        raise SpecError(f"--skip {name}: this step is needed", hint=f"of {', '.join(SKIPPABLE)}")
    result = Result()
    try:
        _go(sitting, answers, money, common, (cpu_units, force), result)
    except KeyboardInterrupt:
        say("")
        say(f"left at {sitting.step.name}; the same command goes on from there")
        return 130
    except MarketError as problem:
        if not common.as_json:
            raise
        error = {"code": problem.code, "message": str(problem), "hint": problem.hint}
        write_json({"error": error, **_told(sitting, result)})
        return problem.exit_code
    if common.as_json:
        write_json(_told(sitting, result))
    elif result.offers:
        opening.show_offers(result.offers)
    return 0


def _go(
    sitting: Sitting,
    answers: Answers,
    money: Money,
    common: Common,
    sold: tuple[int, bool],
    result: Result,
) -> None:
    cpu_units, force = sold
    sitting.begin("units")
    if os.geteuid() and "doctor" not in sitting.skip:
        raise RefusedError(
            "a provider needs root: it mounts disks and sets limits for jobs, which never are root",
            hint="sudo souk provider init; --skip doctor only writes settings and moves money",
        )
    found = inventory.look(common.settings(), cpu_units)
    sitting.end(inventory.words(found))
    sitting.begin("network")
    chosen = find_market(sitting, answers, common)
    sitting.begin("keys")
    owner, money = settle(sitting, answers, money, common.settings(**chosen))
    sitting.begin("price")
    table = _price(sitting, answers, common, found, force=force)
    sitting.begin("settings")
    result.config = _settings(sitting, common, {**chosen, "wallet": f"0x{owner.hex()}"}, table)
    settings = common.settings()
    if sitting.begin("doctor"):
        _doctor(sitting, settings, common)
    if sitting.begin("money"):
        result.money = _money(sitting, answers, money, settings, len(found.units))
        if sitting.step.outcome == WAITS:
            return
    node = common.node()
    if not sitting.begin("start"):
        if opening.status_of(node) is None:
            return
    elif not opening.start(sitting, common, node):
        return
    if sitting.begin("bench"):
        opening.measure(sitting, node)
    if sitting.begin("listed"):
        result.offers = opening.listed(sitting, node)


def _price(
    sitting: Sitting, answers: Answers, common: Common, found: Machine, *, force: bool
) -> str | None:
    """The [provider] table to write; None where the one that is there stays."""
    sold = common.settings().provider
    if sold is not None and not force:
        if answers.price not in (None, sold.price_per_hour):
            raise RefusedError(
                f"the settings ask {sold.price_per_hour} already",
                hint="change it there, or give --force for a table written anew",
            )
        sitting.end(f"{sold.price_per_hour} a unit-hour, as the settings say", BEFORE)
        return None
    proposed, why = asking.propose(common, found.units[0].name)
    sitting.note(f"proposed: {proposed} a unit-hour ({why})")
    price = sitting.ask("price per unit-hour", "--price", answers.price, proposed, _amount)
    where = sitting.ask("geolocation (country)", "--geolocation", answers.geolocation, "", _place)
    collateral = asking.collateral(price)
    sitting.end(f"{price} a unit-hour; {collateral} of stake behind each unit")
    return settingsfile.table(found, price, collateral, where)


def _settings(sitting: Sitting, common: Common, keys: dict[str, object], table: str | None) -> str:
    place = (common.config or config_path()).absolute()
    before = settingsfile.read(place)
    text = settingsfile.with_keys(before, keys)
    if table is not None:
        text = settingsfile.without_table(text) + "\n" + table
    if text == before:
        sitting.end(f"{place} says all of it", BEFORE)
        return str(place)
    settingsfile.write(place, text)
    sitting.end(f"written: {place}")
    return str(place)


def _doctor(sitting: Sitting, settings: Settings, common: Common) -> None:
    import trio

    from node.cli.daemon import log_to_stderr
    from node.cli.doctor import examine, passed, remember, unfit_of

    log_to_stderr("warning")
    if passed(settings):
        sitting.end("this machine passed since it was booted", BEFORE)
        return
    sitting.note("examining this machine; that takes up to a minute")
    checks = trio.run(examine, settings)
    for check in checks:
        if not check.ok:
            word = "FAILED" if check.critical else "advice"
            sitting.note(f"{word}: {check.name}: {check.sentence} ({check.fix})")
    unfit = unfit_of(checks)
    if unfit:
        raise RefusedError(
            f"not fit to sell: {len(unfit)} of {len(checks)} checks failed",
            hint=f"{unfit[0].fix}; then say the same again",
        )
    remember(settings, checks)
    sitting.end(f"fit to sell: {len(checks)} checks")


def _money(
    sitting: Sitting, answers: Answers, money: Money, settings: Settings, units: int
) -> dict[str, Any]:
    import trio

    sold = settings.provider
    assert sold is not None, "the settings were written"
    assert settings.wallet is not None, "likewise"

    def wanted(decimals: int) -> Needs:
        stake = parse_money(sold.collateral_per_unit, decimals) * units
        allowance = (
            stake * ALLOWANCE_STAKES
            if answers.allowance is None
            else parse_money(answers.allowance, decimals)
        )
        return Needs(stake, allowance, parse_money(answers.gas, COIN_DECIMALS))

    wanted(settings.decimals)  # what cannot be read is said before anything is asked of the chain
    operator = operator_of(settings)
    return trio.run(fund, sitting, money, settings, settings.wallet, operator, wanted)


def _told(sitting: Sitting, result: Result) -> dict[str, Any]:
    return {
        "config": result.config or None,
        "steps": [
            {"step": one.name, "outcome": one.outcome, "found": one.found} for one in sitting.steps
        ],
        "money": result.money or None,
        "listed": bool(result.offers),
        "offers": result.offers or [],
    }


def _amount(text: str) -> None:
    if not parse_money(text, 18):
        raise SpecError("a price of nothing sells nothing", hint="write it like 0.40")


def _place(text: str) -> None:
    if text and not (text.isalpha() and len(text) <= 32):
        raise SpecError(f"{text!r} is not a country", hint="letters, like DE")
