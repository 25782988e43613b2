"""Doctor: `souk provider doctor`, the examination that a node must pass before it may sell.

It needs no running node and disturbs none: its sandbox has a folder and a name of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_table
from node.cli.settings import Settings

if TYPE_CHECKING:
    from node.adapters.oci.settings import OciSettings
    from node.ports import Check

UNFIT = 1


def doctor(*, common: Common = DEFAULT) -> int:
    """Say whether this machine may run strangers' code, and what to do if not.

    Looks at the machine's parts, then runs the escape probe in a job of the configured sandbox.
    The exit code is 1 while something critical is not well; a node does not sell before.
    """
    import trio

    from node.cli.daemon import log_to_stderr

    log_to_stderr()
    settings = common.settings()
    say("examining this machine; that takes up to a minute")
    checks = trio.run(examine, settings)
    unfit = unfit_of(checks)
    if common.as_json:
        rows = [
            {
                "check": check.name,
                "ok": check.ok,
                "critical": check.critical,
                "found": check.sentence,
                "fix": check.fix,
            }
            for check in checks
        ]
        write_json({"fit": not unfit, "checks": rows})
    else:
        table = [(check.name, _word(check), check.sentence, check.fix) for check in checks]
        write_table(("check", "result", "found", "what to do"), table, none="nothing was checked")
        say("fit to sell" if not unfit else f"not fit to sell: {len(unfit)} checks failed")
    return UNFIT if unfit else 0


def _word(check: Check) -> str:
    return "ok" if check.ok else "FAILED" if check.critical else "advice"


def unfit_of(checks: tuple[Check, ...]) -> list[Check]:
    """Those that keep the machine from selling."""
    return [check for check in checks if check.critical and not check.ok]


def passed(settings: Settings) -> bool:
    """Whether this sandbox passed since the machine was booted, with this kernel and version."""
    from node.cli.daemon import to_sandbox

    try:
        return _mark_file(settings).read_text() == _mark(_aside(to_sandbox(settings)))
    except OSError:
        return False


def remember(settings: Settings, checks: tuple[Check, ...]) -> None:
    """Note a pass, or forget one."""
    from node.cli.daemon import to_sandbox

    place = _mark_file(settings)
    if unfit_of(checks):
        place.unlink(missing_ok=True)
    else:
        place.write_text(_mark(_aside(to_sandbox(settings))))


def _mark_file(settings: Settings) -> Path:
    from node.cli.daemon import to_sandbox

    return _aside(to_sandbox(settings)).state_dir / "passed"


def _mark(box: OciSettings) -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    version = importlib.metadata.version("gridsouk")
    told = f"{boot}{os.uname().release}{version}{box!r}"
    return hashlib.sha256(told.encode()).hexdigest()


async def examine(settings: Settings) -> tuple[Check, ...]:
    """Every check, as the node itself makes them. Raises MarketError."""
    import trio

    from market.errors import SandboxError
    from node.adapters.devices.discover import discover
    from node.adapters.disk.blobs import open_blobs
    from node.adapters.engine.driver import EngineSandbox
    from node.adapters.oci import preflight
    from node.adapters.oci.driver import OciSandbox
    from node.cli.daemon import to_sandbox
    from node.ports import Check

    box = _aside(to_sandbox(settings))
    if os.geteuid():
        return await trio.to_thread.run_sync(preflight.machine, box)
    await trio.Path(box.state_dir).mkdir(parents=True, exist_ok=True)
    store = await open_blobs(box.state_dir / "blobs", bytes_max=2**40, pinned=frozenset)
    make = OciSandbox if box.driver == "oci" else EngineSandbox
    try:
        sandbox = await trio.to_thread.run_sync(make, box, store, discover(None))
    except SandboxError as problem:
        found = await trio.to_thread.run_sync(preflight.machine, box)
        return (*found, Check("sandbox", False, True, str(problem), problem.hint))
    return await sandbox.preflight()


def _aside(box: OciSettings) -> OciSettings:
    """The same sandbox beside that of a running node."""
    return replace(box, state_dir=box.state_dir / "doctor", instance=f"{box.instance[:25]}-doctor")
