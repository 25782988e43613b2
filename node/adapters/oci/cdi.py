"""CDI: what a container needs to use a GPU, read from the machine's own specifications.

The Container Device Interface names devices `vendor/class=name`; we look one up by its UUID. Its
hooks are not run: they are privileged programs working on a stranger's root file system, which is
where the container toolkits had their worst holes. Libraries are found by LD_LIBRARY_PATH instead.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from market.errors import SandboxError

_SPEC_BYTES_MAX = 4 * 1024 * 1024  # a machine with eight GPUs and MIG has 100 KiB
_SPECS_MAX = 64


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A device file to show in the container, with its numbers for the device cgroup."""

    path: str
    host_path: str
    kind: str  # c or b
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Edits:
    """What the granted devices add to a container; mounts are (host path, container path)."""

    nodes: tuple[DeviceNode, ...] = ()
    mounts: tuple[tuple[str, str], ...] = ()
    envs: tuple[tuple[str, str], ...] = ()


def edits_for(uuids: Iterable[str], directories: Iterable[Path]) -> Edits:
    """The merged edits of all the devices named. Raises SandboxError if one is not specified."""
    specs = tuple(_load(directories))
    raw: list[dict[str, Any]] = []
    for uuid in uuids:
        found = [
            (spec, device)
            for spec in specs
            for device in spec.get("devices", ())
            if device.get("name") == uuid
        ]
        if not found:
            raise SandboxError(
                f"no CDI specification names the device {uuid}",
                hint="run: nvidia-ctk cdi generate --device-name-strategy=uuid "
                "--output=/etc/cdi/nvidia.yaml",
            )
        spec, device = found[-1]  # a later directory overrides an earlier one
        raw += [spec.get("containerEdits") or {}, device.get("containerEdits") or {}]
    return _merge(raw)


def _load(directories: Iterable[Path]) -> Iterable[dict[str, Any]]:
    for directory in directories:
        if not directory.is_dir():
            continue
        files = sorted(f for f in directory.iterdir() if f.suffix in (".json", ".yaml", ".yml"))
        for file in files[:_SPECS_MAX]:
            if file.stat().st_size > _SPEC_BYTES_MAX:
                raise SandboxError(f"{file} is too large to be a CDI specification")
            try:
                text = file.read_text()
                spec = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
            except (OSError, ValueError, yaml.YAMLError) as problem:
                raise SandboxError(f"{file} is not a CDI specification: {problem}") from problem
            if isinstance(spec, dict):
                yield spec


def _merge(raw: list[dict[str, Any]]) -> Edits:
    nodes: dict[str, DeviceNode] = {}
    mounts: dict[str, str] = {}
    envs: dict[str, str] = {}
    for edit in raw:
        for node in edit.get("deviceNodes") or ():
            found = _node(str(node["path"]), str(node.get("hostPath") or node["path"]))
            nodes[found.path] = found
        for mount in edit.get("mounts") or ():
            mounts[str(mount["containerPath"])] = str(mount["hostPath"])
        for env in edit.get("env") or ():
            name, _, value = str(env).partition("=")
            envs[name] = value
    libraries = sorted({os.path.dirname(path) for path in mounts if ".so" in Path(path).name})
    if libraries:
        envs["LD_LIBRARY_PATH"] = ":".join(libraries)
    return Edits(
        tuple(nodes.values()),
        tuple((host, inside) for inside, host in mounts.items()),
        tuple(envs.items()),
    )


def _node(path: str, host_path: str) -> DeviceNode:
    try:
        found = os.stat(host_path)
    except OSError as problem:
        raise SandboxError(
            f"the device {host_path} is missing", hint="load the GPU's driver and look again"
        ) from problem
    if stat.S_ISCHR(found.st_mode):
        kind = "c"
    elif stat.S_ISBLK(found.st_mode):
        kind = "b"
    else:
        raise SandboxError(f"{host_path} is not a device")
    return DeviceNode(path, host_path, kind, os.major(found.st_rdev), os.minor(found.st_rdev))
