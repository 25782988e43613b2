"""The TCP door under whatever bytes come: redirects, upgrades, caches, endless streams, noise."""

from __future__ import annotations

import contextlib
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from random import Random
from unittest.mock import AsyncMock

import httpx
import pytest
import trio

from node.web import events, server
from tests.cli.test_api import remote, serving

pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
OURS = {
    "content-security-policy", "cross-origin-opener-policy", "cross-origin-resource-policy",
    "permissions-policy", "referrer-policy", "x-content-type-options", "x-frame-options",
}  # fmt: skip


async def say(host: str, request: bytes, wait_s: float = 10) -> bytes:
    """The answer to those very bytes; empty if the connection was only closed."""
    name, _, port = host.partition(":")
    said = b""
    stream = await trio.open_tcp_stream(name, int(port))
    async with stream:
        await stream.send_all(request)
        with trio.move_on_after(wait_s), contextlib.suppress(trio.BrokenResourceError):
            async for part in stream:
                said += part
    return said


@pytest.mark.parametrize("path", ["//evil.example/", "///evil.example", "//evil.example/%2e%2e"])
async def test_the_token_leads_to_no_other_host(tmp_path: Path, path: str) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        host = str(client.base_url.netloc.decode())
        async with client:
            for given in (token, "wrong"):
                request = f"GET {path}?token={given} HTTP/1.1\r\nHost: {host}\r\n"
                said = await say(host, (request + "Connection: close\r\n\r\n").encode())
                (line,) = [one for one in said.lower().split(b"\r\n") if b"location:" in one]
                assert line.startswith(b"location: /"), line
                assert not line.startswith((b"location: //", b"location: /\\")), line


async def test_there_is_no_websocket(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        host = client.base_url.netloc.decode()
        await client.aclose()
        request = (
            f"GET /api/events HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Authorization: Bearer {token}\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert (await say(host, request.encode())).startswith(b"HTTP/1.1 403")


async def test_no_cache_keeps_what_the_node_says(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        known = {"authorization": f"Bearer {token}"}
        async with client:
            for path, headers in (
                ("/api/jobs", known), ("/api/jobs", {}), ("/api/nothing", known),
                ("/api/session", {}), ("/metrics", {}), ("/api/jobs/none/log", known),
                ("/", {}), ("/app.js", {}), ("/nothing", {}), ("/", {"host": "evil.example"}),
            ):  # fmt: skip
                answer = await client.get(path, headers=headers)
                assert set(answer.headers) >= OURS, path
                assert answer.headers["content-security-policy"].startswith("default-src 'self';")
                if path.startswith(("/api", "/metrics")):
                    assert answer.headers["cache-control"] == "no-store", path


async def test_streams_are_counted_and_a_place_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "SUBSCRIBERS_MAX", 3)
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        known = {"authorization": f"Bearer {token}"}

        async def listen() -> httpx.Response:
            request = client.build_request("GET", "/api/events", headers=known)
            return await client.send(request, stream=True)

        async with client:
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    stream = await stack.enter_async_context(aclosing(await listen()))
                    assert stream.status_code == 200
                refused = await listen()
                assert refused.status_code == 429
                assert b"close another page" in await refused.aread()
            with trio.fail_after(10):
                while True:
                    async with aclosing(await listen()) as stream:
                        if stream.status_code == 200:
                            break
                    await trio.sleep(0.05)


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PRI"]
PATHS = [
    "/", "/api", "/api/", "/api/jobs", "/api/jobs/%00", "/api/jobs/..%2f..%2fetc", "/api/session",
    "/api/session/challenge", "/api/blobs", "/api/blobs/zz", "/api/market?since=-9e99", "/metrics",
    "/api/events", "/%ff%fe", "/app.js/", "/vendor/", "/jobs/%E2%80%AE", "*", "http://evil/",
    "/?token=", "/?token=%00", "/api/../app.js", "/api/jobs?x=" + "y" * 4000, "/api/wallets/0x",
    "//", "/\\evil",
]  # fmt: skip
HEADERS = [
    "Host: evil.example", "Host: ", "Origin: null", "Origin: http://127.0.0.1", "Origin: ",
    "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: \u00e9",
    "Cookie: souk=; souk_1=x", "Cookie: =;;;=", "Cookie: " + "a=b; " * 500, "Cookie: \xff=\xff",
    "Authorization: Bearer ", "Authorization: Bearer \xff", "Content-Length: 5",
    "Content-Length: -1", "Content-Length: 99999999999999999999", "Content-Length: 1e3",
    "Transfer-Encoding: chunked", "Content-Type: application/json", "Content-Type: text/plain",
    "Expect: 100-continue", "Idempotency-Key: " + "k" * 200, "X-Sha256: 00", "X-Offset: -1",
    "Range: bytes=0-1,0-1,0-1", "Accept-Encoding: gzip;q=-1", "If-None-Match: *",
    "Upgrade: h2c", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
]  # fmt: skip
BODIES = [
    b"", b"{}", b"hello", b"\xff\xfe", b'{"wallet":1}', b"[" * 5000,
    b"5\r\nhello\r\n0\r\n\r\n",
]  # fmt: skip


async def test_a_stranger_cannot_switch_to_http_2(tmp_path: Path) -> None:
    """Hypercorn would, and fell over it: `BusyResourceError`, and with it the node."""
    async with serving(tmp_path) as (at, _):
        client, _ = remote(at)
        host = client.base_url.netloc.decode()
        asked = f"GET / HTTP/1.1\r\nHost: {host}\r\nUpgrade: h2c\r\nConnection: close\r\n"
        said = await say(host, (asked + "HTTP2-Settings: AAMAAABk\r\n\r\n").encode())
        assert said.startswith(b"HTTP/1.1 200"), said[:80]
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        assert not (await say(host, preface, wait_s=1)).startswith(b"\0")
        async with client:
            assert (await client.get("/healthz")).status_code == 200


async def test_a_connection_that_breaks_breaks_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path) as (at, _):
        client, _ = remote(at)
        host = client.base_url.netloc.decode()
        broken = AsyncMock(side_effect=trio.BusyResourceError("a bug of the server's"))
        with monkeypatch.context() as patch:
            patch.setattr(server._Connection, "protocol_send", broken)
            said = await say(host, f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert said == b""
        assert broken.called
        async with client:
            assert (await client.get("/")).status_code == 200


@pytest.mark.parametrize("seed", range(2))
async def test_noise_is_refused_and_opens_nothing(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        host = client.base_url.netloc.decode()
        for _ in range(60):
            head = [f"{random.choice(METHODS)} {random.choice(PATHS)} HTTP/1.1"]
            if random.random() < 0.85:
                head.append(f"Host: {host}")
            head += random.sample(HEADERS, random.randint(0, 5))
            request = "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1", "replace")
            said = await say(host, request + random.choice(BODIES), wait_s=0.4)
            status = said[9:12]
            assert status == b"" or b"100" <= status < b"500", (head, said[:300])
            assert b"set-cookie" not in said.lower(), head
            assert token.encode() not in said
        async with client:  # and the node goes on
            known = {"authorization": f"Bearer {token}"}
            with trio.fail_after(20):
                while (await client.get("/api/status", headers=known)).status_code != 200:
                    await trio.sleep(0.2)
