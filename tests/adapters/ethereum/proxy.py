"""Proxy: real HTTP on loopback in front of the chain, that drops, delays, lies and reorders.

A `Rule` sees each call first: it may answer in the chain's place, change the chain's answer, wait,
or let it pass (None). Rules are asked in turn, the newest first.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import h11
import httpx
import trio

Call = dict[str, Any]
Forward = Callable[[], Awaitable[Any]]
"""Asks the chain; its whole answer."""


@dataclass(frozen=True)
class Reply:
    """What goes back. `body` None: the connection breaks off instead."""

    body: bytes | None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


Rule = Callable[[Call, Forward], Awaitable["Reply | None"]]


@dataclass
class Proxy:
    """One way to the chain."""

    url: str
    chain: str
    rules: list[Rule] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    @asynccontextmanager
    async def rule(self, rule: Rule) -> AsyncIterator[None]:
        """While inside, this holds."""
        self.rules.append(rule)
        try:
            yield
        finally:
            self.rules.remove(rule)

    async def serve(self, stream: trio.SocketStream, client: httpx.AsyncClient) -> None:
        """One connection, until either side has enough."""
        connection = h11.Connection(h11.SERVER)
        try:
            while True:
                body = await _request(connection, stream)
                if body is None:
                    return
                reply = await self._reply(json.loads(body), client)
                if reply.body is None:
                    return
                await _respond(connection, stream, reply)
                if connection.our_state is h11.MUST_CLOSE:
                    return
                connection.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError):
            return
        finally:
            await trio.aclose_forcefully(stream)

    async def _reply(self, call: Call, client: httpx.AsyncClient) -> Reply:
        self.calls[call["method"]] += 1

        async def forward() -> Any:
            return (await client.post(self.chain, json=call)).json()

        for rule in reversed(self.rules):
            reply = await rule(call, forward)
            if reply is not None:
                return reply
        return Reply(json.dumps(await forward()).encode())


@asynccontextmanager
async def open_proxy(chain: str) -> AsyncIterator[Proxy]:
    """A proxy in front of the chain at this URL."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    proxy = Proxy(f"http://127.0.0.1:{port}", chain)
    async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
        async with trio.open_nursery() as nursery:

            async def handle(stream: trio.SocketStream) -> None:
                await proxy.serve(stream, client)

            nursery.start_soon(trio.serve_listeners, handle, listeners)
            yield proxy
            nursery.cancel_scope.cancel()


def result(call: Call, value: object) -> Reply:
    """An answer in the chain's place."""
    return Reply(json.dumps({"jsonrpc": "2.0", "id": call["id"], "result": value}).encode())


def error(call: Call, code: int, message: str) -> Reply:
    """An error in the chain's place."""
    said = {"code": code, "message": message}
    return Reply(json.dumps({"jsonrpc": "2.0", "id": call["id"], "error": said}).encode())


async def _request(connection: h11.Connection, stream: trio.SocketStream) -> bytes | None:
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(65536))
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return bytes(body)
        elif isinstance(event, h11.ConnectionClosed):
            return None


async def _respond(connection: h11.Connection, stream: trio.SocketStream, reply: Reply) -> None:
    assert reply.body is not None
    headers = [("content-length", str(len(reply.body))), *reply.headers]
    reason = b"" if reply.status == 200 else b"no"
    sent = connection.send(h11.Response(status_code=reply.status, headers=headers, reason=reason))
    await stream.send_all((sent or b"") + (connection.send(h11.Data(reply.body)) or b""))
    rest = connection.send(h11.EndOfMessage())
    if rest:
        await stream.send_all(rest)
