"""The contract of the port Sandbox, for the real one and for the simulated one alike.

A `Bench` makes jobs of a few kinds, which a simulated sandbox can play without running anything,
and knows how to wait. Each law gets a fresh bench; `Bench.again` is the sandbox as found after a
restart of the node.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from enum import Enum
from typing import Protocol

import pytest
import trio

from market.errors import SandboxError
from market.limits import FILES_MAX
from market.overlay import address, destination
from market.terms import Artifact
from node.ports import Blobs, Execution, Observed, RunState, Sandbox, Stream, Terminal, Workspace
from tests.packets import data_of, udp

LITTER_FILES = FILES_MAX + 4  # more than a heartbeat can name


class Behaviour(Enum):
    """What a job does; SUCCEED and RUN_ON leave a checkpoint."""

    SUCCEED = "says hello, leaves the output result and a checkpoint, ends with 0"
    FAIL = "ends with 3"
    RUN_ON = "says hello, leaves a checkpoint, runs until it is stopped"
    OVERRUN = "runs past its time"
    IDLE = "ends with 0 and leaves nothing"
    GREET = "sends a datagram, hello, from and to port 9000 of rank 1, and says what it is answered"
    LITTER = "leaves the outputs 1000, 1001 and so on, LITTER_FILES in all, and links and a FIFO"
    CLAIM = "leaves an output that says it has a terabyte"
    SERVE = "says hello, listens on port 8000, gives back what it is sent, until it is stopped"


PROGRAMS = {
    "echo": "says its words",
    "warn": "says its words on the error output",
    "cat": "says what it reads",
    "exit": "ends with the code that it is given",
    "nothing": "is not there",
}
"""What can be executed in a job, by `Bench.program`."""


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

    def program(self, name: str, *words: str) -> tuple[str, ...]:
        """The argument vector of one of PROGRAMS."""

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


async def many_outputs_are_one_tar_of_plain_files(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.LITTER)
    assert (await bench.wait_ended(work_id)).exit_code == 0
    with trio.fail_after(60):
        (artifact,) = await bench.sandbox.collect(work_id)
    assert artifact.path == "/out/"
    data = await bench.blobs.read(artifact.hash, 0, artifact.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        found = {entry.name: entry.isreg() for entry in tar}
    assert found == {str(1000 + n): True for n in range(LITTER_FILES)}


async def an_output_that_claims_too_much_is_refused(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.CLAIM)
    assert (await bench.wait_ended(work_id)).exit_code == 0
    with trio.fail_after(60), pytest.raises(SandboxError, match="claim"):
        await bench.sandbox.collect(work_id)


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
    assert work_id in await again.works()
    after = await again.observe(work_id)
    assert after.state is RunState.RUNNING
    assert after.metered_s >= before.metered_s
    await again.stop(work_id, 0.0)
    assert (await again.observe(work_id)).state is RunState.EXITED


async def a_paused_job_stands_still_and_is_not_metered(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    await bench.sandbox.pause(work_id)
    await bench.sandbox.pause(work_id)
    paused = await bench.sandbox.observe(work_id)
    assert (paused.state, paused.paused) == (RunState.RUNNING, True)
    await trio.sleep(0.3)
    again = await bench.again().observe(work_id)
    assert (again.paused, again.metered_s) == (True, paused.metered_s)
    assert await bench.sandbox.checkpoint(work_id) is not None
    assert (await bench.sandbox.observe(work_id)).paused, "a checkpoint does not wake it"
    with pytest.raises(SandboxError, match="paused"):
        async with bench.sandbox.execute(work_id, bench.program("echo")):
            pass
    await bench.sandbox.resume(work_id)
    await bench.sandbox.resume(work_id)
    resumed = await bench.sandbox.observe(work_id)
    assert not resumed.paused
    await trio.sleep(0.2)
    after = await bench.sandbox.observe(work_id)
    assert after.metered_s - paused.metered_s > 0.1
    await bench.sandbox.pause(work_id)
    await bench.sandbox.stop(work_id, 0.2)
    assert (await bench.sandbox.observe(work_id)).state is RunState.EXITED


async def only_what_runs_is_paused_reached_or_entered(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.FAIL)
    await bench.wait_ended(work_id)
    for name in (work_id, "nobody"):
        for call in (bench.sandbox.pause, bench.sandbox.resume):
            with pytest.raises(SandboxError):
                await call(name)
        with pytest.raises(SandboxError):
            async with bench.sandbox.connect(name, 8000):
                pass
        with pytest.raises(SandboxError):
            async with bench.sandbox.execute(name, bench.program("echo")):
                pass


async def a_port_of_the_job_is_reached_and_no_other(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.SERVE)
    await bench.wait_said(work_id, b"hello")
    with pytest.raises(SandboxError, match="8001"):
        async with bench.sandbox.connect(work_id, 8001):
            pass
    async with (
        bench.sandbox.connect(work_id, 8000) as first,
        bench.sandbox.connect(work_id, 8000) as second,
    ):
        await first.send(b"one")
        await second.send(b"two")
        await second.close_write()
        assert await first.receive(2) + await first.receive(1) == b"one"
        said = b""
        while part := await second.receive(100):
            said += part
        assert said == b"two"


async def a_node_of_a_gang_has_an_interface_and_nobody_else(bench: Bench) -> None:
    alone = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(alone, b"hello")
    for name in (alone, "nobody"):
        with pytest.raises(SandboxError):
            async with bench.sandbox.interface(name):
                pass
    await bench.sandbox.stop(alone, 0.0)
    workspace = replace(bench.workspace(Behaviour.GREET), address=address(0))
    await bench.sandbox.prepare(workspace)
    await bench.sandbox.start(workspace.work_id)
    with trio.fail_after(30):
        for sandbox, answer in ((bench.sandbox, b"one"), (bench.again(), b"two")):
            async with sandbox.interface(workspace.work_id) as interface:
                greeting = await interface.receive()
                assert destination(greeting, 0, 2) == 1
                assert data_of(greeting) == b"hello"
                with pytest.raises(SandboxError):
                    async with bench.sandbox.interface(workspace.work_id):
                        pass
                interface.send(udp(address(1), address(0), answer))
                await bench.wait_said(workspace.work_id, answer)
    for _ in range(2):
        with pytest.raises(SandboxError):
            interface.send(udp(address(1), address(0), b"too late"))
    with pytest.raises(SandboxError):
        await interface.receive()


async def _heard(execution: Execution) -> dict[Stream, bytes]:
    said = {Stream.OUT: b"", Stream.ERR: b""}
    while (part := await execution.receive()) is not None:
        said[part[0]] += part[1]
    return said


async def a_program_is_executed_in_the_job(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    execute, program = bench.sandbox.execute, bench.program
    async with execute(work_id, program("echo", "to", "out")) as running:
        assert await _heard(running) == {Stream.OUT: b"to out\n", Stream.ERR: b""}
        assert await running.wait() == 0
    async with execute(work_id, program("warn", "to", "err")) as running:
        assert await _heard(running) == {Stream.OUT: b"", Stream.ERR: b"to err\n"}
    async with execute(work_id, program("cat")) as running:
        await running.send(b"one\n")
        assert await running.receive() == (Stream.OUT, b"one\n")
        await running.send(b"two\n")
        await running.close_write()
        assert await _heard(running) == {Stream.OUT: b"two\n", Stream.ERR: b""}
        assert await running.wait() == 0
    for words, code in ((("exit", "7"), 7), (("nothing",), 127)):
        async with execute(work_id, program(*words)) as running:
            await _heard(running)
            assert await running.wait() == code
    assert (await bench.sandbox.observe(work_id)).state is RunState.RUNNING


async def a_program_with_a_terminal_has_one_output(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    window = Terminal(100, 40)
    async with bench.sandbox.execute(work_id, bench.program("warn", "hey"), window) as running:
        await running.resize(Terminal(50, 20))
        said = await _heard(running)
        assert said[Stream.ERR] == b""
        assert b"hey" in said[Stream.OUT]
        assert await running.wait() == 0


async def leaving_an_execution_ends_it(bench: Bench) -> None:
    work_id = await _run(bench, Behaviour.RUN_ON)
    await bench.wait_said(work_id, b"hello")
    before = (await bench.sandbox.observe(work_id)).pids
    async with bench.sandbox.execute(work_id, bench.program("cat")) as running:
        await running.send(b"x\n")
        assert await running.receive() is not None
    with trio.fail_after(10):
        while (await bench.sandbox.observe(work_id)).pids > before:
            await trio.sleep(0.01)


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
    many_outputs_are_one_tar_of_plain_files,
    an_output_that_claims_too_much_is_refused,
    a_failed_job_says_its_code,
    nothing_saved_is_no_checkpoint,
    a_running_job_is_checkpointed_the_same_twice,
    a_checkpoint_is_resumed_elsewhere,
    a_stopped_job_has_ended,
    a_job_past_its_time_says_so,
    a_job_outlives_a_restart_of_the_node,
    a_paused_job_stands_still_and_is_not_metered,
    only_what_runs_is_paused_reached_or_entered,
    a_port_of_the_job_is_reached_and_no_other,
    a_node_of_a_gang_has_an_interface_and_nobody_else,
    a_program_is_executed_in_the_job,
    a_program_with_a_terminal_has_one_output,
    leaving_an_execution_ends_it,
    a_scrubbed_job_was_never_there,
)

ALONE: tuple[Law, ...] = (
    an_unknown_job_is_absent,
    a_job_goes_from_prepared_to_exited,
    a_job_outlives_a_restart_of_the_node,
    a_paused_job_stands_still_and_is_not_metered,
    a_node_of_a_gang_has_an_interface_and_nobody_else,
    a_scrubbed_job_was_never_there,
)
"""Those that look at everything the sandbox has, or start the node again, which tidies up.

The others may be asked side by side.
"""
