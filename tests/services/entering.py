"""Entering: `souk exec` as it is typed, with a terminal and without one, right and wrong."""

from __future__ import annotations

import os
import subprocess

from tests.cli.terminal import Terminal
from tests.services.stage import ROOT, Stage, souk

SIZE = "python3 -c 'import os; print(*os.get_terminal_size())'\n"


def without_a_terminal(stage: Stage, job: str) -> None:
    """Output and errors apart, input to its end, the program's own exit code."""
    said = stage.souk("exec", job, "--", "sh", "-c", "echo out; echo err >&2; exit 7",
                      stdin=subprocess.DEVNULL)  # fmt: skip
    assert (said.returncode, said.stdout, said.stderr) == (7, "out\n", "err\n")
    text = "many words\n" * 50_000  # more than any buffer on the way
    said = stage.souk("exec", job, "--", "cat", input=text)
    assert (said.returncode, said.stdout == text, said.stderr) == (0, True, "")
    said = stage.souk("exec", job, "--", "sh", "-c", "kill -9 $$", stdin=subprocess.DEVNULL)
    assert said.returncode == 128 + 9


def with_a_terminal(stage: Stage, job: str) -> None:
    """Its size and its changes, Ctrl-C for the program and not for us, all as it was afterwards."""
    command = [*souk("exec"), job, "--config", str(stage.requester.config), "--", "sh"]
    screen = Terminal(command, ROOT, {**os.environ, "TERM": "dumb"})
    before = screen.mode()
    try:
        screen.until("$ ")
        screen.type(SIZE)
        screen.until("\n100 40\n")
        screen.resize(121, 51)
        screen.type("sleep 1; " + SIZE)
        screen.until("\n121 51\n")
        screen.type("echo so''on; sleep 1000\n")
        screen.until("\nsoon\n")
        assert screen.mode() != before  # every key goes to the program
        screen.type("\x03")
        screen.type("echo code=$?\n")
        screen.until("\ncode=130\n")
        screen.type("exit 5\n")
        assert screen.end(before) == 5
    finally:
        screen.kill()


def wrongly(stage: Stage, job: str) -> None:
    """What is refused, in which words and with which code."""
    for words, code, said in (
        ((job,), 2, "which program? (write it like: souk exec"),
        (("nobody", "--", "true"), 102, "no job is called 'nobody'"),
        ((job, "--tty", "--", "sh"), 2, "--tty: there is no terminal here"),
        ((job, "--", "no-such-program"), 127, "no-such-program"),
    ):
        done = stage.souk("exec", *words[:1], *words[1:], stdin=subprocess.DEVNULL)
        assert (done.returncode, said in done.stderr) == (code, True), done
        assert done.stdout == ""


def too_late(stage: Stage, job: str) -> None:
    """A job that is over has no inside."""
    done = stage.souk("exec", job, "--", "true", stdin=subprocess.DEVNULL)
    assert (done.returncode, "the job is over: CANCELLED" in done.stderr) == (1, True), done
