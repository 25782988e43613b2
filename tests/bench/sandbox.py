"""Bench of the sandbox: the time to a job's first output, the price of looking after many jobs, and

whether a node that is killed loses anything. Each beside its reference in the same run.

First output: the same image, command and machine, in turn, medians. Ours stages a volume with a
quota, verifies the container and keeps a shim; bare `runc run` does none of that, and has only the
same root file system, namespaces and filter.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from market.terms import Artifact
from node.adapters.disk.blobs import open_blobs
from node.adapters.oci import bundle, cgroups, images, launch
from node.adapters.oci.base_image import build_base_image
from node.adapters.oci.cdi import Edits
from node.adapters.oci.cgroups import Cgroup
from node.adapters.oci.settings import USER, Identity
from node.ports import RunState
from tests.adapters.sandbox.harness import MIB, Driver, small_settings
from tests.adapters.sandbox.survivor import survive
from tests.bench.row import Row, row
from tests.services.outlive import PER_SECOND, outlive

ROUNDS = 9
COMMAND = "echo hi"
PREPARE_GOAL_S = 0.5
BARE_FACTOR = 1.5
BARE_EXTRA_S = 0.15
JOBS = 64
LOOK_S = 10.0  # between two heartbeats on every network but devnet
LOOK_ROUNDS = 5
CORE_SHARE = 0.05
KILLS = 20
METERED_MORE_S = 2.0  # the container's start and end, which the job's own clock does not see
CHECKPOINT_MIB = 64


async def rows(data: Path) -> list[Row]:
    """Measured now; `data` is not needed. Needs root and runc."""
    del data
    with tempfile.TemporaryDirectory(prefix="gridsouk-bench-") as folder:
        root = Path(folder)
        hash_, size = await trio.to_thread.run_sync(build_base_image, root / "base.tar", ())
        blobs = await open_blobs(root / "blobs", bytes_max=1024 * MIB, pinned=tuple)
        await blobs.put_file(str(root / "base.tar"))
        driver = Driver(
            small_settings(root / "sandbox", "bench"), blobs, Artifact("base", hash_, size)
        )
        try:
            measured = await _measure(driver, root)
        finally:
            await driver.scrub()
        (root / "market").mkdir()
        return [*measured, *await _outlived(root / "market")]


async def _measure(driver: Driver, root: Path) -> list[Row]:
    await driver.finished("true")  # unpacks the image
    prepares, starts, scrubs = [], [], []
    for _ in range(ROUNDS):
        workspace = driver.workspace(COMMAND)
        began = time.perf_counter()
        await driver.sandbox.prepare(workspace)
        prepared = time.perf_counter()
        await driver.sandbox.start(workspace.work_id)
        await _until(partial(_said, driver, workspace.work_id))
        said = time.perf_counter()
        await _until(partial(_ended, driver, workspace.work_id))
        exited = time.perf_counter()
        await driver.sandbox.scrub(workspace.work_id)
        prepares.append(prepared - began)
        starts.append(said - began)
        scrubs.append(time.perf_counter() - exited)
    image = images.find(driver.settings.state_dir / "images" / driver.image.hash.hex())
    assert image is not None
    bare = await trio.to_thread.run_sync(_bare, image.root, root)
    first, prepare, scrub = (statistics.median(times) for times in (starts, prepares, scrubs))
    against = ("bare runc run", round(bare, 4))
    most = BARE_FACTOR * bare + BARE_EXTRA_S
    goal = f"at most {BARE_FACTOR} x bare + {BARE_EXTRA_S * 1000:.0f} ms = {most:.3f} s"
    return [
        row("agreement to first output", first, "s", against, goal, first <= most),
        row("of it: disk, inputs, mounts", prepare, "s", ("", 0.0),
            f"under {PREPARE_GOAL_S} s", prepare < PREPARE_GOAL_S),
        row("scrub", scrub, "s", ("", 0.0), f"under {PREPARE_GOAL_S} s", scrub < PREPARE_GOAL_S),
        await _checkpoint(driver),
        await _many(driver),
        *await _killed(driver, root),
    ]  # fmt: skip


async def _said(driver: Driver, work_id: str) -> bool:
    return bool(await driver.sandbox.read_log(work_id, 0, 10))


async def _ended(driver: Driver, work_id: str) -> bool:
    return (await driver.sandbox.observe(work_id)).state is RunState.EXITED


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(30):
        while not await true():
            await trio.sleep(0.001)


async def _checkpoint(driver: Driver) -> Row:
    """How long a job stands still while its checkpoint of 64 MiB is taken, as it sees it."""
    source = (
        "import time\n"
        f"open('/ckpt/state', 'wb').write(bytes({CHECKPOINT_MIB} << 20))\n"
        "print('ready', flush=True)\n"
        "worst, last = 0.0, time.monotonic()\n"
        "end = last + 3\n"
        "while last < end:\n"
        "    time.sleep(0.001)\n"
        "    now = time.monotonic()\n"
        "    worst, last = max(worst, now - last), now\n"
        "print('worst', worst, flush=True)\n"
    )
    work_id = await driver.started(
        f'python3 -c "{source}"', checkpoint_path="/ckpt", disk_mib=CHECKPOINT_MIB + 16
    )
    await driver.wait_log(work_id, "ready")
    began = time.perf_counter()
    await driver.sandbox.checkpoint(work_id)
    whole = time.perf_counter() - began
    await driver.wait_log(work_id, "worst")
    worst = float((await driver.log(work_id)).split()[-1])
    against = ("the whole checkpoint", round(whole, 4))
    return row("pause of a checkpoint", worst, "s", against, "under 0.5 s", worst < 0.5)


async def _many(driver: Driver) -> Row:
    """CPU that heartbeats and stats of many running jobs take: ours and all shims'."""
    names = [await driver.started("sleep 600", disk_mib=4, memory_mib=16) for _ in range(JOBS)]
    shims = [launch.shim_pid(driver.paths(name)) for name in names]
    for name in names:
        await driver.sandbox.observe(name)
    began, shims_before = time.perf_counter(), sum(map(_cpu_s, shims))
    before = time.process_time()
    for _ in range(LOOK_ROUNDS):
        for name in names:
            assert (await driver.sandbox.observe(name)).state is RunState.RUNNING
    looks_s = (time.process_time() - before) / LOOK_ROUNDS
    with trio.move_on_after(5):
        await trio.sleep_forever()
    shims_share = (sum(map(_cpu_s, shims)) - shims_before) / (time.perf_counter() - began)
    share = looks_s / LOOK_S + shims_share
    theirs_s = await trio.to_thread.run_sync(_runc_stats, driver, names[:8]) / 8 * JOBS
    for name in names:
        await driver.sandbox.scrub(name)
    against = ("runc events --stats of each", round(theirs_s / LOOK_S, 4))
    goal = f"under {CORE_SHARE} of a core"
    return row(f"heartbeats of {JOBS} jobs", share, "cores", against, goal, share < CORE_SHARE)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _runc_stats(driver: Driver, names: list[str]) -> float:
    """CPU seconds of the runtime's own statistics."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for name in names:
        paths = driver.paths(name)
        command = ["runc", "--root", str(paths.live / "runtime"), "events", "--stats"]
        subprocess.run([*command, paths.container], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _killed(driver: Driver, root: Path) -> list[Row]:
    """A node killed at random moments: is the job lost, are seconds lost or counted twice?"""
    folder = root / "survivor"
    folder.mkdir()
    seen = await survive(driver, KILLS, seed=20, folder=folder)
    lost = int(seen.exit_code != 9 or seen.starts != 1)
    against = ("kills", float(seen.kills))
    wrong_s = max(seen.ran_s - seen.metered_s, 0.0) + seen.backwards
    worst_s = max(wrong_s, seen.drift_s)
    clock = ("the job's own clock", round(seen.ran_s, 4))
    return [
        row("jobs lost", float(lost), "jobs", against, "none", lost == 0),
        row("seconds metered", seen.metered_s, "s", clock, "not one second less or twice",
            worst_s < 0.5 and seen.metered_s < seen.ran_s + 3),
        row("worst disagreement of two looks", seen.drift_s, "s", clock, "under 0.5 s",
            seen.drift_s < 0.5),
    ]  # fmt: skip


async def _outlived(home: Path) -> list[Row]:
    """A real node killed at random moments, in a real market: what of the job and of its money?"""
    seen = await outlive(home, KILLS, seed=20, say=lambda _: None)
    lost = int(seen.state != "SUCCEEDED" or seen.attempts != 1 or seen.starts != 1)
    if lost:
        print(seen.story, file=sys.stderr)
    clock = ("the job's own clock", round(seen.ran_s, 4))
    owed = seen.metered_s * PER_SECOND
    return [
        row("souk up: jobs lost", float(lost), "jobs", ("kills", float(seen.kills)), "none",
            lost == 0),
        row("souk up: seconds metered", float(seen.metered_s), "s", clock,
            "whole seconds; 1 less to 2 more", -1 <= seen.metered_s - seen.ran_s <= METERED_MORE_S),
        row("souk up: earned", float(seen.earned), "units", ("its metered seconds", float(owed)),
            "to the last base unit", seen.earned == seen.paid == owed),
        row("souk up: slashed", float(seen.slashed), "units", ("", 0.0), "none",
            seen.slashed == 0),
    ]  # fmt: skip


def _bare(image: Path, root: Path) -> float:
    folder = root / "bare"
    folder.mkdir()
    plan = bundle.Plan(
        command=COMMAND,
        envs={"PATH": "/bin"},
        cwd="/",
        hostname="bare",
        root=str(image),
        cgroup="/gridsouk/bench-bare/bare",
        identity=Identity(USER, USER, 0, 0),
        memory_bytes=128 * MIB,
        cpus=1,
        pids=64,
        files=128,
        locked_bytes=65536,
        tmp_bytes=8 * MIB,
        volumes=(),
        edits=Edits(),
        cgroup_namespace=True,
    )
    config = bundle.configuration(plan)
    process = config["process"]
    config["process"] = {**process, "args": ["/bin/sh", "-c", COMMAND]}
    # Below a folder of root's own nobody else may walk, as the container's root would have to.
    config["linux"]["namespaces"] = [
        kind for kind in config["linux"]["namespaces"] if kind["type"] != "user"
    ]
    for name in ("uidMappings", "gidMappings"):
        del config["linux"][name]
    config["mounts"] = [each for each in config["mounts"] if each["destination"] != "/dev/pts"]
    (folder / "config.json").write_text(json.dumps(config))
    try:
        return statistics.median(_seconds(lambda: _run(folder)) for _ in range(ROUNDS))
    finally:
        for path in ("/gridsouk/bench-bare", "/gridsouk"):
            if not cgroups.known(path):
                Cgroup(path, cgroups.is_v2()).remove()


def _run(folder: Path) -> None:
    done = subprocess.run(
        ["runc", "--root", str(folder / "state"), "run", "--bundle", str(folder), "bench-bare"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert done.stdout == b"hi\n", done.stderr


def _seconds(act: Callable[[], None]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began
