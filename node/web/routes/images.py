"""Images over HTTP: what is here, pull one, let go of those not needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from node.control import Control


class ImageName(BaseModel):
    """An image of a registry, as a job file names it."""

    model_config = ConfigDict(extra="forbid")
    image: Annotated[str, Field(min_length=1, max_length=512)]


def image_routes(control: Control) -> APIRouter:
    """/api/images."""
    router = APIRouter()

    @router.get("/api/images")
    async def images() -> dict[str, list[dict[str, Any]]]:
        """What is here, and what is being pulled."""
        return {"images": await control.images.all(), "pulling": control.images.progress()}

    @router.post("/api/images/pull")
    async def pull(name: ImageName) -> dict[str, Any]:
        """Fetch an image; answers when it is complete."""
        return await control.images.pull(name.image)

    @router.post("/api/images/prune")
    async def prune() -> dict[str, Any]:
        """Let go of what no live job needs."""
        return await control.images.prune()

    return router
