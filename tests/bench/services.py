"""Bench of services: a model that streams tokens, through `souk forward` and beside it directly.

Real nodes as processes, a real container, a real chain; the reference is the same server run on
this machine and asked over the loopback. One client, one request after the other, then several
clients at once. Goals are wide, for the machine is shared; the figures are what counts.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from tests.adapters.registry.server import Registry
from tests.bench.row import Row, row
from tests.services.stage import ROOT, Stage, measuring_stage

REQUESTS = 40
TOKENS = 20
TOKEN_MS = 10  # what the model thinks about each
CLIENTS = 8
FIRST_GOAL_MS = 100.0
TOKEN_GOAL_MS = 50.0
JOB = """
name: inference
image: {host}/souk/base:1
resources: {{accelerators: "CPU:1", memory: 256MB, disk_size: 64MB}}
file_mounts: {{/in/inference.py: {script}}}
envs: {{TOKEN_MS: "{token_ms}"}}
ports: [8000]
run: python3 /in/inference.py
max_hourly_cost: 40
max_duration: 10m
"""


async def rows(data: Path) -> list[Row]:
    """Measured now; `data` is not needed. Needs root, runc and anvil."""
    del data
    async with measuring_stage(1) as (stage, home, registry):
        return await _measure(stage, home, registry)


async def _measure(stage: Stage, home: Path, registry: Registry) -> list[Row]:
    script = ROOT / "examples" / "inference.py"
    file = await trio.Path(home / "job.yaml").write_text(
        JOB.format(host=registry.host, script=script, token_ms=TOKEN_MS)
    )
    assert file
    done = stage.souk("run", str(home / "job.yaml"), "-y", "-q")
    assert done.returncode == 0, done.stderr
    forward = stage.start("forward", done.stdout.strip(), "8000:0")
    assert forward.stdout is not None
    try:
        line = await trio.to_thread.run_sync(forward.stdout.readline)
        port = int(line.split(" ")[0].rpartition(":")[2])
        await trio.to_thread.run_sync(_ask, port)  # waits until it serves
        tunnel = await trio.to_thread.run_sync(_many, port)
        with _direct(script) as near:
            direct = await trio.to_thread.run_sync(_many, near)
        together = await _together(port)
    finally:
        forward.kill()
        forward.wait()
        forward.stdout.close()
    return [*_rows("", tunnel, direct), *_rows(f", {CLIENTS} clients", together, direct)]


Times = tuple[list[float], list[float]]
"""Milliseconds to the first token of each request, and between any two tokens."""


def _rows(label: str, ours: Times, direct: Times) -> list[Row]:
    found = []
    for name, mine, theirs, goal in (
        ("first token", ours[0], direct[0], FIRST_GOAL_MS),
        ("between tokens", ours[1], direct[1], TOKEN_GOAL_MS),
    ):
        for part, at in (("p50", 49), ("p99", 98)):
            value = statistics.quantiles(mine, n=100)[at]
            reference = round(statistics.quantiles(theirs, n=100)[at], 3)
            holds = bool(label) or part == "p99" or value < goal
            text = "printed" if label or part == "p99" else f"under {goal:.0f} ms"
            found.append(row(f"{name}{label}, {part}", value, "ms",
                             (f"direct, one client, {part}", reference), text, holds))  # fmt: skip
    return found


def _ask(port: int, seed: int = 0) -> Times:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": TOKENS, "seed": seed})
    began = last = time.perf_counter()
    connection.request("POST", "/v1/completions", body)
    answer = connection.getresponse()
    first: list[float] = []
    between: list[float] = []
    while line := answer.readline():
        if line.startswith(b"data: {"):
            now = time.perf_counter()
            (between if first else first).append((now - (last if first else began)) * 1000)
            last = now
    connection.close()
    return first, between


def _many(port: int, requests: int = REQUESTS) -> Times:
    found = [_ask(port, seed) for seed in range(requests)]
    return [t for one, _ in found for t in one], [t for _, more in found for t in more]


async def _together(port: int) -> Times:
    found: list[Times] = []

    async def client() -> None:
        found.append(await trio.to_thread.run_sync(_many, port, REQUESTS // 4))

    async with trio.open_nursery() as nursery:
        for _ in range(CLIENTS):
            nursery.start_soon(client)
    return [t for one, _ in found for t in one], [t for _, more in found for t in more]


@contextmanager
def _direct(script: Path) -> Iterator[int]:
    """The same server on this machine; its port."""
    environment = {**os.environ, "PORT": "18127", "TOKEN_MS": str(TOKEN_MS)}
    with subprocess.Popen([sys.executable, str(script)], env=environment,
                          stdout=subprocess.PIPE) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield 18127
        finally:
            process.kill()
