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
SCRIPT_BYTES_MAX = 60_000  # gzip
FIND = (
    "axe.run(document, {runOnly: RULES}).then(r => r.violations.map(v => "
    "v.id + ': ' + v.nodes.map(n => n.target.join(' ') + ' ' + n.failureSummary)"
    ".slice(0, 3).join(' | ')))"
).replace("RULES", str(RULES))
LOOKS: dict[str, tuple[Any, int]] = {
    "light": ("light", 1280),
    "dark": ("dark", 1280),
    "small": ("light", 390),
    "wide": ("dark", 1920),
}


@pytest.mark.parametrize("path", PAGES)
def test_no_page_breaks_a_rule(visit: Visitor, world: World, job_over: str, path: str) -> None:
    node = world.nodes[0] if path == "/provider" else None
    page = visit(node, connected=True, reduced_motion="reduce").go(path.format(job=job_over))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    expect(page.get_by_text("Reading", exact=False)).to_have_count(0)
    page.evaluate(AXE.read_text())
    broken: list[str] = []
    for look, (scheme, width) in LOOKS.items():
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        broken += [f"{look}: {one}" for one in page.evaluate(FIND)]
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        broken += [f"{look}: is {wide} pixels wider than the screen"] * (wide > 0)
    assert broken == []


def test_axe_finds_what_is_wrong(visit: Visitor) -> None:
    page = visit().go("/network")
    page.evaluate("document.body.append(document.createElement('button'))")
    found = page.evaluate(AXE.read_text() + ";axe.run(document).then(r => r.violations.map(v => "
                          "v.id))")  # fmt: skip
    assert "button-name" in found


@pytest.mark.parametrize("path", [path for path in PAGES if "?" not in path])
def test_a_page_loads_little_script(visit: Visitor, world: World, job_over: str, path: str) -> None:
    here = visit(world.nodes[0] if path == "/provider" else None, connected=True)
    page = here.context.new_page()
    sizes: dict[str, int] = {}
    page.on("response", lambda answer: sizes.update(
        {answer.url: int(answer.headers.get("content-length", 0))})
        if answer.request.resource_type == "script" and answer.status == 200 else None)  # fmt: skip
    page.goto(here.base + path.format(job=job_over))
    expect(page.get_by_role("heading", level=1)).to_be_visible()
    if "job}" in path:
        expect(page.locator("canvas").first).to_be_visible()  # the chart library, too
    assert 15_000 < sum(sizes.values()) <= SCRIPT_BYTES_MAX, sizes


def test_a_head_stands_above_its_column(visit: Visitor) -> None:
    """Numbers end where their heads end, words begin where theirs begin; nothing is cut off."""
    page = visit().go("/")
    expect(page.get_by_role("table", name="Offers").get_by_role("row")).to_have_count(3)
    for width in (870, 961, 1000, 1081, 1241, 1920):
        page.set_viewport_size({"width": width, "height": 900})
        off = page.evaluate(
            """() => {
              const [head, row] = document.querySelectorAll('.grid [role=row]');
              const edge = (cell) => {
                const range = document.createRange();
                range.selectNodeContents(cell);
                const { left, right } = range.getBoundingClientRect();
                return cell.classList.contains('end') ? right : left;
              };
              const whole = row.getBoundingClientRect().right;
              return [...head.children].map((cell, i) => [cell.innerText,
                edge(cell) - edge(row.children[i]), row.children[i].getBoundingClientRect().right]
              ).filter(([, by, right]) => Math.abs(by) > 1 || right > whole);
            }"""
        )
        assert off == [], width


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
