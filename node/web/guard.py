"""Guard: what every request must satisfy before a route sees it. Knows HTTP, and nothing of us.

The unix socket is guarded by its file mode. A TCP port is open to every program and web page of the
machine, so there a request needs a known Host (against DNS rebinding), an Origin of our own if it
has one (against other pages), and the token that only the socket's owner can read.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

from fastapi.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.limits import ARTIFACT_BYTES_MAX, ENV_BYTES_MAX, ENVS_MAX, JOB_FILE_BYTES_MAX
from node.web.problems import problem_response

JSON_BYTES_MAX: Final = 2 * JOB_FILE_BYTES_MAX + ENVS_MAX * ENV_BYTES_MAX  # a job and its secrets
COOKIE: Final = "souk"
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_PRIVATE: Final = ("/api", "/metrics")  # the page itself, and whether we live, hold no secrets
_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


@dataclass(frozen=True, slots=True)
class Door:
    """Whom a TCP listener lets in: `hosts` are `name:port`, as a browser writes them."""

    hosts: frozenset[str]
    token: str


class Guard:
    """ASGI middleware. `door` is None on the unix socket."""

    def __init__(self, app: ASGIApp, door: Door | None) -> None:
        """Guards `app`."""
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] != "http":
            return  # no WebSocket and no lifespan here
        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        refusal = _too_large(scope, headers)
        if refusal is None and self._door is not None:
            refusal = _stranger(scope, headers, self._door)
        if refusal is not None:
            await refusal(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def _too_large(scope: Scope, headers: dict[str, str]) -> Response | None:
    """A body must announce its size, so that it can be refused before a byte of it is read."""
    if scope["method"] not in _CHANGES:
        return None
    said = headers.get("content-length", "")
    if not said.isascii() or not said.isdecimal() or len(said) > 15:
        return problem_response(411, "length-required", "the request must say its Content-Length")
    most = ARTIFACT_BYTES_MAX if scope["path"] == "/api/blobs" else JSON_BYTES_MAX
    if int(said) > most:
        return problem_response(413, "limit", f"{said} bytes, at most {most} are read")
    return None


def _stranger(scope: Scope, headers: dict[str, str], door: Door) -> Response | None:
    host = headers.get("host", "")
    if host.lower() not in door.hosts:
        return problem_response(421, "wrong-host", "this node does not answer to that host name")
    origin = headers.get("origin", "")
    foreign = bool(origin) and origin.lower() not in {f"http://{name}" for name in door.hosts}
    foreign = foreign or headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
    private = scope["path"].startswith(_PRIVATE)
    if foreign and private:
        return problem_response(403, "wrong-origin", "another site's page may not use this node")
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
    if given and scope["method"] == "GET" and _same(given, door.token):
        # The token leaves the address bar at once and goes on as a cookie no script can read.
        answer = RedirectResponse(scope["path"], status_code=303)
        answer.set_cookie(COOKIE, door.token, httponly=True, samesite="strict")
        return answer
    if not private:
        return None
    bearer = headers.get("authorization", "").removeprefix("Bearer ")
    if _same(bearer, door.token) or _same(_cookie(headers.get("cookie", "")), door.token):
        return None
    return problem_response(
        401, "no-token", "this node does not know you", "open the address that 'souk status' prints"
    )


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookie(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""
