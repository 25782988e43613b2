"""Holdings: which blobs this node must not lose, and which peer may have which.

Derived anew from agreements, jobs and images each time it is asked; remembers nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from market.agreement import Agreement, Phase, Role
from market.job import Job
from market.limits import RESULTS_KEPT_S
from market.terms import Artifact
from node.images import Images
from node.keeper import Keeper
from node.ports import Clock


class Holdings:
    """Answers for the blob store and for peers who fetch."""

    def __init__(self, keeper: Keeper, clock: Clock) -> None:
        """`images` is set before anybody asks."""
        self._keeper = keeper
        self._clock = clock
        self.images: Images | None = None

    def may_fetch(self, peer: bytes, hash_: bytes) -> bool:
        """What is open to all; what we gave a provider to run; what a requester's job left here."""
        if self.images is not None and self.images.is_open(hash_):
            return True
        for agreement in self._keeper.agreements.values():
            if agreement.peer != peer or agreement.phase is Phase.QUOTED:
                continue
            if agreement.role is Role.REQUESTER:
                if hash_ in self._given(agreement):
                    return True
            elif any(artifact.hash == hash_ for artifact in _left(agreement)):
                return True
        return False

    def is_coming(self, peer: bytes, hash_: bytes) -> bool:
        """Whether it is part of an image that this node is fetching for a job that `peer` runs."""
        if self.images is None:
            return False
        return any(
            self.images.is_coming(agreement.manifest.image.hash, hash_)
            for agreement in self._keeper.agreements.values()
            if agreement.peer == peer and agreement.role is Role.REQUESTER
            and agreement.phase is not Phase.QUOTED and agreement.manifest is not None
        )  # fmt: skip

    def needed(self) -> frozenset[bytes]:
        """Whatever a live job, a live agreement or an unfetched result still needs."""
        kept: set[bytes] = set()
        for agreement in self._keeper.agreements.values():
            if not agreement.ended:
                kept.update(self._given(agreement))
                kept.update(artifact.hash for artifact in _left(agreement))
        recent_ms = (self._clock.now() - RESULTS_KEPT_S) * 1000
        for job in self._keeper.jobs.values():
            if not job.over:
                kept.update(self._of_job(job))
            elif job.finished_at_ms > recent_ms:
                kept.update(artifact.hash for artifact in job.results)
        return frozenset(kept)

    def _given(self, agreement: Agreement) -> Iterator[bytes]:
        manifest = agreement.manifest
        if manifest is None:
            return
        yield from self._parts(manifest.image)
        for artifact in _some((*manifest.inputs, manifest.resume)):
            yield artifact.hash

    def _of_job(self, job: Job) -> Iterator[bytes]:
        yield from self._parts(job.manifest.image)
        for artifact in _some((*job.manifest.inputs, job.checkpoint, *job.results)):
            yield artifact.hash

    def _parts(self, image: Artifact) -> tuple[bytes, ...]:
        return self.images.parts(image.hash) if self.images is not None else (image.hash,)


def _left(agreement: Agreement) -> Iterator[Artifact]:
    report = agreement.report
    yield from _some((report.checkpoint, agreement.checkpoint, *report.results))


def _some(artifacts: Iterable[Artifact | None]) -> Iterator[Artifact]:
    return (artifact for artifact in artifacts if artifact is not None)
