"""Process: the port Bench, each piece of work in a child with its own bounds.

The child runs at the lowest priority beside the node, ends with it, and cannot outlive its time.
Lines are read with a bound; whatever it says wrongly is a SandboxError.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import trio

from market.errors import SandboxError
from node.ports import Commitment, Measured

MEASURE_S: Final = 180.0
LINE_BYTES_MAX: Final = 4 * 1024**2
NICE: Final = 5
FILE_BYTES_MAX: Final = 1024**3


class ProcessBench:
    """Fills the port `Bench`."""

    def __init__(self, folder: Path) -> None:
        """Disk rates are measured in `folder`."""
        self._folder = folder

    async def measure(self, uuid: str, ram_mib: int) -> Measured:
        """What the unit can do. Raises SandboxError."""
        order = {"do": "measure", "uuid": uuid, "ram_mib": ram_mib, "folder": str(self._folder)}
        async with self._child(order, MEASURE_S) as child:
            said = await child.line()
        try:
            return Measured(**{name: _rate(name, said[name]) for name in Measured.__slots__})
        except (KeyError, TypeError, ValueError) as problem:
            raise SandboxError("the measurement makes no sense") from problem

    @asynccontextmanager
    async def product(
        self, uuid: str, seed: bytes, size: int, limit_s: float
    ) -> AsyncIterator[_Product]:
        """The product of a seed's matrices, held until left. Raises SandboxError."""
        order = {"do": "product", "uuid": uuid, "seed": seed.hex(), "size": size}
        async with self._child(order, limit_s) as child:
            said = await child.line()
            root = bytes.fromhex(str(said["root"]))
            yield _Product(child, Commitment(root, int(said["compute_ms"])))

    @asynccontextmanager
    async def _child(self, order: dict[str, Any], limit_s: float) -> AsyncIterator[_Child]:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "node.adapters.bench.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            preexec_fn=_bounded,
            cwd="/",
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        try:
            with trio.move_on_after(limit_s) as patience:
                child = _Child(process)
                await child.say(order)
                yield child
            if patience.cancelled_caught:
                raise SandboxError(f"the measurement took longer than {limit_s:.0f} s")
        finally:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


class _Product:
    """A product that was committed to."""

    def __init__(self, child: _Child, commitment: Commitment) -> None:
        self._child = child
        self.commitment = commitment

    async def show(self, rows: tuple[int, ...]) -> tuple[tuple[int, tuple[bytes, ...], bytes], ...]:
        """The rows with their paths: (index, path, bytes). Once. Raises SandboxError."""
        await self._child.say(list(rows))
        found = []
        for _ in rows:
            said = await self._child.line()
            path = tuple(bytes.fromhex(str(one)) for one in said["path"])
            found.append((int(said["row"]), path, bytes.fromhex(str(said["data"]))))
        return tuple(found)


class _Child:
    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = bytearray()

    async def say(self, value: Any) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(json.dumps(value).encode() + b"\n")
        except trio.BrokenResourceError as problem:
            raise SandboxError("the measuring process ended") from problem

    async def line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some(65536)
            if not data or len(self._buffer) > LINE_BYTES_MAX:
                raise SandboxError("the measuring process ended: out of memory, perhaps")
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        said: dict[str, Any] = json.loads(line)
        if "error" in said:
            raise SandboxError(f"the unit cannot be measured: {said['error']}")
        return said


def _rate(name: str, value: Any) -> Any:
    return str(value)[:64] if name == "library" else max(0, min(2**32 - 1, int(value)))


def _bounded() -> None:
    """In the child, before it becomes another program."""
    os.nice(NICE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, FILE_BYTES_MAX))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
