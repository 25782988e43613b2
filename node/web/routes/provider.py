"""The provider over HTTP: its machine, queue, quotes and earnings; open, pause, drain, price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from node.control import Control


class NewPrice(BaseModel):
    """What the units cost from now on, per hour in whole tokens; for one kind, or for all."""

    model_config = ConfigDict(extra="forbid")
    price_per_hour: Annotated[str, Field(max_length=64)]
    name: Annotated[str, Field(max_length=64)] | None = None
    ram_mib: Annotated[int, Field(ge=0, lt=2**32)] | None = None


def provider_routes(control: Control) -> APIRouter:
    """/api/provider and what is below it."""
    router = APIRouter()

    @router.get("/api/provider")
    async def provider() -> dict[str, Any]:
        """What is sold and how; the units with their health."""
        return {**control.selling.status(), "machine": control.earning.units()}

    @router.get("/api/provider/queue")
    async def queue() -> list[dict[str, Any]]:
        """Demands that fit and wait, as the policy would start them."""
        return control.selling.queue()

    @router.get("/api/provider/quotes")
    async def quotes() -> list[dict[str, Any]]:
        """Quotes of this node, newest first, with what became of each and why."""
        return control.selling.quotes()

    @router.get("/api/provider/earnings")
    async def earnings() -> dict[str, Any]:
        """By day and in all, from the chain's own events; slashes with their evidence."""
        return await control.earning.earnings()

    @router.get("/api/provider/prices/{name}")
    async def prices(name: Annotated[str, Field(max_length=64)]) -> list[str]:
        """What others ask for units of that model, cheapest first."""
        return control.earning.others_prices(name)

    @router.post("/api/provider/pause")
    async def pause() -> dict[str, Any]:
        """No new quotes until `resume`; what runs goes on."""
        await control.selling.pause()
        return control.selling.status()

    @router.post("/api/provider/drain")
    async def drain() -> dict[str, Any]:
        """No new quotes; `drained` says when the last agreement has ended."""
        await control.selling.drain()
        return control.selling.status()

    @router.post("/api/provider/resume")
    async def resume() -> dict[str, Any]:
        """Sell again."""
        await control.selling.resume()
        return control.selling.status()

    @router.post("/api/provider/price")
    async def price(new: NewPrice) -> dict[str, Any]:
        """Ask this from now on, until the node is started again from its configuration."""
        control.selling.set_price(new.price_per_hour, new.name, new.ram_mib)
        return control.selling.status()

    return router
