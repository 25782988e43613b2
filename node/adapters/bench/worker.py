"""Worker: one unit measured, or one challenge computed, in a process that does only that.

`python -m node.adapters.bench.worker`: one JSON order on standard input, JSON lines out. Uses CuPy
or PyTorch on a GPU if one of them is installed, numpy on the CPU. After a product it waits for rows
to show until its input ends. The caller bounds its time.
"""

from __future__ import annotations

import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from market.product import LEFT, RIGHT, blocks, leaf, path, row_bytes, rows_of, tree

ROUNDS: Final = 5
DISK_BYTES: Final = 64 * 1024**2
COPY_BYTES: Final = 256 * 1024**2
CPU_SIZE: Final = 1024
GPU_SIZE: Final = 8192
BLOCK_SIZE: Final = 4096  # a square of float32: 64 MiB
BLOCK_MIB: Final = 64
SHOWN_MAX: Final = 64


class Device:
    """The library that computes, behind the few verbs that are needed. This one is numpy."""

    name = f"numpy {np.__version__}"
    size = CPU_SIZE
    kinds: tuple[str, ...] = ("float32",)

    def put(self, array: Any) -> Any:
        """An array of the host's, on the device."""
        return array

    def get(self, array: Any) -> Any:
        """Back on the host."""
        return np.asarray(array)

    def wait(self) -> None:
        """Until everything begun is done."""

    def random(self, kind: str, size: int) -> Any:
        """A square matrix of small numbers."""
        return np.random.default_rng(1).integers(0, 8, (size, size)).astype(kind)

    def product(self, left: Any, right: Any) -> Any:
        """Of two matrices."""
        return left @ right

    def copy(self, array: Any) -> Any:
        """The same bytes elsewhere in the device's memory."""
        return array.copy()

    def empty(self, size: int) -> Any:
        """A square float32 matrix."""
        return np.empty((size, size), np.float32)


class CupyDevice(Device):
    """An NVIDIA or AMD GPU through CuPy."""

    size = GPU_SIZE
    kinds = ("float32", "float16", "int8")

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy
        self.name = f"cupy {cupy.__version__}"

    def put(self, array: Any) -> Any:
        return self._cupy.asarray(array)

    def get(self, array: Any) -> Any:
        return self._cupy.asnumpy(array)

    def wait(self) -> None:
        self._cupy.cuda.Device().synchronize()

    def random(self, kind: str, size: int) -> Any:
        return self._cupy.random.randint(0, 8, (size, size)).astype(kind)

    def copy(self, array: Any) -> Any:
        return array.copy()

    def empty(self, size: int) -> Any:
        return self._cupy.empty((size, size), self._cupy.float32)


class TorchDevice(Device):
    """A GPU through PyTorch."""

    size = GPU_SIZE
    kinds = ("float32", "float16")

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        self.name = f"torch {torch.__version__}"
        torch.backends.cuda.matmul.allow_tf32 = False

    def put(self, array: Any) -> Any:
        return self._torch.from_numpy(np.ascontiguousarray(array)).cuda()

    def get(self, array: Any) -> Any:
        return array.cpu().numpy()

    def wait(self) -> None:
        self._torch.cuda.synchronize()

    def random(self, kind: str, size: int) -> Any:
        found = self._torch.randint(0, 8, (size, size), device="cuda")
        return found.to(getattr(self._torch, kind))

    def copy(self, array: Any) -> Any:
        return array.clone()

    def empty(self, size: int) -> Any:
        return self._torch.empty((size, size), device="cuda")


def device(uuid: str) -> Device:
    """What computes for that unit. Raises RuntimeError if its GPU cannot be used here."""
    if uuid.startswith("cpu-"):
        return Device()
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid  # before a library looks; nothing else is seen
    if importlib.util.find_spec("cupy") is not None:
        cupy = __import__("cupy")
        if cupy.cuda.runtime.getDeviceCount():
            return CupyDevice(cupy)
    if importlib.util.find_spec("torch") is not None:
        torch = __import__("torch")
        if torch.cuda.is_available():
            return TorchDevice(torch)
    raise RuntimeError("neither CuPy nor PyTorch can use this GPU: pip install cupy-cuda12x")


def measure(order: dict[str, Any]) -> dict[str, Any]:
    """Rates of one unit: the medians of several rounds each."""
    unit = device(order["uuid"])
    rates = {kind: _product_rate(unit, kind) for kind in unit.kinds}
    block = unit.put(np.zeros(COPY_BYTES // 4, np.float32))
    copied_s = _median(lambda: unit.copy(block), unit.wait)
    on_gpu = type(unit) is not Device
    host = np.ones(COPY_BYTES // 4, np.float32)
    moved_s = _median(lambda: unit.put(host), unit.wait) if on_gpu else 0.0
    return {
        "fp32_gflops": rates.get("float32", 0),
        "fp16_gflops": rates.get("float16", 0),
        "int8_gops": rates.get("int8", 0),
        "memory_mbps": int(2 * COPY_BYTES / copied_s / 1e6),  # read and written
        "pcie_mbps": int(COPY_BYTES / moved_s / 1e6) if moved_s else 0,
        "disk_mbps": _disk_rate(order["folder"]),
        "vram_mib": _vram_mib(unit, int(order["ram_mib"])) if on_gpu else 0,
        "library": unit.name[:64],
    }


def _product_rate(unit: Device, kind: str) -> int:
    left, right = unit.random(kind, unit.size), unit.random(kind, unit.size)
    try:
        seconds = _median(lambda: unit.product(left, right), unit.wait)
    except Exception:  # a library that cannot multiply this kind has no rate for it
        return 0
    return int(2 * unit.size**3 / seconds / 1e9)


def _median(work: Callable[[], Any], wait: Callable[[], None]) -> float:
    work()
    wait()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def _vram_mib(unit: Device, ram_mib: int) -> int:
    """How much of its memory the unit really gives: every block is written, and read afterwards."""
    held: list[Any] = []
    try:
        while len(held) < ram_mib // BLOCK_MIB:
            block = unit.empty(BLOCK_SIZE)
            block[...] = len(held)
            unit.wait()
            held.append(block)
    except Exception:  # each library has its own; the first block must be there
        if not held:
            raise
    good = sum(
        bool((unit.get(block[:: BLOCK_SIZE - 1, :: BLOCK_SIZE - 1]) == number).all())
        for number, block in enumerate(held)
    )
    return good * BLOCK_MIB


def _disk_rate(folder: str) -> int:
    data = os.urandom(1024 * 1024)
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(DISK_BYTES // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return int(DISK_BYTES / (time.perf_counter() - began) / 1e6)


def product(order: dict[str, Any], say: Callable[[dict[str, Any]], None]) -> Any:
    """Multiply; say the root; returns the product and its tree."""
    unit, seed, size = device(order["uuid"]), bytes.fromhex(order["seed"]), int(order["size"])
    began = time.perf_counter()
    left, right = unit.empty(size), unit.empty(size)
    for rows in blocks(size):
        index = np.arange(rows.start, rows.stop)
        left[rows.start : rows.stop] = unit.put(rows_of(seed, LEFT, size, index).astype("f4"))
        right[rows.start : rows.stop] = unit.put(rows_of(seed, RIGHT, size, index).astype("f4"))
    found = unit.product(left, right)
    unit.wait()
    leaves = [
        leaf(index, row_bytes(row))
        for rows in blocks(size)
        for index, row in zip(rows, unit.get(found[rows.start : rows.stop]), strict=True)
    ]
    levels = tree(leaves)
    elapsed_ms = int((time.perf_counter() - began) * 1000)
    say({"root": levels[-1][0].hex(), "compute_ms": elapsed_ms})
    return unit, found, levels


def show(made: Any, rows: list[int], say: Callable[[dict[str, Any]], None]) -> None:
    """Rows of the product with their paths."""
    unit, found, levels = made
    for index in rows[:SHOWN_MAX]:
        row = row_bytes(unit.get(found[index : index + 1])[0])
        say({"row": index, "path": [one.hex() for one in path(levels, index)],
             "data": row.hex()})  # fmt: skip


def main() -> None:
    """One order."""

    def say(value: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()

    order = json.loads(sys.stdin.readline())
    try:
        if order["do"] == "measure":
            say(measure(order))
            return
        made = product(order, say)
        asked = sys.stdin.readline()
        if asked:
            show(made, [int(row) for row in json.loads(asked)], say)
    except Exception as problem:  # whatever a library raises is an answer here
        say({"error": f"{type(problem).__name__}: {problem}"[:500]})


if __name__ == "__main__":
    main()
