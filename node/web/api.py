"""API: the front desk over HTTP. Translates requests and answers; decides nothing.

Errors are RFC 9457 problems with `code`, `message` and `hint`. Money is decimal text.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from market.errors import MarketError
from market.limits import ARTIFACT_BYTES_MAX, ENV_BYTES_MAX, ENVS_MAX, FILES_MAX
from market.spec import Spec
from market.terms import Artifact
from market.units import format_money
from market.voucher import deposit_for
from node.web.blobs import blob_routes
from node.web.events import Audience, EventStream
from node.web.problems import problem_of, problem_response

if TYPE_CHECKING:
    from node.control import Control

Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BlobName(_Strict):
    """A blob the node has: where the job sees it, its hash and size."""

    path: Name
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Field(ge=0, le=ARTIFACT_BYTES_MAX)]

    def artifact(self) -> Artifact:
        """As the market says it."""
        return Artifact(self.path, bytes.fromhex(self.sha256), self.size_bytes)


class JobFile(_Strict):
    """A job file's mapping."""

    spec: dict[str, Any]


class NewJob(JobFile):
    """A job file with its uploaded image and inputs, and the values of its secrets."""

    image: BlobName
    inputs: Annotated[list[BlobName], Field(max_length=FILES_MAX)] = []
    secrets: Annotated[
        dict[Name, Annotated[str, Field(max_length=ENV_BYTES_MAX)]], Field(max_length=ENVS_MAX)
    ] = {}


def make_app(control: Control) -> FastAPI:
    """The API over one node's front desk."""
    app = FastAPI(title="gridsouk node", version="1", docs_url=None, redoc_url=None,
                  openapi_url="/api/openapi.json")  # fmt: skip
    app.state.url = None  # where a browser finds it; set by the server
    _add_reports(app, control)
    _add_jobs(app, control)
    app.include_router(blob_routes(control.ports.blobs))
    _add_problems(app)
    return app


def _add_reports(app: FastAPI, control: Control) -> None:
    audience = Audience()

    @app.get("/api/status")
    async def status() -> dict[str, Any]:
        """One screen about this node."""
        return {**control.status(), "url": app.state.url}

    @app.get("/api/offers")
    async def offers() -> list[dict[str, Any]]:
        """The live offers this node has heard of, cheapest first."""
        return control.offers()

    @app.get("/api/peers")
    async def peers() -> list[dict[str, Any]]:
        """Who is connected."""
        return control.peers()

    @app.get("/api/wallet")
    async def wallet() -> dict[str, Any]:
        """What the escrow holds for this node's wallet."""
        return await control.wallet()

    @app.get("/api/agreements")
    async def agreements() -> list[dict[str, Any]]:
        """Every agreement of this node, newest first."""
        return control.agreements()

    @app.get("/api/events")
    async def events() -> Response:
        """Server-sent events: a line whenever a job or an agreement changed."""
        return EventStream(control.changed, audience)


def _add_jobs(app: FastAPI, control: Control) -> None:
    @app.get("/api/jobs")
    async def jobs() -> list[dict[str, Any]]:
        """Every job, newest first."""
        return control.jobs()

    @app.get("/api/jobs/{name}")
    async def job(name: str) -> dict[str, Any]:
        """One job with its history, agreements, money and results."""
        return await control.show(name)

    @app.get("/api/jobs/{name}/log")
    async def log(name: str, offset: Annotated[int, Query(ge=0, le=2**62)] = 0) -> Response:
        """Output bytes from `offset`; X-Next-Offset says where to go on, X-End if that is all."""
        data, following, end = await control.log(name, offset)
        headers = {"x-next-offset": str(following), "x-end": "1" if end else "0"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @app.post("/api/jobs", status_code=201)
    async def submit(new: NewJob) -> dict[str, str]:
        """Take a job whose blobs are here already; answers with its id."""
        inputs = tuple(item.artifact() for item in new.inputs)
        return {"id": await control.submit(new.spec, new.image.artifact(), inputs, new.secrets)}

    @app.post("/api/jobs/{name}/cancel")
    async def cancel(name: str) -> dict[str, str]:
        """End a job; money not earned by then is refunded."""
        return {"id": await control.cancel(name)}

    @app.post("/api/explain")
    async def explain(file: JobFile) -> dict[str, list[str]]:
        """What the market has for this job, and what would let more offers fit."""
        return {"lines": control.explain(file.spec)}

    @app.post("/api/validate")
    async def validate(file: JobFile) -> dict[str, Any]:
        """Check a job file, and say what it may cost at most."""
        return _plan(control.spec(file.spec), control)


def _plan(spec: Spec, control: Control) -> dict[str, Any]:
    info = control.ports.chain.info
    units = max(choice.count for choice in spec.requirements.accelerators) * spec.num_nodes
    price, duration_s = spec.bid.max_price_per_hour, spec.bid.max_duration_s
    return {
        "name": spec.name,
        "image": spec.image,
        "accelerators": [f"{a.name}:{a.count}" for a in spec.requirements.accelerators],
        "units": units,
        "max_price_per_unit_hour": format_money(price, info.decimals),
        "max_hourly_cost": format_money(price * units, info.decimals),
        "max_duration_s": duration_s,
        "max_hold": format_money(deposit_for(price, units, duration_s), info.decimals),
        "token": info.symbol,
        "secrets": list(spec.secrets),
        "mounts": {mount.target: mount.source for mount in spec.mounts},
        "outputs": list(spec.outputs),
    }


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
