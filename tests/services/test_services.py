"""One service from end to end: its image from a registry, its port through a tunnel, its way out
through the proxy, its secret nowhere; its provider killed, and the same port reached elsewhere."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import secrets
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.adapters.registry.server import Registry, serving
from tests.services import entering
from tests.services.stage import ROOT, Stage, open_stage

pytestmark = [pytest.mark.slow, pytest.mark.sandbox, pytest.mark.chain]

JOB = """
name: service
kind: inference
image: {registry}/souk/base:1
resources: {{accelerators: "CPU:1", memory: 256MB, disk_size: 64MB}}
file_mounts: {{/in/inference.py: {inference}, /in/probe.py: {probe}}}
secrets: [API_KEY]
envs: {{ECHO_PORT: "{echo}"}}
ports: [8000, 8001]
egress: ["127.0.0.1:{echo}", "localhost:{echo}"]
run: python3 /in/probe.py & exec python3 /in/inference.py
max_hourly_cost: 40
max_duration: 10m
"""

PROBE = '''
"""What a job sees of the world: printed, one line of JSON."""
import hashlib, json, os, socket, time

def through(target):
    with socket.create_connection(("127.0.0.1", 3128), 5) as proxy:
        proxy.sendall(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode())
        answer = proxy.recv(4096)
        if b" 200 " not in answer.partition(b"\\r\\n")[0]:
            return answer.partition(b"\\r\\n")[0].decode()
        proxy.sendall(b"hello")
        proxy.shutdown(socket.SHUT_WR)
        data = b""
        while part := proxy.recv(4096):
            data += part
        return data.decode()

def direct(host, port):
    try:
        socket.create_connection((host, port), 3).close()
        return "reached"
    except OSError as problem:
        return type(problem).__name__

port = int(os.environ["ECHO_PORT"])
deadline = time.time() + 200
while time.time() < deadline:
    try:
        sold = through(f"127.0.0.1:{port}")
        break
    except OSError as problem:
        sold = str(problem)
        time.sleep(0.1)
print(json.dumps({
    "secret": hashlib.sha256(os.environ["API_KEY"].encode()).hexdigest(),
    "proxy": os.environ["HTTPS_PROXY"], "sold": sold,
    "private name": through(f"localhost:{port}"),
    "not named": through("example.org:443"),
    "direct": [direct("127.0.0.1", port), direct("169.254.169.254", 80), direct("1.1.1.1", 443)],
}), flush=True)
'''


@contextmanager
def echo() -> Iterator[int]:
    """A server of this machine that gives back what it is sent; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(client: socket.socket) -> None:
            with client:
                while data := client.recv(65536):
                    client.sendall(data)

        def accept() -> None:
            while True:
                try:
                    client, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def complete(port: int, count: int = 20, seed: int = 0) -> list[str]:
    """The tokens that the service streams."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=240)
    body = json.dumps({"prompt": "x", "stream": True, "max_tokens": count, "seed": seed})
    connection.request("POST", "/v1/completions", body)
    lines = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert lines[-2] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: "))["token"] for line in lines[:-2]]


def test_a_service_from_end_to_end(tmp_path: Path) -> None:
    for name in ("inference.py", "probe.py"):
        (tmp_path / name).write_text(
            PROBE if name == "probe.py" else (ROOT / "examples" / name).read_text()
        )
    secret, password = secrets.token_hex(24), secrets.token_hex(24)
    (tmp_path / "password").write_text(password)
    registry = Registry(auth="token", users={"ann": password})
    with serving(registry), echo() as echo_port:
        extra = {
            "provider": f'egress = ["127.0.0.1:{echo_port}", "LOCALHOST:{echo_port}"]',
            "end": f'[registries."{registry.host}"]\nprivate = true\ninsecure = true\n'
            f'username = "ann"\npassword_file = "{tmp_path / "password"}"',
        }
        (tmp_path / "job.yaml").write_text(
            JOB.format(
                registry=registry.host,
                echo=echo_port,
                inference=tmp_path / "inference.py",
                probe=tmp_path / "probe.py",
            )
        )
        trio.run(_story, tmp_path, registry, extra, secret, password)


async def _story(
    home: Path, registry: Registry, extra: dict[str, str], secret: str, password: str
) -> None:
    async with open_stage(home, registry, 2, extra) as stage:
        job = _submitted(stage, home, secret)
        # Before it runs: the tunnel waits, and says for what.
        forward = stage.start("forward", job, "8000:0")
        assert forward.stdout is not None
        try:
            line = await trio.to_thread.run_sync(forward.stdout.readline)
            port = int(line.split(" ")[0].rpartition(":")[2])
            words = await trio.to_thread.run_sync(complete, port)
            assert len(words) >= 20
            await _many(port)
            shown = await stage.until(job, lambda found: found["state"] == "RUNNING")
            await _sees(stage, job, secret, registry)
            _wrong_ports(stage, job)
            await trio.to_thread.run_sync(entering.without_a_terminal, stage, job)
            await trio.to_thread.run_sync(entering.with_a_terminal, stage, job)
            await trio.to_thread.run_sync(entering.wrongly, stage, job)
            _nowhere(stage, home, secret, password)
            # Its provider dies; the same local port leads to the next one.
            first = shown["provider"]
            broken = socket.create_connection(("127.0.0.1", port))
            broken.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: 100\r\n\r\n{")
            await trio.sleep(1)
            await _kill(stage, first)
            shown = await stage.until(
                job, lambda found: found["state"] == "RUNNING" and found["provider"] != first
            )
            assert await trio.to_thread.run_sync(complete, port) == words
            _is_broken(broken)
            broken.close()
            assert stage.souk("cancel", job).returncode == 0
            code = await trio.to_thread.run_sync(forward.wait, 240)
            assert code == 103, forward.stdout.read()
            await trio.to_thread.run_sync(entering.too_late, stage, job)
        except BaseException:
            forward.kill()
            print(f"souk forward said:\n{forward.stdout.read()}\n{stage.logs()}")
            print(await stage.log(job))
            raise
        finally:
            forward.kill()
            forward.wait()
            forward.stdout.close()
        _nowhere(stage, home, secret, password)


def _submitted(stage: Stage, home: Path, secret: str) -> str:
    done = stage.souk("run", str(home / "job.yaml"), "-y", "-q", "--secret", "API_KEY",
                      env={**os.environ, "API_KEY": secret})  # fmt: skip
    assert done.returncode == 0, done.stderr + stage.logs()
    return done.stdout.strip()


def _is_broken(connection: socket.socket) -> None:
    """It ended with a reset: its program must not take half an answer for the whole."""
    connection.settimeout(30)
    try:
        connection.sendall(b"}" * 99)
        data = connection.recv(65536)
    except ConnectionError:
        return
    raise AssertionError(f"it went on with {data!r}")


async def _many(port: int) -> None:
    """Many connections at once, each with its own answer; more wait for their turn."""
    answers: dict[int, list[str]] = {}

    async def ask(seed: int) -> None:
        answers[seed] = await trio.to_thread.run_sync(complete, port, 5, seed)

    async with trio.open_nursery() as nursery:
        for seed in range(40):
            nursery.start_soon(ask, seed)
    assert len(answers) == 40
    assert len({tuple(words) for words in answers.values()}) > 10


async def _sees(stage: Stage, job: str, secret: str, registry: Registry) -> None:
    """The job has its secret and the one way out that was sold and named, and nothing else."""
    with trio.fail_after(240):
        while "not named" not in (log := await stage.log(job)):
            await trio.sleep(0.3)
    seen = json.loads(next(line for line in log.splitlines() if line.startswith("{")))
    assert seen["secret"] == hashlib.sha256(secret.encode()).hexdigest()
    assert seen["proxy"] == "http://127.0.0.1:3128"
    assert seen["sold"] == "hello"
    assert seen["private name"] == "HTTP/1.1 502 Bad Gateway"
    assert seen["not named"] == "HTTP/1.1 403 Forbidden"
    assert "reached" not in seen["direct"]
    offers = json.loads(stage.souk("offers", "--json").stdout)["offers"]
    assert all("127.0.0.1:" in offer["egress"][0] for offer in offers)
    images = [path for path in registry.paths("/blobs/")]
    assert len(images) == 2, images  # its requester's node: configuration and layer, once


def _wrong_ports(stage: Stage, job: str) -> None:
    for words, said in (
        (("9000",), "names no port 9000"),
        (("8000", "8000:70000"), "is not a port"),
    ):
        done = stage.souk("forward", job, *words)
        assert done.returncode == 2, done
        assert said in done.stderr
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = stage.souk("forward", job, f"8000:{taken.getsockname()[1]}")
        assert done.returncode == 2
        assert "choose another" in done.stderr


def _nowhere(stage: Stage, home: Path, secret: str, password: str) -> None:
    """Neither the secret nor the registry's password in any file, log, journal or environment."""
    places = [str(node.home) for node in stage.nodes.values()]
    places += map(str, Path("/run/gridsouk").glob(f"svc{os.getpid()}-*/*/live"))  # in memory, too
    for word in (secret, password):
        found = subprocess.run(
            ["grep", "-rlaF", "--devices=skip", word, *places],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert found.stdout == "", found.stdout
        job_side = 0
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal() or int(process.name) == os.getpid():
                continue
            try:
                command = (process / "cmdline").read_bytes()
                environment = (process / "environ").read_bytes()
            except OSError:
                continue
            inside = (process / "root").resolve() != Path("/")
            if word.encode() in environment and b"inference.py" not in command:
                job_side += inside
                assert b"node.cli.main" not in command, command
                assert b"shim" not in command, command
            assert word.encode() not in command


async def _kill(stage: Stage, provider: str) -> None:
    for name, node in stage.nodes.items():
        if name == "requester":
            continue
        async with node.client() as client:
            status = (await client.get("/api/status")).json()
        if status["peer"] == provider:
            node.kill(signal.SIGKILL)
            return
    raise AssertionError("nobody works on the job")
