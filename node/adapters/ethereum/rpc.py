"""RPC: JSON-RPC over HTTP on trio, with failover. Every answer is hostile until it is checked.

Knows no contract and no transaction. An endpoint that is down, slow, rate-limited or talks nonsense
is passed over; one that understood the call and says no is believed.
"""

from __future__ import annotations

import json
import random
from types import TracebackType
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import trio

from market.errors import ChainError

TIMEOUT_S: Final = 5.0
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # a page of logs; more is asked for in smaller ranges
MESSAGE_CHARS_MAX: Final = 300
ROUNDS: Final = 2  # how often the whole list of endpoints is tried
PAUSE_S: Final = 0.2
BUSY: Final = frozenset({-32005, 429})  # rate limits: another endpoint may still answer


class RpcError(ChainError):
    """The endpoint answered with an error."""

    def __init__(self, method: str, code: int, message: str, data: object) -> None:
        """`data` may hold the revert's bytes in hex."""
        super().__init__(f"{method}: {message}")
        self.rpc_code = code
        if isinstance(data, dict):
            data = data.get("data")
        self.data = data if isinstance(data, str) else ""


class _BadAnswer(Exception):
    """What came back is no answer to the call."""


class Rpc:
    """Asks the endpoints in turn until one answers; the last that did is asked first."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        """`urls` in order of preference."""
        assert urls, "at least one endpoint"
        self._urls = urls
        self._preferred = 0
        self._number = 0
        self._client = httpx.AsyncClient(
            timeout=TIMEOUT_S, trust_env=False, headers={"accept-encoding": "identity"}
        )

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
        trouble, busy = "", None
        for attempt in range(ROUNDS * len(self._urls)):
            index = (self._preferred + attempt) % len(self._urls)
            try:
                with trio.fail_after(TIMEOUT_S):  # httpx counts each read, and a drip never ends
                    result = await self._ask_one(self._urls[index], method, params)
            except RpcError as problem:
                if problem.rpc_code not in BUSY:
                    self._preferred = index
                    raise
                busy = problem
            except (httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, _BadAnswer) as problem:
                # The host only: providers put a secret into the path.
                trouble = f"{urlsplit(self._urls[index]).hostname}: {_in_words(problem)}"
            else:
                self._preferred = index
                return result
            if (attempt + 1) % len(self._urls) == 0 and attempt + 1 < ROUNDS * len(self._urls):
                await trio.sleep(PAUSE_S * (0.5 + random.random()))  # not all clients at once
        if busy is not None:
            raise busy
        raise ChainError(
            f"no RPC endpoint answers ({trouble})", hint="check rpc_urls in the configuration"
        )

    async def _ask_one(self, url: str, method: str, params: tuple[object, ...]) -> Any:
        self._number += 1
        call = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": list(params)}
        body = bytearray()
        async with self._client.stream("POST", url, json=call) as response:
            async for part in response.aiter_raw():
                body += part
                if len(body) > ANSWER_BYTES_MAX:
                    raise _BadAnswer("an answer that is too long")
        try:
            answer = json.loads(bytes(body))
        except (ValueError, RecursionError) as problem:
            raise _BadAnswer(f"HTTP {response.status_code} without JSON") from problem
        if not isinstance(answer, dict):
            raise _BadAnswer("no JSON-RPC")
        error = answer.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            raise RpcError(
                method, code if isinstance(code, int) else 0,
                str(error.get("message", ""))[:MESSAGE_CHARS_MAX], error.get("data"),
            )  # fmt: skip
        if answer.get("id") != call["id"] or "result" not in answer:
            raise _BadAnswer("no answer to this call")
        return answer["result"]


def _in_words(problem: Exception) -> str:
    if isinstance(problem, trio.TooSlowError | httpx.TimeoutException):
        return f"no answer in {TIMEOUT_S:.0f} s"
    return str(problem) or type(problem).__name__


def number(value: object) -> int:
    """A hex quantity of an answer. Raises ChainError."""
    if isinstance(value, str) and value.startswith("0x") and len(value) <= 66:
        try:
            return int(value, 16)
        except ValueError:
            pass
    raise ChainError("the RPC endpoint answered something that is not a number")


def raw(value: object, size: int | None = None) -> bytes:
    """Hex data of an answer, of `size` bytes if given. Raises ChainError."""
    if isinstance(value, str) and value.startswith("0x"):
        try:
            data = bytes.fromhex(value[2:])
        except ValueError:
            data = None
        if data is not None and size in (None, len(data)):
            return data
    raise ChainError("the RPC endpoint answered something that is not the hex data asked for")
