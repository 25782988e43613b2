"""Probe: every way out of a sandbox that we know of, tried from inside. Runs as a job.

Standard library only; one JSON line per attempt: its class, its name, and the error that stopped
it, or ALLOWED. It harms nothing if an attempt succeeds: it opens and asks, and never writes. It is
what the tests run and what a provider's doctor runs before the node may advertise.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from functools import partial

from node.adapters.oci import probe_gang, probe_more, probe_wide

Attempt = probe_more.Attempt

_libc = ctypes.CDLL(None, use_errno=True)

# Numbers of system calls, x86_64 and the generic table of aarch64.
_X86 = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "fsopen": 430,
    "open_tree": 428, "move_mount": 429, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "pidfd_getfd": 438, "kcmp": 312, "setns": 308, "unshare": 272,
    "clone": 56, "clone3": 435, "capset": 126, "add_key": 248, "request_key": 249, "keyctl": 250,
    "perf_event_open": 298, "io_uring_setup": 425, "bpf": 321, "userfaultfd": 323,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "kexec_load": 246,
    "open_by_handle_at": 304, "name_to_handle_at": 303, "fanotify_init": 300, "quotactl": 179,
    "acct": 163, "swapon": 167, "vmsplice": 278, "clock_settime": 227, "adjtimex": 159,
    "settimeofday": 164, "reboot": 169, "sethostname": 170, "syslog": 103, "iopl": 172,
    "ioperm": 173, "modify_ldt": 154, "lookup_dcookie": 212, "personality": 135,
}  # fmt: skip
_ARM = {
    "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "fsopen": 430, "open_tree": 428,
    "move_mount": 429, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271,
    "pidfd_getfd": 438, "kcmp": 272, "setns": 268, "unshare": 97, "clone": 220, "clone3": 435,
    "capset": 91, "add_key": 217, "request_key": 218, "keyctl": 219, "perf_event_open": 241,
    "io_uring_setup": 425, "bpf": 280, "userfaultfd": 282, "init_module": 105,
    "finit_module": 273, "delete_module": 106, "kexec_load": 104, "open_by_handle_at": 265,
    "name_to_handle_at": 264, "fanotify_init": 262, "quotactl": 60, "acct": 89, "swapon": 224,
    "vmsplice": 75, "clock_settime": 112, "adjtimex": 171, "settimeofday": 170, "reboot": 142,
    "sethostname": 161, "syslog": 116, "lookup_dcookie": 18, "personality": 92,
}  # fmt: skip
_NUMBERS = _X86 if platform.machine() == "x86_64" else _ARM

_NAMESPACES = {
    "user": 0x10000000, "mount": 0x20000, "pid": 0x20000000, "network": 0x40000000,
    "ipc": 0x8000000, "uts": 0x4000000, "cgroup": 0x2000000, "time": 0x80,
}  # fmt: skip
_AF_VSOCK, _AF_ALG, _AF_KEY, _AF_TIPC, _AF_PACKET, _AF_NETLINK, _AF_BLUETOOTH, _AF_CAN = (
    40, 38, 15, 30, 17, 16, 31, 29,
)  # fmt: skip


def call(name: str, *arguments: object) -> int:
    """A system call by name. Raises OSError, also where this machine has no such call."""
    if name not in _NUMBERS:
        raise OSError(errno.ENOSYS, name)
    result = int(_libc.syscall(_NUMBERS[name], *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def attempts() -> Iterator[Attempt]:
    """All of them."""
    for part in (_mounts, _files, _processes, _network, _devices, _kernel, _limits, _entries):
        yield from part()
    yield from probe_more.attempts()
    yield from probe_wide.attempts()
    yield from probe_gang.attempts()


def _system(number: int, name: str, *arguments: object) -> Attempt:
    return number, name, partial(call, name, *arguments)


def _open(number: int, path: str, flags: int = os.O_RDONLY) -> Attempt:
    def act() -> None:
        os.close(os.open(path, flags))

    how = "read" if flags == os.O_RDONLY else "write"
    return number, f"{how} {path}", act


def _read(number: int, path: str, holds: Callable[[bytes], bool] = bool) -> Attempt:
    """Reading is a success only if it gives something that matters: a mask gives nothing."""

    def act() -> None:
        with open(path, "rb") as file:
            if not holds(file.read(4096)):
                raise OSError(errno.ENODATA, "masked")

    return number, f"learn from {path}", act


def _mounts() -> Iterator[Attempt]:
    nothing = None
    yield _system(1, "mount", b"none", b"/tmp", b"tmpfs", 0, nothing)
    yield 1, "mount proc", lambda: call("mount", b"none", b"/tmp", b"proc", 0, nothing)
    yield 1, "bind mount", lambda: call("mount", b"/", b"/tmp", nothing, 4096, nothing)
    yield 1, "remount root", lambda: call("mount", nothing, b"/", nothing, 32, nothing)
    yield 1, "umount /proc", lambda: call("umount2", b"/proc", 2)
    yield _system(1, "pivot_root", b"/tmp", b"/tmp")
    yield _system(1, "chroot", b"/tmp")
    yield _system(1, "fsopen", b"tmpfs", 0)
    yield _system(1, "open_tree", -100, b"/", 1)
    yield _system(1, "move_mount", -1, b"", -100, b"/tmp", 4)
    yield _system(7, "mount", b"none", b"/tmp", b"cgroup", 0, b"memory")
    yield 7, "mount cgroup2", lambda: call("mount", b"none", b"/tmp", b"cgroup2", 0, nothing)


def _files() -> Iterator[Attempt]:
    write = os.O_WRONLY
    yield 2, "create a file in /", lambda: os.close(os.open("/probe", write | os.O_CREAT))
    for path in ("/etc/passwd", "/bin/sh", "/in"):
        yield _open(2, path, write)
    for path in ("sysrq-trigger", "sys/kernel/core_pattern", "sys/kernel/modprobe"):
        yield _open(3, f"/proc/{path}", write)
    yield _open(3, "/proc/sys/fs/binfmt_misc/register", write)
    for path in ("kcore", "keys", "timer_list", "config.gz", "interrupts", "sched_debug"):
        yield _read(4, f"/proc/{path}")
    yield _read(4, "/proc/kallsyms", lambda data: any(line[:16].strip(b"0") for line in
                                                      data.splitlines()))  # fmt: skip
    yield _system(4, "syslog", 3, ctypes.create_string_buffer(64), 64)
    for path in ("/proc/1/root/etc/shadow", "/proc/self/root/../etc/shadow", "/etc/shadow"):
        yield _open(5, path)
    yield 5, "leave through an open directory", _leave
    for path in ("/sys/power/state", "/sys/kernel/uevent_helper", "/sys/kernel/mm"):
        yield _open(6, path, write)
    for path in ("release_agent", "memory/memory.limit_in_bytes", "cgroup.procs"):
        yield _open(7, f"/sys/fs/cgroup/{path}", write)
    yield 17, "execute in /tmp", lambda: _execute("/tmp/probe-program")
    yield 17, "execute in /out", lambda: _execute("/out/probe-program")
    yield 20, "link to a file of another user", lambda: os.link("/bin/busybox", "/out/probe-link")


def _leave() -> None:
    handle = os.open("/proc/self/cwd", os.O_RDONLY | os.O_DIRECTORY)
    try:
        for _ in range(16):
            above = os.open("..", os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
            os.close(handle)
            handle = above
        inside = os.stat("/")
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) == (inside.st_dev, inside.st_ino):
            raise OSError(errno.EXDEV, "the root is the root")
    finally:
        os.close(handle)


def _execute(path: str) -> None:
    """A setuid script: neither its bit nor its being a program may count."""
    try:
        with open(path, "wb") as file:
            file.write(b"#!/bin/sh\nexit 0\n")
        os.chmod(path, 0o4755)
        pid = os.posix_spawn(path, [path], {})
        os.waitpid(pid, 0)
    finally:
        os.unlink(path)


def _processes() -> Iterator[Attempt]:
    for target in (1, os.getppid()):
        yield 8, f"ptrace {target}", partial(call, "ptrace", 16, target, 0, 0)
    yield _system(8, "process_vm_readv", 1, None, 0, None, 0, 0)
    yield _system(8, "process_vm_writev", 1, None, 0, None, 0, 0)
    yield _system(8, "pidfd_getfd", -1, 0, 0)
    yield _system(8, "kcmp", 1, os.getpid(), 0, 0, 0)
    for kind in ("mnt", "net", "user", "pid"):
        yield 9, f"setns {kind}", partial(_setns, kind)
    for kind, flag in _NAMESPACES.items():
        yield 9, f"unshare {kind}", partial(call, "unshare", flag)
        yield 9, f"clone {kind}", partial(_clone, flag)
    yield _system(9, "clone3", None, 0)
    yield 13, "setuid 0", lambda: os.setuid(0)
    yield 13, "setgid 0", lambda: os.setgid(0)
    yield 13, "setresuid 0", lambda: os.setresuid(0, 0, 0)
    yield 13, "setgroups", lambda: os.setgroups([0])
    yield _system(13, "capset", ctypes.c_char_p(bytes(8)), None)
    yield 13, "signal the first process", _see_others


def _setns(kind: str) -> None:
    handle = os.open(f"/proc/1/ns/{kind}", os.O_RDONLY)
    try:
        call("setns", handle, 0)
    finally:
        os.close(handle)


def _clone(flag: int) -> None:
    if call("clone", flag | signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)
    os.wait()


def _see_others() -> None:
    """Processes that are not the job's: the namespace shows none."""
    seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    if max(seen) < 10_000 and len(seen) < 100:
        raise OSError(errno.ESRCH, "only its own")


def _network() -> Iterator[Attempt]:
    for name, family, kind, protocol in (
        ("raw ICMP", socket.AF_INET, socket.SOCK_RAW, 1),
        ("AF_PACKET", _AF_PACKET, socket.SOCK_RAW, 3),
        ("AF_VSOCK", _AF_VSOCK, socket.SOCK_STREAM, 0),
        ("AF_ALG", _AF_ALG, socket.SOCK_SEQPACKET, 0),
        ("AF_KEY", _AF_KEY, socket.SOCK_RAW, 2),
        ("AF_TIPC", _AF_TIPC, socket.SOCK_STREAM, 0),
        ("AF_BLUETOOTH", _AF_BLUETOOTH, socket.SOCK_RAW, 1),
        ("AF_CAN", _AF_CAN, socket.SOCK_RAW, 1),
        ("netfilter", _AF_NETLINK, socket.SOCK_RAW, 12),
        ("kobject events", _AF_NETLINK, socket.SOCK_RAW, 15),
        ("audit", _AF_NETLINK, socket.SOCK_RAW, 9),
    ):
        yield 10, name, partial(_socket, family, kind, protocol)
    yield 10, "connect to the hypervisor", _vsock
    for address in ("169.254.169.254", "10.0.0.1", "1.1.1.1", "192.168.1.1"):
        yield 11, f"reach {address}", partial(_connect, address, 80)
    yield 11, "reach a listener of the machine", lambda: _connect(*_listener())
    yield 11, "reach its abstract sockets", _abstract
    yield 11, "see another network interface", _interfaces


def _socket(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _vsock() -> None:
    with socket.socket(_AF_VSOCK, socket.SOCK_STREAM) as made:
        made.settimeout(1)
        made.connect((2, 1024))


def _connect(host: str, port: int) -> None:
    with socket.socket() as made:
        made.settimeout(1)
        made.connect((host, port))


def _listener() -> tuple[str, int]:
    """The caller may name a port that it listens on, on the machine's loopback."""
    return "127.0.0.1", int(os.environ.get("PROBE_PORT", "22"))


def _abstract() -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.connect("\0" + os.environ.get("PROBE_SOCKET", "gridsouk-probe"))


def _interfaces() -> None:
    names = sorted(name for _, name in socket.if_nameindex())
    own = ("lo", "souk0") if "PROBE_GANG" in os.environ else ("lo",)
    if all(name in own or name.startswith(("tunl", "sit", "gre", "ip6", "erspan", "ip_vti"))
           for name in names):  # fmt: skip
        raise OSError(errno.ENODEV, "only its own")


def _devices() -> Iterator[Attempt]:
    character, block = 0o020666, 0o060666
    yield 12, "mknod mem", lambda: os.mknod("/tmp/mem", character, os.makedev(1, 1))
    yield 12, "mknod disk", lambda: os.mknod("/out/disk", block, os.makedev(254, 0))
    for name in ("vda", "sda", "nvme0n1", "mem", "kmsg", "kvm", "fuse", "net/tun", "loop0",
                 "loop-control", "vsock", "vhost-vsock", "port"):  # fmt: skip
        yield _open(12, f"/dev/{name}")
    yield 18, "type for the machine's terminal", _type


def _type() -> None:
    import fcntl

    fcntl.ioctl(0, 0x5412, b"\n")  # TIOCSTI


def _kernel() -> Iterator[Attempt]:
    yield _system(14, "add_key", b"user", b"probe", b"x", 1, -2)
    yield _system(14, "keyctl", 0, -3, 0)
    yield _system(14, "request_key", b"user", b"probe", None, 0)
    yield _system(14, "perf_event_open", ctypes.c_char_p(bytes(128)), 0, -1, -1, 0)
    yield _system(14, "io_uring_setup", 4, ctypes.create_string_buffer(128))
    yield _system(14, "bpf", 0, ctypes.create_string_buffer(128), 128)
    yield _system(14, "userfaultfd", 0)
    yield _system(14, "init_module", None, 0, b"")
    yield _system(14, "finit_module", -1, b"", 0)
    yield _system(14, "delete_module", b"probe", 0)
    yield _system(14, "kexec_load", 0, 0, None, 0)
    yield _system(14, "open_by_handle_at", -100, ctypes.create_string_buffer(32), 0)
    yield _system(14, "name_to_handle_at", -100, b"/", ctypes.create_string_buffer(64), None, 0)
    yield _system(14, "fanotify_init", 0, 0)
    yield _system(14, "quotactl", 0, None, 0, None)
    yield _system(14, "acct", None)
    yield _system(14, "swapon", b"/out/swap", 0)
    yield _system(14, "vmsplice", 1, None, 0, 0)
    yield _system(14, "iopl", 3)
    yield _system(14, "ioperm", 0x70, 1, 1)
    yield _system(14, "modify_ldt", 0, None, 0)
    yield _system(14, "lookup_dcookie", 0, None, 0)
    yield _system(14, "personality", 0x0040000)  # ADDR_NO_RANDOMIZE: makes others' bugs easier
    yield _system(15, "clock_settime", 0, ctypes.c_char_p(bytes(16)))
    yield _system(15, "settimeofday", ctypes.c_char_p(bytes(16)), None)
    yield 15, "adjtimex", lambda: call("adjtimex", ctypes.c_char_p(b"\x01" + bytes(255)))
    yield _system(15, "reboot", 0, 0, 0, None)  # magic numbers of 0: never a reboot
    yield _system(15, "sethostname", b"probe", 5)


def _limits() -> Iterator[Attempt]:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = (files + 1, files + 1)
    yield 16, "raise open files", lambda: resource.setrlimit(resource.RLIMIT_NOFILE, raised)
    yield 16, "raise core size", lambda: resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    yield 16, "nice -20", lambda: os.setpriority(os.PRIO_PROCESS, 0, -20)
    yield 16, "real-time scheduling", _real_time
    yield 16, "become unkillable", lambda: _write("/proc/self/oom_score_adj", "-1000")


def _real_time() -> None:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def _entries() -> Iterator[Attempt]:
    """Other doors into the kernel, which a filter for this one could miss."""
    if platform.machine() == "x86_64":
        yield 21, "a call of the x32 table", lambda: _in_child(_x32)
        yield 21, "a call by int 0x80", lambda: _in_child(_int80)
    yield 22, "gain by execve", _no_new_privileges


def _in_child(act: Callable[[], None]) -> None:
    pid = os.fork()
    if pid == 0:
        try:
            act()
        except OSError as problem:
            os._exit(problem.errno or 1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        raise OSError(errno.EPERM, signal.Signals(os.WTERMSIG(status)).name)
    if os.WEXITSTATUS(status):
        raise OSError(os.WEXITSTATUS(status), "refused")


def _x32() -> None:
    if _libc.syscall(0x40000000 + 39) < 0:  # getpid, which the real table allows
        raise OSError(ctypes.get_errno(), "x32")


def _int80() -> None:
    import mmap

    code = bytes.fromhex("b814000000cd80c3")  # mov eax, 20 (getpid); int 0x80; ret
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if ctypes.CFUNCTYPE(ctypes.c_int)(address)() < 0:
        raise OSError(errno.ENOSYS, "int80")


def _no_new_privileges() -> None:
    with open("/proc/self/status") as file:
        status = dict(line.rstrip().split(":\t", 1) for line in file if ":\t" in line)
    if status["NoNewPrivs"] == "1" and not int(status["CapBnd"], 16) and status["Seccomp"] == "2":
        raise OSError(errno.EPERM, "no_new_privs")


def main() -> int:
    """Try everything; the exit code says whether anything was allowed."""
    if "neighbour" in sys.argv:
        probe_wide.neighbour()
        return 0
    allowed = 0
    for number, name, act in attempts():
        try:
            act()
        except OSError as problem:
            outcome = errno.errorcode.get(problem.errno or 0, "EPERM")
        except (ValueError, FileNotFoundError):
            outcome = "EPERM"  # setrlimit says it so
        else:
            outcome = "ALLOWED"
            allowed += 1
        sys.stdout.write(json.dumps({"class": number, "name": name, "outcome": outcome}) + "\n")
        sys.stdout.flush()
    return 1 if allowed else 0


if __name__ == "__main__":
    sys.exit(main())
