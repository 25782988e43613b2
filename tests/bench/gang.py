"""Bench of a gang's network: two containers at two providers, beside two programs on one loopback.

The same program in both cases, `pair.py`. Real nodes as processes, a real chain, libp2p between.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import trio

from tests.adapters.registry.server import Registry
from tests.bench.row import Row, row
from tests.services.stage import Stage, measuring_stage

PAIR = Path(__file__).with_name("pair.py")
TRIP_GOAL_MS = 50.0
RATE_GOAL = 5e6  # bytes a second: more than most lines into a home carry
JOB = """
name: pair
num_nodes: 2
image: {host}/souk/base:1
resources: {{accelerators: "CPU:1", memory: 256MB, disk_size: 64MB}}
file_mounts: {{/in/pair.py: {script}}}
run: python3 /in/pair.py
max_hourly_cost: 80
max_duration: 10m
"""


async def rows(data: Path) -> list[Row]:
    """Measured now; `data` is not needed. Needs root, runc and anvil."""
    del data
    async with measuring_stage(2) as (stage, home, registry):
        ours = await _through(stage, home, registry)
    near = await trio.to_thread.run_sync(_beside)
    found = [
        row(f"gang, round trip, {part}", ours[part], "ms", (f"loopback TCP, {part}", near[part]),
            f"under {TRIP_GOAL_MS:.0f} ms" if part == "p50" else "printed",
            part != "p50" or ours[part] < TRIP_GOAL_MS)
        for part in ("p50", "p99")
    ]  # fmt: skip
    for name, key in (("to rank 0", "sent"), ("to rank 1", "taken")):
        found.append(row(f"gang, one connection, {name}", ours[key] / 1e6, "MB/s",
                         ("loopback TCP", round(near[key] / 1e6, 1)),
                         f"over {RATE_GOAL / 1e6:.0f} MB/s", ours[key] > RATE_GOAL))  # fmt: skip
    return found


async def _through(stage: Stage, home: Path, registry: Registry) -> dict[str, float]:
    file = home / "job.yaml"
    await trio.Path(file).write_text(JOB.format(host=registry.host, script=PAIR))
    done = stage.souk("run", str(file), "-y", "-q")
    assert done.returncode == 0, done.stderr
    job = done.stdout.strip()
    shown = await stage.until(job, lambda found: found["state"] in ("SUCCEEDED", "FAILED"))
    assert shown["state"] == "SUCCEEDED", stage.logs()
    async with stage.requester.client() as client:
        log = (await client.get(f"/api/jobs/{job}/log", params={"rank": 1})).text
    return _said(log)


def _beside() -> dict[str, float]:
    """Both ranks on this machine, without containers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    place = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    command = [sys.executable, str(PAIR)]
    with subprocess.Popen(command, env={**place, "SOUK_NODE_RANK": "0"}):
        done = subprocess.run(command, env={**place, "SOUK_NODE_RANK": "1"},
                              capture_output=True, text=True, check=True)  # fmt: skip
    return _said(done.stdout)


def _said(text: str) -> dict[str, float]:
    found: dict[str, float] = json.loads(
        next(line for line in text.splitlines() if line.startswith("{"))
    )
    return found
