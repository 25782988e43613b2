"""Certificates over HTTP: measure, challenge, look."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from node.control import Control


class Challenged(BaseModel):
    """Whose units: the beginning of a peer's or an offer's id."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(min_length=4, max_length=64)]


def certificate_routes(control: Control) -> APIRouter:
    """/api/certificates."""
    router = APIRouter()

    @router.get("/api/certificates")
    async def certificates() -> dict[str, Any]:
        """Our own, and what was found out about others'."""
        return control.certificates.all()

    @router.post("/api/certificates/measure")
    async def measure() -> dict[str, list[dict[str, Any]]]:
        """Measure every unit of this node; answers when it is done."""
        return {"certificates": await control.certificates.certify()}

    @router.post("/api/certificates/challenge")
    async def challenge(named: Challenged) -> dict[str, list[dict[str, Any]]]:
        """Challenge another provider's units; answers with what came of it."""
        return {"challenges": await control.certificates.challenge(named.name)}

    return router
