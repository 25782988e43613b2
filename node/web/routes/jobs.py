"""Jobs over HTTP: hand one in, look, end it. Money is decimal text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from market.limits import (
    ARTIFACT_BYTES_MAX,
    ENV_BYTES_MAX,
    ENVS_MAX,
    FILES_MAX,
    JOB_DURATION_MAX_S,
    NODES_MAX,
)
from market.terms import Artifact

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


class PlannedJob(JobFile):
    """A job file, and the sizes of its image and inputs where they are known already."""

    image: BlobName | None = None
    inputs: Annotated[list[BlobName], Field(max_length=FILES_MAX)] = []


class More(_Strict):
    """How much longer."""

    more_s: Annotated[int, Field(ge=1, le=JOB_DURATION_MAX_S)]


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
    async def log(
        name: str,
        offset: Annotated[int, Query(ge=0, le=2**62)] = 0,
        rank: Annotated[int, Query(ge=0, lt=NODES_MAX)] = 0,
    ) -> Response:
        """Output bytes from `offset`; X-Next-Offset says where to go on, X-End if that is all."""
        data, following, end = await control.jobs.log(name, offset, rank)
        headers = {"x-next-offset": str(following), "x-end": "1" if end else "0"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @router.get("/api/jobs/{name}/series")
    async def series(name: str) -> dict[str, Any]:
        """CPU, memory and GPU over time as columns, a row a heartbeat; kept after the end."""
        return control.series.of(control.jobs.job(name).id)

    @router.post("/api/jobs", status_code=201)
    async def submit(
        new: NewJob, idempotency_key: Annotated[str, Header(max_length=64)] = ""
    ) -> dict[str, str]:
        """Take a job whose blobs are here already; answers with its id (one key, one job)."""
        inputs = tuple(item.artifact() for item in new.inputs)
        image = new.image.artifact() if new.image is not None else None
        made = await control.jobs.submit(new.spec, image, inputs, new.secrets, idempotency_key)
        return {"id": made}

    @router.post("/api/jobs/{name}/extend")
    async def extend(name: str, more: More) -> dict[str, Any]:
        """Let a job take longer; says what that may cost at most."""
        return await control.jobs.extend(name, more.more_s)

    @router.post("/api/jobs/{name}/cancel")
    async def cancel(name: str) -> dict[str, str]:
        """End a job; money not earned by then is refunded."""
        return {"id": await control.jobs.cancel(name)}

    @router.post("/api/explain")
    async def explain(file: JobFile) -> dict[str, Any]:
        """What each constraint removes, and the nearest relaxations."""
        return control.plans.explain(file.spec)

    @router.post("/api/plan")
    async def plan(file: PlannedJob) -> dict[str, Any]:
        """The live ranking with its reasons, what it should cost, and what would be held."""
        image = file.image.artifact() if file.image else None
        inputs = tuple(item.artifact() for item in file.inputs)
        return await control.plans.plan(file.spec, image, inputs)

    @router.post("/api/validate")
    async def validate(file: JobFile) -> dict[str, Any]:
        """Check a job file, and say what it may cost at most."""
        return control.plans.checked(file.spec)

    return router
