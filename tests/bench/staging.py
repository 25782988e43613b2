"""Bench of staging: a 256 MiB input from a peer's blobs into ours, beside a raw libp2p stream.

Two processes, as two nodes are. Both ways in turn, several times, medians: the raw stream writes
and reads 64 KiB at a time and does nothing else; staging reads blobs, sends frames with credit,
appends, checks the SHA-256 and lends the file to a job. While it runs, small requests between the
same peers are timed: bulk must not delay a heartbeat.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import IO, Any

import trio
from libp2p.custom_types import TProtocol

from market.limits import ARTIFACT_BYTES_MAX
from market.terms import Artifact
from market.units import MIB
from node.adapters.disk.blobs import open_blobs
from node.adapters.libp2p.host import NetworkConfig
from node.adapters.libp2p.identity import peer_id
from node.adapters.libp2p.network import Network, run_network
from node.adapters.system.clock import SystemClock
from node.artifacts import PROTOCOL, Artifacts
from tests.bench.row import Row, row

SIZE_MIB = int(os.environ.get("GRIDSOUK_BENCH_MIB", "256"))
ROUNDS = 3
WRITE_BYTES = 65_536
RAW = TProtocol("/bench/raw/1")
ASK_EVERY_S = 0.05
SHARE_GOAL = 0.8
DELAY_GOAL_S = 0.25


def _config(folder: Path, bootstrap: tuple[str, ...] = ()) -> NetworkConfig:
    return NetworkConfig(
        listen=("/ip4/127.0.0.1/tcp/0",), bootstrap=bootstrap, topics=("offers", "demands"),
        address_book=folder / "peers.json",
    )  # fmt: skip


async def rows(data: Path) -> list[Row]:
    """Measured now; `data` is not needed."""
    del data
    with tempfile.TemporaryDirectory(prefix="gridsouk-bench-", dir="/var/tmp") as text:
        folder = Path(text)
        (folder / "here").mkdir()
        command = [sys.executable, "-m", "tests.bench.staging", str(folder / "there")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:  # noqa: ASYNC220
            assert other.stdout is not None
            try:
                told = await trio.to_thread.run_sync(_told, other.stdout)
                return await _measure(folder / "here", told)
            finally:
                other.kill()


def _told(lines: IO[str]) -> dict[str, Any]:
    """The first line that is no log line."""
    found: dict[str, Any] = json.loads(next(line for line in lines if line.startswith("{")))
    return found


async def _measure(folder: Path, told: dict[str, Any]) -> list[Row]:
    artifact = Artifact("/in/data", bytes.fromhex(told["hash"]), SIZE_MIB * MIB)
    peer = bytes.fromhex(told["peer"])
    raw, staged, idle, busy = [], [], [], []
    async with run_network(_config(folder), bytes(range(32)), SystemClock()) as network:
        blobs = await open_blobs(folder / "blobs", bytes_max=4096 * MIB, pinned=tuple)
        artifacts = Artifacts(network, blobs, lambda *_: False)
        await network.connect(told["address"])
        idle += await _asked(network, peer, 2.0)
        for number in range(ROUNDS):
            async with trio.open_nursery() as nursery:  # the same small requests beside both
                nursery.start_soon(_ask_on, network, peer, [])
                raw.append(await _raw(network, peer))
                nursery.cancel_scope.cancel()
            async with trio.open_nursery() as nursery:
                times: list[float] = []
                nursery.start_soon(_ask_on, network, peer, times)
                began = time.perf_counter()
                await artifacts.pull(peer, artifact)
                await blobs.lend(artifact.hash, str(folder / f"input-{number}"))
                staged.append(time.perf_counter() - began)
                nursery.cancel_scope.cancel()
            busy += times
            (folder / f"input-{number}").unlink()
            await blobs.discard(artifact.hash)
    raw_rate, rate = (SIZE_MIB / statistics.median(times) for times in (raw, staged))
    p99_idle, p99 = (statistics.quantiles(times, n=100)[98] * 1000 for times in (idle, busy))
    p50 = statistics.median(busy) * 1000
    share = rate / raw_rate
    limit_ms = DELAY_GOAL_S * 1000
    return [
        row(f"staging {SIZE_MIB} MiB", rate, "MiB/s", ("raw libp2p stream", round(raw_rate, 2)),
            f"at least {SHARE_GOAL:.0%}", share >= SHARE_GOAL),
        row("a request meanwhile, p50", p50, "ms",
            ("idle line, p50", round(statistics.median(idle) * 1000, 2)), "printed", True),
        row("a request meanwhile, p99", p99, "ms", ("idle line, p99", round(p99_idle, 2)),
            f"under {limit_ms:.0f} ms", p99 < limit_ms),
    ]  # fmt: skip


async def _raw(network: Network, peer: bytes) -> float:
    """Seconds for the bytes over a stream of the library's, read as fast as they come."""
    stream = await network._host.new_stream(peer_id(peer), [RAW])
    began, left = time.perf_counter(), SIZE_MIB * MIB
    while left:
        left -= len(await stream.read(min(left, WRITE_BYTES)))
    seconds = time.perf_counter() - began
    await stream.close()
    return seconds


async def _asked(network: Network, peer: bytes, seconds: float) -> list[float]:
    times: list[float] = []
    with trio.move_on_after(seconds):
        await _ask_on(network, peer, times)
    return times


async def _ask_on(network: Network, peer: bytes, times: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await network.request(peer, b"x" * 400, timeout_s=30)
        times.append(time.perf_counter() - began)
        await trio.sleep(ASK_EVERY_S)


def _write(folder: Path, piece: bytes) -> None:
    folder.mkdir(parents=True)
    with (folder / "data").open("wb") as file:
        for _ in range(SIZE_MIB):
            file.write(piece)


async def _serve(folder: Path) -> None:
    """The other process: a blob, and a raw stream of as many bytes."""
    piece = hashlib.shake_256(b"bench").digest(MIB)
    _write(folder, piece)
    blobs = await open_blobs(folder / "blobs", bytes_max=ARTIFACT_BYTES_MAX, pinned=tuple)
    hash_, _ = await blobs.put_file(str(folder / "data"))

    async def answer(peer: bytes, data: bytes) -> bytes:
        return data

    async def raw(stream: Any) -> None:
        for _ in range(SIZE_MIB * MIB // WRITE_BYTES):
            await stream.write(piece[:WRITE_BYTES])
        await stream.close()

    async with run_network(_config(folder), bytes(range(1, 33)), SystemClock()) as network:
        network.answer(answer)
        network.accept(PROTOCOL, Artifacts(network, blobs, lambda *_: True).serve)
        network._host.set_stream_handler(RAW, raw)
        told = {"address": network.addresses()[0], "peer": network.key.hex(), "hash": hash_.hex()}
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]))
