"""Client: a running node, asked over its unix socket. Knows HTTP and our errors; renders nothing.

The standard library's client, because importing a richer one costs each command a quarter second.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote

from market.errors import MarketError, UnreachableError

TIMEOUT_S: Final = 60.0  # the node asks a chain for some answers
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 256 * 1024


class NodeDownError(UnreachableError):
    """No node runs here."""

    code = "node-down"


class AnsweredError(MarketError):
    """What the node answered, where our tree of errors has no class for it."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        """As in the node's problem document."""
        super().__init__(message, hint=hint)
        self.code = code
        self.exit_code = _EXIT_CODES.get(code, 1)


def _kinds(kind: type[MarketError]) -> Iterator[tuple[str, type[MarketError]]]:
    yield kind.code, kind
    for child in kind.__subclasses__():
        if child.__module__ == MarketError.__module__:
            yield from _kinds(child)


_KINDS: Final = dict(_kinds(MarketError))
_EXIT_CODES: Final = {
    "unreachable": 1,
    "bad-request": 2,
}  # the node is there: 3 would say it is not


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            found.settimeout(self.timeout)
            found.connect(os.fsencode(self._path))
        except BaseException:
            found.close()
            raise
        self.sock = found


class _Counted:
    """A file that tells how far it was read."""

    def __init__(self, file: BinaryIO, offset: int, sent: Callable[[int], None]) -> None:
        self._file, self._offset, self._sent = file, offset, sent

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._offset += len(data)
        self._sent(self._offset)
        return data


class Node:
    """One node. Each request is a connection of its own. All methods raise MarketError."""

    def __init__(self, socket_path: Path) -> None:
        """Opens nothing yet."""
        self._path = socket_path

    def get(self, path: str) -> Any:
        """The JSON answer."""
        return _json(self._ask("GET", path))

    def post(
        self, path: str, body: dict[str, Any], *, timeout_s: float = TIMEOUT_S, key: str = ""
    ) -> Any:
        """The JSON answer to a JSON body; `key` makes it safe to say again."""
        data = json.dumps(body, allow_nan=False).encode()
        headers = {"content-type": "application/json"}
        if key:
            headers["idempotency-key"] = key
        return _json(self._ask("POST", path, data, headers, timeout_s=timeout_s))

    def log(self, job: str, offset: int, rank: int = 0) -> tuple[bytes, int, bool]:
        """Output from `offset`, where to go on, and whether that is all."""
        of_rank = f"&rank={rank}" if rank else ""
        path = f"/api/jobs/{quote(job, safe='')}/log?offset={offset}{of_rank}"
        answer = self._ask("GET", path)
        data = answer.read(ANSWER_BYTES_MAX)
        following = int(answer.headers.get("x-next-offset", offset + len(data)))
        return data, following, answer.headers.get("x-end") == "1"

    def missing_from(self, sha256: str) -> int | None:
        """None if the node has the blob, else how many bytes of it there are already."""
        answer = self._ask("HEAD", f"/api/blobs/{sha256}", refuse=False)
        if answer.status == 200:
            return None
        return int(answer.headers.get("x-partial", 0))

    def send_blob(
        self,
        path: Path,
        sha256: str,
        size_bytes: int,
        offset: int,
        *,
        sent: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Upload a file's bytes from `offset` on; `sent` hears how far it has come."""
        with path.open("rb") as opened:
            opened.seek(offset)
            file = _Counted(opened, offset, sent)
            headers = {
                "content-length": str(size_bytes - offset),
                "x-sha256": sha256,
                "x-offset": str(offset),
            }
            _json(self._ask("PUT", "/api/blobs", file, headers))

    def read_blob(self, sha256: str) -> Iterator[bytes]:
        """The blob's bytes in parts."""
        answer = self._ask("GET", f"/api/blobs/{sha256}")
        try:
            while part := answer.read(CHUNK_BYTES):
                yield part
        except (OSError, http.client.HTTPException) as problem:
            raise UnreachableError("the node went away") from problem

    def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        refuse: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, timeout_s)
        if body is None and method == "POST":
            body = b""
        connection.blocksize = CHUNK_BYTES
        try:
            # A node that has heard enough answers and closes before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, {"connection": "close", **(headers or {})})
            answer = connection.getresponse()
        except (FileNotFoundError, ConnectionRefusedError) as problem:
            raise NodeDownError("no node runs here", hint="start it with: souk up") from problem
        except PermissionError as problem:
            raise NodeDownError(
                f"{self._path} belongs to somebody else", hint="use that user, or --data-dir"
            ) from problem
        except TimeoutError as problem:
            raise NodeDownError("the node does not answer", hint="look at its log") from problem
        except (OSError, http.client.HTTPException) as problem:
            raise NodeDownError(
                f"the node broke off: {problem}", hint="look at its log, then try again"
            ) from problem
        if answer.status >= 400 and refuse:
            raise _refusal(answer)
        return answer


def _json(answer: http.client.HTTPResponse) -> Any:
    try:
        return json.loads(answer.read(ANSWER_BYTES_MAX))
    except (ValueError, OSError, http.client.HTTPException) as problem:
        raise NodeDownError("the node's answer makes no sense", hint="is it another version?") \
            from problem  # fmt: skip


def _refusal(answer: http.client.HTTPResponse) -> MarketError:
    found = _json(answer)
    if not isinstance(found, dict):
        found = {}
    message = str(found.get("message") or f"the node answered {answer.status}")
    return refusal(str(found.get("code", "error")), message, str(found.get("hint", "")))


def refusal(code: str, message: str, hint: str) -> MarketError:
    """The error that a node's answer tells of."""
    if code in _KINDS and code not in _EXIT_CODES:
        return _KINDS[code](message, hint=hint)
    return AnsweredError(code, message, hint)
