"""NAT for tests: two private networks behind masquerading routers, and the open net between them.

    left 192.168.7.2 -- router 9.9.9.11 --+-- hub --+-- 9.9.9.12 router -- 192.168.7.2 right
                      first relay 9.9.9.1 --+         +-- 9.9.9.2 second relay

Network namespaces, each held by a process that dies with the test: nothing is left on the machine.
The addresses are global ones, so that the code sees what it would see on the Internet; they lead
nowhere from in here.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import IO, Any

import trio

FIRST, SECOND, LEFT, RIGHT = "first", "second", "left", "right"
IPS = {FIRST: "9.9.9.1", SECOND: "9.9.9.2", LEFT: "9.9.9.11", RIGHT: "9.9.9.12"}
ANSWER_S = 60.0  # the machine may be busy


def missing() -> str:
    """Why there can be no namespaces here; empty if there can."""
    if os.geteuid():
        return "network namespaces need root"
    tools = [name for name in ("unshare", "nsenter", "ip", "iptables") if not shutil.which(name)]
    return f"network namespaces need {', '.join(tools)}" if tools else ""


def dies_with_parent() -> None:
    """Before exec: the kernel ends this process when the test's is gone."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Nat:
    """The namespaces, by name."""

    def __init__(self) -> None:
        self._holders: dict[str, subprocess.Popen[bytes]] = {}

    def command(self, place: str, *words: str) -> list[str]:
        """How to run something there."""
        return ["nsenter", f"--net=/proc/{self._holders[place].pid}/ns/net", *words]

    def _hold(self, name: str) -> IO[bytes]:
        """One namespace; a line comes from the holder's output once it is there."""
        holder = self._holders[name] = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep 3600"],
            stdout=subprocess.PIPE, preexec_fn=dies_with_parent,
        )  # fmt: skip
        assert holder.stdout is not None
        return holder.stdout

    async def make(self) -> None:
        """All seven."""
        for name in ("hub", f"router-{LEFT}", f"router-{RIGHT}", *IPS):
            await trio.to_thread.run_sync(self._hold(name).readline)
            await self.run(name, "ip link set lo up")
        await self.run("hub", "ip link add hub type bridge; ip link set hub up")
        for name, ip in IPS.items():
            place = f"router-{name}" if name in (LEFT, RIGHT) else name
            await self.run(
                "hub",
                f"ip link add {name} type veth peer name wan netns {self._holders[place].pid}",
                f"ip link set {name} master hub; ip link set {name} up",
            )
            await self.run(place, f"ip address add {ip}/24 dev wan; ip link set wan up")
        for side in (LEFT, RIGHT):
            await self.run(
                f"router-{side}",
                f"ip link add lan type veth peer name eth netns {self._holders[side].pid}",
                "ip address add 192.168.7.1/24 dev lan; ip link set lan up",
                "echo 1 > /proc/sys/net/ipv4/ip_forward",
                "iptables -t nat -A POSTROUTING -o wan -j MASQUERADE",
                "iptables -A FORWARD -i wan -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP",
            )
            await self.run(
                side,
                "ip address add 192.168.7.2/24 dev eth; ip link set eth up",
                "ip route add default via 192.168.7.1",
            )

    async def run(self, place: str, *lines: str) -> None:
        """Run shell lines there; fails with what they said."""
        command = self.command(place, "sh", "-ec", "\n".join(lines))
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False
        )
        assert done.returncode == 0, f"{place}: {lines}: {done.stderr.decode()}"

    def end(self) -> None:
        """The namespaces go with their last process."""
        for holder in self._holders.values():
            holder.kill()
            holder.communicate()


class RemoteNode:
    """A `run_network` in a process of its own (see `natnode`), told what to do by lines of JSON."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""
        self.key = b""

    async def ask(self, do: str, **what: Any) -> Any:
        """Have it done; -> what came of it. A MarketError there comes back as its text."""
        assert self._process.stdin is not None
        with trio.fail_after(ANSWER_S):
            line = json.dumps({"do": do, **what}) + "\n"
            await self._process.stdin.send_all(line.encode())
            return await self._answer()

    async def until(self, do: str, wanted: Any, **what: Any) -> Any:
        """Ask until the answer is good."""
        with trio.fail_after(ANSWER_S):
            while not wanted(answer := await self.ask(do, **what)):
                await trio.sleep(0.1)
        return answer

    async def started(self) -> None:
        """Wait until it is up."""
        with trio.fail_after(ANSWER_S):
            self.key = bytes.fromhex(await self._answer())

    async def kill(self) -> None:
        """At once."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 10):
            self._process.kill()
            await self._process.wait()
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            await self._process.stdin.aclose()
            await self._process.stdout.aclose()

    async def _answer(self) -> Any:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some(65_536)
            assert data, "the node's process has ended"
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def nat() -> AsyncIterator[Nat]:
    """The namespaces, and their end."""
    namespaces = Nat()
    try:
        await namespaces.make()
        yield namespaces
    finally:
        namespaces.end()


@asynccontextmanager
async def nodes(
    namespaces: Nat, *places: tuple[str, dict[str, Any]]
) -> AsyncIterator[list[RemoteNode]]:
    """Processes of `natnode`, each at a place with its settings, all up."""
    started: list[RemoteNode] = []
    async with contextlib.AsyncExitStack() as stack:
        for place, settings in places:
            words = (sys.executable, "-m", "tests.adapters.libp2p.natnode", json.dumps(settings))
            process = await trio.lowlevel.open_process(  # it ends with its standard input
                namespaces.command(place, *words), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            started.append(RemoteNode(process))
            stack.push_async_callback(started[-1].kill)
        for node in started:
            await node.started()
        yield started
