"""API: the front desk over HTTP, put together. Each subject's routes are a file in `routes`.

Errors are RFC 9457 problems with `code`, `message` and `hint`. Money is decimal text.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from market.errors import MarketError
from node.web.problems import problem_of, problem_response
from node.web.routes.blobs import blob_routes
from node.web.routes.certificates import certificate_routes
from node.web.routes.drafts import draft_routes
from node.web.routes.images import image_routes
from node.web.routes.jobs import job_routes
from node.web.routes.market import market_routes
from node.web.routes.metrics import metrics_routes
from node.web.routes.money import money_routes
from node.web.routes.network import network_routes
from node.web.routes.provider import provider_routes
from node.web.routes.session import session_routes
from node.web.routes.wallet import wallet_routes
from node.web.sessions import Sessions

if TYPE_CHECKING:
    from node.control import Control


def make_app(control: Control, sessions: Sessions, images: Path | None = None) -> FastAPI:
    """The API over one node's front desk. `images` is the folder of images built here."""
    app = FastAPI(title="gridsouk node", version="1", docs_url=None, redoc_url=None,
                  openapi_url="/api/openapi.json")  # fmt: skip
    app.state.url = None  # where a browser finds it; set by the server
    for routes in (
        job_routes,
        image_routes,
        certificate_routes,
        market_routes,
        money_routes,
        network_routes,
        metrics_routes,
        provider_routes,
        wallet_routes,
    ):
        app.include_router(routes(control))
    app.include_router(blob_routes(control.ports.blobs))
    app.include_router(session_routes(control, sessions))
    app.include_router(draft_routes(control, images))
    _add_problems(app)
    return app


def _add_problems(app: FastAPI) -> None:
    @app.exception_handler(MarketError)
    async def market_error(_request: Request, problem: MarketError) -> JSONResponse:
        return problem_of(problem)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, problem: RequestValidationError) -> JSONResponse:
        first = problem.errors()[0]
        where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
        return problem_response(422, "bad-request", f"{where}: {first['msg']}".removeprefix(": "))

    @app.exception_handler(HTTPException)
    async def http(request: Request, problem: HTTPException) -> JSONResponse:
        if problem.status_code == 404:
            return problem_response(404, "not-found", f"there is no {request.url.path} here")
        return problem_response(problem.status_code, "bad-request", str(problem.detail))

    @app.exception_handler(Exception)
    async def bug(_request: Request, problem: Exception) -> JSONResponse:
        message = f"the node made a mistake: {type(problem).__name__}"
        return problem_response(500, "internal", message, "its log says where; please report it")
