"""World: real nodes (`node.app.run_node`) on simulated ports, and what must hold of all of them.

The twin of node/live.py. Time is trio's mock clock, randomness one seeded generator; a node may
crash at any moment and come back with what its journal, blobs and sandbox kept.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import trio
from trio._core import _run

from market.agreement import Agreement, Role
from market.codec import decode
from market.job import Job
from market.limits import RECORD_BYTES_MAX
from market.terms import Artifact
from node.app import run_node
from node.config import Config, Selling, devnet_rules
from node.control import Control
from node.ports import Ports
from tests.simulation.bench import SimBench
from tests.simulation.chain import Blocks, SimChain
from tests.simulation.devices import SimClock, SimDevices, SimEntropy
from tests.simulation.escrow import Ledger
from tests.simulation.memory import MemoryBlobs, MemoryJournal, MemoryLogs, SimSigner
from tests.simulation.network import SimLink, Wire
from tests.simulation.outside import SimOutside
from tests.simulation.registry import SimRegistry
from tests.simulation.sandbox import SimSandbox

MILLION = 1_000_000
IMAGE = b"an image"


@dataclass
class Machine:
    """One machine: its disk and keys, and its node process while it lives."""

    name: str
    world: World
    selling: Selling | None
    units: int
    signer: SimSigner = field(init=False)
    wallet: bytes = field(init=False)
    registry: SimRegistry | None = None  # as this node may use it; the world's, with credentials
    control: Control | None = None
    _scope: trio.CancelScope | None = None
    _gone: trio.Event = field(default_factory=trio.Event)

    def __post_init__(self) -> None:
        self.signer = SimSigner(int.from_bytes(self.name.encode(), "big"))
        self.wallet = hashlib.sha256(b"wallet" + self.name.encode()).digest()[:20]
        self.journal = MemoryJournal()
        self.blobs = MemoryBlobs()
        self.logs = MemoryLogs()
        self.bench = SimBench()
        self.sandbox = SimSandbox(self.world.clock.now, self.blobs)
        self.devices = SimDevices(self.units)

    async def start(self) -> None:
        """Start the node's process."""
        assert self._scope is None, "one process at a time"
        self._gone = trio.Event()
        self.control = await self.world.nursery.start(self._run)

    async def _run(
        self, *, task_status: trio.TaskStatus[Control] = trio.TASK_STATUS_IGNORED
    ) -> None:
        link = SimLink(self.signer.peer, self.world.wire)
        rng = random.Random(self.world.rng.random())
        ports = Ports(
            gossip=link,
            link=link,
            chain=SimChain(self.world.blocks, self.signer.operator, rng, self.world.chain_loss),
            sandbox=self.sandbox,
            devices=self.devices,
            blobs=self.blobs,
            registry=self.registry or self.world.registry,
            outside=SimOutside(),
            bench=self.bench,
            logs=self.logs,
            journal=self.journal,
            signer=self.signer,
            clock=self.world.clock,
            entropy=SimEntropy(rng),
        )
        # Half the live node's beats: as true, and twice as many worlds in the same time.
        rules = replace(devnet_rules(), tick_s=0.5)
        config = Config("sim", self.wallet, rules, self.selling)
        with trio.CancelScope() as self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(link.run)
                control = await nursery.start(run_node, config, ports)
                task_status.started(control)
        self._scope = None
        self.control = None
        self._gone.set()

    async def crash(self) -> None:
        """kill -9: nothing is said, nothing is saved."""
        if self._scope is not None:
            self._scope.cancel()
            await self._gone.wait()

    async def power_cut(self) -> None:
        """The whole machine: its jobs die too."""
        await self.crash()
        self.sandbox.power_cut()

    def lose(self, unit: int) -> None:
        """A unit falls off the bus, under whatever runs on it."""
        self.devices.ill[unit] = "it has fallen off the bus"
        self.sandbox.lose(unit)

    def journal_agreements(self) -> list[Agreement]:
        """Every agreement in its journal, whether or not its node runs."""
        return [
            decode(Agreement, data, size_max=RECORD_BYTES_MAX)
            for data in self.journal.table("agreement")
        ]

    @property
    def up(self) -> bool:
        """Whether its node runs."""
        return self._scope is not None


class World:
    """All machines, the wire between them and the one ledger."""

    def __init__(self, seed: int, *, loss: float = 0.0, chain_loss: float = 0.0) -> None:
        self.rng = random.Random(seed)
        self.clock = SimClock()
        self.wire = Wire(random.Random(self.rng.random()), loss)
        self.ledger = Ledger()
        self.registry = SimRegistry()
        self.blocks = Blocks(self.ledger, self.clock.now)
        self.chain_loss = chain_loss
        self.machines: dict[str, Machine] = {}
        self.nursery: trio.Nursery
        self.minted = 0

    def add(self, name: str, *, units: int = 0, price: int = 0) -> Machine:
        """A machine with money on the ledger: a requester's deposit or a provider's stake."""
        selling = Selling(price, collateral_per_unit=MILLION) if units else None
        machine = Machine(name, self, selling, units)
        self.machines[name] = machine
        self.ledger.authorise(machine.wallet, machine.signer.operator)
        amount = 100 * MILLION
        self.minted += amount
        self.ledger.deposit(machine.wallet, amount)
        if units:
            self.ledger.lock_stake(machine.wallet, amount)
        return machine

    async def submit(self, machine: Machine, command: str, **changes: object) -> bytes:
        """Give a job to a machine's node; returns the job's id."""
        assert machine.control is not None, "given to a running node"
        hash_ = await machine.blobs.put(IMAGE)
        raw = {
            "name": "job",
            "image": "base",
            "run": command,
            "resources": {"accelerators": "CPU:1"},
            "outputs": ["/out"],
            "max_hourly_cost": "3.6",
            "max_duration": "10m",
            "checkpoint": {"path": "/ckpt", "interval": "3s"},
            **changes,
        }
        image = Artifact("base", hash_, len(IMAGE))
        return bytes.fromhex(await machine.control.jobs.submit(raw, image, (), {}))

    def job(self, machine: Machine, job_id: bytes) -> Job:
        """As the machine's node knows it."""
        assert machine.control is not None
        return machine.control.jobs.job(job_id.hex())

    async def until_over(self, machine: Machine, job_id: bytes, limit_s: float) -> Job:
        """Wait until the job is over; fails the test if it is not by then."""
        with trio.move_on_after(limit_s):
            while True:
                if machine.control is not None:
                    job = self.job(machine, job_id)
                    if job.over:
                        return job
                await trio.sleep(1)
        raise AssertionError(f"stuck: {self.story(machine)}")

    async def result(self, machine: Machine, job: Job) -> bytes:
        """The one result of a simulated job, as the requester has it."""
        return await machine.blobs.read(job.results[0].hash, 0, 1024)

    async def until_settled(self, limit_s: float) -> None:
        """Wait until no money is bound; fails the test if some is by then."""
        with trio.move_on_after(limit_s):
            while self.ledger.live:
                await trio.sleep(1)
        await trio.sleep(5)  # the last facts are told a block later
        assert not self.ledger.live, f"money is bound for ever:\n{self.tell()}"

    def check_money(self) -> None:
        """Nothing appeared, nothing vanished."""
        assert self.ledger.total() == self.minted, f"{self.ledger.total()} of {self.minted}"

    def story(self, machine: Machine) -> str:
        """The journal's lines."""
        return "\n".join(
            f"{line.at - 1_800_000_000:9.3f} {line.subject.hex()[:8]} {line.kind} {line.text}"
            for line in machine.journal.everything()
        )

    def tell(self) -> str:
        """Everything every machine wrote down."""
        return "\n\n".join(
            f"{name}:\n{self.story(machine)}" for name, machine in self.machines.items()
        )

    def requesters_agreements(self, machine: Machine) -> list[dict[str, object]]:
        """The agreements a requester's node lists."""
        assert machine.control is not None
        rows = machine.control.money.agreements()
        return [row for row in rows if row["role"] == Role.REQUESTER.value]


@asynccontextmanager
async def open_world(
    seed: int, *, loss: float = 0.0, chain_loss: float = 0.0
) -> AsyncIterator[World]:
    """A world whose chain makes blocks; everything in it ends with the block."""
    _run._r.seed(seed)  # trio's own dice: in which order tasks that are ready go on
    world = World(seed, loss=loss, chain_loss=chain_loss)
    async with trio.open_nursery() as nursery:
        world.nursery = nursery
        nursery.start_soon(world.blocks.mine)
        yield world
        nursery.cancel_scope.cancel()
