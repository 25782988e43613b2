"""The market over HTTP: live offers, what changed since, and one of them in detail."""

from __future__ import annotations

import gzip
import json
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final

import trio
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response

if TYPE_CHECKING:
    from node.control import Control

PACK_BYTES: Final = 32 * 1024  # below that packing costs more than it saves


def market_routes(control: Control) -> APIRouter:
    """/api/offers."""
    router = APIRouter()

    @router.get("/api/offers")
    async def offers() -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        return control.market.offers()

    @router.get("/api/market")
    async def changes(
        request: Request, since: Annotated[int, Query(ge=-1, le=2**62)] = -1
    ) -> Response:
        """What changed after version `since`; -1 for everything. Packed if it is much."""
        body = json.dumps(control.market.since(since), separators=(",", ":")).encode()
        headers = {"cache-control": "no-store", "vary": "accept-encoding"}
        if len(body) > PACK_BYTES and "gzip" in request.headers.get("accept-encoding", ""):
            body = await trio.to_thread.run_sync(partial(gzip.compress, body, 1))
            headers["content-encoding"] = "gzip"
        return Response(body, media_type="application/json", headers=headers)

    @router.get("/api/offers/{name}")
    async def offer(name: str) -> dict[str, Any]:
        """One live offer (`peer-offer`), its provider's stake and record."""
        return await control.market.detail(name)

    return router
