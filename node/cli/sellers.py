"""Sellers: what this node sells, looked at and changed while it runs."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

from cyclopts import Parameter

from market.units import format_duration
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_facts, write_json, write_lines, write_table

POLL_S: Final = 1.0


def status(*, common: Common = DEFAULT) -> int:
    """Show what is sold, at which price and policy; the units; who waits for them."""
    node = common.node()
    found = node.get("/api/provider")
    queue = node.get("/api/provider/queue")
    if common.as_json:
        write_json({"provider": found, "queue": queue})
        return 0
    write_facts(
        {
            "selling": _word(found),
            "policy": found["policy"],
            "placement": found["placement"],
            "start-up": f"{found['start_up_ms'] / 1000:.1f} s",
            "images here": len(found["cached_images"]),
        }
    )
    for problem in found["unfit"]:
        say(f"not fit to sell: {problem['check']}: {problem['found']} ({problem['fix']})")
    rows = [
        (
            unit["index"], unit["name"], _mib(unit["ram_mib"]),
            "ok" if unit["healthy"] else unit["reason"] or "unwell",
            _percent(unit["utilisation"]), unit["temperature_c"], unit["power_w"],
            (unit["agreement"] or "")[:12] or None,
        )
        for unit in found["machine"]
    ]  # fmt: skip
    columns = ("unit", "name", "ram", "health", "use", "celsius", "watts", "agreement")
    write_lines([""])
    write_table(columns, rows, none="no units")
    wares = [
        (kind["name"], len(kind["units"]), kind["free"], ware["dph"], ware["collateral"],
         "yes" if ware["preemptible"] else "no", format_duration(kind["wait_s"]))
        for kind in found["kinds"] for ware in kind["wares"]
    ]  # fmt: skip
    write_lines([""])
    sold = ("kind", "units", "free", "dph", "collateral", "preemptible", "wait")
    write_table(sold, wares, none="nothing is for sale")
    if queue:
        write_lines([""])
        lines = [
            (row["job"][:12], row["kind"], row["units"], row["bid"], row["priority"],
             format_duration(max(0.0, time.time() - row["since"])))
            for row in queue
        ]  # fmt: skip
        write_table(("waiting", "kind", "units", "bid", "priority", "for"), lines, none="")
    return 0


def quotes(
    *, limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 20, common: Common = DEFAULT
) -> int:
    """List this node's quotes, newest first: what was asked, and why each was won or lost.

    Parameters
    ----------
    limit
        At most so many.
    """
    found = common.node().get("/api/provider/quotes")[: max(0, limit)]
    if common.as_json:
        write_json({"quotes": found})
        return 0
    rows = [
        (time.strftime("%m-%d %H:%M:%S", time.localtime(row["at"])), row["job"][:12], row["units"],
         row["dph"], row["bid"], row["outcome"], row["reason"])
        for row in found
    ]  # fmt: skip
    columns = ("at", "job", "units", "dph", "bid", "outcome", "reason")
    write_table(columns, rows, none="no quotes yet")
    return 0


def price(amount: str, name: str | None = None, *, common: Common = DEFAULT) -> int:
    """Ask another price per unit-hour from now on; what was agreed keeps its own.

    It lasts until the node is started again: the configuration says what comes then.

    Parameters
    ----------
    amount
        Whole tokens, like 0.40.
    name
        The kind of unit; all that have no price of their own if left out.
    """
    body = {"price_per_hour": amount, "name": name}
    return _changed(common, "price", body, f"{amount} per unit-hour from now on")


def pause(*, common: Common = DEFAULT) -> int:
    """Quote nothing until `resume`, over restarts too; what runs goes on."""
    return _changed(common, "pause", {}, "paused; go on with: souk provider resume")


def resume(*, common: Common = DEFAULT) -> int:
    """Sell again after `pause` or `drain`."""
    return _changed(common, "resume", {}, "selling again")


def drain(
    *,
    wait: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Quote nothing from now on; jobs that run go on to their end.

    Parameters
    ----------
    wait
        Return when the last one has ended.
    """
    code = _changed(common, "drain", {}, "draining; see how far with: souk provider status")
    node = common.node()
    while wait and not node.get("/api/provider")["drained"]:
        time.sleep(POLL_S)
    if wait:
        say("drained: nothing runs here any more")
    return code


def _changed(common: Common, what: str, body: dict[str, Any], told: str) -> int:
    found = common.node().post(f"/api/provider/{what}", body)
    if common.as_json:
        write_json({"provider": found})
    else:
        write_lines([_word(found)])
        say(told)
    return 0


def _word(found: dict[str, Any]) -> str:
    """Whether the shop is open, in one word or two."""
    if not found["selling"]:
        return "nothing"
    if found["unfit"]:
        return "not fit"
    return str(found["mode"]) + (" (drained)" if found["drained"] else "")


def _mib(count: int) -> str:
    return f"{count / 1024:g}G" if count else "-"


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.0%}"
