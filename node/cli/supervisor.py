"""Supervisor: what the node tells systemd. Knows its protocol; nothing of nodes.

Source: sd_notify(3) and sd_watchdog_enabled(3). Without NOTIFY_SOCKET every call does nothing.
"""

from __future__ import annotations

import os
import socket
from typing import Final

import trio

SHARE: Final = 3  # beats per watchdog period: two may be late on a busy machine


def notify(*lines: str) -> bool:
    """Send assignments like READY=1; whether there was anybody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as told:
        told.setblocking(False)  # whoever does not listen must not hold the node up
        try:
            told.connect(address)
            told.sendall("\n".join(lines).encode())
        except OSError:
            return False
    return True


def watchdog_s() -> float | None:
    """How often systemd wants to hear of us, in seconds; None if it does not."""
    period = os.environ.get("WATCHDOG_USEC", "")
    meant = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not period.isdecimal() or not int(period) or meant != str(os.getpid()):
        return None
    return int(period) / 1e6


async def keep_watchdog() -> None:
    """Tell systemd that the node's loop turns, for ever: a loop that hangs is restarted."""
    period_s = watchdog_s()
    while period_s is not None:
        notify("WATCHDOG=1")
        await trio.sleep(period_s / SHARE)
