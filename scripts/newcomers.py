"""Newcomers: types what docs/NEWCOMERS.md says, and compares what comes back.

    python -m scripts.newcomers            # is every word of it true?
    python -m scripts.newcomers --write    # write down what came back

A local market is up before anybody comes (`souk devnet --providers 0`). Each chapter is somebody
with an empty home. In the page `…` stands for what differs each time, and a line of `...` for any
lines. A command that ends with & goes on until the page's end; one that fails shows [exit N].
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "NEWCOMERS.md"
READY_S = 180.0
COMMAND_S = 150.0
VOLATILE = re.compile(
    r"0x[0-9a-f]{8,}|12D3Koo\w+|\b[0-9a-f]{8,64}\b(?=…|\b)"
    r"|\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d)?|(?<=127\.0\.0\.1[:/])(tcp/)?\d+|token=\w+|/tmp/[\w./-]+"
    r"|\b\d+(\.\d+)?(?= (?:s|ms|GiB|bytes|gas)\b)|\b\d+m \d\ds\b|\b\d+s\b"
)


@dataclass
class Step:
    """One command and what is to come back."""

    command: str
    expected: list[str] = field(default_factory=list)


@dataclass
class Chapter:
    """What one newcomer types."""

    title: str
    steps: list[Step]


def chapters(text: str) -> Iterator[Chapter]:
    """The console blocks of the page, by its second-level headings."""
    for part in re.split(r"(?m)^## ", text)[1:]:
        title, _, body = part.partition("\n")
        steps: list[Step] = []
        for block in re.findall(r"(?ms)^```console\n(.*?)^```", body):
            for line in block.splitlines():
                if line.startswith("$ "):
                    steps.append(Step(line[2:]))
                elif line.startswith("> "):
                    steps[-1].command += "\n" + line[2:]
                else:
                    steps[-1].expected.append(line)
        if steps:
            yield Chapter(title, steps)


@contextmanager
def market() -> Iterator[dict[str, str]]:
    """A local market without providers; what to call its parts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", "devnet", "--providers", "0", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert "devnet" in said, said
        found = said["devnet"]
        yield {
            "RPC": found["rpc"], "ESCROW": found["escrow"], "TOKEN": found["token"],
            "BOOTSTRAP": found["bootstrap"],
            "KEY1": found["spare_wallet_key_1"], "KEY2": found["spare_wallet_key_2"],
        }  # fmt: skip
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


class Newcomer:
    """Somebody at a shell, in an empty home."""

    def __init__(self, home: Path, variables: dict[str, str]) -> None:
        self.home = home
        keep = ("PATH", "ANVIL", "SSL_CERT_FILE", "LANG", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
        self.environment = {name: os.environ[name] for name in keep if name in os.environ}
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(home), "XDG_STATE_HOME": f"{home}/.state",
            "XDG_CONFIG_HOME": f"{home}/.config",
            "EXAMPLES": str(ROOT / "examples"), "COLUMNS": "100", **variables,
        }  # fmt: skip
        self.running: list[subprocess.Popen[bytes]] = []

    def type(self, command: str) -> list[str]:
        """The lines that come back, standard output and errors as a terminal mixes them."""
        if command.endswith("&"):
            with (self.home / "node.log").open("ab") as log:
                started = subprocess.Popen(
                    ["bash", "-c", f"exec {command[:-1]}"], cwd=self.home, env=self.environment,
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
            self.running.append(started)
            return self._until_up()
        try:
            done = subprocess.run(
                ["bash", "-c", command], cwd=self.home, env=self.environment, text=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                timeout=COMMAND_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired as late:
            said = (late.stdout or b"").decode(errors="replace").splitlines()
            log = (self.home / "node.log").read_text(errors="replace")[-3000:].splitlines()
            return [*said, f"[not over after {COMMAND_S:.0f} s; the node's log ends so:]", *log]
        lines = done.stdout.splitlines()
        return [*lines, f"[exit {done.returncode}]"] if done.returncode else lines

    def _until_up(self) -> list[str]:
        ends_at = time.monotonic() + READY_S
        while time.monotonic() < ends_at:
            if self.running[-1].poll() is not None:
                break
            if not self.type("souk status >/dev/null 2>&1"):
                return []
            time.sleep(0.3)
        log = (self.home / "node.log").read_text(errors="replace")[-2000:]
        return ["the node did not come up", *log.splitlines()]

    def leave(self) -> None:
        """End what still runs."""
        for process in self.running:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def differs(expected: list[str], came: list[str]) -> str:
    """Where the lines do not fit, in words; empty if they do."""
    pattern = ""
    for line in expected:
        if line.strip() == "...":
            pattern += r"(?:[^\n]*\n)*?"
        else:
            pattern += ".*?".join(map(re.escape, line.rstrip().split("…"))) + r"[ \t]*\n"
    text = "".join(f"{line.rstrip()}\n" for line in came)
    if re.fullmatch(pattern, text):
        return ""
    return "expected:\n" + "\n".join(expected) + "\ncame:\n" + "\n".join(came)


def masked(line: str) -> str:
    """The line with what differs each time left out."""
    return re.sub(r"…(\s*…)+", "…", VOLATILE.sub("…", line)).rstrip()


Guest = Callable[[dict[str, "Newcomer"]], None]
"""Whoever does more in the same market: is handed the newcomers by their chapters."""


def perform(text: str, *, write: bool, guest: Guest | None = None) -> tuple[str, list[str]]:
    """Type the whole page; the page as it should be, and every difference."""
    problems: list[str] = []
    done, rest = "", text
    with ExitStack() as stack:
        variables = stack.enter_context(market())
        came_before: dict[str, Newcomer] = {}
        for chapter in chapters(text):
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="souk-newcomer-")))
            newcomer = came_before[chapter.title] = Newcomer(home, variables)
            stack.callback(newcomer.leave)
            for step in chapter.steps:
                came = newcomer.type(step.command)
                problem = differs(step.expected, came)
                if problem:
                    problems.append(f"{chapter.title}: $ {step.command}\n{problem}")
                lines = [masked(line) for line in came] if problem and write else step.expected
                head = "$ " + step.command.replace("\n", "\n> ") + "\n"
                before, found, rest = rest.partition(head + _told(step.expected))
                assert found, step.command
                done += before + head + _told(lines)
        if guest is not None:
            guest(came_before)
    return done + rest, problems


def _told(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def main() -> int:
    """Check, or write."""
    write = "--write" in sys.argv[1:]
    text, problems = perform(PAGE.read_text(), write=write)
    if write:
        PAGE.write_text(text)
        return 0
    print("\n\n".join(problems) or "every word of it is true")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
