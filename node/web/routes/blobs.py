"""Blobs over HTTP: bytes by their SHA-256, in bounded chunks both ways, resumable upwards."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

import trio
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from market.errors import LimitError, NotFoundError, RefusedError, SpecError
from market.limits import CHUNK_BYTES
from node.ports import Blobs
from node.web.events import until_gone

_SHA256 = re.compile(r"[0-9a-f]{64}")
UPLOADS_MAX = 16  # at once; each may hold one chunk in memory


def blob_routes(blobs: Blobs) -> APIRouter:
    """HEAD and GET /api/blobs/{sha256}, PUT /api/blobs."""
    router = APIRouter()
    uploading: set[bytes] = set()

    @router.head("/api/blobs/{sha256}")
    async def blob_size(sha256: str) -> Response:
        """Its Content-Length, or 404 with X-Partial: from where an upload goes on."""
        hash_ = _hash(sha256)
        size = await blobs.size(hash_)
        if size is None:
            partial = await blobs.partial(hash_)
            return Response(status_code=404, headers={"x-partial": str(partial)})
        return Response(headers={"content-length": str(size)})

    @router.get("/api/blobs/{sha256}")
    async def read_blob(
        sha256: str, name: Annotated[str, Query(max_length=128, pattern=r"^[\w.+-]+$")] = ""
    ) -> Response:
        """The bytes; a browser saves them as `name`."""
        hash_ = _hash(sha256)
        size = await blobs.size(hash_)
        if size is None:
            raise NotFoundError("no such blob here")
        headers = {
            "content-length": str(size),
            "content-disposition": f'attachment; filename="{name or sha256}"',
        }
        return _BlobStream(blobs, hash_, size, headers)

    @router.get("/api/blobs/{sha256}/size")
    async def known_size(sha256: str) -> dict[str, int | None]:
        """What there is of it: `size_bytes` once it is complete, and how much before."""
        hash_ = _hash(sha256)
        size = await blobs.size(hash_)
        partial = 0 if size is not None else await blobs.partial(hash_)
        return {"size_bytes": size, "partial_bytes": partial}

    @router.put("/api/blobs", status_code=201)
    async def write_blob(
        request: Request, x_sha256: str = Header(), x_offset: int = Header(default=0, ge=0)
    ) -> dict[str, str | int]:
        """Take the body as the blob's bytes from X-Offset on; kept once its hash is right."""
        hash_ = _hash(x_sha256)
        if hash_ in uploading or len(uploading) >= UPLOADS_MAX:
            raise RefusedError("the same bytes are being sent already", hint="wait and try again")
        uploading.add(hash_)
        try:
            size = await blobs.size(hash_)
            if size is None:
                # Closed by us: trio warns of a generator that is left to the garbage collector.
                async with aclosing(request.stream()) as parts:
                    await _receive(blobs, hash_, x_offset, parts)
                size = await blobs.finish(hash_)
        finally:
            uploading.discard(hash_)
        return {"sha256": x_sha256, "size_bytes": size}

    return router


async def _receive(blobs: Blobs, hash_: bytes, offset: int, parts: AsyncGenerator[bytes]) -> None:
    have = await blobs.partial(hash_)
    if offset > have:
        raise LimitError(f"there are {have} bytes of it here", hint="go on from X-Partial")
    if offset == 0 and have:
        await blobs.discard(hash_)  # whoever starts anew does not know what is here
        have = 0
    if offset != have:
        raise LimitError(f"there are {have} bytes of it here", hint="go on from X-Partial")
    async for part in parts:
        for start in range(0, len(part), CHUNK_BYTES):
            chunk = part[start : start + CHUNK_BYTES]
            await blobs.append(hash_, have, chunk)
            have += len(chunk)


class _BlobStream(Response):
    """A blob's bytes in chunks, until they end or the reader goes away."""

    def __init__(self, blobs: Blobs, hash_: bytes, size: int, headers: dict[str, str]) -> None:
        super().__init__(media_type="application/octet-stream", headers=headers)
        self._blobs, self._hash, self._size = blobs, hash_, size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(until_gone, receive, nursery.cancel_scope)
            await send(start)
            offset = 0
            while offset < self._size:
                limit = min(CHUNK_BYTES // 4, self._size - offset)
                data = await self._blobs.read(self._hash, offset, limit)
                if not data:
                    break  # discarded meanwhile: the short body tells the reader
                offset += len(data)
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
            nursery.cancel_scope.cancel()


def _hash(text: str) -> bytes:
    if not _SHA256.fullmatch(text):
        raise SpecError("a SHA-256 is 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)
