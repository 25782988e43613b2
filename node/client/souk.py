"""Souk: a running node from Python, for scripts. Plain calls that wait; `aio` is its async twin.

    with node.connect_sync() as souk:
        job = souk.run("train.yaml", envs={"EPOCHS": 3})
        for line in job.logs():
            print(line)
        print(job.wait()["state"], job.get("results/"))

Every answer is the API's own JSON: money as decimal text of whole tokens, times in Unix seconds.
All methods raise `market.errors.MarketError` children, whose `hint` says what to do.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final
from urllib.parse import quote

from market.errors import MarketError, SpecError
from node.cli.settings import Settings, load
from node.client.download import fetch_results
from node.client.http import Node
from node.client.jobfile import LocalBlob
from node.client.query import ordered, parse_order, parse_query, select
from node.client.submission import ask, job_file, prepare, send, submit

POLL_S: Final = 0.3  # a request costs the node two milliseconds
LINE_BYTES_MAX: Final = 64 * 1024  # a longer line is given in parts


class Souk:
    """One node, asked over its unix socket. Safe to share between threads: it keeps no state."""

    def __init__(self, settings: Settings) -> None:
        """Opens nothing yet; `connect_sync` makes one."""
        self.settings = settings
        self.node = Node(settings.socket_path)

    def __enter__(self) -> Souk:
        """Ask for the status, so that a node that is not there is noticed now."""
        self.status()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Nothing is held open."""

    def run(
        self,
        spec: str | Path | Mapping[str, Any],
        *,
        envs: Mapping[str, object] | None = None,
        secrets: Mapping[str, str] | None = None,
        name: str | None = None,
        key: str = "",
    ) -> Job:
        """Submit a job file, or a mapping with the same keys; returns at once.

        One `key`, one job, however often it is run. `envs` and `name` go over the file's. `secrets`
        are values by name. Nothing asks: the cap on what it may cost is the file's own
        max_hourly_cost and max_duration. Raises SpecError.
        """
        file = job_file(spec)
        if name is not None:
            file.raw["name"] = name
        if envs:
            known = file.raw.get("envs") or {}
            if not isinstance(known, Mapping):
                raise SpecError("envs: must be a mapping", hint="write it like envs: {EPOCHS: 3}")
            file.raw["envs"] = {**known, **{key: str(value) for key, value in envs.items()}}
        prepared = prepare(self.node, file, self.settings, secrets or {})
        send(self.node, prepared, _quietly)
        return Job(self, submit(self.node, prepared, secrets or {}, key))

    def validate(self, spec: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """What a job file asks for and what it may cost at most. Raises SpecError."""
        plan: dict[str, Any] = ask(self.node, "/api/validate", job_file(spec))
        return plan

    def explain(self, spec: str | Path | Mapping[str, Any]) -> dict[str, Any]:
        """What the market has for a job file, and what would let more offers fit."""
        told: dict[str, Any] = ask(self.node, "/api/explain", job_file(spec))
        return told

    def offers(self, query: str = "", order: str = "dph") -> list[dict[str, Any]]:
        """Live offers by Vast's grammar: `offers("num_gpus>=4 gpu_name in [H100,A100]")`.

        Sizes are GiB per unit, `dph` is tokens per unit-hour as text. Raises QueryError.
        """
        rows = self.node.get("/api/offers")
        return ordered(select(rows, parse_query(query)), parse_order(order))

    def jobs(self) -> list[Job]:
        """Every job of this node, newest first."""
        return [Job(self, row["id"]) for row in self.node.get("/api/jobs")]

    def job(self, name: str) -> Job:
        """A job by its id, the beginning of its id, or its name. Raises NotFoundError."""
        return Job(self, self.node.get(f"/api/jobs/{quote(name, safe='')}")["id"])

    def status(self) -> dict[str, Any]:
        """One screen about the node."""
        found: dict[str, Any] = self.node.get("/api/status")
        return found

    def peers(self) -> list[dict[str, Any]]:
        """Who is connected."""
        found: list[dict[str, Any]] = self.node.get("/api/peers")
        return found

    def wallet(self) -> dict[str, Any]:
        """What the escrow holds for the node's wallet."""
        found: dict[str, Any] = self.node.get("/api/wallet")
        return found


class Job:
    """One job of a node. Only its id is kept here: every look asks the node."""

    def __init__(self, souk: Souk, id_: str) -> None:
        """`id_` is whole."""
        self._souk = souk
        self.id = id_

    def __repr__(self) -> str:
        """Short, for notebooks."""
        return f"<Job {self.id[:12]}>"

    @property
    def path(self) -> str:
        """Its address in the API."""
        return f"/api/jobs/{self.id}"

    def show(self) -> dict[str, Any]:
        """State, history, agreements, money and results, as they are now."""
        found: dict[str, Any] = self._souk.node.get(self.path)
        return found

    @property
    def state(self) -> str:
        """PENDING, MATCHING, STARTING, RUNNING, RECOVERING, or how it ended."""
        return str(self.show()["state"])

    def log_part(self, offset: int) -> tuple[bytes, int, bool]:
        """Output from `offset`, where to go on, and whether that is all there will be."""
        return self._souk.node.log(self.id, offset)

    def logs(self, *, follow: bool = True) -> Iterator[str]:
        """Its output, line by line; with `follow` until the job is over."""
        lines = Lines()
        offset, end = 0, False
        while not end:
            data, offset, end = self.log_part(offset)
            yield from lines.take(data)
            if not data and not end:
                if not follow:
                    break
                time.sleep(POLL_S)
        yield from lines.rest()

    def wait(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait until it is over; returns what `show` says then. Raises TimeoutError."""
        ends_at = None if timeout_s is None else time.monotonic() + timeout_s
        while not (found := self.show())["over"]:
            if ends_at is not None and time.monotonic() >= ends_at:
                raise TimeoutError(f"job {self.id[:12]} is {found['state']} after {timeout_s} s")
            time.sleep(POLL_S)
        return found

    def get(self, directory: str | Path | None = None) -> list[Path]:
        """Fetch its results below `directory` (a new one by default), checked by their hashes."""
        return fetch_results(self._souk.node, self.show(), directory)

    def cancel(self) -> None:
        """End it; money not earned by then is refunded."""
        self._souk.node.post(f"{self.path}/cancel", {})


class Lines:
    """Bytes as they come, cut into lines of text."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self._left = b""

    def take(self, data: bytes) -> Iterator[str]:
        """The lines that `data` completes."""
        *whole, self._left = (self._left + data).split(b"\n")
        if len(self._left) > LINE_BYTES_MAX:
            whole, self._left = [*whole, self._left], b""
        for line in whole:
            yield line.decode(errors="replace")

    def rest(self) -> Iterator[str]:
        """A last line without an end."""
        if self._left:
            yield self._left.decode(errors="replace")


def connect_sync(config: str | Path | None = None, *, data_dir: str | Path | None = None) -> Souk:
    """The node of this machine: the one that `souk status` with the same flags would ask.

    Use it as a context manager, which checks that the node is there. Raises SettingsError.
    """
    chosen = {"data_dir": None if data_dir is None else str(data_dir)}
    return Souk(load(None if config is None else Path(config), chosen))


def _quietly(_blob: LocalBlob, _have: int) -> None:
    """A script's progress is its own business."""


__all__ = ["Job", "MarketError", "Souk", "connect_sync"]
