"""The pages that are written from the code say what the code says; links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cyclopts.exceptions import CycloptsError

from node.cli.main import make_app, without_format
from scripts import job_docs

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
GENERATED = ("CLI.md",)  # written from the program itself
LINK = re.compile(r"\[[^\]]*\]\(([^)\s#]+)(#[^)]*)?\)")


def test_the_job_files_page_is_generated() -> None:
    for place, text in job_docs.pages().items():
        assert place.read_text() == text, "python -m scripts.job_docs"


def test_the_commands_page_is_generated() -> None:
    # In a process of its own: it loads every command there is.
    done = subprocess.run(
        [sys.executable, "-m", "scripts.cli_docs", "--check"], cwd=ROOT, check=False
    )
    assert done.returncode == 0, "python -m scripts.cli_docs"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = [found[1] for found in LINK.finditer(page.read_text())]
    local = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in local if not (page.parent / link).exists()] == []


def _commands() -> list[tuple[str, str]]:
    """Every `souk ...` line of every shell block, with the page it stands on."""
    found = []
    for page in PAGES:
        for kind, block in re.findall(r"(?ms)^```(sh|bash|console)\n(.*?)^```", page.read_text()):
            for line in block.splitlines():
                if kind == "console" and not line.startswith("$ "):
                    continue  # what came back
                words = line.removeprefix("$ ").removeprefix("./run ").strip()
                if words.startswith("souk ") and page.name not in GENERATED:
                    found.append((page.name, words.split("  ")[0]))
    return found


def test_every_command_in_the_docs_is_one() -> None:
    app = make_app()
    wrong = []
    commands = _commands()
    assert len(commands) > 30
    for page, line in commands:
        if any(part in line for part in ("|", "$(", "...", "&&")):
            continue  # more than one command, or less than a whole one
        words = shlex.split(line.rstrip("&").replace("$KEY1", "key"), comments=True)[1:]
        try:
            app.parse_args(without_format(words), exit_on_error=False, print_error=False)
        except CycloptsError as problem:
            wrong.append(f"{page}: {line}: {' '.join(str(problem).split())}")
    assert wrong == []


def test_the_dashboard_asks_for_what_there_is() -> None:
    panels = json.loads((ROOT / "docs" / "grafana" / "gridsouk.json").read_text())["panels"]
    asked = {
        name
        for panel in panels
        for target in panel["targets"]
        for name in re.findall(r"souk_(\w+)", target["expr"])
    }
    source = (ROOT / "node" / "desk" / "gauges.py").read_text()
    told = set(re.findall(r'Reading\(\s*f?"(\w+)', source)) | set(
        re.findall(r'\("(\w+)", ', source)
    )
    told |= {f"{name}_total" for name in ("paid_tokens", "slashed_tokens", "metered_seconds")}
    assert asked - told == set()
    assert len(asked) > 15
