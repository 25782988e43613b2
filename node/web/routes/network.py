"""The node over HTTP: its status, who is connected, and news as they come."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from market.errors import LimitError
from node.web.events import Audience, EventStream
from node.web.problems import problem_response

if TYPE_CHECKING:
    from node.control import Control


def network_routes(control: Control) -> APIRouter:
    """/api/status, /api/peers and /api/events."""
    router = APIRouter()
    audience = Audience()

    @router.get("/api/status")
    async def status(request: Request) -> dict[str, Any]:
        """One screen about this node."""
        return {**control.network.status(), "url": request.app.state.url}

    @router.get("/api/peers")
    async def peers() -> list[dict[str, Any]]:
        """Who is connected."""
        return control.network.peers()

    @router.get("/api/network")
    async def network() -> dict[str, Any]:
        """Peers, mesh per topic, counters of gossip, and the table of offers."""
        return control.network.network()

    @router.get("/api/events")
    async def events() -> Response:
        """Server-sent events: `changed` (a job or an agreement), `market`, `money`."""
        try:
            return EventStream(control.changed, control.marks, audience)
        except LimitError as problem:
            return problem_response(429, "too-many", str(problem), problem.hint)

    return router
