"""The pages that are written from the code say what the code says; links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import job_docs

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md")) + sorted(ROOT.glob("*.md"))
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
