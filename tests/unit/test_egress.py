"""The way out of a job: questions to the proxy, who is let where, and how much."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from market.agreement import Agreement
from market.errors import LimitError, RefusedError, SpecError, UnreachableError
from market.reach import Target
from market.terms import Env
from node.keeper import Keeper
from node.ports import Pipe, Ports
from node.shop import Shop
from node.tunnels.connect import HEAD_BYTES_MAX, parse_connect, read_head
from node.tunnels.egress import Egress, Meter, egress_envs
from tests.adapters.sandbox.harness import BASE

SOLD = "data.example.org:443"


class Line:
    """A pipe that says what it was given, and keeps what it is sent."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.sent = b""
        self.ended = False

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def receive(self, limit: int) -> bytes:
        return self.parts.pop(0) if self.parts else b""

    async def close_write(self) -> None:
        self.ended = True


class World:
    """An outside with one server, which answers `pong`."""

    def __init__(self) -> None:
        self.asked: list[Target] = []
        self.server = Line(b"pong")

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncIterator[Pipe]:
        self.asked.append(target)
        if target.host == "gone.example":
            raise UnreachableError("gone.example cannot be resolved")
        yield self.server


async def asked(*parts: bytes, meter: Meter | None = None) -> tuple[Line, World, Meter]:
    """What a job gets that asks so, where the job file and the provider know SOLD and one more."""
    world, line, meter = World(), Line(*parts), meter or Meter(1000)
    named = (SOLD, "gone.example:443", "unsold.example:443")
    selling = SimpleNamespace(egress=(SOLD, "gone.example:443", "unnamed.example:443"))
    egress = Egress(
        cast(Ports, SimpleNamespace(outside=world)),
        cast(Keeper, None),
        cast(Shop, SimpleNamespace(selling=selling)),
    )
    agreement: Any = SimpleNamespace(id=bytes(32), manifest=replace(BASE, egress=named))
    await egress._answer(line, cast(Agreement, agreement), meter)
    return line, world, meter


def question(target: str, method: str = "CONNECT") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode()


async def test_what_is_sold_and_named_is_reached_and_counted() -> None:
    line, world, meter = await asked(question(SOLD)[:10], question(SOLD)[10:] + b"pi", b"ng")
    assert world.asked == [Target("data.example.org", 443)]
    assert world.server.sent == b"ping"
    assert line.sent == b"HTTP/1.1 200 Connection established\r\n\r\npong"
    assert (line.ended, world.server.ended, meter.used) == (True, True, 8)


@pytest.mark.parametrize(
    ("parts", "status"),
    [
        ((question("unsold.example:443"),), b"403"),
        ((question("unnamed.example:443"),), b"403"),
        ((question("PYPI.org:80"),), b"403"),
        ((question("127.0.0.1:443"),), b"403"),
        ((question("http://data.example.org/", "GET"),), b"403"),
        ((question("gone.example:443"),), b"502"),
        ((question("data.example.org"),), b"400"),
        ((b"hello\r\n\r\n",), b"400"),
        ((b"CONNECT \xff:443 HTTP/1.1\r\n\r\n",), b"400"),
    ],
)
async def test_everything_else_is_refused(parts: tuple[bytes, ...], status: bytes) -> None:
    line, world, _ = await asked(*parts)
    assert line.sent.startswith(b"HTTP/1.1 " + status)
    assert b"200" not in line.sent
    assert [target for target in world.asked if target.host != "gone.example"] == []


async def test_names_are_told_apart_by_letters_alone() -> None:
    _, world, _ = await asked(question("Data.Example.org.:443"))
    assert world.asked == [Target("data.example.org", 443)]


async def test_what_was_sold_is_used_up() -> None:
    with pytest.raises(LimitError, match="used its"):
        await asked(question(SOLD), bytes(600), bytes(600))
    with pytest.raises(LimitError):
        await asked(question(SOLD), b"x", meter=Meter(10, used=10))


async def test_a_question_without_an_end_is_not_waited_for() -> None:
    with pytest.raises(LimitError):
        await read_head(Line(*[b"x" * 4096] * (HEAD_BYTES_MAX // 4096 + 2)))
    with pytest.raises(LimitError):
        await read_head(Line(b"CONNECT"))


def test_a_proxy_is_named_only_to_jobs_that_have_one() -> None:
    assert egress_envs(BASE) == ()
    assert egress_envs(BASE, 2) == ()
    in_gang = {e.name: e.value for e in egress_envs(replace(BASE, egress=(SOLD,)), 2)}
    assert in_gang["NO_PROXY"] == "localhost,127.0.0.1,10.77.0.1,10.77.0.2"
    told = egress_envs(replace(BASE, egress=(SOLD,), envs=(Env("HTTPS_PROXY", "mine"),)))
    assert Env("https_proxy", "http://127.0.0.1:3128") in told
    assert all(env.name != "HTTPS_PROXY" for env in told)


@pytest.mark.parametrize("head", [b"", b"CONNECT", b"CONNECT a b c", b"connect a:1 HTTP/1.1"])
def test_what_is_no_question_is_said_to_be_none(head: bytes) -> None:
    with pytest.raises((SpecError, RefusedError)):
        parse_connect(head)
