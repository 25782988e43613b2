"""What comes out of a job: checkpoints that are whole, outputs that lead nowhere else."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import trio

from market.errors import SandboxError
from market.limits import FILES_MAX
from market.terms import Artifact
from node.ports import Blobs, RunState
from tests.adapters.sandbox.harness import MIB, Driver

pytestmark = pytest.mark.sandbox


async def content(blobs: Blobs, artifact: Artifact) -> bytes:
    """The bytes of an artifact."""
    return await blobs.read(artifact.hash, 0, artifact.size_bytes)


async def members(blobs: Blobs, artifact: Artifact) -> dict[str, bytes]:
    """The files of an artifact that is a tar."""
    with tarfile.open(fileobj=io.BytesIO(await content(blobs, artifact))) as tar:
        return {e.name: file.read() for e in tar if (file := tar.extractfile(e))}


def tar_of(*entries: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """A tar as a stranger might make it."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for entry, data in entries:
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return target.getvalue()


async def test_outputs_are_collected_by_content(driver: Driver) -> None:
    work_id, _, _ = await driver.finished("echo one > a; mkdir d; echo two > d/b")
    first, second = await driver.sandbox.collect(work_id)
    assert (first.path, second.path) == ("/out/a", "/out/d/b")
    assert await content(driver.blobs, first) == b"one\n"
    assert await content(driver.blobs, second) == b"two\n"
    assert await driver.sandbox.collect(work_id) == (first, second)


async def test_globs_and_places_of_the_jobs_own(driver: Driver) -> None:
    work_id, observed, log = await driver.finished(
        "echo 1 > /out/x.npz; echo 2 > /out/y.txt; mkdir /results/k; echo 3 > /results/k/z",
        outputs=("/out/*.npz", "/results", "/out/missing"),
    )
    assert observed.exit_code == 0, log
    found = await driver.sandbox.collect(work_id)
    assert [artifact.path for artifact in found] == ["/out/x.npz", "/results/k/z"]


@pytest.mark.parametrize("output", ["/etc/x", "/usr", "/in/x", "/tmp/x", "/../x", "out", "/*"])
async def test_outputs_elsewhere_are_refused_before_anything_runs(
    driver: Driver, output: str
) -> None:
    workspace = driver.workspace("true", outputs=(output,))
    with pytest.raises(SandboxError):
        await driver.sandbox.prepare(workspace)
    assert (await driver.sandbox.observe(workspace.work_id)).state is RunState.ABSENT


async def test_links_and_special_files_are_left_out(driver: Driver) -> None:
    work_id, observed, log = await driver.finished(
        "echo fine > good; ln -s /etc/passwd link; ln -s / top; ln -s good alias; "
        "busybox mkfifo pipe; mkdir d; ln -s /proc d/proc; python3 -c "
        "'import socket; socket.socket(socket.AF_UNIX).bind(\"/out/socket\")'"
    )
    assert observed.exit_code == 0, log
    with trio.fail_after(10):
        found = await driver.sandbox.collect(work_id)
    assert [artifact.path for artifact in found] == ["/out/good"]


@pytest.mark.parametrize("make", ["ln -s /etc/passwd x", "busybox mkfifo x"])
async def test_an_output_that_is_itself_special_is_an_error(driver: Driver, make: str) -> None:
    work_id, _, _ = await driver.finished(make, outputs=("/out/x",))
    with trio.fail_after(10), pytest.raises(SandboxError, match="link"):
        await driver.sandbox.collect(work_id)


async def test_an_output_through_a_link_is_an_error(driver: Driver) -> None:
    work_id, _, _ = await driver.finished("ln -s /etc d", outputs=("/out/d/passwd",))
    with pytest.raises(SandboxError, match="link"):
        await driver.sandbox.collect(work_id)


async def test_a_sparse_terabyte_is_refused(driver: Driver) -> None:
    source = "import os; os.truncate(os.open('/out/big', os.O_CREAT | os.O_WRONLY), 1 << 40)"
    work_id, observed, log = await driver.finished(f'python3 -c "{source}"')
    assert observed.exit_code == 0, log
    with trio.fail_after(10), pytest.raises(SandboxError, match="claim 1099511627776"):
        await driver.sandbox.collect(work_id)


async def test_more_files_than_a_message_holds_travel_as_one_tar(driver: Driver) -> None:
    source = f"[open(f'/out/{{n:04}}', 'w').write(str(n)) for n in range({FILES_MAX + 44})]"
    work_id, observed, log = await driver.finished(f'python3 -c "{source}"')
    assert observed.exit_code == 0, log
    (artifact,) = await driver.sandbox.collect(work_id)
    assert artifact.path == "/out/"
    files = await members(driver.blobs, artifact)
    assert len(files) == FILES_MAX + 44
    assert files["0299"] == b"299"


async def test_a_checkpoint_holds_complete_files_only(driver: Driver) -> None:
    source = (
        "import os, time\n"
        "os.makedirs('/ckpt/sub')\n"
        "open('/ckpt/done', 'w').write('whole')\n"
        "open('/ckpt/sub/also', 'w').write('whole too')\n"
        "open('/ckpt/next.tmp', 'w').write('half')\n"
        "open('/ckpt/.hidden', 'w').write('no')\n"
        "os.symlink('/etc/passwd', '/ckpt/link')\n"
        "held = open('/ckpt/open', 'w'); held.write('being written'); held.flush()\n"
        "print('ready', flush=True)\n"
        "while not os.path.exists('/out/go'): time.sleep(0.02)\n"
        "held.close()\n"
        "print('closed', flush=True)\n"
        "time.sleep(60)\n"
    )
    work_id = await driver.started(f'python3 -c "{source}"', checkpoint_path="/ckpt")
    await driver.wait_log(work_id, "ready")
    first = await driver.sandbox.checkpoint(work_id)
    assert first is not None
    assert first.path == "/ckpt"
    assert await members(driver.blobs, first) == {"done": b"whole", "sub/also": b"whole too"}
    assert await driver.sandbox.checkpoint(work_id) == first
    assert await driver.again().checkpoint(work_id) == first
    out = driver.paths(work_id).volume / "v1"
    (out / "go").touch()
    await driver.wait_log(work_id, "closed")
    second = await driver.sandbox.checkpoint(work_id)
    assert second is not None
    assert sorted(await members(driver.blobs, second)) == ["done", "open", "sub/also"]


async def test_an_empty_checkpoint_is_none(driver: Driver) -> None:
    work_id, _, _ = await driver.finished("touch /ckpt/x.tmp", checkpoint_path="/ckpt")
    assert await driver.sandbox.checkpoint(work_id) is None
    work_id, _, _ = await driver.finished("true")
    assert await driver.sandbox.checkpoint(work_id) is None


async def test_checkpoints_of_a_busy_writer_are_always_whole(driver: Driver) -> None:
    source = (
        "import os\n"
        "step = 0\n"
        "while True:\n"
        "    step += 1\n"
        "    with open('/ckpt/state.tmp', 'w') as file:\n"
        "        file.write(f'{step:08}' * 4096)\n"
        "    os.replace('/ckpt/state.tmp', '/ckpt/state')\n"
        "    if step == 5: print('ready', flush=True)\n"
    )
    work_id = await driver.started(f'python3 -c "{source}"', checkpoint_path="/ckpt")
    await driver.wait_log(work_id, "ready")
    seen = []
    for _ in range(8):
        artifact = await driver.sandbox.checkpoint(work_id)
        assert artifact is not None
        state = (await members(driver.blobs, artifact))["state"]
        assert state == state[:8] * 4096
        seen.append(int(state[:8]))
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


async def test_a_job_resumes_from_its_checkpoint(driver: Driver) -> None:
    work_id, _, _ = await driver.finished(
        "mkdir /out/ckpt/d; echo 41 > /out/ckpt/d/step", checkpoint_path="/out/ckpt"
    )
    artifact = await driver.sandbox.checkpoint(work_id)
    assert artifact is not None
    again, observed, log = await driver.finished(
        "cat /ckpt/d/step; echo 42 > /ckpt/d/step; touch /ckpt/new",
        checkpoint_path="/ckpt",
        resume=artifact,
    )
    assert (observed.exit_code, log) == (0, "41\n")
    later = await driver.sandbox.checkpoint(again)
    assert later is not None
    assert (await members(driver.blobs, later))["d/step"] == b"42\n"


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry, b""


@pytest.mark.parametrize(
    "entries",
    [
        [(tarfile.TarInfo("../escape"), b"x")],
        [(tarfile.TarInfo("/etc/escape"), b"x")],
        [_link("a", "/etc"), (tarfile.TarInfo("a/escape"), b"x")],
        [_link("a", "/etc/passwd", tarfile.LNKTYPE)],
        [(tarfile.TarInfo("big"), bytes(40 * MIB))],
        [_link("fifo", "", tarfile.FIFOTYPE)],
    ],
    ids=["climbs", "absolute", "through a link", "hard link", "too large", "fifo"],
)
async def test_a_hostile_checkpoint_is_refused(
    driver: Driver, entries: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    data = tar_of(*entries)
    hash_ = await driver.blobs.put(data)
    resume = Artifact("/ckpt", hash_, len(data))
    workspace = driver.workspace("true", checkpoint_path="/ckpt", resume=resume)
    with pytest.raises(SandboxError, match="archive"):
        await driver.sandbox.prepare(workspace)
    assert not Path("/etc/escape").exists()  # noqa: ASYNC240
    assert (await driver.sandbox.observe(workspace.work_id)).state is RunState.ABSENT


async def test_a_tree_of_inputs_is_unpacked_where_it_belongs(driver: Driver) -> None:
    data = tar_of((tarfile.TarInfo("d/x"), b"deep"), (tarfile.TarInfo("y"), b"flat"))
    hash_ = await driver.blobs.put(data)
    inputs = (Artifact("/in/data/", hash_, len(data)),)
    _, _, log = await driver.finished("cat /in/data/d/x /in/data/y", inputs=inputs)
    assert log == "deepflat"


@pytest.mark.parametrize("path", ["/proc/x", "/dev/x", "/in/../etc/x", "relative", "/"])
async def test_inputs_elsewhere_are_refused(driver: Driver, path: str) -> None:
    hash_ = await driver.blobs.put(b"x")
    workspace = driver.workspace("true", inputs=(Artifact(path, hash_, 1),))
    with pytest.raises(SandboxError):
        await driver.sandbox.prepare(workspace)
