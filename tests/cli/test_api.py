"""The API over real sockets: who is let in, how bytes travel, and that it always shuts down."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import httpx
import pytest
import trio

from market.errors import RefusedError, SpecError
from node.control import Control
from node.web.server import Guests, Serving, serve
from tests.cli.stub_node import RESULT, Desk

# httpx leaves generators to the garbage collector when an answer comes before the body's end.
pytestmark = pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")


@asynccontextmanager
async def serving(
    folder: Path,
    guests: Guests = Guests(),  # noqa: B008  # frozen
) -> AsyncIterator[tuple[Serving, Desk]]:
    desk = Desk()
    start = partial(
        serve, cast(Control, desk), socket_path=folder / "node.sock", tcp=("127.0.0.1", 0),
        guests=guests,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        yield await nursery.start(start), desk
        nursery.cancel_scope.cancel()


def local(at: Serving) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(at.socket_path))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


def remote(at: Serving) -> tuple[httpx.AsyncClient, str]:
    assert at.url is not None
    place, _, token = at.url.partition("/?token=")
    return httpx.AsyncClient(base_url=place), token


async def test_a_blob_is_sent_in_two_parts_and_read_back(tmp_path: Path) -> None:
    data = bytes(range(256)) * 9000
    name = hashlib.sha256(data).hexdigest()
    async with serving(tmp_path) as (at, desk), local(at) as client:
        missing = await client.head(f"/api/blobs/{name}")
        assert (missing.status_code, missing.headers["x-partial"]) == (404, "0")
        await desk.ports.blobs.append(bytes.fromhex(name), 0, data[:1000])
        headers = {"x-sha256": name, "x-offset": "1000"}
        sent = await client.put("/api/blobs", content=data[1000:], headers=headers)
        assert (sent.status_code, sent.json()["size_bytes"]) == (201, len(data))
        assert (await client.get(f"/api/blobs/{name}")).content == data
        again = await client.put("/api/blobs", content=data, headers={"x-sha256": name})
        assert again.status_code == 201


async def test_wrong_bytes_are_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _), local(at) as client:
        sent = await client.put("/api/blobs", content=b"other", headers={"x-sha256": "ab" * 32})
        assert sent.headers["content-type"] == "application/problem+json"
        assert (sent.status_code, sent.json()["code"]) == (422, "integrity")
        gap = {"x-sha256": "ab" * 32, "x-offset": "7"}
        assert (await client.put("/api/blobs", content=b"x", headers=gap)).status_code == 413
        assert (await client.get("/api/blobs/../../etc/passwd")).status_code == 404
        assert (await client.get("/api/blobs/XY")).status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/jobs/nobody", None, 404, "not-found"),
        ("GET", "/api/nothing", None, 404, "not-found"),
        ("GET", "/api/wallet", None, 503, "chain-unavailable"),
        ("GET", "/api/jobs/done/log?offset=-1", None, 422, "bad-request"),
        ("POST", "/api/validate", {"spec": {"name": "x"}}, 422, "bad-job-file"),
        ("POST", "/api/validate", {"spec": {}, "more": 1}, 422, "bad-request"),
        ("POST", "/api/validate", "not a mapping", 422, "bad-request"),
        ("POST", "/api/validate", {"spec": {"name": "x" * 2_000_000}}, 413, "limit"),
        ("DELETE", "/api/jobs/done", {}, 405, "bad-request"),
    ],
)
async def test_errors_are_problem_documents(
    tmp_path: Path, method: str, path: str, body: object, status: int, code: str
) -> None:
    async with serving(tmp_path) as (at, _), local(at) as client:
        answer = await client.request(method, path, json=body)
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (answer.status_code, problem["status"], problem["code"]) == (status, status, code)
        assert problem["message"]
        assert "hint" in problem


async def test_a_body_says_its_size(tmp_path: Path) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"{}"

    async with serving(tmp_path) as (at, _), local(at) as client:
        assert (await client.post("/api/validate", content=parts())).status_code == 411


async def test_the_port_lets_in_only_who_knows_the_token(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        client, token = remote(at)
        async with client:
            assert (await client.get("/api/status")).status_code == 401
            known = {"authorization": f"Bearer {token}"}
            assert (await client.get("/api/status", headers=known)).status_code == 200
            for foreign in ({"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}):
                answer = await client.get("/api/status", headers=known | foreign)
                assert answer.status_code == 403
            answer = await client.get("/api/status", headers=known | {"host": "evil.example"})
            assert answer.status_code == 421
            entered = await client.get(f"/?token={token}")
            assert (entered.status_code, entered.headers["location"]) == (303, "/")
            assert "HttpOnly" in entered.headers["set-cookie"]
            assert "SameSite=strict" in entered.headers["set-cookie"]
            assert (await client.get("/api/status")).status_code == 200  # by the cookie now


async def test_events_tell_that_something_changed(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, desk), local(at) as client:
        request = client.build_request("GET", "/api/events")
        async with aclosing(await client.send(request, stream=True)) as stream:
            lines = stream.aiter_lines()
            assert [await anext(lines), await anext(lines)] == [
                "event: changed", 'data: {"version":1}',
            ]  # fmt: skip
            desk.version = 7
            desk.news.set()
            await anext(lines)
            await anext(lines)
            assert json.loads((await anext(lines)).removeprefix("data: ")) == {"version": 7}


@pytest.mark.parametrize("over_tcp", [False, True])
async def test_a_reader_who_stopped_reading_does_not_keep_it_up(
    tmp_path: Path, over_tcp: bool
) -> None:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(20):
            async with serving(tmp_path) as (at, desk):
                big = RESULT * 4000
                name = hashlib.sha256(big).hexdigest()
                desk.ports.blobs.whole[bytes.fromhex(name)] = big
                client, token = remote(at)
                await client.aclose()
                port = client.base_url.port
                assert port is not None
                stream: trio.SocketStream
                if over_tcp:
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                else:
                    stream = await trio.open_unix_socket(str(at.socket_path))
                lines = f"GET /api/blobs/{name} HTTP/1.1\r\nHost: localhost:{port}\r\n"
                lines += f"Authorization: Bearer {token}\r\n\r\n"
                await stream.send_all(lines.encode())
                assert (await stream.receive_some(12)) == b"HTTP/1.1 200"
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(stream)


async def test_two_nodes_do_not_share_a_socket(tmp_path: Path) -> None:
    async with serving(tmp_path) as (at, _):
        with pytest.raises(RefusedError, match="a node already runs on"):
            await serve(cast(Control, Desk()), socket_path=at.socket_path)
        async with local(at) as client:
            assert (await client.get("/api/status")).status_code == 200
    assert not at.socket_path.exists()
    async with serving(tmp_path) as (at, _):  # and what a killed node left is no hindrance
        assert at.socket_path.exists()


@pytest.mark.parametrize("tcp", [("0.0.0.0", 0), ("example.org", 80)])
async def test_only_this_machine_is_served(tmp_path: Path, tcp: tuple[str, int]) -> None:
    with pytest.raises(SpecError, match="is not this machine"):
        await serve(cast(Control, Desk()), socket_path=tmp_path / "s", tcp=tcp)


async def test_a_path_too_long_for_a_socket_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="too long for a socket"):
        await serve(cast(Control, Desk()), socket_path=tmp_path / ("x" * 108))
