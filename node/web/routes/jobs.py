"""Jobs over HTTP: hand one in, look, end it. Money is decimal text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from market.limits import ARTIFACT_BYTES_MAX, ENV_BYTES_MAX, ENVS_MAX, FILES_MAX
from market.spec import Spec
from market.terms import Artifact
from market.units import format_money
from market.voucher import deposit_for

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
    """A job file with its uploaded inputs and the values of its secrets.

    `image` is uploaded, too, unless the job file names one of a registry.
    """

    image: BlobName | None = None
    inputs: Annotated[list[BlobName], Field(max_length=FILES_MAX)] = []
    secrets: Annotated[
        dict[Name, Annotated[str, Field(max_length=ENV_BYTES_MAX)]], Field(max_length=ENVS_MAX)
    ] = {}


def job_routes(control: Control) -> APIRouter:
    """/api/jobs and what is asked of a job file before it becomes one."""
    router = APIRouter()

    @router.get("/api/jobs")
    async def jobs() -> list[dict[str, Any]]:
        """Every job, newest first."""
        return control.jobs.all()

    @router.get("/api/jobs/{name}")
    async def job(name: str) -> dict[str, Any]:
        """One job with its history, agreements, money and results."""
        return await control.jobs.show(name)

    @router.get("/api/jobs/{name}/log")
    async def log(name: str, offset: Annotated[int, Query(ge=0, le=2**62)] = 0) -> Response:
        """Output bytes from `offset`; X-Next-Offset says where to go on, X-End if that is all."""
        data, following, end = await control.jobs.log(name, offset)
        headers = {"x-next-offset": str(following), "x-end": "1" if end else "0"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @router.post("/api/jobs", status_code=201)
    async def submit(new: NewJob) -> dict[str, str]:
        """Take a job whose blobs are here already; answers with its id."""
        inputs = tuple(item.artifact() for item in new.inputs)
        image = new.image.artifact() if new.image is not None else None
        return {"id": await control.jobs.submit(new.spec, image, inputs, new.secrets)}

    @router.post("/api/jobs/{name}/cancel")
    async def cancel(name: str) -> dict[str, str]:
        """End a job; money not earned by then is refunded."""
        return {"id": await control.jobs.cancel(name)}

    @router.post("/api/explain")
    async def explain(file: JobFile) -> dict[str, list[str]]:
        """What the market has for this job, and what would let more offers fit."""
        return {"lines": control.jobs.explain(file.spec)}

    @router.post("/api/validate")
    async def validate(file: JobFile) -> dict[str, Any]:
        """Check a job file, and say what it may cost at most."""
        return _plan(control.jobs.spec(file.spec), control)

    return router


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
