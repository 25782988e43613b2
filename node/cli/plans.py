"""Plans: what a job would find on the market, shown to a person before anything is spent."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final

from market.errors import FundsError
from market.units import format_duration
from node.cli.output import say

SHOWN: Final = 5  # offers; `souk run --json` and the web view have more


def show_plan(plan: dict[str, Any]) -> None:
    """The file's cap, and, where the node was asked for it, the ranking with its reasons."""
    if not plan:
        return
    token = plan["token"]
    nodes = f"{plan['nodes']} nodes of " if plan.get("nodes", 1) > 1 else ""
    say(
        f"{plan['name']}: {nodes}{' or '.join(plan['accelerators'])}, "
        f"at most {plan['max_hourly_cost']} {token}/h for {format_duration(plan['max_duration_s'])}"
    )
    if plan.get("ranking"):
        _show_ranking(plan["ranking"])
    estimate = plan.get("estimate")
    if estimate:
        guess = " (a guess: the job file has no estimate)" if estimate["is_guess"] else ""
        say(
            f"expected: {estimate['price']} {token}, results in about "
            f"{format_duration(estimate['ready_s'])}{guess}"
        )
        say(f"held now: {plan['held']} {token}, of which about {plan['refundable']} comes back")
    else:
        say(f"held at most: {plan['max_hold']} {token}; what is not used comes back")
        for line in _nobody(plan):
            say(line)


def check_funds(plan: dict[str, Any]) -> None:
    """Raise FundsError if what would be held now is not there: such a job would wait for ever."""
    wallet, token = plan.get("wallet"), plan["token"]
    if not plan.get("estimate") or not wallet or wallet["enough"]:
        return
    short = Decimal(wallet["free"]) < Decimal(plan["held"])
    raise FundsError(
        f"{wallet['missing']} {token} are missing: the escrow holds {wallet['free']} for you, of "
        f"which this node may use {wallet['usable']}",
        hint=f"souk deposit {wallet['missing']}" if short
        else f"souk wallet authorise --allowance {plan['held']}",
    )  # fmt: skip


def _show_ranking(ranking: list[dict[str, Any]]) -> None:
    say("    offer             price/h   cost = price + waiting + risk      ready (move, run)")
    for row in ranking[:SHOWN]:
        cost, seconds = row["cost"], row["seconds"]
        mark = "->" if row["chosen"] else "  "
        name = f"{row['gpu_name']} x{row['units']}"
        why = f"{cost['total']} = {cost['price']} + {cost['waiting']} + {cost['risk']}"
        moving = format_duration(seconds["transfer"] + seconds["start_up"] + seconds["queue"])
        ready = f"{format_duration(seconds['ready'])} ({moving}, {format_duration(seconds['run'])})"
        say(f" {mark} {name:<17.17} {row['dph']:<9} {why:<34} {ready}")
    if len(ranking) > SHOWN:
        say(f"    and {len(ranking) - SHOWN} more")


def _nobody(plan: dict[str, Any]) -> list[str]:
    """Why nothing fits now; the job would wait."""
    if "explanation" not in plan:
        return []
    waiting = [f"nobody could take it now: {plan['waiting']}"] if plan.get("waiting") else []
    return [*waiting, *(f"  {line}" for line in plan["explanation"]["lines"])]
