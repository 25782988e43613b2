"""Jobs' desk: hand one in, look at it, end it, fetch what it left. No transport, no rendering.

Every answer is plain data, as `rows` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market.errors import NotFoundError, SpecError
from market.job import CancelAsked, Job
from market.spec import Spec, parse
from market.terms import Artifact
from market.units import format_money
from node.desk.rows import agreement_row, artifact_row
from node.images import Images
from node.keeper import JobHappened, Keeper, Submitted
from node.ports import Ports
from node.requester import Requester

LOG_PART_BYTES = 64 * 1024


class JobDesk:
    """Asks the requester and the keeper; has no state of its own."""

    def __init__(self, ports: Ports, keeper: Keeper, requester: Requester, images: Images) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._requester = requester
        self._images = images

    def spec(self, raw: object) -> Spec:
        """Check a job file's mapping. Raises SpecError."""
        return parse(raw, decimals=self._ports.chain.info.decimals)

    async def submit(
        self,
        raw: object,
        image: Artifact | None,
        inputs: tuple[Artifact, ...],
        secrets: Mapping[str, str],
    ) -> str:
        """Take a job whose image and inputs are in the blob store already; returns its id.

        Without an `image` the job file's own is looked up in its registry and pinned by digest.
        Raises SpecError for a wrong job file, a missing secret or a missing blob.
        """
        spec = self.spec(raw)
        missing = [name for name in spec.secrets if name not in secrets]
        if missing:
            raise SpecError(f"secrets: {missing[0]} has no value",
                            hint=f"give it with --secret {missing[0]}")  # fmt: skip
        if image is None:
            image, here = await self._images.resolve(spec.image), inputs
        else:
            here = (image, *inputs)
        for artifact in here:
            if await self._ports.blobs.size(artifact.hash) != artifact.size_bytes:
                raise SpecError(f"{artifact.path}: its bytes are not here", hint="upload it first")
        job = self._requester.draft(spec, image, inputs, secrets)
        await self._keeper.heed(Submitted(job))
        return job.id.hex()

    def explain(self, raw: object) -> list[str]:
        """What the market has for a job file, and what would let more offers fit."""
        return list(self._requester.explain(self.spec(raw)))

    def job(self, name: str) -> Job:
        """The job whose id (or name, if it is the only such one) begins so. NotFoundError."""
        found = [job for job in self._keeper.jobs.values() if job.id.hex().startswith(name)]
        if not found:
            found = [job for job in self._keeper.jobs.values() if job.manifest.name == name]
            found = sorted(found, key=lambda job: job.created_at_ms)[-1:]
        if len(found) != 1 or not name:
            raise NotFoundError(f"no job is called {name!r}", hint="list them with: souk ps -a")
        return found[0]

    async def cancel(self, name: str) -> str:
        """End a job; returns its id. Money not earned by then is refunded."""
        job = self.job(name)
        await self._keeper.heed(JobHappened(job.id, CancelAsked()))
        return job.id.hex()

    def all(self) -> list[dict[str, Any]]:
        """Every job, newest first."""
        ordered = sorted(self._keeper.jobs.values(), key=lambda job: -job.created_at_ms)
        return [self._row(job) for job in ordered]

    async def show(self, name: str) -> dict[str, Any]:
        """One job with its history, agreements, money and results."""
        job = self.job(name)
        agreements = [
            agreement_row(self._keeper.agreements[key], self._money)
            for key in job.attempts
            if key in self._keeper.agreements
        ]
        story = await self._ports.journal.story(job.id, 200)
        return {
            **self._row(job),
            "command": job.manifest.command,
            "history": [
                {"at": change.at_ms / 1000, "state": change.state.value, "reason": change.reason}
                for change in job.history
            ],
            "agreements": agreements,
            "checkpoint": artifact_row(job.checkpoint) if job.checkpoint else None,
            "results": [artifact_row(result) for result in job.results],
            "story": [{"at": line.at, "kind": line.kind, "text": line.text} for line in story],
        }

    def results(self, name: str) -> tuple[Artifact, ...]:
        """What a finished job left. NotFoundError."""
        return self.job(name).results

    async def log(self, name: str, offset: int) -> tuple[bytes, int, bool]:
        """Output from `offset`: the bytes, where to go on, and whether no more will come."""
        job = self.job(name)
        data = await self._ports.logs.read(job.id, offset, LOG_PART_BYTES)
        return data, offset + len(data), job.over and not data

    def _row(self, job: Job) -> dict[str, Any]:
        attempts = [self._keeper.agreements.get(key) for key in job.attempts]
        mine = [attempt for attempt in attempts if attempt is not None]
        current = self._keeper.agreements.get(job.agreement) or (mine[-1] if mine else None)
        return {
            "id": job.id.hex(),
            "name": job.manifest.name,
            "state": job.state.value,
            "reason": job.reason,
            "created": job.created_at_ms / 1000,
            "finished": job.finished_at_ms / 1000 or None,
            "over": job.over,
            "exit_code": job.exit_code if job.over else None,
            "provider": current.peer.hex() if current else None,
            "attempts": len(job.attempts),
            "metered_s": sum(a.metered_s for a in mine),
            "promised": self._money(sum(a.promised for a in mine)),
            "paid": self._money(sum(a.paid for a in mine)),
            "refunded": self._money(sum(a.refunded for a in mine)),
            "compensated": self._money(sum(a.to_victim for a in mine)),
            "settled": all(a.ended for a in mine),
            "ports": list(job.manifest.ports),
            "log_bytes": current.log_have if current else 0,
        }

    def _money(self, amount: int) -> str:
        return format_money(amount, self._ports.chain.info.decimals)
