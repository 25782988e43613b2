"""A gang from end to end: two real nodes, whose containers sum numbers over TCP at any port,
through libp2p, and reach nothing else: no loopback of another machine, no address of this one."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import pytest
import trio

from tests.adapters.registry.server import Registry, serving
from tests.services.stage import Stage, open_stage

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.chain]

COUNT = 200_000  # doubles: 1.6 MB each way
JOB = """
name: gang
num_nodes: 2
image: {registry}/souk/base:1
resources: {{accelerators: "CPU:1", memory: 256MB, disk_size: 64MB}}
file_mounts: {{/in/sum.py: {script}}}
envs: {{COUNT: "{count}", HOST_PORT: "{port}", HOST_IPS: "{hosts}", MASTER_PORT: "29501"}}
run: python3 /in/sum.py
max_hourly_cost: 80
max_duration: 5m
"""

SUM = '''
"""All-reduce by hand: everybody sends everybody its numbers; then, what else can be reached."""
import array, json, os, socket, threading, time

rank, nodes = int(os.environ["SOUK_NODE_RANK"]), int(os.environ["SOUK_NUM_NODES"])
ips, count = os.environ["SOUK_NODE_IPS"].split(), int(os.environ["COUNT"])
master = (os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))

def connect(place, patience_s=100):
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection(place, 5)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)

server = socket.create_server(("", 0))
mine, ports = server.getsockname()[1], {}
if rank == 0:  # the meeting point, as torchrun has one
    ports[0], callers = mine, []
    with socket.create_server(("", master[1])) as desk:
        while len(ports) < nodes:
            caller = desk.accept()[0]
            who, port = json.loads(caller.makefile().readline())
            ports[who] = port
            callers.append(caller)
    for caller in callers:
        caller.sendall(json.dumps(ports).encode() + b"\\n")
else:
    desk = connect(master)
    desk.sendall(json.dumps([rank, mine]).encode() + b"\\n")
    ports = {int(who): port for who, port in json.loads(desk.makefile().readline()).items()}

numbers = array.array("d", (rank + 1.0 + n for n in range(count)))

def give(other):
    with connect((ips[other], ports[other])) as made:
        made.sendall(numbers.tobytes())

givers = [threading.Thread(target=give, args=(n,)) for n in range(nodes) if n != rank]
for one in givers:
    one.start()
total, callers = numbers[:], []
for _ in range(nodes - 1):
    taken, who = server.accept()
    callers.append(who[0])
    theirs = array.array("d", taken.makefile("rb").read())
    total = array.array("d", map(sum, zip(total, theirs)))
for one in givers:
    one.join()

def reach(host, port):
    try:
        socket.create_connection((host, port), 1).close()
        return "reached"
    except OSError as problem:
        return type(problem).__name__

port = int(os.environ["HOST_PORT"])
others = [ips[1 - rank], "127.0.0.1", "10.77.0.254", "10.77.1.1", "169.254.169.254", "1.1.1.1"]
seen = {host: reach(host, port) for host in (*others, *os.environ["HOST_IPS"].split())}
print(json.dumps({
    "sum": sum(total), "first": total[0], "callers": callers, "ips": ips, "seen": seen,
    "interfaces": sorted(name for _, name in socket.if_nameindex()),
    "told": {n: os.environ[n] for n in os.environ if n.startswith(("MASTER", "PET_", "GLOO"))},
}), flush=True)
'''


def own_addresses() -> list[str]:
    """Of this machine, where the nodes run: a job must reach it at none of them."""
    found = {line.split()[1] for line in Path("/proc/net/fib_trie").read_text().splitlines()
             if re.fullmatch(r"\s*\|-- [\d.]+", line)}  # fmt: skip
    return sorted(one for one in found if not one.startswith(("127.", "0."))
                  and not one.endswith((".0", ".255")))[:4]  # fmt: skip


def test_a_gang_talks_and_reaches_nothing_else(tmp_path: Path) -> None:
    registry = Registry()
    (tmp_path / "sum.py").write_text(SUM)
    with serving(registry), socket.create_server(("0.0.0.0", 0)) as server:
        hosts = own_addresses()
        port = server.getsockname()[1]
        (tmp_path / "job.yaml").write_text(
            JOB.format(registry=registry.host, script=tmp_path / "sum.py", count=COUNT,
                       port=port, hosts=" ".join(hosts))
        )  # fmt: skip
        for host in hosts:  # it is there for everybody else
            socket.create_connection((host, port), 5).close()
        trio.run(_story, tmp_path, registry, hosts)


async def _story(home: Path, registry: Registry, hosts: list[str]) -> None:
    end = f'[registries."{registry.host}"]\nprivate = true\ninsecure = true'
    async with open_stage(home, registry, 2, {"end": end}) as stage:
        done = stage.souk("run", str(home / "job.yaml"), "-y", "-q")
        assert done.returncode == 0, done.stderr + stage.logs()
        job = done.stdout.strip()
        shown = await stage.until(
            job, lambda found: found["state"] in ("SUCCEEDED", "FAILED", "FAILED_SETUP")
        )
        assert shown["state"] == "SUCCEEDED", [*await _logs(stage, job), stage.logs()]
        whole = sum(1.0 + n + 2.0 + n for n in range(COUNT))
        for rank, log in enumerate(await _logs(stage, job)):
            seen = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
            assert (seen["sum"], seen["first"]) == (whole, 3.0)
            assert seen["callers"] == [seen["ips"][1 - rank]], "each is seen at its own address"
            assert set(hosts) < set(seen["seen"])
            assert "reached" not in seen["seen"].values(), seen["seen"]
            assert set(seen["interfaces"]) >= {"lo", "souk0"}
            assert seen["told"]["PET_MASTER_PORT"] == seen["told"]["MASTER_PORT"] == "29501"
            assert seen["told"]["GLOO_SOCKET_IFNAME"] == "souk0"
        for name in ("provider-1", "provider-2"):  # it went by the nodes, both ways
            with trio.fail_after(60):  # it is said once the interface is let go
                while "received" not in (said := (stage.nodes[name].home / "node.log").read_text()):
                    await trio.sleep(0.2)
            for word in ("sent", "received"):
                (count,) = re.findall(rf'"?{word}"?[=:]\s*(\d+)', said)
                assert int(count) > COUNT * 8, said[-3000:]


async def _logs(stage: Stage, job: str) -> list[str]:
    async with stage.requester.client() as client:
        found = [await client.get(f"/api/jobs/{job}/log", params={"rank": n}) for n in (0, 1)]
    return [one.text for one in found]
