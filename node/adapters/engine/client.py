"""Client: an engine's API over its unix socket, from trio. Knows HTTP, no container."""

from __future__ import annotations

from collections.abc import AsyncIterable
from pathlib import Path
from typing import Any

import httpx
import trio

from market.errors import SandboxError
from node.adapters.engine.hold import ANSWER_S, EngineError, understood, upgrade

_HEAD_BYTES_MAX = 64 * 1024
_IMPORT_S = 3600.0  # ten gigabytes onto a slow disk


class Client:
    """One engine. Methods raise SandboxError if it does not answer, EngineError if it refuses."""

    def __init__(self, path: Path) -> None:
        """Opens nothing yet."""
        self._path = path

    async def ask(self, method: str, url: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON it answers."""
        async with self._client(ANSWER_S) as client:
            return await self._answer(client.request(method, url, json=body))

    async def upload(self, url: str, content: AsyncIterable[bytes]) -> Any:
        """Send a stream; the text it answers."""
        async with self._client(_IMPORT_S) as client:
            headers = {"content-type": "application/x-tar"}
            return await self._answer(client.post(url, content=content, headers=headers))

    async def upgrade(self, url: str, body: bytes) -> tuple[trio.SocketStream, bytes]:
        """A connection turned into a stream, and what has come of it already.

        httpx would give one that cannot be ended in one direction only.
        """
        try:
            stream = await trio.open_unix_socket(str(self._path))
        except OSError as problem:
            raise self._silent(problem) from problem
        try:
            await stream.send_all(upgrade(url, body))
            head = b""
            while b"\r\n\r\n" not in head and len(head) < _HEAD_BYTES_MAX:
                part = await stream.receive_some(4096)
                if not part:
                    break
                head += part
        except BaseException as problem:
            await trio.aclose_forcefully(stream)
            if isinstance(problem, trio.BrokenResourceError):
                raise self._silent(problem) from problem
            raise
        head, _, rest = head.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1]) if head.startswith(b"HTTP/1.") else 0
        if status not in (101, 200):
            await trio.aclose_forcefully(stream)
            understood(max(status, 400), rest)
        return stream, rest

    def _client(self, timeout_s: float) -> httpx.AsyncClient:
        transport = httpx.AsyncHTTPTransport(uds=str(self._path))
        return httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=timeout_s)

    async def _answer(self, request: Any) -> Any:
        try:
            answer = await request
        except httpx.HTTPError as problem:
            raise self._silent(problem) from problem
        return understood(answer.status_code, answer.content)

    def _silent(self, problem: BaseException) -> SandboxError:
        return SandboxError(
            f"no engine answers on {self._path}: {problem}",
            hint="start Docker or `podman system service`, or set [sandbox] socket",
        )


def refused(problem: EngineError, doing: str) -> SandboxError:
    """Ours from theirs."""
    return SandboxError(f"the engine could not {doing}: {str(problem)[:1000]}")
