"""RPC: JSON-RPC over HTTP on trio, with failover. Every answer is hostile until it is checked.

`ask` gives each answer to a reader of `answers.py`; an endpoint whose answer does not pass is at
fault just like one that does not answer, and the next is asked. Only an error that the chain itself
reports (`RpcError`) is final: another endpoint would say the same.
"""

from __future__ import annotations

import email.utils
import time
from collections.abc import Callable
from contextlib import aclosing
from types import TracebackType
from typing import Any, Final, TypeVar

import httpx
import trio

from market.errors import ChainError
from node.adapters.ethereum.answers import AnswerError, Header, header, mapping, number, parsed, raw
from node.adapters.ethereum.endpoints import Endpoint, Endpoints

__all__ = ["Rpc", "RpcError", "WrongChainError", "number", "raw"]

T = TypeVar("T")

TIMEOUT_S: Final = 5.0  # for the next byte
ANSWER_S: Final = 20.0  # for the whole answer: one that drips is as good as none
ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024  # a page of logs; more is asked for in smaller ranges
ROUNDS: Final = 3  # how often the whole list of endpoints is tried
PATIENCE_S: Final = 8.0  # how long a question waits for an endpoint that rests
LAG_BLOCKS: Final = 3  # an endpoint so far behind another is passed over
RATE_CODES: Final = (-32005, -32029, 429)
INTERNAL_CODES: Final = (-32603, -32700)  # the endpoint's own trouble, not the chain's answer
EXECUTION: Final = ("revert", "evm error", "out of gas", "invalid opcode")  # unless it says so


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


class WrongChainError(ChainError):
    """The RPC endpoint is on another chain."""


class _Once(httpx.AsyncByteStream):
    """A request's body. httpx's own is a generator, which a cancellation would leave half read."""

    def __init__(self, body: bytes) -> None:
        self._parts = [body]

    def __aiter__(self) -> _Once:
        return self

    async def __anext__(self) -> bytes:
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()


class _RateError(ChainError):
    """The endpoint is asked too often."""

    def __init__(self, after_s: float | None) -> None:
        super().__init__("limits its requests")
        self.after_s = after_s


def anything(value: object) -> Any:
    """A reader that believes everything: for what is only handed on."""
    return value


class Rpc:
    """Asks the endpoints in turn until one answers."""

    def __init__(
        self, urls: tuple[str, ...], chain_id: int | None = None, patience_s: float = PATIENCE_S
    ) -> None:
        """`urls` in order of preference. With a chain id, each is checked before it is used."""
        self._patience_s = patience_s
        self.endpoints = Endpoints(urls)
        self._chain_id = chain_id
        self._number = 0
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self.down_since = 0.0  # Unix time of the first question that nobody answered; 0: all well

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

    async def ask(self, method: str, *params: object, read: Callable[[object], T] = anything) -> T:
        """What `read` makes of the result.

        Raises RpcError for an answered error, WrongChainError when only other chains answer, and
        ChainError when none does.
        """
        return await self._ask(method, params, lambda endpoint, value: read(value))

    async def head(self) -> Header:
        """The newest block. An endpoint that lags behind another is passed over."""
        try:
            return await self._ask("eth_getBlockByNumber", ("latest", False), self._read_head)
        except ChainError:  # if all of them lag, the one ahead was wrong or is gone
            self.endpoints.best_head = max(one.head for one in self.endpoints.all)
            raise

    def _read_head(self, endpoint: Endpoint, value: object) -> Header:
        found = header(value)
        endpoint.head = found.number
        self.endpoints.best_head = max(self.endpoints.best_head, found.number)
        behind = self.endpoints.best_head - found.number
        if behind > LAG_BLOCKS and len(self.endpoints.all) > 1:
            raise AnswerError(f"is {behind} blocks behind")
        return found

    async def compare_heads(self) -> None:
        """Ask every endpoint for its newest block, so that one that stands still is found out."""
        for endpoint in self.endpoints.all:
            if endpoint.rests_until > trio.current_time():
                continue
            try:
                await self._check_chain(endpoint)
                value = await self._ask_one(endpoint, "eth_getBlockByNumber", ("latest", False))
                self._read_head(endpoint, value)
            except (httpx.HTTPError, ChainError) as problem:
                endpoint.fails(trio.current_time(), _short(problem))

    async def _ask(
        self,
        method: str,
        params: tuple[object, ...],
        read: Callable[[Endpoint, object], T],
    ) -> T:
        wrong: WrongChainError | None = None
        left_s = self._patience_s
        for attempt in range(ROUNDS):
            if attempt:
                pause_s = max(self.endpoints.wakes_at() - trio.current_time(), 0.05)
                left_s -= pause_s
                if left_s < 0:
                    break
                await trio.sleep(pause_s)
            for endpoint in self.endpoints.in_turn(trio.current_time()):
                if endpoint.rests_until > trio.current_time():
                    break  # the others rest for longer
                try:
                    await self._check_chain(endpoint)
                    answer = read(endpoint, await self._ask_one(endpoint, method, params))
                except _RateError as problem:
                    endpoint.asks_for_rest(trio.current_time(), problem.after_s)
                except RpcError:
                    endpoint.works()
                    self.down_since = 0.0
                    raise
                except WrongChainError as problem:
                    wrong = problem
                    endpoint.fails(trio.current_time(), str(problem))
                except (httpx.HTTPError, httpx.InvalidURL, ChainError, ValueError) as problem:
                    endpoint.fails(trio.current_time(), _short(problem))
                else:
                    endpoint.works()
                    self.down_since = 0.0
                    return answer
            if wrong is not None and all(one.failures for one in self.endpoints.all):
                break
        self.down_since = self.down_since or time.time()
        if wrong is not None:
            raise wrong
        raise ChainError(
            f"no RPC endpoint answers ({self.endpoints.troubles()})",
            hint="check rpc in the configuration",
        )

    async def _check_chain(self, endpoint: Endpoint) -> None:
        if endpoint.checked or self._chain_id is None:
            return
        found = number(await self._ask_one(endpoint, "eth_chainId", ()))
        if found != self._chain_id:
            raise WrongChainError(
                f"the RPC endpoint is on chain {found}, the configuration says {self._chain_id}",
                hint="point rpc at the right network, or correct network or chain_id",
            )
        endpoint.checked = True

    async def _ask_one(self, endpoint: Endpoint, method: str, params: tuple[object, ...]) -> object:
        self._number += 1
        endpoint.asked += 1
        call = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": list(params)}
        body, too_much = bytearray(), False
        request = self._client.build_request("POST", endpoint.url, json=call)
        request.stream = _Once(request.content)
        with trio.move_on_after(ANSWER_S) as in_time:
            async with aclosing(await self._client.send(request, stream=True)) as response:
                if response.status_code == 429:
                    raise _RateError(_retry_after_s(response.headers.get("retry-after")))
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > ANSWER_BYTES_MAX:
                        too_much = True
                        in_time.cancel()  # ends the stream from within, and whole
                status = response.status_code
        if in_time.cancelled_caught:
            raise AnswerError("answered too much" if too_much else "answers too slowly")
        try:
            answer = mapping(parsed(bytes(body)))
        except AnswerError:
            if status >= 400:
                raise AnswerError(f"HTTP {status}") from None
            raise
        return _result(answer, method, call["id"])


def _result(answer: dict[str, Any], method: str, number_: object) -> object:
    error = answer.get("error")
    # An error about the request as a whole may come without its number.
    if answer.get("id") != number_ and not (isinstance(error, dict) and answer.get("id") is None):
        raise AnswerError("answered another question")
    if isinstance(error, dict):
        code = error.get("code")
        code = code if isinstance(code, int) else 0
        message = str(error.get("message", ""))[:300]
        if code in RATE_CODES or "rate limit" in message.lower():
            raise _RateError(_backoff_s(error.get("data")))
        executed = any(word in message.lower() for word in EXECUTION)
        if code in INTERNAL_CODES and not executed and not error.get("data"):
            raise AnswerError(message or "internal error")
        raise RpcError(method, code, message, error.get("data"))
    if error is not None or "result" not in answer:
        raise AnswerError("answered neither a result nor an error")
    return answer["result"]


def _backoff_s(data: object) -> float | None:
    """What some providers say beside code -32005: {"rate": {"backoff_seconds": 30}}."""
    rate = data.get("rate") if isinstance(data, dict) else None
    seconds = rate.get("backoff_seconds") if isinstance(rate, dict) else None
    return float(seconds) if isinstance(seconds, int | float) and seconds == seconds else None


def _retry_after_s(text: str | None) -> float | None:
    """RFC 9110, 10.2.3: seconds, or a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (TypeError, ValueError, OverflowError):
        return None


def _short(problem: BaseException) -> str:
    """What went wrong, without the URL: it may hold a key."""
    if isinstance(problem, ChainError):
        return str(problem)
    if isinstance(problem, httpx.TimeoutException):
        return "does not answer in time"
    if isinstance(problem, httpx.ConnectError):
        return "cannot be reached"
    return type(problem).__name__
