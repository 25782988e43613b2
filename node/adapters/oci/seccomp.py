"""Seccomp: the system calls a job may make. One list of our own, for every runtime.

Engines ship different defaults (some allow AF_VSOCK, which no network namespace contains; some
io_uring; some new user namespaces), so none of theirs is trusted. Everything not named here fails
with EPERM. The list is what PyTorch, NumPy, CUDA, gloo and ordinary programs use.
"""

from __future__ import annotations

import platform
from typing import Any

_EPERM, _ENOSYS = 1, 38
_NEW_NAMESPACES = 0x7E020080  # every CLONE_NEW* flag, the one of time included
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_NETLINK_ROUTE = 0
_PROTOCOLS = (0, 6, 17)  # the kind's own, TCP, UDP: no MPTCP, SCTP or others with holes of theirs
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)

_FILES = """
access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2
fadvise64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync fgetxattr
flistxattr flock fremovexattr fsetxattr fstat fstatfs fsync ftruncate futimesat getcwd getdents
getdents64 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl lchown
lgetxattr link linkat listxattr llistxattr lremovexattr lseek lsetxattr lstat mkdir mkdirat mknod
mknodat newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2
read readahead readlink readlinkat readv removexattr rename renameat renameat2 rmdir sendfile
setxattr splice stat statfs statx symlink symlinkat sync sync_file_range syncfs tee truncate umask
unlink unlinkat utime utimensat utimes write writev
"""

_MEMORY = """
brk get_mempolicy madvise mbind membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect
mremap msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect process_madvise
process_mrelease remap_file_pages set_mempolicy set_mempolicy_home_node
"""

_PROCESSES = """
alarm arch_prctl execve execveat exit exit_group fork futex futex_waitv get_robust_list
get_thread_area getcpu getegid geteuid getgid getgroups getitimer getpgid getpgrp getpid getppid
getpriority getrandom getresgid getresuid getrlimit getrusage getsid gettid getuid ioprio_get
ioprio_set kill landlock_add_rule landlock_create_ruleset landlock_restrict_self nanosleep pause
pidfd_open pidfd_send_signal prctl prlimit64 restart_syscall rseq rt_sigaction rt_sigpending
rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp set_robust_list set_thread_area set_tid_address setfsgid
setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid
setrlimit setsid setuid sigaltstack sysinfo tgkill time times tkill uname vfork wait4 waitid
capget
"""

_EVENTS_AND_TIME = """
clock_getres clock_gettime clock_nanosleep epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 gettimeofday io_cancel
io_destroy io_getevents io_pgetevents io_setup io_submit poll ppoll pselect6 select signalfd
signalfd4 timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
timerfd_gettime timerfd_settime
"""

_CONVERSATION = """
accept accept4 bind connect getpeername getsockname getsockopt listen mq_getsetattr mq_notify
mq_open mq_timedreceive mq_timedsend mq_unlink msgctl msgget msgrcv msgsnd recvfrom recvmmsg recvmsg
semctl semget semop semtimedop sendmmsg sendmsg sendto setsockopt shmat shmctl shmdt shmget shutdown
"""

ALLOWED: tuple[str, ...] = tuple(
    sorted(f"{_FILES} {_MEMORY} {_PROCESSES} {_EVENTS_AND_TIME} {_CONVERSATION}".split())
)

_ARCHITECTURES = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}


def profile(machine: str = "") -> dict[str, Any]:
    """The `linux.seccomp` object of an OCI configuration.

    Only the machine's own ABI is named: calls by a 32-bit or x32 entry end the caller (SIGSYS).
    """
    architecture = _ARCHITECTURES[machine or platform.machine()]
    rules: list[dict[str, Any]] = [
        {"names": list(ALLOWED), "action": "SCMP_ACT_ALLOW"},
        _when("clone", _masked(0, _NEW_NAMESPACES, 0)),
        # glibc falls back to clone, whose flags can be looked at.
        {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS},
        _when("socket", _equal(0, _AF_NETLINK), _equal(2, _NETLINK_ROUTE)),
    ]
    rules.append(_when("socket", _equal(0, _AF_UNIX)))
    rules += [
        _when("socket", _equal(0, family), _equal(2, protocol))
        for family in (_AF_INET, _AF_INET6)
        for protocol in _PROTOCOLS
    ]
    rules.append(_when("socketpair", _equal(0, _AF_UNIX)))
    rules += [_when("personality", _equal(0, kind)) for kind in _PERSONALITIES]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": _EPERM,
        "architectures": [architecture],
        "syscalls": rules,
    }


def _when(name: str, *conditions: dict[str, Any]) -> dict[str, Any]:
    return {"names": [name], "action": "SCMP_ACT_ALLOW", "args": list(conditions)}


def _equal(index: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": value, "op": "SCMP_CMP_EQ"}


def _masked(index: int, mask: int, value: int) -> dict[str, Any]:
    return {"index": index, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
