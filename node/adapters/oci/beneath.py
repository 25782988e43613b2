"""Beneath: open files in a tree that somebody else wrote, without ever leaving it.

openat2(2) makes the kernel enforce it for every step of the path, which no check before an open
could. Knows nothing of jobs.
"""

from __future__ import annotations

import ctypes
import os

NO_XDEV = 0x01
NO_MAGICLINKS = 0x02
NO_SYMLINKS = 0x04
BENEATH = 0x08
IN_ROOT = 0x10

_OPENAT2 = 437  # the same number on every architecture
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


def open_at(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2 of `path` from the directory descriptor. Raises OSError as open does.

    Under BENEATH a `..` or an absolute link that would leave the tree is EXDEV, a link under
    NO_SYMLINKS is ELOOP; under IN_ROOT both are resolved as if the directory were `/`.
    """
    how = _How(flags | os.O_CLOEXEC, mode, resolve)
    arguments = (directory, os.fsencode(path), ctypes.byref(how), ctypes.sizeof(how))
    descriptor = int(_libc.syscall(_OPENAT2, *arguments))
    if descriptor < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), path)
    return descriptor


def open_strict(directory: int, path: str, flags: int) -> int:
    """Open beneath the directory: no link of any kind, no other mount, no waiting for a FIFO."""
    if not flags & os.O_PATH:
        flags |= os.O_NONBLOCK | os.O_NOCTTY
    return open_at(directory, path, flags, BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV)
