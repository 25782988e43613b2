"""Hold: a container of Docker or Podman as its shim holds it, by the engine's socket.

Standard library only, because the shim imports it. The engine is told little: the node has made
the container, and who ends it, what it said and how much it used is found out from the kernel.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import socket
import struct
import time
from typing import Any

from node.adapters.oci.container import READ_BYTES, Held, read

ANSWER_S = 60.0  # a loaded engine takes seconds to start a container
ENDED_S = 30.0  # from the end of a process to the engine's having noticed
_ANSWER_BYTES_MAX = 16 * 1024 * 1024
_FRAME = struct.Struct(">BxxxL")  # which output, and how many bytes follow


class EngineError(RuntimeError):
    """The engine refused or does not answer; `status` is 0 if it said nothing."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("engine", timeout=ANSWER_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(ANSWER_S)
        self.sock.connect(self._path)


def ask(path: str, method: str, url: str) -> Any:
    """One request to the engine on the socket `path`; the JSON it answers. Raises EngineError."""
    connection = _Connection(path)
    try:
        connection.request(method, url, headers={"content-length": "0"})
        answer = connection.getresponse()
        data = answer.read(_ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as problem:
        raise EngineError(0, f"the engine on {path} does not answer: {problem}") from problem
    finally:
        connection.close()
    return understood(answer.status, data)


def understood(status: int, data: bytes) -> Any:
    """The JSON of an answer, or None where there is none. Raises EngineError for a refusal."""
    try:
        said = json.loads(data) if data.strip() else None
    except ValueError:
        said = None
    if status >= 400:
        message = said.get("message") if isinstance(said, dict) else None
        raise EngineError(status, str(message or data[:500].decode(errors="replace")))
    return said


class Frames:
    """The engine's multiplexed output, taken apart: it may arrive in any pieces."""

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._which = 1

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """(1 for out or 2 for err, bytes) in order."""
        found = []
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                found.append((self._which, part))
                continue
            wanted = _FRAME.size - len(self._head)
            self._head, data = self._head + data[:wanted], data[wanted:]
            if len(self._head) == _FRAME.size:
                self._which, self._left = _FRAME.unpack(self._head)
                self._head = b""
        return found


class EngineContainer(Held):
    """The engine's container; its first process is not our child."""

    def __init__(self, spec: dict[str, Any]) -> None:
        super().__init__(spec)
        self._engine = spec["engine"]
        self._frames = Frames()
        self._stream: socket.socket | None = None
        self._rest = b""
        self._process = -1
        self._killed = False
        self._state: dict[str, Any] = {}
        self._memory = OomNotices()

    def create(self) -> None:
        """Take hold of its input and output, before it says anything. Raises RuntimeError."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        made.settimeout(ANSWER_S)
        try:
            made.connect(self._engine["socket"])
            made.sendall(upgrade(self._engine["attach"]))
            head = b""
            while b"\r\n\r\n" not in head and (part := made.recv(4096)):
                head += part
        except OSError as problem:
            raise RuntimeError(f"the engine does not answer: {problem}") from problem
        head, _, self._rest = head.partition(b"\r\n\r\n")
        if not head.startswith((b"HTTP/1.1 101", b"HTTP/1.1 200")):
            said = self._rest[:1000].decode(errors="replace")
            raise RuntimeError(f"the engine could not make the container: {said}")
        made.settimeout(None)
        self._stream, self.output = made, made.fileno()

    def start(self) -> None:
        """Run the first process up to its gate. Raises RuntimeError."""
        try:
            ask(self._engine["socket"], "POST", self._engine["start"])
        except EngineError as problem:
            raise RuntimeError(f"the engine could not start the container: {problem}") from problem
        self.pid = int(self._look().get("Pid") or 0)
        if not self.pid:
            raise RuntimeError("its first process ended at once: does the image have /bin/sh?")
        try:
            self._process = os.pidfd_open(self.pid)
        except OSError as problem:
            raise RuntimeError("its first process ended at once") from problem
        self._memory.watch(self.pid)

    def open_gate(self) -> None:
        """Let the job begin; what it must not find on a disk comes this way."""
        assert self._stream is not None
        try:
            self._stream.sendall(read(self._spec["gate"]).encode())
        except OSError:
            return  # it died before it could read, which its exit code will say

    def read_output(self) -> bytes | None:
        """What the job has said, both outputs in order; None at the end."""
        assert self._stream is not None
        data, self._rest = self._rest, b""
        if not data:
            try:
                data = self._stream.recv(READ_BYTES)
            except OSError:
                return None
            if not data:
                return None
        return b"".join(part for _, part in self._frames.feed(data))

    def kill(self) -> None:
        """End the first process and with it all others of its pid namespace."""
        self._killed = True
        if self._process >= 0:
            try:
                signal.pidfd_send_signal(self._process, signal.SIGKILL)
            except ProcessLookupError:
                return

    def reap(self) -> tuple[int, int]:
        """Wait for the end; what the engine says of it. It may need a moment to notice."""
        if self._process >= 0:
            select.select([self._process], [], [])
        deadline = time.monotonic() + ENDED_S
        while time.monotonic() < deadline:
            try:
                state = self._look()
            except EngineError as problem:
                if problem.status == 404:
                    break
                state = {"Running": True}
            if not state.get("Running") and state.get("Status") in ("exited", "dead"):
                code = int(state.get("ExitCode") or 0)
                return code, signal.SIGKILL if self._killed and code == 137 else 0
            time.sleep(0.01)
        return 137, signal.SIGKILL

    def out_of_memory(self) -> bool:
        """From the kernel: Podman knows of none on version 1, and the group is gone by now."""
        found = self._memory.happened() or bool(self._state.get("OOMKilled"))
        return found or super().out_of_memory()

    def delete(self) -> None:
        """Remove what the engine keeps of it."""
        if self._stream is not None:
            self._stream.close()
        try:
            ask(self._engine["socket"], "DELETE", self._engine["remove"])
        except EngineError:
            return  # the node finds it by its label when it scrubs the job

    def _look(self) -> dict[str, Any]:
        found = ask(self._engine["socket"], "GET", self._engine["inspect"])
        self._state = dict(found.get("State") or {})
        return self._state


class OomNotices:
    """Whether the kernel ran out of the container's memory, also after its group is gone.

    Version 1 tells by an eventfd: once for each time it ran out, and once when the group goes. In
    version 2 a group above counts too, and the shim reads that.
    """

    def __init__(self) -> None:
        self._notices = -1
        self._group = ""

    def watch(self, pid: int) -> None:
        """From now on, for the memory group of the process; nothing on version 2."""
        lines = read(f"/proc/{pid}/cgroup").splitlines()
        paths = [line.split(":", 2)[2] for line in lines if line.split(":", 2)[1] == "memory"]
        if not paths:
            return
        self._group = f"/sys/fs/cgroup/memory{paths[0]}"
        try:
            control = os.open(f"{self._group}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
            try:
                self._notices = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
                with open(f"{self._group}/cgroup.event_control", "w") as file:
                    file.write(f"{self._notices} {control}")
            finally:
                os.close(control)
        except OSError:
            self._notices = -1

    def happened(self) -> bool:
        """Ask once, when all its processes have ended."""
        if self._notices < 0:
            return False
        count, deadline = 0, time.monotonic() + 5.0
        while time.monotonic() < deadline:
            there = os.path.isdir(self._group)
            ready, _, _ = select.select([self._notices], [], [], 0.02)
            if ready:
                count += os.eventfd_read(self._notices)
            if there and count:
                return True  # it cannot have been the group's going
            if not there and count:
                break
        # The last notice is of the group's own end.
        while select.select([self._notices], [], [], 0.05)[0]:
            count += os.eventfd_read(self._notices)
        os.close(self._notices)
        self._notices = -1
        return count > 1


def upgrade(url: str, body: bytes = b"") -> bytes:
    """The request that turns a connection into a stream."""
    return (
        f"POST {url} HTTP/1.1\r\nHost: engine\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body
