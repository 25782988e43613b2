"""The port Bench: its contract for the process and for its simulated twin, and the GPU's branch of
the worker with a stand-in for CuPy (on a real GPU: `-m gpu`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import trio

from market.errors import SandboxError
from market.product import PRIME, check, root_from
from node.adapters.bench import process, worker
from node.adapters.bench.process import ProcessBench
from node.ports import Bench
from tests.simulation.bench import SimBench

SEED, SIZE = b"seed" * 8, 300


async def keeps_the_contract(bench: Bench, uuid: str) -> None:
    measured = await bench.measure(uuid, 0)
    assert measured.fp32_gflops > 0
    assert measured.memory_mbps > 0
    assert measured.library
    async with bench.product(uuid, SEED, SIZE, 60.0) as product:
        shown = await product.show((0, 17, SIZE - 1))
        assert [index for index, _, _ in shown] == [0, 17, SIZE - 1]
        for index, path, row in shown:
            assert root_from(index, row, path, SIZE) == product.commitment.root
    rows = {index: row for index, _, row in shown}
    assert check(SEED, SIZE, rows, np.random.default_rng(3).integers(0, PRIME, SIZE))


async def test_the_process_keeps_the_contract(tmp_path: Path) -> None:
    await keeps_the_contract(ProcessBench(tmp_path), "cpu-0")


async def test_the_simulated_bench_keeps_the_contract() -> None:
    await keeps_the_contract(SimBench(), "cpu-0")


async def test_what_takes_too_long_is_ended(tmp_path: Path) -> None:
    with trio.fail_after(30), pytest.raises(SandboxError, match="longer than"):
        async with ProcessBench(tmp_path).product("cpu-0", SEED, 20_000, 1.0):
            pass


async def test_a_gpu_that_cannot_be_used_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match=r"pip install|cannot be measured"):
        await ProcessBench(tmp_path).measure("GPU-none", 1024)


CUPY = """
import numpy
from types import SimpleNamespace
__version__ = "stand-in"
float32, asarray, asnumpy, empty, random = (
    numpy.float32, numpy.asarray, numpy.asarray, numpy.empty, numpy.random
)
cuda = SimpleNamespace(
    Device=lambda: SimpleNamespace(synchronize=lambda: None),
    runtime=SimpleNamespace(getDeviceCount=lambda: 1),
)
"""


async def test_the_gpu_branch_goes_through_cupy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cupy.py").write_text(CUPY)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(worker, "GPU_SIZE", 128)
    async with ProcessBench(tmp_path).product("GPU-1", SEED, SIZE, 60.0) as product:
        (shown,) = await product.show((5,))
        assert root_from(5, shown[2], shown[1], SIZE) == product.commitment.root
    assert process.NICE > 0


@pytest.mark.gpu
async def test_a_real_gpu_keeps_the_contract(tmp_path: Path) -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
        uuid = pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(0))
    except pynvml.NVMLError:
        pytest.skip("no NVIDIA GPU here")
    await keeps_the_contract(ProcessBench(tmp_path), uuid)


class Memory:
    """Stands for a GPU that gives no more than three blocks, of which one forgets."""

    def __init__(self) -> None:
        self.given: list[np.ndarray] = []

    def empty(self, size: int) -> np.ndarray:
        if len(self.given) == 3:
            raise MemoryError
        self.given.append(np.zeros((size, size), np.float32))
        return self.given[-1]

    def get(self, array: np.ndarray) -> np.ndarray:
        return array

    def wait(self) -> None:
        self.given[1][...] = 99


def test_memory_counts_once_it_was_written_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "BLOCK_SIZE", 8)
    device = Memory()
    device.given.append(np.zeros((1, 1), np.float32))  # so that there is one to forget
    assert worker._vram_mib(device, 64 * 10) == 64  # type: ignore[arg-type]
    assert worker._vram_mib(worker.Device(), 64 * 5 + 1) == 64 * 5
