"""Aio: a running node from asynchronous Python, asyncio or trio: notebooks run the first.

    async with node.connect() as souk:
        job = await souk.run("train.yaml", envs={"EPOCHS": 3})
        async for line in job.logs():
            print(line)
        print((await job.wait())["state"], await job.get("results/"))

The twin of `souk`, call for call: each waits in a thread, so that a slow node blocks nobody.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import anyio
from anyio import to_thread

from node.client import souk as plain

POLL_S = plain.POLL_S


class Souk:
    """One node, asked over its unix socket."""

    def __init__(self, twin: plain.Souk) -> None:
        """Opens nothing yet; `connect` makes one."""
        self.plain = twin

    async def __aenter__(self) -> Souk:
        """Ask for the status, so that a node that is not there is noticed now."""
        await self.status()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    async def run(
        self,
        spec: str | Path | Mapping[str, Any],
        *,
        envs: Mapping[str, object] | None = None,
        secrets: Mapping[str, str] | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Job:
        """Submit a job file, or a mapping with the same keys; returns once it is taken."""
        call = partial(self.plain.run, spec, envs=envs, secrets=secrets, name=name, key=key)
        return Job(await to_thread.run_sync(call))

    async def validate(self, spec: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """What a job file asks for and what it may cost at most. Raises SpecError."""
        return await to_thread.run_sync(self.plain.validate, spec)

    async def explain(self, spec: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """What the market has for a job file, and what would let more offers fit."""
        return await to_thread.run_sync(self.plain.explain, spec)

    async def offers(self, query: str = "", order: str = "dph") -> list[dict[str, Any]]:
        """Live offers by Vast's grammar: `offers("num_gpus>=4 gpu_name in [H100,A100]")`."""
        return await to_thread.run_sync(self.plain.offers, query, order)

    async def jobs(self) -> list[Job]:
        """Every job of this node, newest first."""
        return [Job(job) for job in await to_thread.run_sync(self.plain.jobs)]

    async def job(self, name: str) -> Job:
        """A job by its id, the beginning of its id, or its name. Raises NotFoundError."""
        return Job(await to_thread.run_sync(self.plain.job, name))

    async def status(self) -> dict[str, Any]:
        """One screen about the node."""
        return await to_thread.run_sync(self.plain.status)

    async def peers(self) -> list[dict[str, Any]]:
        """Who is connected."""
        return await to_thread.run_sync(self.plain.peers)

    async def wallet(self) -> dict[str, Any]:
        """What the escrow holds for the node's wallet."""
        return await to_thread.run_sync(self.plain.wallet)


class Job:
    """One job of a node."""

    def __init__(self, twin: plain.Job) -> None:
        """Beside its twin."""
        self.plain = twin
        self.id = twin.id

    def __repr__(self) -> str:
        """Short, for notebooks."""
        return repr(self.plain)

    async def show(self) -> dict[str, Any]:
        """State, history, agreements, money and results, as they are now."""
        return await to_thread.run_sync(self.plain.show)

    async def logs(self, *, follow: bool = True) -> AsyncIterator[str]:
        """Its output, line by line; with `follow` until the job is over."""
        lines = plain.Lines()
        offset, end = 0, False
        while not end:
            data, offset, end = await to_thread.run_sync(self.plain.log_part, offset)
            for line in lines.take(data):
                yield line
            if not data and not end:
                if not follow:
                    break
                await anyio.sleep(POLL_S)
        for line in lines.rest():
            yield line

    async def wait(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until it is over; returns what `show` says then. Raises TimeoutError."""
        with anyio.fail_after(timeout_s):
            while not (found := await self.show())["over"]:
                await anyio.sleep(POLL_S)
        return found

    async def get(self, directory: str | Path | None = None) -> list[Path]:
        """Fetch its results below `directory` (a new one by default), checked by their hashes."""
        return await to_thread.run_sync(self.plain.get, directory)

    async def cancel(self) -> None:
        """End it; money not earned by then is refunded."""
        await to_thread.run_sync(self.plain.cancel)


def connect(config: str | Path | None = None, *, data_dir: str | Path | None = None) -> Souk:
    """The node of this machine: the one that `souk status` with the same flags would ask.

    Use it with `async with`, which checks that the node is there. Raises SettingsError.
    """
    return Souk(plain.connect_sync(config, data_dir=data_dir))
