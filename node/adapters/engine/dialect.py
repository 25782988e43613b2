"""Dialect: one job as Docker and as Podman want to be told of it. Pure: values in, JSON out.

The two share most addresses, but not how a container is described, and each silently drops what it
does not know. So each is told in its own words, and the container is looked at afterwards.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import quote

from market.errors import SandboxError
from node.adapters.oci import bundle, seccomp
from node.adapters.oci.bundle import Plan

INSTANCE_LABEL = "gridsouk.instance"
WORK_LABEL = "gridsouk.work"
DOCKER_API = "/v1.40"  # Docker 19.03; Podman answers it too
PODMAN_API = "/v4.0.0/libpod"
_PODMAN_MAJOR_MIN = 4
_PROCESSES_MAX = 4096  # per user, which is one slot; the limit that counts is the group's


class Kind(Enum):
    """Who answers."""

    DOCKER = "docker"
    PODMAN = "podman"


@dataclass(frozen=True, slots=True)
class Engine:
    """What an engine said of itself: its kind, version, and who makes its control groups.

    `remapped` is the first host id of a Docker that maps all its containers alike, else 0.
    """

    kind: Kind
    version: str
    systemd: bool
    remapped: int = 0
    runtime: str = ""  # what makes its containers unless it is told otherwise


@dataclass(frozen=True, slots=True)
class Named:
    """What a container is called, where its group goes and which file has the filter."""

    container: str
    instance: str
    work: str
    parent: str
    seccomp_file: str
    image: str
    runtime: str


def recognise(version: Any, info: Any) -> Engine:
    """From what /version and /info answer. Raises SandboxError for an engine that will not do."""
    names = {str(part.get("Name")): part for part in version.get("Components") or ()}
    systemd = info.get("CgroupDriver") == "systemd"
    said = str(version.get("Version") or "0")
    runtime = str(info.get("DefaultRuntime") or "").rsplit("/", 1)[-1]
    if "Podman Engine" not in names:
        root = str(info.get("DockerRootDir") or "")
        ids = root.rsplit("/", 1)[-1].split(".")
        mapped = any("name=userns" in str(o) for o in info.get("SecurityOptions") or ())
        first = int(ids[0]) if mapped and ids[0].isdigit() else 0
        return Engine(Kind.DOCKER, said, systemd, first, runtime)
    if int(said.split(".")[0] or 0) < _PODMAN_MAJOR_MIN:
        raise SandboxError(f"Podman {said} is too old", hint="Podman 4 or newer")
    return Engine(Kind.PODMAN, said, systemd, runtime=runtime)


def create(engine: Engine, plan: Plan, named: Named) -> tuple[str, dict[str, Any]]:
    """Where to post what, to make the container."""
    if engine.kind is Kind.PODMAN:
        return f"{PODMAN_API}/containers/create", _podman(plan, named)
    url = f"{DOCKER_API}/containers/create?name={quote(named.container)}"
    return url, _docker(plan, named)


def removal(engine: Engine, container: str) -> str:
    """What to delete so that nothing is left of it; Podman would wait ten seconds."""
    if engine.kind is Kind.PODMAN:
        return f"{PODMAN_API}/containers/{quote(container)}?force=true&timeout=0&v=true"
    return f"{DOCKER_API}/containers/{quote(container)}?force=1&v=1"


def _labels(named: Named) -> dict[str, str]:
    return {INSTANCE_LABEL: named.instance, WORK_LABEL: named.work}


def _docker(plan: Plan, named: Named) -> dict[str, Any]:
    user = f"{plan.identity.inside}:{plan.identity.inside}"
    scratch = "rw,nosuid,nodev" if plan.edits.nodes else "rw,nosuid,nodev,noexec"
    binds = [f"{host}:{inside}:rw" for host, inside in plan.volumes]
    binds += [f"{host}:{inside}:ro" for host, inside in (*plan.inputs, *plan.edits.mounts)]
    host = {
        "Binds": binds,
        "CapDrop": ["ALL"],
        "CgroupParent": named.parent,
        "CgroupnsMode": "private",
        "CpuPeriod": bundle.CPU_PERIOD_US,
        "CpuQuota": plan.cpus * bundle.CPU_PERIOD_US,
        "Devices": [
            {
                "PathOnHost": node.host_path,
                "PathInContainer": node.path,
                "CgroupPermissions": "rw",
            }
            for node in plan.edits.nodes
        ],
        "Init": False,
        "IpcMode": "private",
        "LogConfig": {"Type": "none", "Config": {}},
        "MaskedPaths": ["/sys", *bundle.MASKED],
        "Memory": plan.memory_bytes,
        "MemorySwap": plan.memory_bytes,
        "NetworkMode": "none",
        "OomScoreAdj": bundle.OOM_SCORE,
        "PidsLimit": plan.pids,
        "ReadonlyPaths": list(bundle.READ_ONLY),
        "ReadonlyRootfs": True,
        "SecurityOpt": ["no-new-privileges", f"seccomp={json.dumps(seccomp.profile())}"],
        "ShmSize": plan.tmp_bytes,
        "Tmpfs": {"/tmp": f"{scratch},size={plan.tmp_bytes},mode=1777"},
        "Ulimits": [{"Name": name, "Soft": n, "Hard": n} for name, n in _ulimits(plan)],
    }
    if named.runtime:
        host["Runtime"] = named.runtime
    return {
        "Image": named.image,
        "Entrypoint": ["/bin/sh", "-c", bundle.GATE],
        "Cmd": [plan.command],
        "User": user,
        "Env": bundle.plain(plan),
        "WorkingDir": plan.cwd,
        "Hostname": plan.hostname,
        "Labels": _labels(named),
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        "OpenStdin": True,
        "StdinOnce": False,
        "Tty": False,
        "NetworkDisabled": True,
        "HostConfig": host,
    }


def _podman(plan: Plan, named: Named) -> dict[str, Any]:
    ids = [{"container_id": 0, "host_id": plan.identity.base, "size": plan.identity.size}]
    private = {"nsmode": "private"}
    return {
        "name": named.container,
        "rootfs": plan.root,
        "entrypoint": [],
        "command": ["/bin/sh", "-c", bundle.GATE, plan.command],
        "user": f"{plan.identity.inside}:{plan.identity.inside}",
        "env": dict(pair.split("=", 1) for pair in bundle.plain(plan)),
        "work_dir": plan.cwd,
        "hostname": plan.hostname,
        "labels": _labels(named),
        "stdin": True,
        "terminal": False,
        "netns": {"nsmode": "none"},
        "userns": private,
        "ipcns": private,
        "pidns": private,
        "utsns": private,
        "cgroupns": private,
        "idmappings": {
            "UIDMap": ids,
            "GIDMap": ids,
            "HostUIDMapping": False,
            "HostGIDMapping": False,
        },
        "cap_drop": ["all"],
        "no_new_privileges": True,
        "read_only_filesystem": True,
        "seccomp_profile_path": named.seccomp_file,
        "cgroup_parent": named.parent,
        "cgroups_mode": "no-conmon",
        "r_limits": [{"type": name, "soft": n, "hard": n} for name, n in _ulimits(plan)],
        "resource_limits": {
            "memory": {"limit": plan.memory_bytes, "swap": plan.memory_bytes},
            "cpu": {"quota": plan.cpus * bundle.CPU_PERIOD_US, "period": bundle.CPU_PERIOD_US},
            "pids": {"limit": plan.pids},
        },
        "device_cgroup_rule": [
            {"allow": True, "type": n.kind, "major": n.major, "minor": n.minor, "access": "rw"}
            for n in plan.edits.nodes
        ],
        "mounts": _podman_mounts(plan),
        "shm_size": plan.tmp_bytes,
        "image_volume_mode": "ignore",
        "oom_score_adj": bundle.OOM_SCORE,
        "use_image_hosts": True,
        "use_image_resolve_conf": True,
        "log_configuration": {"driver": "none"},
        "mask": ["/sys", *bundle.MASKED],
        "init": False,
        "systemd": "false",
        "umask": "0022",
        "sdnotifyMode": "ignore",
    }


def _podman_mounts(plan: Plan) -> list[dict[str, Any]]:
    scratch = ["nosuid", "nodev", f"size={plan.tmp_bytes}", "mode=1777"]
    options = ["rbind", "rw", "nosuid", "nodev", "noexec", "rprivate"]
    read_only = ["rbind", "ro", "nosuid", "nodev", "rprivate"]
    device = ["bind", "rw", "nosuid", "noexec"]
    return [
        _mount("/tmp", "tmpfs", "tmpfs", scratch if plan.edits.nodes else [*scratch, "noexec"]),
        *(_mount(inside, "bind", host, options) for host, inside in plan.volumes),
        *(_mount(inside, "bind", host, read_only) for host, inside in plan.edits.mounts),
        *(_mount(node.path, "bind", node.host_path, device) for node in plan.edits.nodes),
    ]


def _mount(inside: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": inside, "type": kind, "source": source, "options": options}


def _ulimits(plan: Plan) -> tuple[tuple[str, int], ...]:
    """Also those that an engine would set to a million by itself, which not every node may."""
    return (*bundle.rlimits(plan.files, plan.locked_bytes), ("nproc", _PROCESSES_MAX))
