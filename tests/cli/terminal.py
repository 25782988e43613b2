"""A terminal for a program: what it shows is waited for, what is typed goes to it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PATIENCE_S = 60.0


class Terminal:
    """One program on a pseudo-terminal of its own, which controls it as a real one would."""

    def __init__(
        self, command: Sequence[str], cwd: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts it."""
        self._master, slave = pty.openpty()
        self.resize(100, 40)
        self.process = subprocess.Popen(
            command, cwd=cwd, env=environment, stdin=slave, stdout=slave, stderr=slave,
            start_new_session=True, preexec_fn=_controlled,
        )  # fmt: skip
        os.close(slave)
        self.shown = ""  # all of it
        self._seen = 0

    def until(self, text: str) -> str:
        """Wait for what is shown next; what came up to its end."""
        ends_at = time.monotonic() + PATIENCE_S
        while (at := self.shown.find(text, self._seen)) < 0:
            assert self._read(ends_at), f"{text!r} did not come:\n{self.shown}"
        before, self._seen = self.shown[self._seen : at + len(text)], at + len(text)
        return before

    def type(self, text: str) -> None:
        """Keys."""
        os.write(self._master, text.encode())

    def answer(self, question: str, text: str) -> None:
        """A line, once it is asked for."""
        self.until(question)
        self.type(text + "\n")

    def resize(self, columns: int, rows: int) -> None:
        """As if the window was dragged: the kernel tells the program."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def mode(self) -> list[object]:
        """The terminal's settings."""
        return list(termios.tcgetattr(self._master))

    def end(self, mode: list[object] | None = None) -> int:
        """Its exit code, once it has ended by itself; and the terminal is as it was in `mode`."""
        ends_at = time.monotonic() + PATIENCE_S
        while self._read(ends_at):
            pass
        code = self.process.wait(PATIENCE_S)
        assert mode is None or self.mode() == mode, "the terminal was not put back"
        os.close(self._master)
        return code

    def kill(self) -> None:
        """Whatever happens, it does not outlive its test."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def _read(self, ends_at: float) -> bool:
        """Whether something came."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, ends_at - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: nobody has the other end open any more
            return False
        self.shown += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)


def _controlled() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
