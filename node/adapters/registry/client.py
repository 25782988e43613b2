"""Client: the port Registry over HTTPS. Asks only hosts that a reference or the settings name, and
those to which they refer: a token server, a redirect; never at a private address unless allowed.

Credentials go to the host they are for and to the token server it names over TLS, never along a
redirect, and into no log.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpcore
import structlog
import trio

from market.errors import (
    IntegrityError,
    LimitError,
    MarketError,
    NotFoundError,
    RefusedError,
    UnreachableError,
)
from market.image import DOCKER_HUB, INDEX_TYPES, MANIFEST_TYPES, Reference
from market.limits import MANIFEST_BYTES_MAX
from node.adapters.registry import auth
from node.adapters.registry.reach import GuardedBackend, tls
from node.adapters.registry.settings import RegistrySettings

log = structlog.get_logger("registry")

REDIRECTS_MAX: Final = 5
TRIES_MAX: Final = 4
CLOSE_S: Final = 3.0
CONNECTIONS_MAX: Final = 16
TOKENS_MAX: Final = 256
AGENT: Final = b"gridsouk"
_HUB_API: Final = "registry-1.docker.io"
_REDIRECTS: Final = (301, 302, 303, 307, 308)
_BUSY: Final = (429, 500, 502, 503, 504)


@asynccontextmanager
async def open_registry(settings: RegistrySettings) -> AsyncIterator[RegistryClient]:
    """A client whose connections are closed afterwards."""

    def may_be_private(host: str, port: int) -> bool:
        names = (f"{host}:{port}", *((host,) if port in (80, 443) else ()))
        return any(settings.host(name).private for name in names)

    async with httpcore.AsyncConnectionPool(
        ssl_context=tls(),
        max_connections=CONNECTIONS_MAX,
        keepalive_expiry=30.0,
        network_backend=GuardedBackend(may_be_private),
    ) as pool:
        yield RegistryClient(settings, pool)


class RegistryClient:
    """Fills the port `Registry`."""

    def __init__(self, settings: RegistrySettings, pool: httpcore.AsyncConnectionPool) -> None:
        """Made by `open_registry`."""
        self._settings = settings
        self._pool = pool
        self._tokens: dict[tuple[str, str], tuple[str, float]] = {}
        self._for_others: RegistryClient | None = None

    def for_others(self) -> RegistryClient:
        """For the jobs of others: with no credentials but those that are for them, too."""
        if self._for_others is None:
            self._for_others = RegistryClient(self._settings.for_others(), self._pool)
        return self._for_others

    def is_open(self, reference: Reference) -> bool:
        """Whether the host is asked without credentials."""
        return not self._settings.host(reference.host).username

    async def manifest(self, reference: Reference) -> bytes:
        """The manifest's bytes, checked if the reference has a digest."""
        wanted = f"sha256:{reference.digest.hex()}" if reference.digest else reference.tag
        accept = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
        async with self._get(reference, f"manifests/{wanted}", {"Accept": accept}) as answer:
            data = await _read(answer, MANIFEST_BYTES_MAX)
        if reference.digest and hashlib.sha256(data).digest() != reference.digest:
            raise IntegrityError(f"{reference.host} sent another manifest than was asked for")
        return data

    @asynccontextmanager
    async def blob(
        self, reference: Reference, digest: bytes, offset: int
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The blob's bytes from `offset` on, also if the registry knows no ranges."""
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        async with self._get(reference, f"blobs/sha256:{digest.hex()}", headers) as answer:
            skip = offset
            if answer.status == 206:
                said = _header(answer, b"content-range")
                if not said.startswith(f"bytes {offset}-"):
                    raise UnreachableError(f"{reference.host} sent another part: {said[:60]!r}")
                skip = 0
            async with _body(answer, skip) as body:
                yield body

    # One question, with its tries, its token and its redirects.

    @asynccontextmanager
    async def _get(
        self, reference: Reference, path: str, headers: dict[str, str]
    ) -> AsyncIterator[httpcore.Response]:
        host = _HUB_API if reference.host == DOCKER_HUB else reference.host
        scheme = "http" if self._settings.host(reference.host).insecure else "https"
        url = f"{scheme}://{host}/v2/{reference.name}/{path}"
        scope = f"repository:{reference.name}:pull"
        key = (reference.host, scope)
        refused = False
        for attempt in range(TRIES_MAX):
            authorization = self._token(key)
            async with self._follow(url, headers, authorization) as answer:
                if answer.status in (200, 206):
                    yield answer
                    return
                wait_s = 0.0
                if answer.status == 401 and not refused:
                    refused = True
                    await self._authorise(reference, key, _header(answer, b"www-authenticate"))
                elif answer.status in _BUSY and attempt + 1 < TRIES_MAX:
                    wait_s = self._pause_s(answer, attempt)
                else:
                    raise _refusal(reference, answer.status)
            await trio.sleep(wait_s)
        raise UnreachableError(f"{reference.host} is busy", hint="it is tried again later")

    @asynccontextmanager
    async def _follow(
        self, url: str, headers: dict[str, str], authorization: str
    ) -> AsyncIterator[httpcore.Response]:
        for _ in range(REDIRECTS_MAX + 1):
            async with self._ask(url, headers, authorization) as answer:
                if answer.status not in _REDIRECTS:
                    yield answer
                    return
                target = urljoin(url, _header(answer, b"location"))
            if _origin(target) != _origin(url):
                authorization = ""
            if target.startswith("http://") and not url.startswith("http://"):
                raise RefusedError(f"{_host(url)} sends us on to an unprotected address")
            url = target
        raise UnreachableError(f"{_host(url)} sends us around in circles")

    @asynccontextmanager
    async def _ask(
        self, url: str, headers: dict[str, str], authorization: str
    ) -> AsyncIterator[httpcore.Response]:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise RefusedError("the registry sends us to what is no web address")
        name = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
        if parts.scheme == "http" and not self._settings.host(name).insecure:
            raise RefusedError(
                f"{name} would be asked without TLS",
                hint=f'to allow it, write [registries."{name}"] insecure = true',
            )
        sent = {"User-Agent": AGENT.decode(), "Accept-Encoding": "identity", **headers}
        if authorization:
            sent["Authorization"] = authorization
        stall_s = self._settings.stall_s
        limits = {"connect": stall_s, "read": stall_s, "write": stall_s, "pool": stall_s}
        try:
            async with self._pool.stream(
                "GET", url, headers=list(sent.items()), extensions={"timeout": limits}
            ) as answer:
                yield answer
        except (
            httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException,
            httpcore.UnsupportedProtocol, OSError, UnicodeError,
        ) as problem:  # fmt: skip
            raise UnreachableError(
                f"{name} does not answer as a registry does: {type(problem).__name__}"
            ) from problem

    async def _authorise(self, reference: Reference, key: tuple[str, str], header: str) -> None:
        known = self._settings.host(reference.host)
        challenge = auth.parse_challenge(header)
        password = await trio.to_thread.run_sync(known.password)
        mine = auth.basic(known.username, password) if known.username else ""
        if challenge.scheme == "basic":
            if not mine:
                raise RefusedError(f"{reference.host} wants a name and a password", hint=_HINT)
            self._keep(key, mine, 3600.0)
            return
        async with self._follow(challenge.url(key[1]), {}, mine) as answer:
            if answer.status != 200:
                raise _refusal(reference, answer.status)
            data = await _read(answer, auth.TOKEN_BYTES_MAX)
        token, expires_s = auth.parse_token(data)
        self._keep(key, f"Bearer {token}", expires_s)

    def _token(self, key: tuple[str, str]) -> str:
        value, until = self._tokens.get(key, ("", 0.0))
        return value if trio.current_time() < until else ""

    def _keep(self, key: tuple[str, str], value: str, expires_s: float) -> None:
        while len(self._tokens) >= TOKENS_MAX:
            del self._tokens[next(iter(self._tokens))]
        self._tokens[key] = (value, trio.current_time() + expires_s * 0.9)

    def _pause_s(self, answer: httpcore.Response, attempt: int) -> float:
        said = _header(answer, b"retry-after")
        plain = said.isascii() and said.isdecimal() and len(said) < 6
        wait_s = float(said) if plain else float(2**attempt)
        if wait_s > self._settings.retry_s_max:
            raise UnreachableError(f"the registry asks to wait for {wait_s:.0f} s")
        return wait_s


_HINT: Final = 'give username and password_file in [registries."HOST"] of the configuration'


def _refusal(reference: Reference, status: int) -> MarketError:
    name = f"{reference.host}/{reference.name}"
    if status in (401, 403):
        return RefusedError(f"{reference.host} does not let us have {name}", hint=_HINT)
    if status == 404:
        return NotFoundError(f"there is no {str(reference)[:200]}", hint="check name and tag")
    if status == 416:
        return LimitError(f"{name}: the registry has no bytes from there on")
    if status in _BUSY:
        return UnreachableError(f"{reference.host} is busy (HTTP {status})")
    return UnreachableError(f"{reference.host} answers with HTTP {status}")


class _Body:
    """A body's bytes but for its first `skip`, read part by part. Raises UnreachableError."""

    def __init__(self, answer: httpcore.Response, skip: int) -> None:
        self._answer = answer
        self._parts = answer.aiter_stream()
        self._skip = skip

    def __aiter__(self) -> _Body:
        return self

    async def __anext__(self) -> bytes:
        while True:
            try:
                part = await anext(self._parts)
            except _BROKEN as problem:
                raise UnreachableError(f"the transfer broke off: {type(problem).__name__}") \
                    from problem  # fmt: skip
            if self._skip < len(part):
                part, self._skip = part[self._skip :], 0
                return part
            self._skip -= len(part)

    async def close(self) -> None:
        """Let go of the connection, and bring the library's own generators to their end."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self._answer.aclose()
            with contextlib.suppress(RuntimeError, *_BROKEN):
                async for _ in self._parts:
                    pass


_BROKEN: Final = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    trio.ClosedResourceError,
    trio.BrokenResourceError,
)


@asynccontextmanager
async def _body(answer: httpcore.Response, skip: int) -> AsyncIterator[_Body]:
    body = _Body(answer, skip)
    try:
        yield body
    finally:
        await body.close()


async def _read(answer: httpcore.Response, size_max: int) -> bytes:
    data = bytearray()
    async with _body(answer, 0) as body:
        async for part in body:
            data += part
            if len(data) > size_max:
                raise LimitError(f"the registry's answer has more than {size_max} bytes")
    return bytes(data)


def _header(answer: httpcore.Response, name: bytes) -> str:
    for key, value in answer.headers:
        if key.lower() == name:
            return value.decode("latin-1")
    return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    try:
        return parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise RefusedError("the registry sends us to what is no web address") from None


def _host(url: str) -> str:
    return urlsplit(url).hostname or "the registry"
