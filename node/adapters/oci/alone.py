"""Alone: one node of a machine has an instance's name to itself, and with it paths, ids and groups.

Two nodes with one name would scrub each other's jobs. The lock goes with the process, however that
ends; its file stays, for who removes it could let two in.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from market.errors import SandboxError
from node.adapters.oci.settings import OciSettings


@contextmanager
def alone(settings: OciSettings) -> Iterator[None]:
    """While inside, nobody else on this machine has the instance. Raises SandboxError."""
    place = settings.run_dir / f"{settings.instance}.lock"
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise SandboxError(f"{place}: {problem.strerror}", hint="a provider runs as root") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SandboxError(
            f"another node of this machine has the sandbox's name {settings.instance!r}",
            hint="end it, or give one of them its own `instance` and `uid_base` in [sandbox]",
        ) from None
    try:
        yield
    finally:
        os.close(descriptor)
