"""A node without a market: the real API on a real unix socket over a desk that plays scenes.

Run as a program with the socket's path; it prints a line once it can be asked. A job's name says
how it goes: `bad` fails, `gone` is cancelled, `live` goes on for ever, anything else succeeds.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import trio

from market.errors import ChainError, IntegrityError, LimitError, NotFoundError, SpecError
from market.spec import Spec, parse
from market.terms import Artifact
from market.units import format_money
from node.adapters.system.clock import SystemClock
from node.control import Control
from node.desk.plans import said
from node.web.server import serve

RESULT = b"the model\n" * 1000
HOSTILE = b"hostile"
LOG = b"step 1\nstep 2\n"


class Blobs:
    """The port in memory."""

    def __init__(self) -> None:
        self.whole = {hashlib.sha256(data).digest(): data for data in (RESULT, HOSTILE)}
        self.parts: dict[bytes, bytes] = {}

    async def size(self, hash_: bytes) -> int | None:
        return len(self.whole[hash_]) if hash_ in self.whole else None

    async def partial(self, hash_: bytes) -> int:
        return len(self.parts.get(hash_, b""))

    async def read(self, hash_: bytes, offset: int, limit: int) -> bytes:
        return self.whole[hash_][offset : offset + limit]

    async def append(self, hash_: bytes, offset: int, data: bytes) -> None:
        if offset != await self.partial(hash_):
            raise LimitError("a gap")
        self.parts[hash_] = self.parts.get(hash_, b"") + data

    async def finish(self, hash_: bytes) -> int:
        data = self.parts.pop(hash_, b"")
        if hashlib.sha256(data).digest() != hash_:
            raise IntegrityError("the bytes do not have the hash they were sent under")
        self.whole[hash_] = data
        return len(data)

    async def discard(self, hash_: bytes) -> None:
        self.parts.pop(hash_, None)


@dataclass
class Play:
    """One job and how often it was looked at: it moves on with every look."""

    id: str
    name: str
    looks: int = 0
    states: tuple[str, ...] = ("PENDING", "RUNNING", "SUCCEEDED")
    results: list[dict[str, Any]] = field(default_factory=list)

    @property
    def state(self) -> str:
        return self.states[min(self.looks, len(self.states) - 1)]

    @property
    def over(self) -> bool:
        return self.state in ("SUCCEEDED", "FAILED", "CANCELLED")


def result(path: str, data: bytes) -> dict[str, Any]:
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}


class Desk:
    """The methods of `Control` that the API calls: every desk in one."""

    def __init__(self) -> None:
        self.jobs = self.market = self.money = self.network = self.plans = self.series = self
        self.plays: dict[str, Play] = {}
        self.version = 1
        self.news = trio.Event()
        info = SimpleNamespace(decimals=6, symbol="TEST", domain=SimpleNamespace(chain_id=31337))
        self.ports = SimpleNamespace(
            blobs=Blobs(),
            chain=SimpleNamespace(info=info),
            entropy=SimpleNamespace(token=lambda size: b"\x5a" * size),
            clock=SystemClock(),
        )
        self._add(Play("aa" * 16, "done", 9, results=[result("/out/model.bin", RESULT)]))
        self._add(Play("bb" * 16, "evil", 9, results=[result("/../../evil", HOSTILE)]))
        self._add(Play("cc" * 16, "live", states=("RUNNING",)))
        self._add(Play("dd" * 16, "bad", 9, states=("RUNNING", "FAILED")))
        self._add(Play("ee" * 16, "gone", 9, states=("RUNNING", "CANCELLED")))

    def _add(self, play: Play) -> None:
        self.plays[play.id] = play

    def _find(self, name: str) -> Play:
        for play in self.plays.values():
            if play.id.startswith(name) or play.name == name:
                return play
        raise NotFoundError(f"no job is called {name!r}", hint="list them with: souk ps -a")

    def spec(self, raw: object) -> Spec:
        return parse(raw, decimals=6)

    async def changed(self, seen: int = -1) -> int:
        while self.version <= seen:
            await self.news.wait()
        return self.version

    def marks(self) -> dict[str, int]:
        return {}

    async def submit(
        self,
        raw: object,
        image: Artifact,
        inputs: tuple[Artifact, ...],
        secrets: Mapping[str, str],
        key: str = "",
    ) -> str:
        spec = self.spec(raw)
        for artifact in (image, *inputs):
            if await self.ports.blobs.size(artifact.hash) != artifact.size_bytes:
                raise SpecError(f"{artifact.path}: its bytes are not here")
        endings = {"bad": "FAILED", "gone": "CANCELLED", "live": "RUNNING"}
        states = ("PENDING", "RUNNING", endings.get(spec.name, "SUCCEEDED"))
        told = key or (spec, sorted(secrets.items()))
        id_ = hashlib.sha256(repr(told).encode()).hexdigest()[:32]
        self._add(Play(id_, spec.name, states=states))
        self.version += 1
        self.news.set()
        self.news = trio.Event()
        return id_

    async def extend(self, name: str, more_s: int) -> dict[str, Any]:
        id_ = self._find(name).id
        return {"id": id_, "max_duration_s": 600 + more_s, "used_s": 5, "at_most": "0.2"}

    async def cancel(self, name: str) -> str:
        return self._find(name).id

    def explain(self, raw: object) -> dict[str, Any]:
        return {"lines": [f"{self.spec(raw).name}: no offer fits", "2 offers at +0.06/h"]}

    def checked(self, raw: object) -> dict[str, Any]:
        return said(self.spec(raw), "TEST", lambda amount: format_money(amount, 6))

    async def plan(
        self, raw: object, image: Artifact | None = None, inputs: tuple[Artifact, ...] = ()
    ) -> dict[str, Any]:
        best = {
            **offer("RTX 4090", 2, "0.4"), "units": 1, "chosen": True, "peer": "ab" * 32,
            "held": "0.5",
            "cost": {"price": "0.3", "waiting": "0.1", "risk": "0.05", "total": "0.45"},
            "seconds": {"queue": 0.0, "transfer": 2.5, "start_up": 1.5, "run": 90.0, "ready": 98.0},
        }  # fmt: skip
        return {
            **self.checked(raw), "ranking": [best], "held": "0.5", "refundable": "0.2",
            "waiting": "", "deadline": None, "explanation": self.explain(raw),
            "estimate": {
                "price": "0.3", "ready_s": 98.0, "run_s": 90.0, "is_guess": True,
            },
            "wallet": {"free": "0.4", "usable": "0.4", "enough": self.spec(raw).name != "poor",
                       "missing": "0.1"},
        }  # fmt: skip

    def all(self) -> list[dict[str, Any]]:
        return [self._row(play) for play in self.plays.values()]

    async def show(self, name: str) -> dict[str, Any]:
        play = self._find(name)
        play.looks += 1
        history = [
            {"at": 1.0, "state": state, "reason": ""} for state in play.states[: play.looks + 1]
        ]
        return {**self._row(play), "history": history, "agreements": [], "results": play.results}

    async def log(self, name: str, offset: int, rank: int = 0) -> tuple[bytes, int, bool]:
        data = LOG[offset : offset + 5]
        return data, offset + len(data), self._find(name).over and not data

    def offers(self) -> list[dict[str, Any]]:
        return [offer("H100", 8, "2.5"), offer("RTX 4090", 2, "0.4"), offer("A100", 4, "1.1")]

    def peers(self) -> list[dict[str, Any]]:
        return [
            {
                "peer": "ab" * 32,
                "address": "/ip4/127.0.0.1/tcp/1",
                "outbound": True,
                "rtt_ms": 1.5,
                "relayed": True,
            }
        ]

    async def wallet(self) -> dict[str, Any]:
        raise ChainError("the chain does not answer", hint="check rpc in the configuration")

    def agreements(self) -> list[dict[str, Any]]:
        return []

    def status(self) -> dict[str, Any]:
        facts: dict[str, Any] = dict.fromkeys(
            ("peers", "offers_known", "jobs", "agreements", "block"), 3
        )
        facts["reach"] = {"reachable": False, "relays": ["cd" * 32], "relaying": False}
        unit = {"index": 0, "name": "CPU", "busy": True}
        return {
            **facts, "peer": "ab" * 32, "network": "devnet-31337", "addresses": [], "selling": True,
            "units": [unit], "waiting_for": [],
        }  # fmt: skip

    @staticmethod
    def _row(play: Play) -> dict[str, Any]:
        return {
            "id": play.id, "name": play.name, "state": play.state, "reason": "", "over": play.over,
            "exit_code": 0, "provider": None, "attempts": 1, "metered_s": 5, "promised": "0.01",
            "paid": "0.01", "refunded": "0", "compensated": "0", "settled": True,
        }  # fmt: skip


def offer(name: str, free: int, dph: str) -> dict[str, Any]:
    return {
        "offer": hashlib.sha256(name.encode()).hexdigest()[:32], "gpu_name": name, "num_gpus": free,
        "gpu_ram": 80.0, "cpu_cores": 8, "cpu_ram": 64.0, "disk_space": 100.0, "inet_down": 100.0,
        "reliability": 0.99, "geolocation": "eu\x1b[2J", "dph": dph, "declared": False,
        "verified": True,
    }  # fmt: skip


async def main(socket_path: Path) -> None:
    async with trio.open_nursery() as nursery:

        async def ready(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            await serve(
                cast(Control, Desk()),
                socket_path=socket_path,
                tcp=("127.0.0.1", 0),
                task_status=task_status,
            )

        serving = await nursery.start(ready)
        print(serving.url, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
