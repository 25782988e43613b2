"""Staging: a job's image, inputs and checkpoint here and in place, before it can start.

Says on the way how far it is; what was begun goes on where it stopped. Changes no agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import structlog

from market.agreement import Agreement
from market.errors import (
    IntegrityError,
    LimitError,
    NotFoundError,
    RefusedError,
    SandboxError,
    SpecError,
    UnreachableError,
)
from market.events import Broke, Event, Staged, Staging
from market.overlay import DEVICE, MASTER_PORT, address, addresses
from market.terms import Env, Manifest
from market.units import format_bytes
from node.artifacts import Artifacts, pull_all
from node.images import Images
from node.keeper import Happened, Keeper
from node.ports import Clock, Ports, Workspace
from node.tunnels.egress import egress_envs

log = structlog.get_logger("provider")
PROGRESS_S = 1.0  # between two words on how far it is


class Stager:
    """Performs the duty `Stage`."""

    def __init__(self, ports: Ports, keeper: Keeper, artifacts: Artifacts, images: Images) -> None:
        """Shares the provider's rooms."""
        self._ports = ports
        self._keeper = keeper
        self._artifacts = artifacts
        self._images = images

    async def stage(self, a: Agreement) -> Iterable[Event]:
        """Fetch and prepare; nothing if a peer or a registry must be waited for."""
        manifest = a.manifest
        assert manifest is not None, "only what was accepted is staged"
        wanted = manifest.inputs
        if manifest.resume is not None:
            wanted = (*wanted, manifest.resume)
        progress = _Progress(self._keeper, self._ports.clock, a.id)
        try:
            await self._images.stage(manifest.image, a.peer, progress.of("image"))
            total = sum(artifact.size_bytes for artifact in wanted)
            tell = progress.of("inputs")
            await pull_all(self._artifacts, a.peer, wanted, lambda here: tell(here, total))
            progress.say("unpacking the image")
            secrets = tuple(
                (sealed.name, self._ports.signer.unseal(sealed.box).decode())
                for sealed in a.secrets
            )
            units = tuple(index for index in range(256) if a.terms.units >> index & 1)
            more = (*gang_envs(manifest, a.rank, a.num_nodes), *egress_envs(manifest, a.num_nodes))
            told = replace(manifest, envs=(*manifest.envs, *more))
            mine = address(a.rank) if a.num_nodes > 1 else ""
            workspace = Workspace(a.id.hex(), told, units, secrets, mine)
            await self._ports.sandbox.prepare(workspace)
        except UnreachableError as problem:
            log.info("staging waits", agreement=a.id.hex()[:12], problem=str(problem))
            progress.say(f"waiting: {problem}")
            return ()
        except (
            SandboxError, LimitError, NotFoundError, IntegrityError, RefusedError, SpecError,
            ValueError,
        ) as problem:  # fmt: skip
            return (Broke(f"staging: {problem}"),)
        return (Staged(),)


def gang_envs(manifest: Manifest, rank: int, num_nodes: int) -> tuple[Env, ...]:
    """What a node of a gang is told of its place: our names, and those that torchrun and the
    libraries beneath it read. A port that the job file sets itself stays."""
    if num_nodes == 1:
        return ()
    own = {env.name: env.value for env in manifest.envs}
    port = own.get("MASTER_PORT", str(MASTER_PORT))
    told = {
        "SOUK_NODE_RANK": str(rank), "SOUK_NUM_NODES": str(num_nodes),
        "SOUK_NODE_IPS": "\n".join(addresses(num_nodes)),
        "MASTER_ADDR": address(0), "MASTER_PORT": port,
        "PET_NODE_RANK": str(rank), "PET_NNODES": str(num_nodes),
        "PET_MASTER_ADDR": address(0), "PET_MASTER_PORT": port,
        "GLOO_SOCKET_IFNAME": DEVICE, "NCCL_SOCKET_IFNAME": DEVICE,
    }  # fmt: skip
    return tuple(Env(name, value) for name, value in told.items())


class _Progress:
    """Says how far staging is, once a second at most."""

    def __init__(self, keeper: Keeper, clock: Clock, agreement: bytes) -> None:
        self._keeper, self._clock, self._agreement = keeper, clock, agreement
        self._said_at = 0.0

    def of(self, what: str) -> Callable[[int, int], None]:
        """To be told (bytes here, bytes in all) of one thing."""
        return lambda done, total: self.say(
            f"fetching the {what}: {format_bytes(done)} of {format_bytes(total)}", often=True
        )

    def say(self, text: str, *, often: bool = False) -> None:
        """Tell the keeper."""
        now = self._clock.now()
        if not often or now >= self._said_at + PROGRESS_S:
            self._said_at = now
            self._keeper.mention(Happened(self._agreement, Staging(text)))
