"""The forward socket: what its clients may say, and what they hear; over real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from market.errors import NotFoundError, RefusedError, SpecError
from market.job import Job
from node.control import Control
from node.web.forward import SIZE, Forward


class Tunnels:
    """Opens after a while, to an echo; or refuses."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.closed = trio.Event()

    def check(self, job: Job, port: int) -> None:
        if port != 8000:
            raise SpecError(f"names no port {port}", hint="add it")

    @asynccontextmanager
    async def open(
        self, job_id: bytes, port: int, tell: Callable[[str], None]
    ) -> AsyncIterator[Any]:
        try:
            tell("the job is STARTING")
            await trio.sleep(0.05)
            tell("nothing listens yet")
            await trio.sleep(0.05)
            if self.refusal is not None:
                raise self.refusal
            send, receive = trio.open_memory_channel[bytes](0)
            yield SimpleNamespace(send=send.send, receive=receive.receive)
        finally:
            self.closed.set()


def job(name: str) -> SimpleNamespace:
    if name != "mine":
        raise NotFoundError(f"no job is called {name!r}")
    return SimpleNamespace(id=b"job")


@asynccontextmanager
async def client(tunnels: Tunnels) -> AsyncIterator[trio.SocketStream]:
    ours, theirs = socket.socketpair()
    control = cast(Control, SimpleNamespace(jobs=SimpleNamespace(job=job), tunnels=tunnels))
    async with trio.open_nursery() as nursery:
        served = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
        nursery.start_soon(Forward(control).serve, served)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream:
            with trio.fail_after(20):
                yield stream
        nursery.cancel_scope.cancel()


async def everything(stream: trio.SocketStream) -> bytes:
    data = b""
    while part := await stream.receive_some(65536):
        data += part
    return data


async def lines_until_open(stream: trio.SocketStream) -> list[dict[str, Any]]:
    data = b""
    while b'{"open": true}\n' not in data:
        part = await stream.receive_some(1)
        assert part, data
        data += part
    return [json.loads(line) for line in data.splitlines()]


async def test_it_says_why_it_waits_and_carries_bytes_and_ends() -> None:
    async with client(Tunnels()) as stream:
        await stream.send_all(b'{"job": "mine", "port": 8000}\n')
        said = await lines_until_open(stream)
        assert said == [
            {"wait": "the job is STARTING"}, {"wait": "nothing listens yet"}, {"open": True},
        ]  # fmt: skip
        big = bytes(range(256)) * 1024
        await stream.send_all(SIZE.pack(len(big)) + big[:1000])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, big[1000:] + SIZE.pack(0))
            answered = await everything(stream)
        found = b""
        while answered:
            (size,) = SIZE.unpack_from(answered)
            found += answered[4 : 4 + size]
            ended = size == 0
            answered = answered[4 + size :]
        assert found == big
        assert ended  # the end of the way, not only of the connection


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (b'{"job": "mine", "port": 22}\n', "names no port 22"),
        (b'{"job": "other", "port": 8000}\n', "no job is called"),
        (b'{"job": 5, "port": 8000}\n', "not a job and a port"),
        (b'{"job": "mine", "port": true}\n', "not a job and a port"),
        (b"nonsense\n", "not a job and a port"),
        (b"[" * 4000 + b"\n", "not a job and a port"),
        (b"x" * 9000, "too long"),
    ],
)
async def test_a_wrong_question_is_answered(question: bytes, said: str) -> None:
    async with client(Tunnels()) as stream:
        await stream.send_all(question)
        answer = json.loads((await everything(stream)).splitlines()[-1])
        assert said in answer["message"]


async def test_a_refusal_while_it_waits_is_told() -> None:
    tunnels = Tunnels()
    tunnels.refusal = RefusedError("the job is over: FAILED")
    async with client(tunnels) as stream:
        await stream.send_all(b'{"job": "mine", "port": 8000}\n')
        lines = [json.loads(line) for line in (await everything(stream)).splitlines()]
        assert lines[-1]["message"] == "the job is over: FAILED"
        assert lines[-1]["code"] == "refused"


async def test_who_goes_away_while_it_waits_is_forgotten() -> None:
    tunnels = Tunnels()
    async with client(tunnels) as stream:
        await stream.send_all(b'{"job": "mine", "port": 8000}\n')
        await stream.receive_some(10)
        await stream.aclose()
        await tunnels.closed.wait()
