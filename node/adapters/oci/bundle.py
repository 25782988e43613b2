"""Bundle: one job as an OCI runtime configuration. Pure: values in, JSON out; touches nothing.

What is not granted here does not exist for the job: no network but its own loopback, no /sys, no
capability, no device but the usual harmless ones and its GPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from market.terms import Manifest
from node.adapters.oci import seccomp
from node.adapters.oci.cdi import Edits
from node.adapters.oci.settings import INPUT, OUT, PROGRESS, Identity

GATE = (
    'read -r go && [ "$go" = go ] || exit 125; read -r more; eval "$more"; unset go more; '
    '/bin/sh -c "$0" </dev/null 2>&1; exit $?'
)
"""The first process: waits until the node has verified the container, then stays as its init.

The line that it evaluates sets the secret variables, which so come into no file of a runtime's or
an engine's. Both outputs are one stream, in the order in which they were written.
"""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
CPU_PERIOD_US = 100_000

OOM_SCORE = 500  # under pressure the machine loses jobs before it loses the node

MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/config.gz",
    "/proc/interrupts",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/pressure",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
)
# Not masked: a mask is /dev/null, which would take what is written there.
READ_ONLY = ("/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides one container.

    `volumes` are (host path, path inside) of the writable directories on the job's own disk.
    """

    command: str
    envs: Mapping[str, str]
    cwd: str
    hostname: str
    root: str
    cgroup: str
    identity: Identity
    memory_bytes: int
    cpus: int
    pids: int
    files: int
    locked_bytes: int  # pinned buffers; the memory limit counts them too
    tmp_bytes: int
    volumes: tuple[tuple[str, str], ...]
    edits: Edits
    cgroup_namespace: bool
    inputs: tuple[tuple[str, str], ...] = ()  # (host path, path inside), where no layer holds them
    secrets: tuple[tuple[str, str], ...] = ()  # those of `envs` that no disk may see
    image: str = ""  # its hash in hex, for those who keep images by themselves


def environment_of(
    manifest: Manifest, image: tuple[str, ...], secrets: tuple[tuple[str, str], ...], edits: Edits
) -> dict[str, str]:
    """The variables of a manifest's job; see `environment`."""
    fixed = {"GRIDSOUK_INPUT": INPUT, "GRIDSOUK_OUT": OUT, "HOME": "/tmp", "USER": "nobody"}
    fixed["GRIDSOUK_PROGRESS"] = f"{OUT}/{PROGRESS}"
    if manifest.checkpoint_path:
        fixed["GRIDSOUK_CHECKPOINT"] = manifest.checkpoint_path
    given = tuple((env.name, env.value) for env in manifest.envs)
    return environment(image, fixed, given, secrets, edits)


def environment(
    image: tuple[str, ...],
    fixed: Mapping[str, str],
    manifest: tuple[tuple[str, str], ...],
    secrets: tuple[tuple[str, str], ...],
    edits: Edits,
) -> dict[str, str]:
    """The job's variables; each source overrides those before it, and `fixed` all of them.

    An image may not preload code (LD_*) or grant itself GPUs (NVIDIA_VISIBLE_DEVICES).
    """
    result = {"PATH": _PATH}
    for item in image:
        name, _, value = item.partition("=")
        if name and not name.startswith("LD_"):
            result[name] = value
    result["NVIDIA_VISIBLE_DEVICES"] = "void"
    result.update(edits.envs)
    result.update(manifest)
    result.update(secrets)
    result.update(fixed)
    if not edits.nodes:
        result["NVIDIA_VISIBLE_DEVICES"] = "void"
    return result


def configuration(plan: Plan) -> dict[str, Any]:
    """The `config.json` of the bundle."""
    namespaces = ["pid", "network", "ipc", "uts", "mount", "user"]
    if plan.cgroup_namespace:
        namespaces.append("cgroup")
    ids = [{"containerID": 0, "hostID": plan.identity.base, "size": plan.identity.size}]
    return {
        "ociVersion": "1.0.2",
        "hostname": plan.hostname,
        "root": {"path": plan.root, "readonly": True},
        "process": _process(plan),
        "mounts": _mounts(plan),
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": plan.cgroup,
            "resources": _resources(plan),
            "seccomp": seccomp.profile(),
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


def _process(plan: Plan) -> dict[str, Any]:
    return {
        "terminal": False,
        "user": {"uid": plan.identity.inside, "gid": plan.identity.inside, "umask": 0o022},
        "args": ["/bin/sh", "-c", GATE, plan.command],
        "env": plain(plan),
        "cwd": plan.cwd,
        **confinement(plan.files, plan.locked_bytes),
    }


def plain(plan: Plan) -> list[str]:
    """The variables that may stand in a file."""
    secret = {name for name, _ in plan.secrets}
    return [f"{name}={value}" for name, value in sorted(plan.envs.items()) if name not in secret]


def gate(secrets: tuple[tuple[str, str], ...]) -> str:
    """What is written to the gate: `go`, and a line of shell that sets these variables."""
    parts = [
        f"{name}={_quoted(value)}; {name}=${{{name}%.}}; export {name}; " for name, value in secrets
    ]
    return "go\n" + "".join(parts) + ":\n"


def _quoted(value: str) -> str:
    """A word of shell on one line, with a dot after it that keeps newlines at its end."""
    data = value.encode(errors="surrogateescape")
    octal = "".join(chr(byte) if chr(byte).isalnum() and byte < 128 else f"\\{byte:03o}"
                    for byte in data)  # fmt: skip
    return f"$(printf '{octal}.')"


def confinement(files: int, locked_bytes: int) -> dict[str, Any]:
    """What holds for every process of a job, its first or one that is executed beside it."""
    limits = rlimits(files, locked_bytes)
    return {
        "capabilities": {
            kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        },
        "rlimits": [{"type": f"RLIMIT_{name.upper()}", "hard": n, "soft": n} for name, n in limits],
        "noNewPrivileges": True,
        "oomScoreAdj": OOM_SCORE,
    }


def rlimits(files: int, locked_bytes: int) -> tuple[tuple[str, int], ...]:
    """A process's own limits, by the names engines give them."""
    return (("core", 0), ("memlock", locked_bytes), ("msgqueue", 819_200), ("nofile", files))


def _mounts(plan: Plan) -> list[dict[str, Any]]:
    memory = ["nosuid", "nodev", f"size={plan.tmp_bytes}", "mode=1777"]
    # Compilers for a GPU write shared objects to /tmp and load them; memfd_create would do as
    # well, so `noexec` is a hurdle, not a boundary, and gives way where it is in the way.
    scratch = memory if plan.edits.nodes else [*memory, "noexec"]
    mounts = [
        _mount("/proc", "proc", "proc", ["nosuid", "noexec", "nodev"]),
        _mount("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        _mount(
            "/dev/pts",
            "devpts",
            "devpts",
            ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        _mount("/dev/shm", "tmpfs", "shm", [*memory, "noexec"]),
        _mount("/tmp", "tmpfs", "tmp", scratch),
    ]
    for host, inside in plan.volumes:
        options = ["rbind", "rw", "nosuid", "nodev", "noexec", "rprivate"]
        mounts.append(_mount(inside, "bind", host, options))
    for host, inside in plan.edits.mounts:
        mounts.append(_mount(inside, "bind", host, ["rbind", "ro", "nosuid", "nodev", "rprivate"]))
    for node in plan.edits.nodes:
        mounts.append(_mount(node.path, "bind", node.host_path, ["bind", "rw", "nosuid", "noexec"]))
    return mounts


def _mount(inside: str, kind: str, source: str, options: list[str]) -> dict[str, Any]:
    return {"destination": inside, "type": kind, "source": source, "options": options}


def _resources(plan: Plan) -> dict[str, Any]:
    devices: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for node in plan.edits.nodes:
        numbers = {"type": node.kind, "major": node.major, "minor": node.minor}
        devices.append({"allow": True, "access": "rw", **numbers})
    return {
        "devices": devices,
        "memory": {"limit": plan.memory_bytes, "swap": plan.memory_bytes},
        "cpu": {"quota": plan.cpus * CPU_PERIOD_US, "period": CPU_PERIOD_US},
        "pids": {"limit": plan.pids},
    }
