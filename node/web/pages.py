"""Pages: the web view's own files, read once. Knows files and ASGI; no API, no node.

Every file is a key of a dictionary that was filled from the package, so no path a stranger may
write reaches the disk. The page's addresses (`/jobs/…`) all answer with `index.html`, which routes
by itself.
"""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from typing import Final

from fastapi.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from node.web.problems import problem_response

TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
ROUTES: Final = frozenset({"jobs", "new", "wallet", "provider", "network"})
"""First parts of the addresses that the page itself shows."""


@dataclass(frozen=True, slots=True)
class _File:
    type: str
    etag: str
    plain: bytes
    packed: bytes


class Pages:
    """ASGI middleware: answers what is not below /api, hands on what is."""

    def __init__(self, app: ASGIApp) -> None:
        """Reads all files of `node/web/static`."""
        self._app = app
        self._files = dict(_read(resources.files("node.web") / "static", ""))
        self._index = self._files["/index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A file, the page, or the API behind it."""
        path = scope["path"]
        if path.startswith("/api/") or path in ("/api", "/metrics", "/healthz", "/readyz"):
            await self._app(scope, receive, send)
            return
        await self._answer(scope, path)(scope, receive, send)

    def _answer(self, scope: Scope, path: str) -> Response:
        if scope["method"] not in ("GET", "HEAD"):
            return problem_response(405, "bad-request", "a page is read with GET")
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        found = self._files.get(path)
        status = 200
        if found is None:
            known = path == "/" or path[1:].partition("/")[0] in ROUTES
            if not known and "text/html" not in headers.get("accept", ""):
                return problem_response(404, "not-found", "there is no such page")
            found, status = self._index, 200 if known else 404
        return _answer(found, status, headers)


def _answer(file: _File, status: int, headers: dict[str, str]) -> Response:
    said = {"etag": file.etag, "cache-control": "no-cache", "vary": "accept-encoding"}
    if status == 200 and headers.get("if-none-match") == file.etag:
        return Response(status_code=304, headers=said)
    body = file.plain
    if "gzip" in headers.get("accept-encoding", ""):
        body = file.packed
        said["content-encoding"] = "gzip"
    return Response(body, status_code=status, headers=said, media_type=file.type)


def _read(folder: Traversable, where: str) -> list[tuple[str, _File]]:
    found: list[tuple[str, _File]] = []
    for item in sorted(folder.iterdir(), key=lambda item: item.name):
        path = f"{where}/{item.name}"
        if item.is_dir():
            found += _read(item, path)
            continue
        kind = TYPES.get("." + item.name.rpartition(".")[2])
        if kind is not None:
            plain = item.read_bytes()
            etag = f'"{hashlib.sha256(plain).hexdigest()[:24]}"'
            found.append((path, _File(kind, etag, plain, gzip.compress(plain, 9, mtime=0))))
    return found
