"""Settings of the OCI sandbox: where it keeps things and what a job gets if it asks for nothing.

Built once at the edge and validated there. Knows no job.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from market.errors import SandboxError
from market.limits import LOG_BYTES_MAX
from market.units import MIB

_INSTANCE = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_WORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_MOUNTABLE = re.compile(r"/[A-Za-z0-9_./+@%-]*")  # overlay options are split at commas and colons

INPUT = "/in"
OUT = "/out"
PROGRESS = ".progress"  # below OUT: how far the job says it is; never among its results
USER = 65534  # `nobody` inside; its host uid depends on the slot
RANGE = 65536  # ids of one slot: jobs in different slots share no user


@dataclass(frozen=True, slots=True)
class OciSettings:
    """Where the sandbox lives and its bounds; sizes are per unit unless said otherwise.

    `state_dir` is on disk and survives a reboot; `run_dir` holds mounts and must be searchable by
    everybody, because the container's root is an ordinary user of this machine. `instance` keeps
    the nodes of one machine apart: in cgroups, container names and mounts.
    """

    state_dir: Path
    instance: str = "node"
    run_dir: Path = Path("/run/gridsouk")
    runtime: str = "runc"
    driver: str = "oci"  # or engine: Docker or Podman, whichever answers on `socket`
    socket: Path = Path("/run/docker.sock")
    uid_base: int = 200_000
    cpus: int = 1
    memory_mib: int = 1024
    disk_mib: int = 1024
    tmp_mib: int = 256  # of /tmp and of /dev/shm, per job; both count as the job's memory
    pids_max: int = 2048  # per job: a training run with loaders on 64 cores stays below it
    files_max: int = 4096  # open files per process
    log_bytes_max: int = LOG_BYTES_MAX
    image_bytes_max: int = 64 * 1024 * MIB
    images_bytes_max: int = 256 * 1024 * MIB  # of all of them, unpacked
    images_max: int = 32  # unpacked at once; as many as an offer can name as cached
    image_entries_max: int = 500_000  # a CUDA image with PyTorch has about 100,000
    pause_timeout_s: float = 10.0
    start_timeout_s: float = 60.0  # for the runtime and its first process, on a loaded machine
    cdi_dirs: tuple[Path, ...] = (Path("/etc/cdi"), Path("/var/run/cdi"))

    def __post_init__(self) -> None:
        """Refuse what could not work. Raises SandboxError."""
        if not _INSTANCE.fullmatch(self.instance):
            raise SandboxError(f"{self.instance!r} cannot name a sandbox", hint="use a-z, 0-9, -")
        for path in (self.state_dir, self.run_dir):
            if not _MOUNTABLE.fullmatch(str(path)):
                raise SandboxError(
                    f"{path} cannot hold a sandbox",
                    hint="use an absolute path of letters, digits and ./_-+@%",
                )


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a job is: its uid and gid `inside` and on this machine (`host`), and the map between.

    `base` and `size` are the one line of /proc/PID/uid_map. A map of everything onto itself is no
    user namespace; then `inside` and `host` are one number, which no other slot has.
    """

    inside: int
    host: int
    base: int
    size: int

    @property
    def mapped(self) -> bool:
        """Whether the container has a user namespace of its own."""
        return self.base != 0


@dataclass(frozen=True, slots=True)
class WorkPaths:
    """Where one job's things are: on disk under `state`, mounts and secrets under `run`."""

    state: Path
    run: Path
    cgroup: str
    container: str

    # On disk: what must outlive a reboot.
    @property
    def manifest(self) -> Path:
        """The manifest, as it travelled."""
        return self.state / "manifest"

    @property
    def units(self) -> Path:
        """The units the job was given, as JSON."""
        return self.state / "units.json"

    @property
    def address(self) -> Path:
        """Its address among the nodes of its gang, or nothing."""
        return self.state / "address"

    @property
    def volume_image(self) -> Path:
        """The file behind the job's own disk."""
        return self.state / "disk.img"

    @property
    def skeleton(self) -> Path:
        """The read-only layer over the image: mount points and inputs."""
        return self.state / "skeleton"

    @property
    def log(self) -> Path:
        """The job's output, as kept."""
        return self.state / "log"

    @property
    def clock(self) -> Path:
        """When the job started and how long it was last seen to run."""
        return self.state / "clock"

    @property
    def exit(self) -> Path:
        """How the job ended; written once."""
        return self.state / "exit.json"

    @property
    def lock(self) -> Path:
        """Held by the shim as long as it lives."""
        return self.state / "shim.lock"

    @property
    def freezing(self) -> Path:
        """Held by the node while it has frozen the job for a checkpoint."""
        return self.state / "freezing.lock"

    @property
    def control(self) -> Path:
        """The FIFO the shim takes orders from."""
        return self.state / "control"

    # In memory: what must not.
    @property
    def live(self) -> Path:
        """Private to root: secrets, the bundle, the runtime's own state."""
        return self.run / "live"

    @property
    def prepared(self) -> Path:
        """Exists once everything is in place, until the machine stops."""
        return self.live / "prepared"

    @property
    def secrets(self) -> Path:
        """The opened secret variables, as JSON."""
        return self.live / "secrets.json"

    @property
    def root(self) -> Path:
        """The job's root file system."""
        return self.run / "root"

    @property
    def volume(self) -> Path:
        """The job's own disk, mounted."""
        return self.run / "disk"


def paths_of(settings: OciSettings, work_id: str) -> WorkPaths:
    """Where the job `work_id` is kept. Raises SandboxError if that cannot be a name."""
    if not _WORK.fullmatch(work_id):
        raise SandboxError(f"{work_id!r} cannot name a job", hint="use letters, digits and ._-")
    return WorkPaths(
        state=settings.state_dir / "works" / work_id,
        run=settings.run_dir / settings.instance / work_id,
        cgroup=f"/gridsouk/{settings.instance}/{work_id}",
        container=f"gridsouk-{settings.instance}-{work_id}",
    )


def identity_of(settings: OciSettings, units: tuple[int, ...]) -> Identity:
    """`nobody` in the range of the job's lowest slot."""
    base = settings.uid_base + min(units, default=0) * RANGE
    return Identity(USER, base + USER, base, RANGE)
