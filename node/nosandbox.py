"""No sandbox: for a node that only requests. Runs nothing, and says so if it is asked to."""

from __future__ import annotations

from market.errors import SandboxError
from market.terms import Artifact
from node.ports import Observed, RunState, Workspace


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

    async def scrub(self, work_id: str) -> None:
        """Nothing is here."""

    async def works(self) -> tuple[str, ...]:
        """None."""
        return ()
