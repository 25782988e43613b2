"""Guard: what every request must satisfy before a route sees it. Knows HTTP, and nothing of us.

The unix socket is guarded by its file mode. A TCP port is open to every program and web page of the
machine (or of the world), so there a request needs a known Host (against DNS rebinding), an Origin
of our own if it has one (against other pages), patience within its rate, and either the token that
only the socket's owner can read or the session of a wallet that may enter.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Final
from urllib.parse import parse_qs

import trio
from fastapi.responses import RedirectResponse, Response
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from market.errors import LimitError
from market.limits import ARTIFACT_BYTES_MAX, ENV_BYTES_MAX, ENVS_MAX, JOB_FILE_BYTES_MAX
from node.web.problems import problem_response
from node.web.sessions import KNOWN, SIGN_IN, STRANGER, Rate, Rates, Sessions

JSON_BYTES_MAX: Final = 2 * JOB_FILE_BYTES_MAX + ENVS_MAX * ENV_BYTES_MAX  # a job and its secrets
BODY_STALL_S: Final = 20.0  # a sender that pauses for so long in the middle of its body is stuck
OPEN_PATHS: Final = frozenset({"/api/session", "/api/session/challenge"})
_CHANGES: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_POLICY: Final = (
    b"default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'; object-src 'none'"
)  # data: images are the icons that wallets announce
_PRIVATE: Final = ("/api", "/metrics")  # the page itself, and whether we live, hold no secrets
_HEADERS: Final = (
    (b"content-security-policy", _POLICY),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=(), payment=()"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)


@dataclass(frozen=True, slots=True)
class Door:
    """Whom a TCP listener lets in: `hosts` are `name:port`, as a browser writes them."""

    hosts: frozenset[str]
    token: str
    sessions: Sessions
    now: Callable[[], float]
    cookie: str = "souk"  # browsers share cookies between the ports of one host: it names the port
    rates: Rates = field(default_factory=Rates)

    @property
    def session_cookie(self) -> str:
        """The cookie of a wallet's session."""
        return f"{self.cookie}_wallet"


class Guard:
    """ASGI middleware. `door` is None on the unix socket."""

    def __init__(self, app: ASGIApp, door: Door | None) -> None:
        """Guards `app`."""
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse, or hand on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # 403: there is none here
        if scope["type"] != "http":
            return
        private = scope["path"].startswith(_PRIVATE)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                said = list(message.get("headers", ()))
                if private and not any(name == b"cache-control" for name, _ in said):
                    said.append((b"cache-control", b"no-store"))  # no proxy keeps what is ours
                message["headers"] = [*said, *_HEADERS]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1")
                   for name, value in scope["headers"]}  # fmt: skip
        refusal = _too_large(scope, headers)
        if refusal is None and self._door is not None:
            refusal = _stranger(scope, headers, self._door)
        if refusal is not None:
            await refusal(scope, receive, send_with_headers)
            return
        scope.setdefault("state", {})["local"] = self._door is None
        if scope["method"] in _CHANGES:
            await self._with_patience(scope, receive, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    async def _with_patience(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A body must keep coming: who stops in the middle of it is shown out."""
        arrived = False
        stalled = trio.Event()

        async def receive_in_time() -> Message:
            nonlocal arrived
            if arrived:
                return await receive()
            message: Message = {}
            with trio.move_on_after(BODY_STALL_S) as patience:
                message = await receive()
            if patience.cancelled_caught:
                stalled.set()
                message = {"type": "http.disconnect"}
            arrived = not message.get("more_body", False)
            return message

        async def send_unless_stalled(message: Message) -> None:
            if not stalled.is_set():
                await send(message)

        with contextlib.suppress(ClientDisconnect):
            await self._app(scope, receive_in_time, send_unless_stalled)
        if stalled.is_set():
            answer = problem_response(408, "too-slow", "the request's body stopped coming")
            await answer(scope, receive, send)


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
    api = scope["path"].startswith(_PRIVATE)
    if api and _foreign(headers, door):
        return problem_response(403, "wrong-origin", "another site's page may not use this node")
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
    if given and scope["method"] == "GET" and not api:
        return _enter(scope, given, door)
    bearer = _same(headers.get("authorization", "").removeprefix("Bearer "), door.token)
    cookies = _cookies(headers.get("cookie", ""))
    session = door.sessions.find(cookies.get(door.session_cookie, ""), door.now())
    scope.setdefault("state", {}).update(session=session, session_cookie=door.session_cookie)
    operator = bearer or _same(cookies.get(door.cookie, ""), door.token)
    scope["state"]["operator"] = operator
    known = operator or (session is not None and door.sessions.may_enter(session))
    too_fast = _too_fast(scope, door, known=known)
    if too_fast is not None:
        return too_fast
    if not api:
        return None  # the page itself holds no secrets
    if known and (bearer or scope["method"] not in _CHANGES or _ours(headers)):
        return None
    if scope["path"] in OPEN_PATHS and (scope["method"] not in _CHANGES or _ours(headers)):
        return None
    if known:
        return problem_response(
            403, "wrong-origin", "a browser's request must say which page it comes from"
        )
    return problem_response(
        401, "no-token", "this node does not know you",
        "open the address that 'souk dashboard' prints",
    )  # fmt: skip


def _enter(scope: Scope, given: str, door: Door) -> Response:
    """The token leaves the address bar at once and goes on as a cookie no script can read."""
    problem = _too_fast(scope, door, known=False)
    if problem is not None:
        return problem
    here = "/" + scope["path"].lstrip("/")  # //evil.example would lead to another host
    answer = RedirectResponse(here, status_code=303)
    if _same(given, door.token):
        answer.set_cookie(door.cookie, door.token, httponly=True, samesite="strict")
    return answer


def _foreign(headers: dict[str, str], door: Door) -> bool:
    """Whether a browser says that another site's page asks."""
    origin = headers.get("origin", "").lower()
    ours = {f"{scheme}://{name}" for name in door.hosts for scheme in ("http", "https")}
    site = headers.get("sec-fetch-site", "none")
    return (bool(origin) and origin not in ours) or site not in ("none", "same-origin")


def _ours(headers: dict[str, str]) -> bool:
    """A browser says so with every change a page makes; `_foreign` has checked what it says."""
    return bool(headers.get("origin")) or headers.get("sec-fetch-site") == "same-origin"


def _too_fast(scope: Scope, door: Door, *, known: bool) -> Response | None:
    client = (scope.get("client") or ("",))[0]
    rate: Rate = KNOWN if known else STRANGER
    if scope["path"].startswith("/api/session") and scope["method"] in _CHANGES:
        rate = SIGN_IN
    try:
        door.rates.take(client, rate, door.now())
    except LimitError as problem:
        answer = problem_response(429, "too-fast", str(problem), problem.hint)
        answer.headers["retry-after"] = "1"
        return answer
    return None


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode(), token.encode())


def _cookies(header: str) -> dict[str, str]:
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(header).items()}
    except CookieError:
        return {}
