"""Survivor: a process that does what a node does with a job, to be killed at any moment.

`survive` kills it so often at random moments and starts it again, and says what became of the job
and of its metered seconds. Run by itself (`python -m ...`), the module is that process.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import trio

from market.codec import decode, encode
from market.terms import Manifest
from node.adapters.disk.blobs import open_blobs
from node.adapters.engine.driver import EngineSandbox
from node.adapters.oci.driver import OciSandbox
from node.adapters.oci.settings import OciSettings
from node.ports import RunState, Workspace
from tests.adapters.sandbox.harness import PATIENCE_S, Driver, NoGpus, ended

ROOT = Path(__file__).parents[3]
COMMAND = (
    "read up rest < /proc/uptime; echo $up >> /out/starts; python3 -c '"
    "import os, time\n"
    "while not os.path.exists(\"/out/end\"):\n"
    "    time.sleep(0.01)\n"
    "    open(\"/ckpt/state.tmp\", \"w\").write(str(time.monotonic()))\n"
    "    os.rename(\"/ckpt/state.tmp\", \"/ckpt/state\")\n"
    "print(open(\"/proc/uptime\").read().split()[0], flush=True)'; exit 9"
)  # fmt: skip
KILL_AFTER_MAX_S = 1.5


@dataclass(frozen=True)
class Survived:
    """What became of one job over all the kills; times in seconds."""

    kills: int
    while_working: int  # how often the process had already looked at the job when it was killed
    exit_code: int
    starts: int
    ran_s: float  # by the job's own clock
    metered_s: float
    drift_s: float  # worst disagreement of two looks with the time between them
    backwards: int  # looks that saw less than an earlier one


async def survive(driver: Driver, kills: int, seed: int, folder: Path) -> Survived:
    """Run a job under a process that is killed so often."""
    rng = random.Random(seed)
    workspace = driver.workspace(COMMAND, checkpoint_path="/ckpt", max_duration_s=600)
    (folder / "manifest").write_bytes(encode(workspace.manifest))
    place = {
        "state": str(driver.settings.state_dir),
        "instance": driver.settings.instance,
        "driver": driver.settings.driver,
        "runtime": driver.settings.runtime,
        "socket": str(driver.settings.socket),
        "blobs": str(driver.settings.state_dir.parents[1] / "blobs"),
        "work": workspace.work_id,
        "folder": str(folder),
    }
    working = 0
    for _ in range(kills):
        before = _size(folder)
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", __name__, json.dumps(place)], cwd=ROOT, stdin=subprocess.DEVNULL
        )
        # Half of them while it starts, half while it works.
        if rng.random() < 0.5:
            with trio.move_on_after(PATIENCE_S):
                while _size(folder) == before and process.returncode is None:
                    await trio.sleep(0.01)
        await trio.sleep(rng.uniform(0, KILL_AFTER_MAX_S))
        process.send_signal(signal.SIGKILL)
        await process.wait()
        working += _size(folder) > before
    sandbox = driver.again()  # the last start of the node
    await sandbox.prepare(workspace)
    await sandbox.start(workspace.work_id)
    paths = driver.paths(workspace.work_id)
    await driver.wait_started(workspace.work_id)
    (paths.volume / "v1" / "end").touch()
    observed = await ended(sandbox, workspace.work_id)
    looks = [json.loads(line) for line in _lines(folder)]
    starts = (paths.volume / "v1" / "starts").read_text().split()
    gaps = [metered - at for metered, at in looks]
    return Survived(
        kills=kills,
        while_working=working,
        exit_code=observed.exit_code,
        starts=len(starts),
        ran_s=float((await driver.log(workspace.work_id)).split()[-1]) - float(starts[0]),
        metered_s=observed.metered_s,
        drift_s=max(gaps) - min(gaps) if gaps else 0.0,
        backwards=sum(b[0] < a[0] for a, b in itertools.pairwise(looks)),
    )


def _size(folder: Path) -> int:
    return (folder / "looks").stat().st_size if (folder / "looks").exists() else 0


def _lines(folder: Path) -> list[str]:
    """Whole lines: the last one may have been cut."""
    if not (folder / "looks").exists():
        return []
    return [line for line in (folder / "looks").read_text().splitlines() if line.endswith("]")]


async def _work(place: dict[str, str]) -> None:
    store = await open_blobs(Path(place["blobs"]), bytes_max=1 << 30, pinned=tuple)
    settings = OciSettings(
        Path(place["state"]),
        instance=place["instance"],
        driver=place["driver"],
        runtime=place["runtime"],
        socket=Path(place["socket"]),
    )
    make = OciSandbox if settings.driver == "oci" else EngineSandbox
    sandbox = make(settings, store, NoGpus())
    folder = Path(place["folder"])
    manifest = decode(Manifest, (folder / "manifest").read_bytes())
    await sandbox.prepare(Workspace(place["work"], manifest, (0,)))
    await sandbox.start(place["work"])
    with (folder / "looks").open("a") as looks:
        while True:
            before = time.monotonic()
            seen = await sandbox.observe(place["work"])
            at = (before + time.monotonic()) / 2
            if seen.state is RunState.RUNNING:
                looks.write(json.dumps([seen.metered_s, at]) + "\n")
                looks.flush()
            await sandbox.checkpoint(place["work"])
            await sandbox.read_log(place["work"], 0, 1024)


if __name__ == "__main__":
    trio.run(_work, json.loads(sys.argv[1]))
