"""No sandbox: for a node that only requests. Runs nothing, and says so if it is asked to."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from market.errors import SandboxError
from market.terms import Artifact
from node.ports import (
    Check,
    Execution,
    Interface,
    Listener,
    Observed,
    Pipe,
    RunState,
    Terminal,
    Workspace,
)


class NoSandbox:
    """Implements the port `Sandbox` by refusing."""

    async def prepare(self, workspace: Workspace) -> None:
        """Never."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    async def start(self, work_id: str) -> None:
        """Never."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    async def observe(self, work_id: str) -> Observed:
        """Nothing is here."""
        return Observed(RunState.ABSENT)

    async def read_log(self, work_id: str, offset: int, limit: int) -> bytes:
        """Nothing was said."""
        return b""

    async def checkpoint(self, work_id: str) -> Artifact | None:
        """There is none."""
        return None

    async def collect(self, work_id: str) -> tuple[Artifact, ...]:
        """There is nothing."""
        return ()

    async def stop(self, work_id: str, grace_s: float) -> None:
        """Nothing runs."""

    async def pause(self, work_id: str) -> None:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    async def resume(self, work_id: str) -> None:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    def connect(self, work_id: str, port: int) -> AbstractAsyncContextManager[Pipe]:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    def listen(self, work_id: str, port: int) -> AbstractAsyncContextManager[Listener]:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    def interface(self, work_id: str) -> AbstractAsyncContextManager[Interface]:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    def execute(
        self, work_id: str, argv: tuple[str, ...], terminal: Terminal | None = None
    ) -> AbstractAsyncContextManager[Execution]:
        """Nothing runs."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    async def extend(self, work_id: str, max_duration_s: int) -> None:
        """Never."""
        raise SandboxError("this node sells nothing", hint="add a [provider] table")

    async def scrub(self, work_id: str) -> None:
        """Nothing is here."""

    async def prune(self) -> int:
        """There is nothing."""
        return 0

    async def works(self) -> tuple[str, ...]:
        """None."""
        return ()

    async def preflight(self) -> tuple[Check, ...]:
        """There is nothing to check."""
        return ()
