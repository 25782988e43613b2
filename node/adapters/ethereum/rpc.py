"""RPC: JSON-RPC over HTTP on trio, with failover. Every answer is hostile until it is checked."""

from __future__ import annotations

import json
import sys
from types import TracebackType
from typing import Any, Final

import httpx
import trio

from market.errors import ChainError

TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # a page of logs; more is asked for in smaller ranges
RECURSION_MAX: Final = 1000  # Python's own default
ROUNDS: Final = 2  # how often the whole list of endpoints is tried


class RpcError(ChainError):
    """The endpoint answered with an error."""

    def __init__(self, method: str, code: int, message: str, data: object) -> None:
        """`data` may hold the revert's bytes in hex."""
        super().__init__(f"{method}: {message}")
        self.rpc_code = code
        self.data = data if isinstance(data, str) else ""
        if isinstance(data, dict):
            inner = data.get("data", "")
            self.data = inner if isinstance(inner, str) else ""


class Rpc:
    """Asks the endpoints in turn until one answers."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        """`urls` in order of preference."""
        assert urls, "at least one endpoint"
        self._urls = urls
        self._preferred = 0
        self._number = 0
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    @property
    def urls(self) -> tuple[str, ...]:
        """The endpoints, in order of preference."""
        return self._urls

    async def __aenter__(self) -> Rpc:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await self._client.aclose()

    async def ask(self, method: str, *params: object) -> Any:
        """The result. Raises RpcError for an answered error, ChainError when none answers."""
        trouble = ""
        for attempt in range(ROUNDS * len(self._urls)):
            index = (self._preferred + attempt) % len(self._urls)
            try:
                result = await self._ask_one(self._urls[index], method, params)
            except (httpx.HTTPError, ValueError) as problem:
                trouble = type(problem).__name__
                if (attempt + 1) % len(self._urls) == 0:
                    await trio.sleep(0.2)
                continue
            self._preferred = index
            return result
        raise ChainError(
            f"no RPC endpoint answers ({trouble})", hint="check rpc in the configuration"
        )

    async def _ask_one(self, url: str, method: str, params: tuple[object, ...]) -> Any:
        self._number += 1
        call = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": list(params)}
        async with self._client.stream("POST", url, json=call) as response:
            body = bytearray()
            async for part in response.aiter_bytes():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise ValueError("answer too long")
        answer = _parsed(bytes(body))
        if not isinstance(answer, dict) or answer.get("id") != call["id"]:
            raise ValueError("not an answer to this call")
        error = answer.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            raise RpcError(
                method, code if isinstance(code, int) else 0,
                str(error.get("message", ""))[:300], error.get("data"),
            )  # fmt: skip
        if "result" not in answer:
            raise ValueError("neither result nor error")
        return answer["result"]


def _parsed(body: bytes) -> Any:
    """The JSON in `body`. Raises ValueError, also for what nests deeper than any answer does.

    py_ecc, which eth_account brings, raises Python's recursion limit so far that such nesting
    would overflow the stack of the process; it is put back before a stranger's bytes are read.
    """
    if sys.getrecursionlimit() > RECURSION_MAX:
        sys.setrecursionlimit(RECURSION_MAX)
    try:
        return json.loads(body)
    except RecursionError as problem:
        raise ValueError("nested too deep") from problem


def number(value: object) -> int:
    """A hex quantity of an answer. Raises ChainError."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise ChainError("the RPC endpoint answered something that is not a number")


def raw(value: object) -> bytes:
    """Hex data of an answer. Raises ChainError."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            return bytes.fromhex(value[2:])
        except ValueError:
            pass
    raise ChainError("the RPC endpoint answered something that is not hex data")
