"""Wellbeing: `souk doctor`, one look at everything a requester's machine needs, worst first.

It changes nothing. Each finding says what to do; the exit code is 1 while something is wrong.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from market.errors import MarketError
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_table
from node.cli.reports import reach_text
from node.cli.settings import Settings, config_path
from node.client.http import Node

DISK_MIN_BYTES: Final = 2 * 1024**3
SKEW_S: Final = 5.0
EXPIRES_SOON_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def doctor(*, common: Common = DEFAULT) -> int:
    """Look over configuration, keys, disk, node, peers, chain and money; say what to fix."""
    findings = list(_look(common))
    wrong = [finding for finding in findings if not finding.ok]
    if common.as_json:
        rows = [
            {"check": one.name, "ok": one.ok, "found": one.found, "fix": one.fix}
            for one in findings
        ]
        write_json({"well": not wrong, "checks": rows})
        return 1 if wrong else 0
    table = [(one.name, _verdict(one), one.found, one.fix) for one in findings]
    write_table(("check", "result", "found", "what to do"), table, none="nothing was checked")
    say("all is well" if not wrong else f"{len(wrong)} of {len(findings)} checks failed")
    return 1 if wrong else 0


def _verdict(finding: Finding) -> str:
    """`note`: it works as it is, and could be better."""
    if not finding.ok:
        return "WRONG"
    return "note" if finding.fix else "ok"


def _look(common: Common) -> Iterator[Finding]:
    try:
        settings = common.settings()
    except MarketError as problem:
        yield Finding("configuration", False, str(problem), problem.hint)
        return
    yield from _configured(common, settings)
    yield from _kept(settings)
    node = Node(settings.socket_path)
    try:
        status = node.get("/api/status")
    except MarketError as problem:
        yield Finding("node", False, str(problem), problem.hint)
        return
    yield from _running(status)
    try:
        wallet = node.get("/api/wallet")
    except MarketError as problem:
        yield Finding("chain", False, str(problem), problem.hint or "check rpc")
        return
    yield from _funded(wallet, selling=status["selling"])


def _configured(common: Common, settings: Settings) -> Iterator[Finding]:
    place = common.config or config_path()
    missing = [
        key
        for key in ("wallet", "escrow", "token", "rpc", "chain_id")
        if not getattr(settings, key)
    ]
    found = f"{place}, network {settings.network}"
    fix = f"add {', '.join(missing)} to {place}" if missing else ""
    yield Finding("configuration", not missing, found, fix)


def _kept(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    if not folder.exists():
        yield Finding("data directory", True, f"{folder} will be made at the first start")
        return
    usable = os.access(folder, os.R_OK | os.W_OK | os.X_OK)
    fix = "" if usable else "be its owner, or give --data-dir"
    yield Finding("data directory", usable, str(folder), fix)
    if not usable:
        return
    free = shutil.disk_usage(folder).free
    fix = "" if free >= DISK_MIN_BYTES else "make room: the journal must never be refused a write"
    yield Finding("disk", free >= DISK_MIN_BYTES, f"{free / 1024**3:.1f} GiB free", fix)
    loose = [
        path
        for path in sorted((folder / "keys").glob("*"))
        if stat.S_IMODE(path.stat().st_mode) & 0o077
    ]
    fix = f"chmod 600 {' '.join(map(str, loose))}" if loose else ""
    found = "readable by their owner only" if not loose else "others can read them"
    yield Finding("keys", not loose, found, fix)


def _running(status: dict[str, Any]) -> Iterator[Finding]:
    yield Finding("node", True, f"{status['peer'][:16]} on {status['network']}")
    skew_s = abs(time.time() - status["now"])
    fix = "set the clock: messages from the future are refused" if skew_s > SKEW_S else ""
    yield Finding("clock", skew_s <= SKEW_S, f"{skew_s:.1f} s from the node's", fix)
    peers = status["peers"]
    fix = "" if peers else "check bootstrap in the configuration, and firewalls"
    yield Finding("peers", bool(peers), f"{peers} connected", fix)
    yield _reached(status)
    heard = status["offers_known"]
    yield Finding("offers", bool(heard), f"{heard} heard of", "" if heard else "wait 20 seconds")
    waits = status["waiting_for"]
    yield Finding("at work", not waits, waits or "waits for nothing", "see above" if waits else "")


def _reached(status: dict[str, Any]) -> Finding:
    reach, fix = status["reach"], ""
    alone = reach["reachable"] is False and not reach["relays"]
    if alone:
        fix = "open the port of listen in the router, or know a bootstrap peer that relays"
    elif reach["reachable"] is False and status["selling"]:
        fix = "staging is as slow as the relay: open the port of listen in the router"
    return Finding("reachable", not alone, reach_text(reach), fix)


def _funded(wallet: dict[str, Any], *, selling: bool) -> Iterator[Finding]:
    yield Finding("chain", True, f"chain {wallet['chain_id']}, escrow {wallet['escrow']}")
    token = wallet["token"]
    if not selling:
        has = float(wallet["deposited"]) > 0
        fix = "" if has else "souk deposit 10"
        yield Finding("deposit", has, f"{wallet['deposited']} {token} free in the escrow", fix)
    else:
        has = float(wallet["stake"]) + float(wallet["locked"]) > 0
        fix = "" if has else "souk stake add 10"
        yield Finding(
            "stake", has, f"{wallet['stake']} {token} free, {wallet['locked']} locked", fix
        )
    expires = wallet["allowance_expires"]
    left_s = expires - time.time()
    good = float(wallet["allowance"]) > 0 and left_s > EXPIRES_SOON_S
    found = f"{wallet['allowance']} {token} until {time.strftime('%Y-%m-%d', time.gmtime(expires))}"
    own = wallet["wallet"] == wallet["operator"]
    fix = "" if good or own else "souk wallet authorise"
    yield Finding("allowance", good or own, found if not own else "the wallet signs itself", fix)
    gas = int(wallet["gas_wei"])
    fix = "" if gas else f"send some of the chain's coin to {wallet['operator']}"
    yield Finding("gas", bool(gas), f"{gas / 1e18:.6f} of the chain's coin", fix)
