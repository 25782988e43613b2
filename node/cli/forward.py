"""Forward: local ports whose connections reach into a running job, by way of the node.

Each connection is one on the node's forward socket. While the job moves to another provider, new
connections wait; those that were open are reset, as a machine that went away would.
"""

from __future__ import annotations

import json
import socket
import struct
from pathlib import Path
from typing import Annotated, Any, Final

import trio
from cyclopts import Parameter

from market.errors import MarketError, SpecError
from node.cli.follow import exit_code, job_path, summary
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json
from node.client.http import AnsweredError, Node, NodeDownError, refusal

WATCH_S: Final = 1.0
READ_BYTES: Final = 64 * 1024
LINE_BYTES_MAX: Final = 64 * 1024
CONNECTIONS_MAX: Final = 256
SIZE: Final = struct.Struct(">I")


def forward(
    job: str,
    *ports: str,
    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Reach ports of a running job from this machine, until Ctrl-C or the job is over.

    Parameters
    ----------
    job
        Its id, the beginning of its id, or its name.
    ports
        A port that the job file names, like 8000, or 8000:9000 to listen on 9000 here; 8000:0 on
        any free port.
    quiet
        Do not tell about waiting connections.
    """
    if not ports:
        raise SpecError("which port?", hint=f"write it like: souk forward {job} 8000")
    wanted = [_parse(text) for text in ports]
    settings = common.settings()
    node = Node(settings.socket_path)
    found = node.get(job_path(job))
    if found["over"]:
        raise SpecError(f"the job is over: {found['state']}", hint="see: souk ps")
    for port, _ in wanted:
        if port not in found["ports"]:
            known = ", ".join(map(str, found["ports"])) or "none"
            raise SpecError(
                f"the job file names no port {port} (it names {known})",
                hint=f"write ports: [{port}] in it and run it again",
            )
    forwarder = _Forwarder(node, settings.socket_path.with_name("forward.sock"), found, quiet)
    return trio.run(forwarder.run, wanted, common.as_json)


def _parse(text: str) -> tuple[int, int]:
    port, colon, local = text.partition(":")
    numbers = (port, local if colon else port)
    if not all(number.isascii() and number.isdecimal() and len(number) < 6 for number in numbers):
        raise SpecError(f"{text!r} is not a port", hint="write it like 8000 or 8000:9000")
    remote, here = map(int, numbers)
    if not 0 < remote < 65536 or here > 65535:
        raise SpecError(f"{text!r} is not a port", hint="write it like 8000 or 8000:9000")
    return remote, here


class _Forwarder:
    """The listeners, and an eye on the job."""

    def __init__(self, node: Node, path: Path, job: dict[str, Any], quiet: bool) -> None:
        self._node = node
        self._path = path
        self._job = job
        self._quiet = quiet
        self._told = ""

    async def run(self, ports: list[tuple[int, int]], as_json: bool) -> int:
        """Until the job is over; its exit code."""
        listeners: list[tuple[int, trio.SocketListener]] = []
        try:
            for port, local in ports:
                listeners.append((port, await _listen(local)))
            said = []
            for port, listener in listeners:
                here = listener.socket.getsockname()[1]
                said.append({"port": port, "address": f"127.0.0.1:{here}"})
                say(f"127.0.0.1:{here} -> port {port} of {self._job['name']}; end with Ctrl-C")
            if as_json:
                write_json({"forwarding": said})
            async with trio.open_nursery() as nursery:
                limit = trio.Semaphore(CONNECTIONS_MAX)
                for port, listener in listeners:
                    nursery.start_soon(self._serve, listener, port, limit)
                code = await self._watch()
                nursery.cancel_scope.cancel()
            return code
        finally:
            for _, listener in listeners:
                listener.socket.close()

    async def _serve(self, listener: trio.SocketListener, port: int, limit: trio.Semaphore) -> None:
        async def handle(client: trio.SocketStream) -> None:
            async with limit, client:
                await self._connection(client, port)

        await trio.serve_listeners(handle, [listener])

    async def _watch(self) -> int:
        """Tell what becomes of the job."""
        state = self._job["state"]
        while True:
            await trio.sleep(WATCH_S)
            try:
                job = await trio.to_thread.run_sync(self._node.get, job_path(self._job["id"]))
            except NodeDownError as problem:
                self._say(f"{problem}; waiting for it")
                continue
            if job["state"] != state:
                state = job["state"]
                self._say(f"{state}" + (f": {job['reason']}" if job["reason"] else ""))
            if job["over"]:
                say(summary(job))
                return exit_code(job)

    def _say(self, text: str) -> None:
        if text != self._told and not self._quiet:
            self._told = text
            say(text)

    async def _connection(self, client: trio.SocketStream, port: int) -> None:
        try:
            async with await trio.open_unix_socket(str(self._path)) as node:
                question = json.dumps({"job": self._job["id"], "port": port}) + "\n"
                await node.send_all(question.encode())
                rest = await self._opened(node, client)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send, client, node, nursery.cancel_scope)
                    if not await _receive(node, client, rest):
                        self._say("a connection broke off: the provider or the job is gone")
                        _reset(client)
                        nursery.cancel_scope.cancel()
        except OSError as problem:
            self._say(f"the node does not answer: {problem}")
            _reset(client)
        except (MarketError, trio.BrokenResourceError) as problem:
            self._say(str(problem))
            _reset(client)

    async def _opened(self, node: trio.SocketStream, client: trio.SocketStream) -> bytearray:
        """Wait until the tunnel is open; returns what came behind the last line."""
        buffer = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hung_up, client, node)
            while True:
                while b"\n" not in buffer:
                    data = await node.receive_some(READ_BYTES)
                    if not data or len(buffer) > LINE_BYTES_MAX:
                        nursery.cancel_scope.cancel()
                        break
                    buffer += data
                line, newline, rest = bytes(buffer).partition(b"\n")
                if not newline:
                    break
                buffer = bytearray(rest)
                answer = json.loads(line)
                if "wait" in answer:
                    self._say(f"waiting: {answer['wait']}")
                    continue
                nursery.cancel_scope.cancel()
                break
        if not newline:
            raise AnsweredError("unreachable", "the node ended the connection", "")
        if "open" not in answer:
            raise refusal(answer["code"], answer["message"], answer["hint"])
        return buffer


async def _hung_up(client: trio.SocketStream, node: trio.SocketStream) -> None:
    """End the wait for the job when the client has gone; a client that talks goes on waiting."""
    while True:
        await trio.lowlevel.wait_readable(client.socket.fileno())
        try:
            data = await client.socket.recv(1, socket.MSG_PEEK)
        except OSError:
            data = b""
        if not data:
            node.socket.shutdown(socket.SHUT_RDWR)
            return
        await trio.sleep(WATCH_S)


async def _send(
    client: trio.SocketStream, node: trio.SocketStream, scope: trio.CancelScope
) -> None:
    try:
        while data := await client.receive_some(READ_BYTES):
            await node.send_all(SIZE.pack(len(data)) + data)
        await node.send_all(SIZE.pack(0))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        scope.cancel()


async def _receive(node: trio.SocketStream, client: trio.SocketStream, rest: bytearray) -> bool:
    """Carry what the job says; False if it broke off before its end."""
    left = 0
    while True:
        while len(rest) >= SIZE.size or left:
            if not left:
                (left,) = SIZE.unpack_from(rest)
                del rest[: SIZE.size]
                if not left:
                    await client.send_eof()
                    return True
            data = bytes(rest[:left])
            if not data:
                break
            del rest[: len(data)]
            left -= len(data)
            try:
                await client.send_all(data)
            except trio.BrokenResourceError:
                return False
        try:
            more = await node.receive_some(READ_BYTES)
        except trio.BrokenResourceError:
            return False
        if not more:
            return False
        rest += more


def _reset(client: trio.SocketStream) -> None:
    """Let its program see that the connection broke, not that it ended."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _listen(port: int) -> trio.SocketListener:
    try:
        (listener,) = await trio.open_tcp_listeners(port, host="127.0.0.1")
    except OSError as problem:
        raise SpecError(
            f"port {port} here cannot be used: {problem.strerror or problem}",
            hint=f"choose another, like {port}:0",
        ) from problem
    return listener
