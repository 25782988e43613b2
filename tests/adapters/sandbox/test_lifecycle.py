"""A job's life in the sandbox: each call repeatable, each state true, nothing left at the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from market.errors import SandboxError
from market.terms import Artifact
from node.adapters.oci import cgroups, disk, launch
from node.ports import RunState, Stream, Terminal, Workspace
from tests.adapters.sandbox.harness import PATIENCE_S, Driver, ended, env
from tests.adapters.sandbox.survivor import survive
from tests.adapters.sandbox.together import together

pytestmark = pytest.mark.sandbox


async def a_job_sees_its_inputs_variables_and_places(driver: Driver) -> None:
    hash_ = await driver.blobs.put(b"print(open('/in/data/x.txt').read())\n")
    data = await driver.blobs.put(b"forty-two")
    _, observed, log = await driver.finished(
        "python3 /in/main.py; echo $GRIDSOUK_INPUT $GRIDSOUK_OUT $HOME $COLOUR; pwd; id -u; "
        "echo no > /in/main.py; echo $NVIDIA_VISIBLE_DEVICES; echo end",
        inputs=(Artifact("/in/main.py", hash_, 37), Artifact("/in/data/x.txt", data, 9)),
        envs=(env("COLOUR", "blue"), env("HOME", "/root")),
    )
    assert observed.exit_code == 0
    lines = log.splitlines()
    # A Docker without user namespaces gives each slot a user of its own instead.
    user = "265534" if driver.kind == "docker" else "65534"
    assert lines[:4] == ["forty-two", "/in /out /tmp blue", "/out", user]
    assert "Read-only file system" in lines[4]
    assert lines[5] == "void"


@pytest.mark.parametrize("each_driver", ["runc", "crun"], indirect=True)
async def test_a_node_that_systemd_started_starts_jobs(
    each_driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runtimes pass the socket on that systemd hears from; a job's root has no place for it."""
    for name in ("NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID"):
        monkeypatch.setenv(name, "/run/systemd/notify" if name == "NOTIFY_SOCKET" else "1")
    work_id = await each_driver.started("sleep 60")
    async with each_driver.sandbox.execute(work_id, ("/bin/echo", "well")) as running:
        assert await running.receive() == (Stream.OUT, b"well\n")


async def test_calls_are_safe_to_repeat(driver: Driver) -> None:
    workspace = driver.workspace("echo once >> /out/count; cat /out/count; sleep 0.2")
    sandbox, work_id = driver.sandbox, workspace.work_id
    assert (await sandbox.observe(work_id)).state is RunState.ABSENT
    await sandbox.prepare(workspace)
    await sandbox.prepare(workspace)
    assert (await sandbox.observe(work_id)).state is RunState.PREPARED
    await sandbox.start(work_id)
    await sandbox.start(work_id)
    await sandbox.prepare(workspace)
    observed = await ended(sandbox, work_id)
    await sandbox.start(work_id)
    assert await sandbox.observe(work_id) == observed
    assert await driver.log(work_id) == "once\n"
    await sandbox.stop(work_id, 1.0)
    await sandbox.stop(work_id, 1.0)
    await sandbox.scrub(work_id)
    await sandbox.scrub(work_id)
    assert (await sandbox.observe(work_id)).state is RunState.ABSENT


async def test_another_manifest_replaces_what_was_prepared(driver: Driver) -> None:
    first = driver.workspace("echo first")
    second = Workspace(first.work_id, driver.workspace("echo second").manifest, first.units)
    await driver.sandbox.prepare(first)
    await driver.sandbox.prepare(second)
    await driver.sandbox.start(first.work_id)
    await ended(driver.sandbox, first.work_id)
    assert await driver.log(first.work_id) == "second\n"


async def test_what_is_not_prepared_cannot_start(driver: Driver) -> None:
    with pytest.raises(SandboxError, match="not prepared"):
        await driver.sandbox.start("job-unknown")
    with pytest.raises(SandboxError, match="cannot name a job"):
        await driver.sandbox.start("../../etc")
    assert (await driver.sandbox.observe("../../etc")).state is RunState.ABSENT


async def test_an_image_without_a_shell_says_so(driver: Driver) -> None:
    workspace = driver.workspace("true")
    await driver.sandbox.prepare(workspace)
    root = driver.paths(workspace.work_id).root
    disk.command("mount", "--bind", "-o", "ro", "/proc/self/fdinfo", str(root / "bin"))
    try:
        with pytest.raises(SandboxError, match="did not start"):
            await driver.sandbox.start(workspace.work_id)
    finally:
        disk.command("umount", str(root / "bin"))
    assert (await driver.sandbox.observe(workspace.work_id)).state is RunState.PREPARED


async def stop_lets_a_program_save_its_state(driver: Driver) -> None:
    source = (
        "import signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.3)\n"
        "    open('/out/saved', 'w').write('yes')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)\n"
    )
    work_id = await driver.started(f'cd /out; python3 -c "{source}"; echo next command')
    await driver.wait_log(work_id, "ready")
    with trio.fail_after(8):
        await driver.sandbox.stop(work_id, 10.0)
    observed = await driver.sandbox.observe(work_id)
    assert (observed.state, observed.signal, observed.timed_out) == (RunState.EXITED, 15, False)
    assert [a.path for a in await driver.sandbox.collect(work_id)] == ["/out/saved"]
    assert "next command" not in await driver.log(work_id)


async def test_stop_kills_what_ignores_it_after_the_grace(driver: Driver) -> None:
    work_id = await driver.started("trap '' TERM; echo ready; while :; do sleep 1; done")
    await driver.wait_log(work_id, "ready")
    before = trio.current_time()
    await driver.sandbox.stop(work_id, 0.5)
    assert 0.4 < trio.current_time() - before < 5
    assert (await driver.sandbox.observe(work_id)).state is RunState.EXITED


async def secrets_reach_the_job_and_no_disk(driver: Driver) -> None:
    plain = driver.workspace("echo $TOKEN; sleep 60")
    secret = Workspace(plain.work_id, plain.manifest, plain.units, (("TOKEN", "xyzzy-4711"),))
    await driver.sandbox.prepare(secret)
    await driver.sandbox.start(plain.work_id)
    await driver.wait_log(plain.work_id, "xyzzy-4711")
    paths = driver.paths(plain.work_id)
    for file in (*paths.state.rglob("*"), *paths.live.rglob("*")):
        if file.is_file() and file not in (paths.volume_image, paths.log):
            assert b"xyzzy-4711" not in file.read_bytes(), file
    engine = driver.settings.socket.parent
    if driver.settings.driver == "engine":
        found = subprocess.run(["grep", "-rlF", "xyzzy-4711", str(engine)], capture_output=True)  # noqa: ASYNC221
        assert found.stdout == b"", "the engine wrote it down"
    async with driver.sandbox.execute(plain.work_id, ("/bin/sh", "-c", "echo $TOKEN")) as running:
        assert await running.receive() == (Stream.OUT, b"xyzzy-4711\n")


async def what_is_executed_is_as_confined_as_the_job(driver: Driver) -> None:
    work_id = await driver.started("grep -E 'Cap|NoNew|Seccomp:|Uid' /proc/self/status; sleep 60")
    await driver.wait_log(work_id, "Seccomp:")
    shown = ("/bin/grep", "-E", "Cap|NoNew|Seccomp:|Uid", "/proc/self/status")
    said = b""
    async with driver.sandbox.execute(work_id, shown) as running:
        while (part := await running.receive()) is not None:
            said += part[1]
    assert said.decode() == await driver.log(work_id)
    assert "NoNewPrivs:\t1" in said.decode()
    assert "CapBnd:\t0000000000000000" in said.decode()


async def a_flood_from_an_executed_program_arrives_whole(driver: Driver) -> None:
    work_id = await driver.started("sleep 60")
    flood = ("/bin/sh", "-c", "busybox yes 0123456789abcde | head -c 4000000; echo end >&2")
    sizes = {Stream.OUT: 0, Stream.ERR: 0}
    async with driver.sandbox.execute(work_id, flood) as running:
        while (part := await running.receive()) is not None:
            sizes[part[0]] += len(part[1])
        assert await running.wait() == 0
    assert sizes == {Stream.OUT: 4_000_000, Stream.ERR: 4}


async def a_terminal_has_the_size_it_was_given(driver: Driver) -> None:
    work_id = await driver.started("sleep 60")
    program = (
        "/usr/bin/python3", "-c",
        "import os; input(); print(os.get_terminal_size(0).columns, os.isatty(1), os.getpgrp() "
        "== os.tcgetpgrp(0))",
    )  # fmt: skip
    async with driver.sandbox.execute(work_id, program, Terminal(100, 40)) as running:
        await running.resize(Terminal(77, 20))
        await running.send(b"\n")
        said = b""
        while (part := await running.receive()) is not None:
            said += part[1]
        assert b"77 True True" in said


STARTER = """
import os, signal, sys
import trio
from pathlib import Path
from market.codec import decode
from market.terms import Manifest
from node.adapters.disk.blobs import open_blobs
from node.adapters.oci.driver import OciSandbox
from node.adapters.oci.settings import OciSettings
from node.ports import Workspace
from tests.adapters.sandbox.harness import NoGpus

async def main(state, blobs, instance, work_id, manifest):
    store = await open_blobs(Path(blobs), bytes_max=1 << 30, pinned=tuple)
    sandbox = OciSandbox(OciSettings(Path(state), instance=instance), store, NoGpus())
    job = decode(Manifest, Path(manifest).read_bytes())
    await sandbox.prepare(Workspace(work_id, job, (0,)))
    await sandbox.start(work_id)
    os.kill(os.getpid(), signal.SIGKILL)

trio.run(main, *sys.argv[1:])
"""


async def test_a_job_outlives_the_node_that_started_it(
    driver: Driver, driver_root: Path, tmp_path: Path
) -> None:
    from market.codec import encode

    workspace = driver.workspace("echo begun; while ! [ -e /out/go ]; do sleep 0.05; done; exit 7")
    manifest = tmp_path / "manifest"
    manifest.write_bytes(encode(workspace.manifest))
    starter = await trio.run_process(
        [
            sys.executable,
            "-c",
            STARTER,
            str(driver.settings.state_dir),
            str(driver_root / "blobs"),
            driver.settings.instance,
            workspace.work_id,
            str(manifest),
        ],
        check=False,
    )
    assert starter.returncode == -signal.SIGKILL
    adopted = driver.again()
    assert await adopted.works() == (workspace.work_id,)
    first = await adopted.observe(workspace.work_id)
    assert first.state is RunState.RUNNING
    await driver.wait_log(workspace.work_id, "begun")
    (driver.paths(workspace.work_id).volume / "v0" / "go").touch()
    last = await ended(adopted, workspace.work_id)
    assert last.exit_code == 7
    assert 0 < first.metered_s < last.metered_s < PATIENCE_S


async def test_metered_seconds_agree_with_the_wall_over_restarts(driver: Driver) -> None:
    work_id = await driver.started("sleep 60")
    began, seen = trio.current_time(), (await driver.sandbox.observe(work_id)).metered_s
    for _ in range(5):
        await trio.sleep(0.2)
        observed = await driver.again().observe(work_id)
        assert abs((observed.metered_s - seen) - (trio.current_time() - began)) < 0.1
    await driver.sandbox.stop(work_id, 0)
    stopped = await driver.sandbox.observe(work_id)
    assert stopped.metered_s >= observed.metered_s
    await trio.sleep(0.2)
    assert await driver.again().observe(work_id) == stopped


@pytest.mark.parametrize("each_driver", ["runc", "docker"], indirect=True)
async def test_a_node_killed_at_random_moments_loses_no_second(
    each_driver: Driver, tmp_path: Path
) -> None:
    """Three kills here; twenty in `./run bench sandbox`."""
    survived = await survive(each_driver, 3, seed=len(each_driver.kind), folder=tmp_path)
    assert (survived.exit_code, survived.starts, survived.backwards) == (9, 1, 0)
    # The job's own clock starts and stops a little inside the container's.
    assert survived.ran_s - 0.05 < survived.metered_s < survived.ran_s + 3
    assert survived.drift_s < 0.25


async def test_a_job_whose_shim_was_killed_ends(driver: Driver) -> None:
    work_id = await driver.started("sleep 600")
    paths = driver.paths(work_id)
    os.kill(launch.shim_pid(paths), signal.SIGKILL)
    observed = await ended(driver.sandbox, work_id)
    assert (observed.exit_code, observed.signal) == (137, 9)
    assert cgroups.Cgroup(paths.cgroup, cgroups.is_v2()).pids() == ()


async def test_a_starter_killed_at_the_gate_leaves_the_job_prepared(driver: Driver) -> None:
    workspace = driver.workspace("echo ran")
    await driver.sandbox.prepare(workspace)
    paths = driver.paths(workspace.work_id)
    sandbox = driver.again()
    runtime = sandbox._runtime
    container = await runtime.make(paths, sandbox._plan(paths, workspace.manifest, (0,), True))
    group = runtime.cgroup(paths)
    spec = launch.write_spec(
        paths, group, driver.settings, container, gate="go\n:\n", wall_s=60, grace_s=1
    )
    shim = subprocess.Popen(  # noqa: ASYNC220, it forks and ends at once
        launch.shim_command(spec, runtime.shim),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shim.stdin
    assert shim.stdout
    with shim.stdin, shim.stdout:
        assert json.loads(shim.stdout.readline())["pid"] > 0
    shim.wait()
    assert launch.wait_released(paths, PATIENCE_S)
    assert (await driver.sandbox.observe(workspace.work_id)).state is RunState.PREPARED
    assert cgroups.Cgroup(paths.cgroup, cgroups.is_v2()).pids() == ()
    await driver.sandbox.start(workspace.work_id)
    await ended(driver.sandbox, workspace.work_id)
    assert await driver.log(workspace.work_id) == "ran\n"


async def test_scrub_leaves_nothing_even_of_a_running_job(each_driver: Driver) -> None:
    driver = each_driver
    work_id = await driver.started("busybox setsid sleep 600 & sleep 600", checkpoint_path="/ckpt")
    paths = driver.paths(work_id)
    image = str(paths.volume_image)
    assert image in disk.command("losetup", "--all")
    await driver.sandbox.scrub(work_id)
    assert not paths.state.exists()
    assert not paths.run.exists()
    assert disk.mounts_below(paths.run) == ()
    assert image not in disk.command("losetup", "--all")
    assert work_id not in cgroups.known(f"/gridsouk/{driver.settings.instance}")
    assert list((driver.settings.state_dir / "staging").iterdir()) == []
    assert await driver.sandbox.works() == ()


ON_EVERY_DRIVER = (
    a_job_sees_its_inputs_variables_and_places,
    stop_lets_a_program_save_its_state,
    secrets_reach_the_job_and_no_disk,
    what_is_executed_is_as_confined_as_the_job,
    a_flood_from_an_executed_program_arrives_whole,
    a_terminal_has_the_size_it_was_given,
)


async def test_a_life_on_every_driver(each_driver: Driver) -> None:
    await together(each_driver, [(one.__name__, one) for one in ON_EVERY_DRIVER])
