"""Unit: what `souk service install` writes, under a real systemd and pure version 2.

Run by itself in the guest it starts, restarts and stops the unit and says what became of a job. Run
as `... unit node` it is what the unit starts: no market, but all that a node does with a job.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import trio

from market.terms import Artifact
from node.adapters.disk.blobs import open_blobs
from node.adapters.oci import launch
from node.adapters.oci.settings import OciSettings, paths_of
from node.cli import unit
from node.cli.supervisor import notify
from node.ports import RunState, Workspace
from tests.adapters.sandbox.harness import BASE, MIB, PATIENCE_S, Driver

ROOT: Final = Path(__file__).resolve().parents[2]
STATE: Final = Path("/guest/state")
GROUPS: Final = Path("/sys/fs/cgroup")
SETTINGS: Final = OciSettings(STATE, instance="unit")
WORK: Final = "job-1"
COMMAND: Final = "echo once >> /out/count; while :; do echo tick; sleep 1; done"
DROP_IN: Final = f"""
[Service]
ExecStart=
ExecStart={ROOT}/.venv/bin/python -m tests.guest.unit node
WorkingDirectory={ROOT}
Environment=GRIDSOUK_BASE_IMAGE=/guest/base.tar
TimeoutStartSec=600
WatchdogSec=0
StandardOutput=file:/guest/node.log
StandardError=inherit
"""


async def node() -> None:
    """Make the job if it is not there, say that all is ready, wait for SIGTERM."""
    driver = await open_driver()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        if WORK not in await driver.sandbox.works():
            manifest = replace(BASE, image=driver.image, command=COMMAND, max_duration_s=3600)
            await driver.sandbox.prepare(Workspace(WORK, manifest, (0,)))
            await driver.sandbox.start(WORK)
        await driver.wait_log(WORK, "tick")
        notify("READY=1")
        async for _ in signals:
            return


async def open_driver() -> Driver:
    """The sandbox with the base image in its store."""
    blobs = await open_blobs(STATE / "blobs", bytes_max=1024 * MIB, pinned=tuple)
    record = STATE / "base"
    if not record.exists():
        image = Path(os.environ["GRIDSOUK_BASE_IMAGE"])
        hash_, size = await blobs.put_file(str(image))
        record.write_text(json.dumps([hash_.hex(), size]))
    hash_hex, size = json.loads(record.read_text())
    return Driver(SETTINGS, blobs, Artifact("base", bytes.fromhex(hash_hex), size))


def main() -> None:
    """Every step a check; the first that fails ends it."""
    STATE.mkdir(exist_ok=True)
    add_to_unit(DROP_IN)
    step("the unit is started, and says that it is ready")
    systemctl("start", "gridsouk")
    assert shown("ActiveState") == "active"
    first_main, job = shown("MainPID"), job_pid()
    group = group_of(job)
    print(f"     node in {group_of(int(first_main))}\n     shim in {group_of(shim())}")
    print(f"     job in  {group}")
    assert group.startswith("/gridsouk.slice/gridsouk:unit:job-1:"), "not in a delegated scope"
    assert show(group.split("/")[2], "Delegate") == "yes"
    step("the limits are the kernel's")
    limits = limits_of(group)
    assert limits == {"memory.max": str(128 * MIB), "pids.max": "2048", "cpu.max": "100000 100000"}
    step("a restart of the unit leaves the job alone")
    before = trio.run(metered)
    systemctl("restart", "gridsouk")
    assert shown("MainPID") != first_main
    assert (job_pid(), group_of(job)) == (job, group)
    assert trio.run(metered) > before
    step("so does systemd when it reads its units again")
    systemctl("daemon-reload")
    systemctl("set-property", "--runtime", "gridsouk.slice", "CPUWeight=200")
    assert limits_of(group) == limits
    step("killed with -9, it is started again and finds its job")
    os.kill(int(shown("MainPID")), signal.SIGKILL)
    wait(lambda: shown("ActiveState") == "active" and shown("NRestarts") == "1")
    assert job_pid() == job
    step("stopped, it leaves the job to its shim")
    systemctl("stop", "gridsouk")
    assert shown("ActiveState") == "inactive"
    assert (job_pid(), group_of(job)) == (job, group)
    assert not (GROUPS / "system.slice/gridsouk.service").exists(), "something stayed in its group"
    step("and nothing is left once the job is scrubbed")
    trio.run(scrub)
    wait(lambda: not (GROUPS / group.lstrip("/")).parent.exists())
    assert "gridsouk:" not in systemctl("list-units", "--all", "--plain", "--no-legend")
    print("unit: all as it should be")


def add_to_unit(text: str) -> None:
    """The unit as it is written, with a drop-in: an emulated machine needs more patience."""
    (unit.UNIT_DIR / unit.NAME).write_text(unit.unit_text())
    drop_in = unit.UNIT_DIR / f"{unit.NAME}.d" / "guest.conf"
    drop_in.parent.mkdir(exist_ok=True)
    drop_in.write_text(text)
    systemctl("daemon-reload")


async def metered() -> float:
    """The seconds the job has run, as a node that was just started sees them."""
    observed = await (await open_driver()).sandbox.observe(WORK)
    assert observed.state is RunState.RUNNING
    return observed.metered_s


async def scrub() -> None:
    """End the job; it was started once."""
    driver = await open_driver()
    volume = driver.paths(WORK).volume
    assert [file.read_text() for file in volume.glob("v*/count")] == ["once\n"]
    await driver.sandbox.scrub(WORK)
    assert await driver.sandbox.works() == ()


def job_pid() -> int:
    """The host pid of the job's first process."""
    pid = launch.first_pid(paths_of(SETTINGS, WORK))
    assert pid, "the job is gone"
    return pid


def shim() -> int:
    """The pid of the job's shim."""
    pid = launch.shim_pid(paths_of(SETTINGS, WORK))
    assert pid, "the shim is gone"
    return pid


def group_of(pid: int) -> str:
    """The one control group of a process."""
    (line,) = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return line.removeprefix("0::")


def limits_of(group: str) -> dict[str, str]:
    """What the kernel holds the job to."""
    folder = GROUPS / group.lstrip("/")
    return {
        name: (folder / name).read_text().strip() for name in ("memory.max", "pids.max", "cpu.max")
    }


def wait(holds: Callable[[], bool]) -> None:
    """Until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.5)


def systemctl(*words: str) -> str:
    """What it says. On failure, what the unit said, and an end."""
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout + done.stderr)
        for command in (["systemctl", "status", "-l", "gridsouk"], ["cat", "/guest/node.log"]):
            said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
            print("\n".join(said.splitlines()[-40:]))
        raise SystemExit(f"systemctl {' '.join(words)} failed")
    return done.stdout


def show(name: str, fact: str) -> str:
    """One property of a unit."""
    return systemctl("show", "--value", "-p", fact, name).strip()


def shown(fact: str) -> str:
    """One of the node's unit."""
    return show("gridsouk.service", fact)


def step(what: str) -> None:
    """Say what comes."""
    print(f"unit: {what}", flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["node"]:
        trio.run(node)
    else:
        main()
