"""Jobs' desk: hand one in, look at it, end it, fetch what it left. No transport, no rendering.

Every answer is plain data, as `rows` says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from market.errors import NotFoundError, RefusedError, SpecError
from market.job import CancelAsked, ExtendAsked, Job, remaining_s
from market.limits import JOB_DURATION_MAX_S
from market.spec import Spec, parse
from market.terms import Artifact
from market.units import PPM, format_money
from market.voucher import deposit_for
from node.demands import Demands
from node.desk.rows import agreement_row, artifact_row
from node.images import Images
from node.keeper import JobHappened, Keeper, Submitted
from node.ports import Ports
from node.requester import log_name

LOG_PART_BYTES = 64 * 1024
KEY_BYTES_MAX = 64


class JobDesk:
    """Asks the requester and the keeper; has no state of its own."""

    def __init__(self, ports: Ports, keeper: Keeper, demands: Demands, images: Images) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._demands = demands
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
        key: str = "",
    ) -> str:
        """Take a job whose image and inputs are in the blob store already; returns its id.

        The same `key` (of the submitter's choice, at most 64 letters) gives the same job, however
        often and after whatever crash it is said. Without an `image` the job file's own is looked
        up in its registry and pinned by digest. Raises SpecError for a wrong job file, a missing
        secret, a missing blob, or a key that was used for another job.
        """
        if len(key.encode()) > KEY_BYTES_MAX:
            raise SpecError(f"the idempotency key has at most {KEY_BYTES_MAX} letters")
        spec = self.spec(raw)
        known = self._keeper.job_of_key(key)
        if known is not None:
            return self._same(known, spec, image)
        missing = [name for name in spec.secrets if name not in secrets]
        if missing:
            raise SpecError(f"secrets: {missing[0]} has no value",
                            hint=f"give it with --secret {missing[0]}")  # fmt: skip
        here = inputs if image is None else (image, *inputs)
        for artifact in here:
            if await self._ports.blobs.size(artifact.hash) != artifact.size_bytes:
                raise SpecError(f"{artifact.path}: its bytes are not here", hint="upload it first")
        image = image or await self._images.resolve(spec.image)
        job = self._demands.draft(spec, image, inputs, secrets, key)
        await self._keeper.heed(Submitted(job))
        return (self._keeper.job_of_key(key) or job).id.hex()

    def _same(self, known: Job, spec: Spec, image: Artifact | None) -> str:
        told = (known.manifest.name, known.manifest.command)
        other = image is not None and known.manifest.image.hash != image.hash
        if other or told != (spec.name, spec.run):
            raise SpecError("this idempotency key was used for another job",
                            hint="use a new key for a new job")  # fmt: skip
        return known.id.hex()

    async def extend(self, name: str, more_s: int) -> dict[str, Any]:
        """Let a job take `more_s` seconds longer; says what that may cost at most.

        Its present agreement is lengthened if its provider agrees; otherwise the job goes on
        elsewhere when that ends. Raises SpecError, and RefusedError for a job that is over.
        """
        job = self.job(name)
        if more_s <= 0 or job.bid.max_duration_s + more_s > JOB_DURATION_MAX_S:
            raise SpecError("a job takes at most 30 days in all", hint="extend by less, like 2h")
        if job.over or job.cancelling:
            raise RefusedError(f"{job.manifest.name} is {job.state.value}",
                               hint="submit it again")  # fmt: skip
        await self._keeper.heed(JobHappened(job.id, ExtendAsked(more_s)))
        job = self._keeper.jobs[job.id]
        units = max(choice.count for choice in job.requirements.accelerators) * job.nodes
        return {
            "id": job.id.hex(),
            "max_duration_s": job.bid.max_duration_s,
            "used_s": job.used_s,
            "at_most": self._money(deposit_for(job.bid.max_price_per_hour, units, more_s)),
        }

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
            {
                **agreement_row(self._keeper.agreements[key], self._money),
                "story": await self._story(key),
            }
            for key in job.agreements
            if key in self._keeper.agreements
        ]
        return {
            **self._row(job),
            "command": job.manifest.command,
            "explanation": list(job.explanation),
            "image": artifact_row(job.manifest.image),
            "inputs": [artifact_row(one) for one in job.manifest.inputs],
            "outputs": list(job.manifest.outputs),
            "accelerators": [
                {"name": one.name, "count": one.count} for one in job.requirements.accelerators
            ],
            "checkpoint_path": job.manifest.checkpoint_path,
            "checkpoint_interval_s": job.manifest.checkpoint_interval_s,
            "history": [
                {"at": change.at_ms / 1000, "state": change.state.value, "reason": change.reason}
                for change in job.history
            ],
            "agreements": agreements,
            "checkpoint": artifact_row(job.checkpoint) if job.checkpoint else None,
            "results": [artifact_row(result) for result in job.results],
            "story": await self._story(job.id),
        }

    async def _story(self, subject: bytes) -> list[dict[str, Any]]:
        lines = await self._ports.journal.story(subject, 200)
        return [{"at": line.at, "kind": line.kind, "text": line.text} for line in lines]

    async def images(self) -> list[dict[str, Any]]:
        """The images of this node's jobs whose bytes are still here, the last used first."""
        found: dict[bytes, dict[str, Any]] = {}
        for job in sorted(self._keeper.jobs.values(), key=lambda job: -job.created_at_ms):
            image = job.manifest.image
            if image.hash not in found and await self._ports.blobs.size(image.hash) is not None:
                name = image.path or image.hash.hex()[:12]
                found[image.hash] = {"name": name, "built": False, **artifact_row(image)}
        return list(found.values())

    def results(self, name: str) -> tuple[Artifact, ...]:
        """What a finished job left. NotFoundError."""
        return self.job(name).results

    async def log(self, name: str, offset: int, rank: int = 0) -> tuple[bytes, int, bool]:
        """Output from `offset`: the bytes, where to go on, and whether no more will come.

        `rank` is the node of a gang. Raises NotFoundError for one that the job has not.
        """
        job = self.job(name)
        if not 0 <= rank < job.nodes:
            raise NotFoundError(f"{job.manifest.name} has no rank {rank}",
                                hint=f"its ranks are 0 to {job.nodes - 1}")  # fmt: skip
        data = await self._ports.logs.read(log_name(job.id, rank), offset, LOG_PART_BYTES)
        return data, offset + len(data), job.over and not data

    def _row(self, job: Job) -> dict[str, Any]:
        attempts = [self._keeper.agreements.get(key) for key in job.agreements]
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
            "nodes": job.nodes,
            "moves": job.moves,
            "moving": job.move.value if job.move else None,
            "preemptible": job.bid.preemptible,
            "deadline": job.bid.deadline_at_s or None,
            "progress": job.meter.done_ppm / PPM if job.meter.done_ppm else None,
            "max_attempts": job.bid.max_attempts,
            "max_price_per_hour": self._money(job.bid.max_price_per_hour),
            "max_duration_s": job.bid.max_duration_s,
            "remaining_s": remaining_s(job),
            "deposit": self._money(sum(a.extended.money.deposit for a in mine if not a.ended)),
            "price_per_hour": self._money(current.terms.money.price_per_hour) if current else None,
            "units": current.terms.unit_count if current else None,
            "last_heard": current.heard_at_ms / 1000 or None if current else None,
            "ends": current.opened_at_s + current.extended.timing.duration_s
            if current and current.opened_at_s and not current.ended
            else None,
            "interval_s": current.interval_s if current else None,
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
