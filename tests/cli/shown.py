"""Shown: every command that a page shows, and where each is really run.

A command is a line of a shell block, or `souk ...` / `./run ...` with arguments in the prose. It is
typed by the newcomers, or run in their market by a line of RUN, or elsewhere in CI (ELSEWHERE), or
stands in NOT_HERE with the reason. A command that is in none of them fails the test by its name.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from node.cli.main import main
from scripts import newcomers
from scripts.newcomers import Newcomer

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = (
    ROOT / "README.md",
    ROOT / "examples" / "README.md",
    ROOT / "contracts" / "README.md",
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name != "CLI.md"),
)  # CLI.md is written from the program, NEWCOMERS.md is typed whole
SHELLS: Final = ("sh", "bash")  # the consoles of NEWCOMERS.md are typed whole
PLACES: Final = {"contracts/README.md"}  # whose blocks without a language are a shell's, too

PROVIDER, REQUESTER, NOBODY = "Somebody with a machine to rent out", "Somebody with a job", ""
PAID = "-y --password-file password"
CODES: Final = {"souk stake withdraw": 6}  # it still thaws
MOMENTS: Final = 60
APART: Final = ("souk provider doctor",)  # says where logs go, which this process is not to hear
RUN: Final = {
    "souk provider doctor": (PROVIDER, "souk provider doctor"),
    "souk provider bench": (PROVIDER, "souk provider bench"),
    "souk challenge PEER": (REQUESTER, "souk challenge $(OFFER)"),
    "souk provider earnings": (PROVIDER, "souk provider earnings"),
    "souk status --json": (REQUESTER, "souk status --json"),
    "souk explain job.yaml": (REQUESTER, "souk explain job.yaml"),
    "souk explain JOB.yaml": (REQUESTER, "souk explain job.yaml"),
    "souk run job.yaml": (REQUESTER, "souk run job.yaml -y -d"),
    "souk image list|pull|prune": (REQUESTER, "souk image list; souk image prune"),
    "souk show ID --json": (REQUESTER, "souk show hello --json"),
    "souk show JOB": (REQUESTER, "souk show hello"),
    "souk offers -o json": (REQUESTER, "souk offers -o json"),
    "souk wallet new --password-file FILE": (NOBODY, "souk wallet new --password-file password"),
    "souk wallet mint 100": (REQUESTER, f"souk wallet mint 100 {PAID}"),
    "souk deposit 50": (REQUESTER, f"souk deposit 50 {PAID}"),
    "souk stake add 20": (REQUESTER, f"souk stake add 20 {PAID}"),
    "souk wallet authorise --allowance 30 --expires 30d": (
        REQUESTER, f"souk wallet authorise --allowance 30 --expires 30d {PAID}",
    ),
    "souk wallet gas 0.05": (REQUESTER, f"souk wallet gas 0.05 {PAID}"),
    "souk stake thaw": (REQUESTER, f"souk stake thaw 5 {PAID}"),
    "souk stake withdraw": (REQUESTER, f"souk stake withdraw {PAID}"),
    "souk wait JOB": (REQUESTER, "souk wait hello --timeout 2m"),
    "souk withdraw 10": (REQUESTER, f"souk withdraw 10 {PAID}"),
    "souk simulate": (NOBODY, "souk simulate --jobs 60"),
    "souk simulate TRACE --policy fair --units 128": (
        NOBODY, "souk simulate philly.csv --policy fair --units 128",
    ),
    "souk simulate --churn LOG --reallocation uniform,recover,reliable": (
        NOBODY, "souk simulate --churn log --reallocation uniform,recover,reliable --jobs 9",
    ),
    "souk simulate --plot queue.svg": (NOBODY, "souk simulate --jobs 60 --plot queue.svg"),
    "souk provider drain": (PROVIDER, "souk provider drain; souk provider resume"),
}  # fmt: skip
ELSEWHERE: Final = {
    'eval "$(tools/toolchain.sh)"': ("scripts/setup.sh", "contracts/tools/toolchain.sh"),
    "$FORGE test": ("run", '"$FORGE" test'),
    "tools/gas.sh --check": ("run", "contracts/tools/gas.sh --check"),
    "tools/coverage.py": ("run", "contracts/tools/coverage.py"),
    "tools/artifacts.py --check": ("run", "contracts/tools/artifacts.py --check"),
    "souk devnet --providers 0": ("scripts/newcomers.py", '"devnet", "--providers", "0"'),
    "souk forward JOB 8000": ("tests/services/test_services.py", '"forward", job, "8000:0"'),
    "souk image build NAME": ("docs/NEWCOMERS.md", "souk image build base"),
    "souk wallet import FILE": ("docs/NEWCOMERS.md", "souk wallet import key"),
    "souk up --web 127.0.0.1:8750": ("docs/NEWCOMERS.md", "souk up --web 127.0.0.1:0 &"),
}
"""What is shown, the file whose running runs it, and by which words."""
NOT_HERE: Final = {
    "./run test": "is what runs this",
    "./run setup": "is the first part of ./run test",
    "./run souk": "the program itself, from a checkout",
    "./run leftovers": "lists what the tests beside this one are using",
    "./run demo": "a town of its own, for minutes: by hand",
    "./run bench": "minutes of the whole machine: by hand, for the figures in the pages",
    "./run guest": "an emulated machine, for 5 to 15 minutes: by hand",
    "./run deploy": "needs a public test network",
    "FOUNDRY_PROFILE=ci $FORGE test": "half an hour: by hand, after a change of the contracts",
    "tools/analyse.sh": "needs slither and halmos, which are not installed in CI",
    "souk service install": "no systemd runs here; tests/cli/test_unit.py writes the file",
    "nvidia-ctk": "no GPU is here",
    "nvidia-smi": "no GPU is here",
    "amd-ctk": "no GPU is here",
    "pytest -m gpu": "no GPU is here",
}
"""Beginnings of commands, and why nobody runs them here."""


def shown() -> dict[str, str]:
    """Each command once, and the page that shows it first."""
    found: dict[str, str] = {}
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        text = page.read_text()
        for command in (*_fenced(text, name in PLACES), *_inline(text)):
            found.setdefault(command, name)
    return found


def _fenced(text: str, any_block: bool) -> Iterator[str]:
    for kind, block in re.findall(r"(?ms)^```(\w*)\n(.*?)^```", text):
        if kind not in SHELLS and not (any_block and not kind):
            continue
        for line in block.splitlines():
            command = re.split(r"\s{2,}#|\s#\s", line)[0].strip()
            if command:
                yield command


def _inline(text: str) -> Iterator[str]:
    prose = re.sub(r"(?ms)^```.*?^```", "", text)
    for command in re.findall(r"`((?:souk|\./run) [^`]+)`", prose):
        if len(command.split()) > (2 if command.startswith("souk") else 1):
            yield " ".join(command.split())


def typed() -> frozenset[str]:
    """What the newcomers type, command by command."""
    text = newcomers.PAGE.read_text()
    lines = [step.command for chapter in newcomers.chapters(text) for step in chapter.steps]
    parts = [part.strip() for line in lines for part in re.split(r";|&$|\bdo\b", line)]
    return frozenset([*lines, *parts])


def unmapped() -> list[str]:
    """Commands that nothing runs and nobody excuses; and entries that have nothing to say."""
    commands, known = shown(), typed()
    told = [
        f"{page}: nothing runs: {command}"
        for command, page in commands.items()
        if not any(line == command or line.startswith(f"{command} ") for line in known)
        and command not in RUN.keys() | ELSEWHERE.keys()
        and not any(command.startswith(begin) for begin in NOT_HERE)
    ]
    texts = "".join(page.read_text() for page in PAGES)
    stale = [f"no page shows: {one}" for one in (*RUN, *ELSEWHERE, *NOT_HERE) if one not in texts]
    gone = [
        f"{file} does not run: {words}"
        for file, words in ELSEWHERE.values()
        if words not in (ROOT / file).read_text()
    ]
    return [*told, *stale, *gone]


def run_all(people: dict[str, Newcomer], home: Path) -> list[str]:
    """Run RUN in the newcomers' market; what went wrong."""
    (home / "password").write_text("a battery")
    (home / "password").chmod(0o600)
    (home / "philly.csv").write_text(
        "timestamp,duration,num_gpus,gpu_time,cluster\n2017-10-09 07:01:55,66.0,2,66.0,vc\n"
    )
    (home / "log").write_text("".join(f"{n * 900_000},add,n{n}\n" for n in range(4)))
    anybody = Newcomer(home, {})
    wrong = []
    for command, (who, line) in RUN.items():
        for part in line.split("; "):
            code, said = run_patiently(people.get(who, anybody), part)
            if code != CODES.get(command, 0):
                wrong.append(f"{command}: {part}: [exit {code}]\n{said}")
    return wrong


def run_patiently(person: Newcomer, line: str) -> tuple[int, str]:
    """As `run_one`, and again, as a person would who is told to try again in a moment."""
    for _ in range(MOMENTS):
        code, said = run_one(person, line)
        if not (code and "try again in a moment" in said):
            break
        time.sleep(1)
    return code, said


def run_one(person: Newcomer, line: str) -> tuple[int, str]:
    """One command in this process, as that person; its exit code and all that it said.

    It is the same as in a process of its own, and starts ten times as fast.
    """
    if line.startswith(APART):
        lines = person.type(line)
        return int("[exit" in lines[-1]), "\n".join(lines)
    if "$(OFFER)" in line:
        _, said = run_one(person, "souk offers -q")
        line = line.replace("$(OFFER)", said.split()[0])
    bytes_ = io.BytesIO()
    screen = io.TextIOWrapper(bytes_, write_through=True)
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.chdir(person.home),
        contextlib.redirect_stdout(screen),
        contextlib.redirect_stderr(screen),
    ):
        for name in os.environ.keys() - person.environment.keys():
            patch.delenv(name)
        for name, text in person.environment.items():
            patch.setenv(name, text)
        try:
            main(shlex.split(line)[1:])
            code = 0
        except SystemExit as ended:
            code = int(str(ended.code or 0))
    return code, bytes_.getvalue().decode(errors="replace")
