"""Money over HTTP: what the escrow holds, and every agreement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

if TYPE_CHECKING:
    from node.control import Control


def money_routes(control: Control) -> APIRouter:
    """/api/wallet and /api/agreements."""
    router = APIRouter()

    @router.get("/api/wallet")
    async def wallet() -> dict[str, Any]:
        """What the escrow holds for this node's wallet."""
        return await control.money.wallet()

    @router.get("/api/agreements")
    async def agreements() -> list[dict[str, Any]]:
        """Every agreement of this node, newest first."""
        return control.money.agreements()

    return router
