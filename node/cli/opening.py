"""Opening: the last steps to a listed unit: the node started, its units measured, its offer heard.

The node does all of it; this starts it where systemd runs, waits, and says what it waits for.
"""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from market.errors import MarketError, RefusedError
from node.cli.bench import waiting
from node.cli.offers import show
from node.cli.options import Common
from node.cli.sitting import BEFORE, WAITS, Sitting
from node.cli.unit import UNIT_DIR, write_unit
from node.client.http import Node, NodeDownError

SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
LOOK_S: Final = 0.5
MEASURE_S: Final = 3600.0
LISTED_S: Final = 600.0  # an examination takes up to a minute, an offer less


def start(sitting: Sitting, common: Common, node: Node) -> bool:
    """See that a node runs here that sells; False if its owner has to start it."""
    status = status_of(node)
    if status is not None:
        if not status["selling"]:
            raise RefusedError(
                "a node runs here, from before these settings",
                hint="start it again, then say the same again",
            )
        sitting.end("the node runs", BEFORE)
        return True
    if SYSTEMD.is_dir() and os.geteuid() == 0:
        if sitting.agree(f"write {UNIT_DIR}/gridsouk.service and start it?", "--skip start"):
            place = write_unit(UNIT_DIR, common)
            for words in (("daemon-reload",), ("enable", "--now", "gridsouk")):
                _systemctl(*words)
            _until_up(node)
            sitting.end(f"{place}, enabled and started")
            return True
        sitting.end("start it with: souk up; then the same command goes on from here", WAITS)
        return False
    named = f" --config {common.config}" if common.config is not None else ""
    if not sitting.asks:
        sitting.end(
            f"start it with: souk up{named}; then the same command goes on from here", WAITS
        )
        return False
    sitting.note(f"start it in another terminal with: souk up{named}")
    sitting.note("waiting for it; Ctrl-C leaves, and the same command goes on from here")
    _until_up(node, for_ever=True)
    sitting.end("the node runs")
    return True


def measure(sitting: Sitting, node: Node) -> None:
    """A certificate for every unit, unless each has one that lasts."""
    _until_examined(sitting, node)
    own = node.get("/api/certificates")["own"]
    units = node.get("/api/provider")["machine"]
    lasting = {one["unit"] for one in own if one["expires"] > time.time() + 3600}
    if units and {unit["index"] for unit in units} <= lasting:
        sitting.end(f"{len(units)} of {len(units)} certified already", BEFORE)
        return
    try:
        done = waiting(
            node, lambda: node.post("/api/certificates/measure", {}, timeout_s=MEASURE_S)
        )
    except RefusedError as problem:  # somebody was faster than we are: good for business
        sitting.end(f"{problem}: measure later with souk provider bench", WAITS)
        return
    rows = done["certificates"]
    told = ", ".join(f"unit {row['unit']} {row['dlperf']:g}" for row in rows)
    sitting.end(f"dlperf: {told}; signed for a week")


def listed(sitting: Sitting, node: Node) -> list[dict[str, Any]]:
    """The offers of this node as everybody hears them, once there are."""
    me, told = node.get("/api/status")["peer"], ""
    ends_at = time.monotonic() + LISTED_S
    while time.monotonic() < ends_at:
        rows = [row for row in node.get("/api/offers") if row["peer"] == me]
        if rows:
            sitting.end(f"{len(rows)} offer{'s' * (len(rows) > 1)} of this machine on the market")
            return rows
        reason = _hindrance(node)
        if reason and reason != told:
            sitting.note(told := reason)
        time.sleep(LOOK_S)
    raise RefusedError(
        f"not listed after {LISTED_S / 60:.0f} minutes: {told}", hint="see: souk provider status"
    )


def show_offers(rows: list[dict[str, Any]]) -> None:
    """As `souk offers` shows them."""
    show(rows, none="")


def _hindrance(node: Node) -> str:
    """Why nothing is offered. Raises RefusedError for what waiting does not mend."""
    found = node.get("/api/provider")
    _must_be_fit(found)
    if found["mode"] != "open":
        raise RefusedError(f"the node is {found['mode']}", hint="souk provider resume")
    if not found["kinds"]:
        raise RefusedError("no unit is well", hint="see: souk provider status")
    return "; ".join(node.get("/api/status")["waiting_for"]) or "waiting for the next offer"


def _until_examined(sitting: Sitting, node: Node) -> None:
    told = False
    while not (found := node.get("/api/provider"))["examined"]:
        if not told:
            sitting.note("the node examines the machine")
            told = True
        time.sleep(LOOK_S)
    _must_be_fit(found)


def _must_be_fit(found: dict[str, Any]) -> None:
    for one in found["unfit"]:
        raise RefusedError(f"not fit to sell: {one['check']}: {one['found']}", hint=one["fix"])


def status_of(node: Node) -> dict[str, Any] | None:
    """What the node here says; None if none runs."""
    try:
        found: dict[str, Any] = node.get("/api/status")
    except NodeDownError:
        return None
    return found


def _until_up(node: Node, *, for_ever: bool = False) -> None:
    ends_at = time.monotonic() + LISTED_S
    while status_of(node) is None:
        if not for_ever and time.monotonic() > ends_at:
            raise RefusedError(
                "the node does not answer", hint="see: journalctl -u gridsouk, or souk doctor"
            )
        time.sleep(LOOK_S)


def _systemctl(*words: str) -> None:
    try:
        done = subprocess.run(
            ["systemctl", *words], capture_output=True, text=True, timeout=LISTED_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise MarketError(f"systemctl {words[0]}: {problem}", hint="start it by hand") from problem
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise MarketError(
            f"systemctl {words[0]}: {said}", hint="journalctl -u gridsouk shows why; then say the "
            "same again"
        )  # fmt: skip
