"""Drafts over HTTP: the text of a job file while it is written, and the images it may name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import trio
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from market.errors import MarketError, NotFoundError, SpecError
from market.limits import JOB_FILE_BYTES_MAX
from node.jobtext import line_of, read_job_text

if TYPE_CHECKING:
    from node.control import Control

IMAGES_MAX: Final = 256  # shown in a list
_NAME: Final = "job.yaml"


class Draft(BaseModel):
    """A job file's text."""

    model_config = ConfigDict(extra="forbid")
    text: Annotated[str, Field(max_length=JOB_FILE_BYTES_MAX)]


class BuiltImage(BaseModel):
    """An image that was built on this machine."""

    model_config = ConfigDict(extra="forbid")
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]


def draft_routes(control: Control, images: Path | None) -> APIRouter:
    """/api/drafts and what is below it."""
    router = APIRouter()

    @router.post("/api/drafts")
    async def read(draft: Draft) -> dict[str, Any]:
        """The text as a mapping (null if it is none), what is wrong with it and on which line,
        and, if nothing is, the live plan.
        """
        lines: dict[str, int] = {}
        spec = None
        try:
            spec, lines = read_job_text(draft.text.encode(errors="replace"), _NAME)
            plan = await control.plans.plan(spec)
        except SpecError as problem:
            return {"spec": spec, "plan": None, "problem": _located(problem, lines)}
        return {"spec": spec, "plan": plan, "problem": None}

    @router.get("/api/drafts/images")
    async def list_images() -> list[dict[str, Any]]:
        """Images built on this machine, and those of earlier jobs that are still here."""
        built = await trio.to_thread.run_sync(_built, images) if images else []
        names = {one["name"] for one in built}
        used = await control.jobs.images()
        return [*built, *(one for one in used if one["name"] not in names)][:IMAGES_MAX]

    @router.post("/api/drafts/images")
    async def take_image(image: BuiltImage) -> dict[str, Any]:
        """Put a built image into the blob store, so that a job can name it by its hash."""
        path = (images / f"{image.name}.tar") if images else None
        if path is None or not await trio.Path(path).is_file():
            raise NotFoundError(
                f"no image called {image.name} was built here",
                hint=f"build it with: souk image build {image.name}",
            )
        hash_, size = await control.ports.blobs.put_file(str(path))
        return {"path": image.name, "sha256": hash_.hex(), "size_bytes": size}

    return router


def _located(problem: MarketError, lines: dict[str, int]) -> dict[str, Any]:
    """A complaint with its line, whether its text begins with the file's name or with a key."""
    said, line = str(problem), line_of(problem, lines)
    head, colon, rest = said.partition(": ")
    place, _, number = head.partition(":")
    if colon and place == _NAME:
        said, line = rest, int(number) if number.isdecimal() else None
    return {"message": said, "hint": problem.hint, "line": line}


def _built(folder: Path) -> list[dict[str, Any]]:
    try:
        files = sorted(folder.glob("*.tar"))
    except OSError:
        return []
    return [{"name": file.stem, "built": True, "size_bytes": file.stat().st_size} for file in files]
