"""The web view's files: what is vendored is what its list says, and a page stays small."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parents[2] / "node" / "web" / "static"
SCRIPT_GZIP_MAX = 60_000
CHARTS = "vendor/uplot.js"  # fetched by the page of a job, when it draws


def packed(name: str) -> int:
    return len(gzip.compress((STATIC / name).read_bytes(), 9))


def imports(name: str) -> set[str]:
    """A module and all that it imports outright, as paths below `static`."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        one = waiting.pop()
        if one in found:
            continue
        found.add(one)
        text = (STATIC / one).read_text()
        for said in re.findall(r"^(?:import|export)[^;'\"]*?from '([^']+)'", text, re.MULTILINE):
            waiting.append(str(((STATIC / one).parent / said).resolve().relative_to(STATIC)))
    return found


def test_what_is_vendored_is_what_the_list_says() -> None:
    listing = json.loads((STATIC / "vendor" / "vendor.json").read_text())
    here = {path.name for path in (STATIC / "vendor").iterdir()} - {"vendor.json"}
    assert here == set(listing["files"])
    for name, sha256 in listing["files"].items():
        data = (STATIC / "vendor" / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == sha256, name
    pins = json.loads(
        (STATIC.parents[2] / "scripts" / "pins" / "vendor" / "package.json").read_text()
    )
    assert listing["versions"] == pins["dependencies"]


@pytest.mark.parametrize("page", sorted(p.name for p in (STATIC / "pages").iterdir()))
def test_a_page_loads_little_script(page: str) -> None:
    modules = imports("app.js") | imports(f"pages/{page}")
    lazy = {CHARTS} if page == "job.js" else set()
    sizes = {name: packed(name) for name in modules | lazy}
    assert sum(sizes.values()) <= SCRIPT_GZIP_MAX, sizes


def test_all_pages_together_without_the_charts_are_little() -> None:
    names = {str(path.relative_to(STATIC)) for path in STATIC.rglob("*.js")} - {CHARTS}
    assert sum(map(packed, names)) <= SCRIPT_GZIP_MAX


def test_nothing_in_the_page_names_another_host() -> None:
    for path in STATIC.rglob("*"):
        if path.suffix in (".js", ".css", ".html") and "vendor" not in path.parts:
            urls = re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}", path.read_text())
            assert urls == [], path.name
            unsafe = r"\beval\(|new Function|innerHTML|insertAdjacentHTML|document\.write"
            assert not re.search(unsafe, path.read_text()), path.name


def test_the_check_of_sizes_sees_something() -> None:
    assert "vendor/ui.js" in imports("pages/job.js")
    assert packed("vendor/ui.js") > 5_000
