"""Doctor: run the escape probe in the node's own sandbox, and say what came of it.

A node may advertise only if every attempt was blocked. Uses the port alone, so any driver can be
examined. Knows no network and no market.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import trio

from market.errors import SandboxError
from market.limits import LOG_READ_BYTES_MAX
from market.terms import Artifact, Env, Manifest, Workload
from node.ports import Blobs, Observed, RunState, Sandbox, Workspace

ALLOWED = "ALLOWED"
CLASSES = range(1, 23)
_PROBE = Path(__file__).with_name("probe.py")
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
) -> tuple[Attempt, ...]:
    """Every attempt of the probe, run as a job on `unit` in an image that has python3.

    Raises SandboxError if the probe did not come to its end.
    """
    source = await trio.Path(_PROBE).read_bytes()
    probe = await blobs.put(source)
    work_id = f"doctor-{hashlib.sha256(source).hexdigest()[:12]}-{unit}"
    manifest = Manifest(
        job_id=bytes(16),
        name="doctor",
        workload=Workload.BATCH,
        image=image,
        command="exec python3 -I -S /in/probe.py",
        envs=envs,
        inputs=(Artifact("/in/probe.py", probe, len(source)),),
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
    await sandbox.scrub(work_id)
    try:
        await sandbox.prepare(Workspace(work_id, manifest, (unit,)))
        await sandbox.start(work_id)
        observed = await _ended(sandbox, work_id)
        log = await _log(sandbox, work_id)
    finally:
        with trio.CancelScope(shield=True):
            await sandbox.scrub(work_id)
    if observed.exit_code not in (0, 1) or observed.signal:
        last = log.strip().splitlines()[-1:] or ["it said nothing"]
        raise SandboxError(f"the escape probe broke off: {last[0][:500]}")
    return _parse(log)


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
        try:
            raw = json.loads(line)
            found.append(Attempt(int(raw["class"]), str(raw["name"]), str(raw["outcome"])))
        except (ValueError, KeyError, TypeError) as problem:
            raise SandboxError(f"the escape probe said: {line[:500]}") from problem
    if not found:
        raise SandboxError("the escape probe said nothing")
    return tuple(found)
