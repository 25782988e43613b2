"""Scopes: where systemd keeps the control groups (version 2), each job has a scope of its own.

systemd lets others make groups only below a unit that it has delegated. The node's own unit will
not do: while jobs live below it, systemd (252) cannot start the node in it again, for the kernel
lets no process into a group that hands its controllers down. So a job's shim is started in a scope,
moves into one group below it, and the runtime makes the container's beside. A scope goes with its
last process, and stopping the node's unit does not touch it. Knows names, no job.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from node.adapters.oci import cgroups

SLICE: Final = "gridsouk.slice"  # `systemctl status gridsouk.slice` shows all jobs
SYSTEMD: Final = Path("/run/systemd/system")  # sd_booted(3)
_JOB: Final = "job"


def are_used(root: Path = cgroups.ROOT, systemd: Path = SYSTEMD) -> bool:
    """Whether systemd manages this machine's groups, and they are of version 2."""
    return cgroups.is_v2(root) and systemd.is_dir() and shutil.which("systemd-run") is not None


def new(instance: str, work: str) -> str:
    """The path of the control group that a job is to have, in a scope that is not there yet.

    Each time another: systemd may still be taking leave of the last one.
    """
    return f"/{SLICE}/gridsouk:{instance}:{work}:{os.urandom(4).hex()}.scope/{_JOB}"


def folder(group: str, root: Path = cgroups.ROOT) -> Path | None:
    """The directory of the scope that a job's group is in, if it is in one."""
    head, _, last = group.rpartition("/")
    if not head.startswith(f"/{SLICE}/gridsouk:") or last != _JOB:
        return None
    return root / head.lstrip("/")


def command(group: str) -> tuple[str, ...]:
    """What to put before a shim's own command, so that it begins in the scope of that group."""
    scope = folder(group)
    if scope is None:
        return ()
    return (
        "systemd-run", "--scope", "--quiet", "--collect", f"--slice={SLICE}",
        f"--unit={scope.name}", "-p", "Delegate=yes", "-p", "TasksMax=infinity",
        "-p", "TimeoutStopSec=10s", "--",
    )  # fmt: skip


def groups(instance: str, root: Path = cgroups.ROOT) -> dict[str, str]:
    """The control group of each job of that instance that has a scope, by the job's name."""
    found = {}
    for entry in sorted((root / SLICE).glob(f"gridsouk:{instance}:*.scope")):
        work = entry.name.removesuffix(".scope").split(":")[2]
        found[work] = f"/{SLICE}/{entry.name}/{_JOB}"
    return found
