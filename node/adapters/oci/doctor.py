"""Doctor: run the escape probe in the node's own sandbox, and say what came of it.

A node may advertise only if every attempt was blocked. Uses the port alone, so any driver can be
examined. Knows no network and no market.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from market.errors import SandboxError
from market.limits import LOG_READ_BYTES_MAX
from market.overlay import address
from market.terms import Artifact, Env, Manifest, Workload
from node.ports import Blobs, Observed, RunState, Sandbox, Workspace

ALLOWED = "ALLOWED"
CLASSES = range(1, 26)
_PROBE = tuple(
    Path(__file__).with_name(f"{name}.py")
    for name in ("probe", "probe_more", "probe_wide", "probe_gang")
)
_INSIDE = "/in/node/adapters/oci"  # where Python finds them as it does here
_RUN = (
    'exec python3 -I -S -c \'import sys; sys.path.insert(0, "/in"); '
    "from node.adapters.oci.probe import main; sys.exit(main())'"
)
_PROBE_S = 60
_LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way out that was tried, and the error that stopped it, or ALLOWED."""

    kind: int
    name: str
    outcome: str

    @property
    def blocked(self) -> bool:
        """Whether the sandbox held. A complaint about arguments means that it was let in."""
        return self.outcome not in (ALLOWED, "EINVAL", "EFAULT", "EBADF")


async def examine(
    sandbox: Sandbox,
    blobs: Blobs,
    image: Artifact,
    *,
    unit: int = 0,
    envs: tuple[Env, ...] = (),
    gang: bool = False,
) -> tuple[Attempt, ...]:
    """Every attempt of the probe, run as a job on `unit` in an image that has python3.

    On the next unit a neighbour runs meanwhile. With `gang` both have the interface of a gang's
    node, each of another gang. Raises SandboxError if the probe did not come to
    its end.
    """
    inputs = []
    for file in _PROBE:
        source = await trio.Path(file).read_bytes()
        inputs.append(Artifact(f"{_INSIDE}/{file.name}", await blobs.put(source), len(source)))
    if gang:
        envs = (*envs, Env("PROBE_GANG", "1"))
    manifest = _manifest(image, tuple(inputs), envs)
    named = hashlib.sha256(b"".join(each.hash for each in inputs)).hexdigest()[:12]
    addresses = (address(0), address(1)) if gang else ("", "")
    mine = Workspace(f"doctor-{named}-{unit}", manifest, (unit,), address=addresses[0])
    neighbour = Workspace(
        f"doctor-{named}-{unit + 1}",
        replace(manifest, command=f"{_RUN} neighbour"),
        (unit + 1,),
        address=addresses[1],
    )
    try:
        await _begin(sandbox, neighbour)
        await _said(sandbox, neighbour.work_id, b"next door")
        await _begin(sandbox, mine)
        observed = await _ended(sandbox, mine.work_id)
        log = await _log(sandbox, mine.work_id)
    finally:
        with trio.CancelScope(shield=True):
            for workspace in (mine, neighbour):
                await sandbox.scrub(workspace.work_id)
    if observed.exit_code not in (0, 1) or observed.signal:
        last = log.strip().splitlines()[-1:] or ["it said nothing"]
        raise SandboxError(f"the escape probe broke off: {last[0][:500]}")
    return _parse(log)


def _manifest(image: Artifact, inputs: tuple[Artifact, ...], envs: tuple[Env, ...]) -> Manifest:
    return Manifest(
        job_id=bytes(16),
        name="doctor",
        workload=Workload.BATCH,
        image=image,
        command=_RUN,
        envs=envs,
        inputs=inputs,
        outputs=(),
        checkpoint_path="",
        checkpoint_interval_s=0,
        resume=None,
        cpus=1,
        memory_mib=128,
        disk_mib=16,
        max_duration_s=_PROBE_S,
        grace_s=0,
        ports=(),
    )


async def _begin(sandbox: Sandbox, workspace: Workspace) -> None:
    await sandbox.scrub(workspace.work_id)
    await sandbox.prepare(workspace)
    await sandbox.start(workspace.work_id)


async def _said(sandbox: Sandbox, work_id: str, text: bytes) -> None:
    while text not in await sandbox.read_log(work_id, 0, LOG_READ_BYTES_MAX):
        if (await sandbox.observe(work_id)).state is not RunState.RUNNING:
            last = (await _log(sandbox, work_id)).strip().splitlines()[-1:]
            raise SandboxError(f"the probe's neighbour broke off: {last}")
        await trio.sleep(_LOOK_S)


async def _ended(sandbox: Sandbox, work_id: str) -> Observed:
    while True:
        observed = await sandbox.observe(work_id)
        if observed.state is not RunState.RUNNING:
            return observed
        await trio.sleep(_LOOK_S)


async def _log(sandbox: Sandbox, work_id: str) -> str:
    data = b""
    while part := await sandbox.read_log(work_id, len(data), LOG_READ_BYTES_MAX):
        data += part
    return data.decode(errors="replace")


def _parse(log: str) -> tuple[Attempt, ...]:
    found = []
    for line in log.splitlines():
        if not line.startswith("{"):
            continue  # a detail, for whoever reads the log
        try:
            raw = json.loads(line)
            found.append(Attempt(int(raw["class"]), str(raw["name"]), str(raw["outcome"])))
        except (ValueError, KeyError, TypeError) as problem:
            raise SandboxError(f"the escape probe said: {line[:500]}") from problem
    if not found:
        raise SandboxError("the escape probe said nothing")
    return tuple(found)
