"""Every page, light, dark and small: no violation that axe knows, no error, no request elsewhere.

Axe is injected by `evaluate`, which is not under the page's content security policy.
"""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import AXE, Visitor
from tests.browser.world import World

PAGES = ("/", "/?max=1", "/new", "/jobs", "/jobs/{job}", "/wallet", "/provider", "/network")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
SCRIPT_GZIP_MAX = 60 * 1024
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "small": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


@pytest.mark.parametrize("look", LOOKS)
def test_no_page_breaks_a_rule(visit: Visitor, world: World, look: str) -> None:
    jobs = world.requester.ask("/api/jobs")
    here = visit(connected=True, reduced_motion="reduce", **LOOKS[look])
    broken: list[str] = []
    for path in PAGES:
        node = world.nodes[0] if path == "/provider" else None
        there = here if node is None else visit(node, connected=True, **LOOKS[look])
        page = there.go(path.format(job=jobs[0]["id"] if jobs else "none"))
        expect(page.get_by_role("heading", level=1)).to_be_visible()
        expect(page.get_by_text("Reading", exact=False)).to_have_count(0)
        found = page.evaluate(
            AXE.read_text()
            + ";axe.run(document, {runOnly: RULES}).then(r => r.violations.map(v => "
            "v.id + ': ' + v.nodes.map(n => n.target.join(' ') + ' ' + n.failureSummary)"
            ".slice(0, 3).join(' | ')))".replace("RULES", str(RULES))
        )
        broken += [f"{path}: {one}" for one in found]
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        broken += [f"{path} is wider than the screen"] * (wide > 0)
    assert broken == []


def test_axe_finds_what_is_wrong(visit: Visitor) -> None:
    page = visit().go("/network")
    page.evaluate("document.body.append(document.createElement('button'))")
    found = page.evaluate(AXE.read_text() + ";axe.run(document).then(r => r.violations.map(v => "
                          "v.id))")  # fmt: skip
    assert "button-name" in found


@pytest.mark.parametrize("path", ["/", "/jobs/{job}"])
def test_a_page_loads_little_script(visit: Visitor, world: World, path: str) -> None:
    jobs = world.requester.ask("/api/jobs")
    here = visit(world.nodes[0] if path == "/provider" else None, connected=True)
    page = here.context.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update(
        {answer.url: int(answer.headers.get("content-length", 0))})
        if answer.request.resource_type == "script" and answer.status == 200 else None)  # fmt: skip
    page.goto(here.base + path.format(job=jobs[0]["id"] if jobs else "none"))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if "job}" in path and jobs and jobs[0]["metered_s"] > 5:
        expect(page.locator("canvas").first).to_be_visible()  # the chart library, too
    assert sizes, "scripts were fetched"
    assert 5_000 < sum(sizes.values()) <= SCRIPT_GZIP_MAX, sizes


def test_the_market_is_walked_with_the_keyboard_alone(visit: Visitor) -> None:
    page = visit().go("/")
    expect(page.get_by_role("table", name="Offers").get_by_role("row")).to_have_count(3)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.get_by_role("table").get_by_role("link").first.focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("table").get_by_role("link").nth(1)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
