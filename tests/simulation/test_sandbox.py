"""The simulated sandbox holds the port's contract, in no time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import trio
from trio.testing import MockClock

from market.terms import Artifact, Manifest, Workload
from node.ports import Blobs, Observed, RunState, Sandbox, Workspace
from tests.adapters.contract_sandbox import CONTRACT, LITTER_FILES, Behaviour, Law
from tests.simulation.devices import SimClock
from tests.simulation.memory import MemoryBlobs
from tests.simulation.sandbox import SimSandbox

COMMANDS = {
    Behaviour.SUCCEED: "work 2 say hello",
    Behaviour.FAIL: "work 1 exit 3 bare",
    Behaviour.RUN_ON: "work 1000 say hello",
    Behaviour.OVERRUN: "work 1000",
    Behaviour.IDLE: "work 1 bare",
    Behaviour.LITTER: f"work 1 litter {LITTER_FILES}",
    Behaviour.CLAIM: "work 1 claim",
    Behaviour.SERVE: "work 1000 say hello serve 8000",
    Behaviour.GREET: "work 1000 greet",
}


@dataclass
class SimBench:
    """A simulated sandbox and its jobs."""

    image: Artifact
    blobs: Blobs
    sandbox: Sandbox
    numbers: count[int] = field(default_factory=count)

    def again(self) -> Sandbox:
        """It outlives its node."""
        return self.sandbox

    def workspace(self, behaviour: Behaviour, resume: Artifact | None = None) -> Workspace:
        """A job whose command behaves so."""
        manifest = Manifest(
            job_id=bytes(16),
            name="job",
            workload=Workload.BATCH,
            image=self.image,
            command=COMMANDS[behaviour],
            envs=(),
            inputs=(),
            outputs=("/out",),
            checkpoint_path="/ckpt",
            checkpoint_interval_s=0,
            resume=resume,
            cpus=1,
            memory_mib=128,
            disk_mib=16,
            max_duration_s=60,
            grace_s=2,
            ports=(),
        )
        if behaviour is Behaviour.OVERRUN:
            manifest = replace(manifest, max_duration_s=1)
        return Workspace(f"job-{next(self.numbers)}", manifest, (0,))

    def program(self, name: str, *words: str) -> tuple[str, ...]:
        """It knows them by name."""
        return (name, *words)

    async def wait_ended(self, work_id: str) -> Observed:
        """Until it has exited."""
        while (seen := await self.sandbox.observe(work_id)).state is not RunState.EXITED:
            await trio.sleep(0.5)
        return seen

    async def wait_said(self, work_id: str, text: bytes) -> None:
        """Until its output has the text."""
        while text not in await self.sandbox.read_log(work_id, 0, 65536):
            await trio.sleep(0.5)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.mark.parametrize("law", CONTRACT, ids=lambda law: law.__name__)
async def test_contract(autojump_clock: MockClock, law: Law) -> None:
    blobs = MemoryBlobs()
    image = Artifact("base", await blobs.put(b"image"), 5)
    await law(SimBench(image, blobs, SimSandbox(SimClock().now, blobs)))
