"""The market over HTTP: live offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from node.control import Control


def market_routes(control: Control) -> APIRouter:
    """/api/offers."""
    router = APIRouter()

    @router.get("/api/offers")
    async def offers() -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        return control.market.offers()

    return router
