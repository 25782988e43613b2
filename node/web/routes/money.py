"""Money over HTTP: what the escrow holds, every agreement, what was spent and earned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

if TYPE_CHECKING:
    from node.control import Control

Since = Annotated[int, Query(ge=0, le=2**40)]
"""Unix seconds."""


def money_routes(control: Control) -> APIRouter:
    """/api/wallet, /api/agreements, /api/spend and /api/earnings."""
    router = APIRouter()

    @router.get("/api/wallet")
    async def wallet() -> dict[str, Any]:
        """What the escrow holds for this node's wallet."""
        return await control.money.wallet()

    @router.get("/api/agreements")
    async def agreements() -> list[dict[str, Any]]:
        """Every agreement of this node, newest first."""
        return control.money.agreements()

    @router.get("/api/spend")
    async def spend(since: Since = 0) -> dict[str, Any]:
        """What this wallet spent as requester, by agreement and by day, from the chain's log."""
        return await control.books.spent(since)

    @router.get("/api/earnings")
    async def earnings(since: Since = 0) -> dict[str, Any]:
        """What this wallet earned as provider, by agreement and by day, from the chain's log."""
        return await control.books.earned(since)

    return router
