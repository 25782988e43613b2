"""The contract of the port Sandbox, for the real one and for the simulated one alike.

A `Bench` makes jobs of a few kinds, which a simulated sandbox can play without running anything,
and knows how to wait. Each law gets a fresh bench; `Bench.again` is the sandbox as found after a
restart of the node.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Protocol

import pytest

from market.errors import SandboxError
from market.terms import Artifact
from node.ports import Blobs, Observed, RunState, Sandbox, Workspace


class Behaviour(Enum):
    """What a job does; all but FAIL and IDLE keep a checkpoint directory."""

    SUCCEED = "says hello, leaves the output result and a checkpoint, ends with 0"
    FAIL = "ends with 3"
    RUN_ON = "says hello, leaves a checkpoint, runs until it is stopped"
    OVERRUN = "runs past its time"
    IDLE = "ends with 0 and leaves nothing"


class Bench(Protocol):
    """One sandbox under test."""

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox."""

    @property
    def blobs(self) -> Blobs:
        """Where its artifacts go."""

    def again(self) -> Sandbox:
        """The same sandbox after a restart of the node."""

    def workspace(self, behaviour: Behaviour, resume: Artifact | None = None) -> Workspace:
        """A job of its own that behaves so."""

    async def wait_ended(self, work_id: str) -> Observed:
        """Until it has exited."""

    async def wait_said(self, work_id: str, text: bytes) -> None:
        """Until its output has `text`."""


Law = Callable[[Bench], Awaitable[None]]


async def _run(bench: Bench, behaviour: Behaviour) -> str:
    workspace = bench.workspace(behaviour)
    await bench.sandbox.prepare(workspace)
    await bench.sandbox.start(workspace.work_id)
    return workspace.work_id


async def an_unknown_job_is_absent(bench: Bench) -> None:
    assert await bench.sandbox.observe("nobody") == Observed(RunState.ABSENT)
    assert await bench.sandbox.read_log("nobody", 0, 100) == b""
    await bench.sandbox.stop("nobody", 0.0)
    await bench.sandbox.scrub("nobody")
    assert await bench.sandbox.works() == ()
    for call in (bench.sandbox.start, bench.sandbox.checkpoint, bench.sandbox.collect):
        with pytest.raises(SandboxError):
            await call("nobody")


async def a_job_goes_from_prepared_to_exited(bench: Bench) -> None:
    workspace = bench.workspace(Behaviour.SUCCEED)
    work_id = workspace.work_id
    await bench.sandbox.prepare(workspace)
    await bench.sandbox.prepare(workspace)
    assert (await bench.sandbox.observe(work_id)).state is RunState.PREPARED
    assert await bench.sandbox.works() == (work_id,)
    await bench.sandbox.start(work_id)
    await bench.sandbox.start(work_id)
    observed = await bench.wait_ended(work_id)
    assert (observed.exit_code, observed.signal, observed.timed_out) == (0, 0, False)
    assert not observed.out_of_memory
    assert observed.metered_s >= 0
    await bench.sandbox.start(work_id)
    await bench.sandbox.prepare(workspace)
    assert await bench.sandbox.observe(work_id) == observed


async def the_log_is_read_by_offset(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.SUCCEED)
    observed = await bench.wait_ended(work_id)
    whole = await bench.sandbox.read_log(work_id, 0, 65536)
    assert b"hello" in whole
    assert observed.log_bytes == len(whole)
    at = whole.index(b"hello")
    assert await bench.sandbox.read_log(work_id, at + 1, 3) == b"ell"
    assert await bench.sandbox.read_log(work_id, len(whole), 100) == b""
    assert await bench.sandbox.read_log(work_id, len(whole) + 100, 100) == b""


async def outputs_are_blobs_of_their_content(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.SUCCEED)
    await bench.wait_ended(work_id)
    (artifact,) = await bench.sandbox.collect(work_id)
    assert artifact.path == "/out/result"
    assert await bench.blobs.size(artifact.hash) == artifact.size_bytes
    assert await bench.sandbox.collect(work_id) == (artifact,)


async def a_failed_job_says_its_code(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.FAIL)
    observed = await bench.wait_ended(work_id)
    assert (observed.exit_code, observed.signal) == (3, 0)
    assert await bench.sandbox.collect(work_id) == ()


async def nothing_saved_is_no_checkpoint(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.IDLE)
    await bench.wait_ended(work_id)
    assert await bench.sandbox.checkpoint(work_id) is None


async def a_running_job_is_checkpointed_the_same_twice(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    artifact = await bench.sandbox.checkpoint(work_id)
    assert artifact is not None
    assert await bench.blobs.size(artifact.hash) == artifact.size_bytes
    assert await bench.sandbox.checkpoint(work_id) == artifact
    assert (await bench.sandbox.observe(work_id)).state is RunState.RUNNING


async def a_checkpoint_is_resumed_elsewhere(bench: Bench) -> None:
    first = await _run(bench, Behaviour.SUCCEED)
    await bench.wait_ended(first)
    artifact = await bench.sandbox.checkpoint(first)
    assert artifact is not None
    second = bench.workspace(Behaviour.IDLE, resume=artifact)
    await bench.sandbox.prepare(second)
    again = await bench.sandbox.checkpoint(second.work_id)
    assert again is not None
    assert again.hash == artifact.hash


async def a_stopped_job_has_ended(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    await bench.sandbox.stop(work_id, 0.5)
    observed = await bench.sandbox.observe(work_id)
    assert observed.state is RunState.EXITED
    assert observed.exit_code != 0
    assert not observed.timed_out
    await bench.sandbox.stop(work_id, 0.5)
    assert await bench.sandbox.observe(work_id) == observed


async def a_job_past_its_time_says_so(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.OVERRUN)
    assert (await bench.wait_ended(work_id)).timed_out


async def a_job_outlives_a_restart_of_the_node(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    before = await bench.sandbox.observe(work_id)
    again = bench.again()
    assert await again.works() == (work_id,)
    after = await again.observe(work_id)
    assert after.state is RunState.RUNNING
    assert after.metered_s >= before.metered_s
    await again.stop(work_id, 0.0)
    assert (await again.observe(work_id)).state is RunState.EXITED


async def a_scrubbed_job_was_never_there(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.sandbox.scrub(work_id)
    await bench.sandbox.scrub(work_id)
    assert await bench.sandbox.observe(work_id) == Observed(RunState.ABSENT)
    assert await bench.sandbox.works() == ()


CONTRACT: tuple[Law, ...] = (
    an_unknown_job_is_absent,
    a_job_goes_from_prepared_to_exited,
    the_log_is_read_by_offset,
    outputs_are_blobs_of_their_content,
    a_failed_job_says_its_code,
    nothing_saved_is_no_checkpoint,
    a_running_job_is_checkpointed_the_same_twice,
    a_checkpoint_is_resumed_elsewhere,
    a_stopped_job_has_ended,
    a_job_past_its_time_says_so,
    a_job_outlives_a_restart_of_the_node,
    a_scrubbed_job_was_never_there,
)
