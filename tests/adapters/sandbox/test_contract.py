"""Every container sandbox holds the port's contract."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from market.terms import Artifact
from node.ports import Blobs, Observed, Sandbox, Workspace
from tests.adapters import contract_sandbox
from tests.adapters.contract_sandbox import ALONE, CONTRACT, LITTER_FILES, Behaviour, Law
from tests.adapters.sandbox.harness import Driver, ended
from tests.adapters.sandbox.together import Question, together

pytestmark = pytest.mark.sandbox

ECHO = """
import socket, threading
def give_back(made):
    while data := made.recv(4096):
        made.sendall(data)
    made.close()
server = socket.create_server(("127.0.0.1", 8000))
print("hello", flush=True)
while True:
    threading.Thread(target=give_back, args=(server.accept()[0],)).start()
"""

GREET = """
import socket
made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
made.bind(("", 9000))
made.settimeout(0.2)
while True:
    made.sendto(b"hello", ("10.77.0.2", 9000))
    try:
        print(made.recv(99).decode(), flush=True)
    except TimeoutError:
        pass
"""

COMMANDS = {
    Behaviour.SUCCEED: "echo state > /ckpt/state; echo result > /out/result; echo hello",
    Behaviour.FAIL: "exit 3",
    Behaviour.RUN_ON: "echo state > /ckpt/state; echo hello; sleep 600",
    Behaviour.OVERRUN: "sleep 600",
    Behaviour.IDLE: "true",
    Behaviour.GREET: "python3 -c '" + GREET + "'",
    Behaviour.LITTER: (
        f"i=1000; while [ $i -lt {1000 + LITTER_FILES} ]; do echo $i > /out/$i; i=$((i+1)); done; "
        "ln -s /etc/passwd /out/a; ln -s / /out/b; ln -s 1000 /out/c; busybox mkfifo /out/d; "
        "mkdir /out/e; ln -s /proc /out/e/f"
    ),
    Behaviour.CLAIM: "busybox dd if=/dev/zero of=/out/big bs=1 count=1 seek=1099511627775",
    Behaviour.SERVE: "python3 -c '" + ECHO + "'",
}

PROGRAMS = {
    "echo": ("/bin/echo",),
    "warn": ("/bin/sh", "-c", 'echo "$@" >&2', "warn"),
    "cat": ("/bin/cat",),
    "exit": ("/bin/sh", "-c", 'exit "$1"', "exit"),
    "nothing": ("/bin/nothing-of-that-name",),
}

# Where it matters which ids a job has on the machine; what else a Docker does, docker shows.
WITH_OTHER_IDS = (
    contract_sandbox.outputs_are_blobs_of_their_content,
    contract_sandbox.a_checkpoint_is_resumed_elsewhere,
    contract_sandbox.a_program_is_executed_in_the_job,
    contract_sandbox.a_scrubbed_job_was_never_there,
)


@dataclass
class ContainerBench:
    """The driver as the contract sees it."""

    driver: Driver

    @property
    def sandbox(self) -> Sandbox:
        """The sandbox."""
        return self.driver.sandbox

    @property
    def blobs(self) -> Blobs:
        """Where its artifacts go."""
        return self.driver.blobs

    def again(self) -> Sandbox:
        """Another driver over the same state."""
        return self.driver.again()

    def workspace(self, behaviour: Behaviour, resume: Artifact | None = None) -> Workspace:
        """A job whose shell command behaves so."""
        made = self.driver.workspace(COMMANDS[behaviour], checkpoint_path="/ckpt", resume=resume)
        if behaviour is Behaviour.OVERRUN:
            return replace(made, manifest=replace(made.manifest, max_duration_s=1))
        return made

    def program(self, name: str, *words: str) -> tuple[str, ...]:
        """What the base image has."""
        return (*PROGRAMS[name], *words)

    async def wait_ended(self, work_id: str) -> Observed:
        """Until it has exited."""
        return await ended(self.sandbox, work_id)

    async def wait_said(self, work_id: str, text: bytes) -> None:
        """Until its output has the text."""
        await self.driver.wait_log(work_id, text.decode())


def asked(law: Law) -> tuple[str, Question]:
    """A law as a question to a driver."""
    return law.__name__, lambda driver: law(ContainerBench(driver))


async def test_contract(each_driver: Driver) -> None:
    for law in ALONE:
        await law(ContainerBench(each_driver))
        await each_driver.scrub()
    await together(each_driver, [asked(law) for law in CONTRACT if law not in ALONE])


@pytest.mark.parametrize("each_driver", ["remapped"], indirect=True)
async def test_a_docker_that_remaps_users(each_driver: Driver) -> None:
    for law in WITH_OTHER_IDS:
        if law in ALONE:
            await law(ContainerBench(each_driver))
            await each_driver.scrub()
    await together(each_driver, [asked(law) for law in WITH_OTHER_IDS if law not in ALONE])
