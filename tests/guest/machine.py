"""Machine: the guest's kernel, its first files, its disk, the share, and QEMU around them.

Knows nothing of what is run inside. Needs root, for the read-only view of this machine's files.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.adapters.oci.base_image import build_base_image

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
TOOLS: Final = ROOT / ".tools" / "guest"
DISK_MIB: Final = 4096  # sparse
NEVER_RAN: Final = 125
SLOWNESS: Final = 10  # how much longer tests wait for what must come

# In the order in which they need each other.
MODULES: Final = (
    "drivers/virtio/virtio.ko",
    "drivers/virtio/virtio_ring.ko",
    "drivers/virtio/virtio_pci_legacy_dev.ko",
    "drivers/virtio/virtio_pci_modern_dev.ko",
    "drivers/virtio/virtio_pci.ko",
    "drivers/block/virtio_blk.ko",
    "drivers/block/loop.ko",
    "drivers/net/tun.ko",
    "fs/fuse/fuse.ko",
    "fs/fuse/virtiofs.ko",
    "fs/overlayfs/overlay.ko",
)

# A view of this machine's files that nobody can write through, whatever happens in the guest.
_SHARE = """
set -e
mount --bind / "$1"
mount -o remount,bind,ro "$1"
shift_to=$1; shift
while [ "$1" != -- ]; do
    mount --bind "$1" "$shift_to$1"
    mount -o remount,bind,ro "$shift_to$1"
    shift
done
shift
ulimit -n "$(ulimit -Hn)"
exec "$@"
"""


class GuestError(Exception):
    """The guest cannot be run here, and why."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What to boot: `command` is a line of shell, run in the repository's root as root."""

    command: str
    systemd: bool = False  # as the first program; else a few lines of shell
    memory_mib: int = 3072
    timeout_s: int = 1800


def run(guest: Guest) -> int:
    """Boot, run the command, switch off; its exit code, or 125 if it never came to its end.

    What it prints is printed here. Raises GuestError.
    """
    _check()
    with tempfile.TemporaryDirectory(prefix="gridsouk-guest-") as name:
        folder = Path(name)
        _make_initramfs(folder)
        _make_disk(folder, guest)
        with _share(folder):
            return _boot(folder, guest)


def _check() -> None:
    if os.geteuid():
        raise GuestError("the guest is shown this machine's files: run it as root")
    if not (TOOLS / "vmlinuz").is_file():
        raise GuestError("the guest's kernel is not here: ./run guest fetches it")


def _make_initramfs(folder: Path) -> None:
    tree = folder / "first"
    for directory in ("bin", "dev", "proc", "below", "above", "new", "modules"):
        (tree / directory).mkdir(parents=True)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise GuestError("busybox is not installed: apt-get install busybox-static")
    shutil.copy(busybox, tree / "bin" / "busybox")
    shutil.copy(HERE / "initramfs.sh", tree / "init")
    (tree / "init").chmod(0o755)
    for module in MODULES:
        shutil.copy(TOOLS / "modules" / module, tree / "modules")
    order = "".join(f"{Path(module).name}\n" for module in MODULES)
    (tree / "modules" / "order").write_text(order)
    pack = 'find . | busybox cpio -o -H newc > "$0"'
    subprocess.run(["sh", "-c", pack, str(folder / "initramfs")], cwd=tree, check=True,
                   stderr=subprocess.DEVNULL)  # fmt: skip


def _make_disk(folder: Path, guest: Guest) -> None:
    """What the guest may write to, and what it is to do."""
    files = folder / "files"
    (files / "tmp").mkdir(parents=True)
    (files / "tmp").chmod(0o1777)
    build_base_image(files / "base.tar", ())
    for script in ("init", "systemd"):
        shutil.copy(HERE / f"{script}.sh", files / script)
        (files / script).chmod(0o755)
    variables = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "TMPDIR": "/guest/tmp",
        "CI": "true",
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRIDSOUK_BASE_IMAGE": "/guest/base.tar",
        "GRIDSOUK_SLOWNESS": str(SLOWNESS),
        "ANVIL": os.environ.get("ANVIL", "anvil"),
        "GUEST_SYSTEMD": "yes" if guest.systemd else "",
    }
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    (files / "variables").write_text("".join(lines))
    (files / "command").write_text(f"cd {shlex.quote(str(ROOT))}\n{guest.command}\n")
    disk = folder / "disk"
    with disk.open("wb") as file:
        file.truncate(DISK_MIB * 1024 * 1024)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(files), str(disk)],
        check=True,
    )


@contextmanager
def _share(folder: Path) -> Iterator[None]:
    """This machine's files, served to the guest."""
    view = folder / "view"
    view.mkdir()
    socket = folder / "share"
    here = os.stat("/").st_dev
    apart = [str(path) for path in (ROOT, Path(sys.base_prefix)) if os.stat(path).st_dev != here]
    serve = [_virtiofsd(), f"--socket-path={socket}", "-o", f"source={view}", "-o",
             "sandbox=chroot", "-o", "cache=always", "-o", "no_posix_lock",
             "-o", "log_level=warn", "--rlimit-nofile=0"]  # fmt: skip
    server = subprocess.Popen(
        ["unshare", "-m", "--propagation", "private", "sh", "-c", _SHARE, "share", str(view),
         *apart, "--", *serve], start_new_session=True,
    )  # fmt: skip
    try:
        while not socket.exists():
            if server.poll() is not None:
                raise GuestError(f"virtiofsd ended with {server.returncode}")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        server.wait()


def _virtiofsd() -> str:
    for place in ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"):
        if os.access(place, os.X_OK):
            return place
    raise GuestError("virtiofsd is not installed: it comes with Debian's qemu-system-common")


def _boot(folder: Path, guest: Guest) -> int:
    told = folder / "exit"
    command = [
        "qemu-system-x86_64", "-M", "pc,memory-backend=memory", "-accel", "tcg,tb-size=1024",
        "-cpu", "max", "-smp", "1", "-m", str(guest.memory_mib), "-object",
        f"memory-backend-memfd,id=memory,size={guest.memory_mib}M,share=on",
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        "-kernel", str(TOOLS / "vmlinuz"), "-initrd", str(folder / "initramfs"),
        "-append", "console=ttyS0 quiet panic=-1 cgroup_no_v1=all mitigations=off",
        "-serial", "stdio", "-serial", f"file:{told}",
        "-drive", f"file={folder}/disk,format=raw,if=none,id=disk,cache=unsafe",
        "-device", "virtio-blk-pci,drive=disk",
        "-chardev", f"socket,id=share,path={folder}/share",
        "-device", "vhost-user-fs-pci,chardev=share,tag=root",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(guest.timeout_s)
    except subprocess.TimeoutExpired:
        print(f"guest: not done in {guest.timeout_s} s", file=sys.stderr)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
    said = told.read_text().strip() if told.exists() else ""
    return int(said) if said.isdigit() else NEVER_RAN
