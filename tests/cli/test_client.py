"""The client of notebooks against the real API: sync, asyncio and trio say the same."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trio

import node
from market.errors import IntegrityError, MarketError, NotFoundError, RefusedError, SpecError
from node.client.http import NodeDownError
from node.client.souk import LINE_BYTES_MAX, Lines, Souk
from tests.cli.stub_node import LOG, RESULT
from tests.cli.test_cli import JOB, STUB


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "images" / "base.tar").write_bytes(b"image")
    (folder / "in.txt").write_text("input")
    (folder / "job.yaml").write_text(JOB.format(name="fine"))
    command = [sys.executable, str(STUB), str(folder / "node.sock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as stub:
        assert stub.stdout is not None
        assert stub.stdout.readline().startswith("http://127.0.0.1:")
        yield folder
        stub.terminate()


@pytest.fixture
def souk(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Souk:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return node.connect_sync(data_dir=data_dir)


def test_a_job_from_a_file_to_its_results(souk: Souk, data_dir: Path, tmp_path: Path) -> None:
    with souk:
        job = souk.run(data_dir / "job.yaml", envs={"EPOCHS": 3}, name="mine")
        assert job.wait()["state"] == "SUCCEEDED"
        assert list(job.logs()) == LOG.decode().splitlines()
        assert job.id in {other.id for other in souk.jobs()}
        assert souk.job("mine").id == job.id
        files = souk.job("done").get(tmp_path / "out")
        assert [file.read_bytes() for file in files] == [RESULT]
        assert souk.job("live").state == "RUNNING"


def test_a_mapping_is_a_job_file(souk: Souk, data_dir: Path) -> None:
    spec = {
        "name": "sweep-1",
        "image": "base",
        "run": "true",
        "max_hourly_cost": 0.6,
        "max_duration": "2h",
        "file_mounts": {"/in.txt": str(data_dir / "in.txt")},
        "resources": {"accelerators": {"RTX4090": 2}},
    }
    assert souk.validate(spec)["max_hold"] == "1.2"
    assert souk.run(spec).wait()["name"] == "sweep-1"
    with pytest.raises(SpecError, match="max_duratoin"):
        souk.run({**spec, "max_duratoin": "2h"})


def test_mistakes_are_named(souk: Souk, data_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="no job is called 'nobody'"):
        souk.job("nobody")
    with pytest.raises(TimeoutError, match="is RUNNING after 0 s"):
        souk.job("live").wait(0)
    with pytest.raises(RefusedError, match="is no name for a file"):
        souk.job("evil").get(tmp_path)
    with pytest.raises(NotFoundError, match="it left none"):
        souk.job("bad").get(tmp_path)
    with pytest.raises(SpecError, match="No such file"):
        souk.run(tmp_path / "none.yaml")
    with (
        pytest.raises(NodeDownError, match="no node runs here"),
        node.connect_sync(data_dir=tmp_path),
    ):
        pass
    assert issubclass(IntegrityError, MarketError)


async def _asynchronously(data_dir: Path) -> list[Any]:
    async with node.connect(data_dir=data_dir) as souk:
        job = await souk.run(data_dir / "job.yaml", name="both")
        state = (await job.wait(30))["state"]
        lines = [line async for line in job.logs()]
        offers = [offer["gpu_name"] for offer in await souk.offers("num_gpus>=4", "dph-")]
        return [state, lines, offers]


def test_asyncio_and_trio_say_the_same(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    expected = ["SUCCEEDED", LOG.decode().splitlines(), ["H100", "A100"]]
    with ThreadPoolExecutor(1) as apart:  # a browser's driver may have a loop in this thread
        assert apart.submit(lambda: asyncio.run(_asynchronously(data_dir))).result(60) == expected
    assert trio.run(_asynchronously, data_dir) == expected


def test_lines_are_cut_wherever_the_bytes_come_apart() -> None:
    lines = Lines()
    assert [*lines.take(b"a\nb"), *lines.take("ü\n".encode()[:1]), *lines.take(b"\xbc\n")] == [
        "a",
        "bü",
    ]
    long = list(lines.take(b"x" * (LINE_BYTES_MAX + 1)))
    assert [len(part) for part in long] == [LINE_BYTES_MAX + 1]  # nobody waits for its end
    assert list(lines.rest()) == []
