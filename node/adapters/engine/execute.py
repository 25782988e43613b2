"""Execute: a program in a running container, by the engine's exec. Knows no market."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote

import trio

from market.errors import SandboxError
from node.adapters.engine.client import Client, refused
from node.adapters.engine.dialect import DOCKER_API
from node.adapters.engine.hold import EngineError, Frames
from node.adapters.oci.bundle import Plan
from node.adapters.oci.execute import kill_session
from node.ports import Execution, Stream, Terminal

_READ_BYTES = 64 * 1024
_NOT_THERE = 127
_CANNOT = 126
_LOOK_S = 0.02
_GONE_S = 5.0


@asynccontextmanager
async def execute(
    client: Client,
    container: str,
    cgroup: str,
    plan: Plan,
    argv: tuple[str, ...],
    terminal: Terminal | None,
) -> AsyncIterator[Execution]:
    """Run `argv` in the container. Raises SandboxError. Leaving kills it."""
    made = {
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "Tty": terminal is not None,
        "Cmd": list(argv),
        "Env": [f"{name}={value}" for name, value in sorted(plan.envs.items())],
        "WorkingDir": plan.cwd,
        "User": f"{plan.identity.inside}:{plan.identity.inside}",
        "Privileged": False,
    }
    try:
        url = f"{DOCKER_API}/containers/{quote(container)}/exec"
        name = str((await client.ask("POST", url, made))["Id"])
    except EngineError as problem:
        raise refused(problem, "execute in the container") from problem
    start = json.dumps({"Detach": False, "Tty": terminal is not None}).encode()
    try:
        stream, rest = await client.upgrade(f"{DOCKER_API}/exec/{name}/start", start)
    except EngineError as problem:
        yield _Never(str(problem))
        return
    running = _Running(client, name, stream, rest, terminal is not None)
    try:
        if terminal is not None:
            await running.resize(terminal)
        yield running
    finally:
        with trio.CancelScope(shield=True):
            await running.end(cgroup)


class _Running:
    """Implements the port `Execution`."""

    def __init__(
        self, client: Client, name: str, stream: trio.SocketStream, rest: bytes, typed: bool
    ) -> None:
        self._client = client
        self._name = name
        self._stream = stream
        self._frames = None if typed else Frames()
        self._rest = rest
        self._parts: list[tuple[Stream, bytes]] = []

    async def send(self, data: bytes) -> None:
        """To its standard input."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the program reads no more") from problem

    async def close_write(self) -> None:
        """The end of it."""
        if self._frames is not None:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._stream.send_eof()

    async def receive(self) -> tuple[Stream, bytes] | None:
        """The next part; None once it has closed its outputs."""
        while not self._parts:
            data, self._rest = self._rest, b""
            if not data:
                try:
                    data = bytes(await self._stream.receive_some(_READ_BYTES))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return None
            if not data:
                return None
            if self._frames is None:
                return Stream.OUT, data
            self._parts = [
                (Stream.ERR if which == 2 else Stream.OUT, part)
                for which, part in self._frames.feed(data)
            ]
        return self._parts.pop(0)

    async def resize(self, terminal: Terminal) -> None:
        """Told to the engine; one that has ended has no window."""
        if self._frames is None:
            size = f"h={terminal.rows}&w={terminal.columns}"
            with suppress(EngineError):
                await self._client.ask("POST", f"{DOCKER_API}/exec/{self._name}/resize?{size}")

    async def wait(self) -> int:
        """Asked of the engine, which has no way to wait for it."""
        while True:
            found = await self._look()
            if not found.get("Running"):
                code = found.get("ExitCode")
                return _NOT_THERE if code in (None, -1, _CANNOT) else int(code or 0)
            await trio.sleep(_LOOK_S)

    async def end(self, cgroup: str) -> None:
        """Kill it and its session, if it still runs."""
        with suppress(EngineError, SandboxError):
            found = await self._look()
            if found.get("Running") and found.get("Pid"):
                await trio.to_thread.run_sync(kill_session, int(found["Pid"]), cgroup)
                with trio.move_on_after(_GONE_S):
                    await self.wait()
        await trio.aclose_forcefully(self._stream)

    async def _look(self) -> dict[str, Any]:
        return dict(await self._client.ask("GET", f"{DOCKER_API}/exec/{self._name}/json"))


class _Never:
    """Implements the port `Execution` for a program that is not there."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def send(self, data: bytes) -> None:
        """To nobody."""
        raise SandboxError("the program reads no more")

    async def close_write(self) -> None:
        """Nothing."""

    async def receive(self) -> tuple[Stream, bytes] | None:
        """Why it is not there, once."""
        said, self._reason = self._reason, ""
        return (Stream.ERR, said.encode() + b"\n") if said else None

    async def resize(self, terminal: Terminal) -> None:
        """Nothing."""

    async def wait(self) -> int:
        """As a shell would say."""
        return _NOT_THERE
