"""The web view with a market of 5,000 live offers, in chromium: frames while it is scrolled, and
how long it takes until the offers are there. The reference is the same browser doing nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests.bench.row import Row, row
from tests.browser.conftest import CHROMIUM

OFFERS = 5_000
PER_S = 250  # a node of 5,000 offers hears as many anew when each is said every 20 s
FRAMES = """([scroll, ms]) => new Promise((done) => {
  const body = document.querySelector('.grid .body');
  let frames = 0, worst = 0, last = performance.now();
  const began = last;
  const step = (now) => {
    frames++;
    worst = Math.max(worst, now - last);
    last = now;
    if (scroll) body.scrollTop = (body.scrollTop + 37) % (body.scrollHeight - body.clientHeight);
    if (now - began < ms) requestAnimationFrame(step);
    else done([frames / ((now - began) / 1000), worst]);
  };
  requestAnimationFrame(step);
})"""


def rows(_data: Path) -> list[Row]:
    """Measure it once."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.browser.crowd", folder, str(OFFERS), str(PER_S)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as node:
            assert node.stdout is not None
            url = node.stdout.readline().strip()
            try:
                return _measure(url)
            finally:
                node.terminate()


def _measure(url: str) -> list[Row]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(url)
        page.get_by_role("table", name="Offers").wait_for()
        page.wait_for_timeout(2000)
        nodes = page.evaluate("document.querySelectorAll('*').length")
        ready_ms = _ready_ms(page)
        scrolled, worst = _frames(page, scroll=True)
        page.goto("about:blank")
        idle, _ = _frames(page, scroll=False)
        browser.close()
    return [
        row("frames while 5,000 rows scroll", scrolled, "a second", ("an empty page", idle),
            "at least 50 a second", scrolled >= 50),
        row("longest pause while they scroll", worst, "ms", ("", 0), "under 400 ms", worst < 400),
        row("from navigation to all offers", ready_ms, "ms", ("", 0), "under 3 s", ready_ms < 3000),
        row("elements in the page", nodes, "", ("rows", OFFERS), "fewer than rows", nodes < OFFERS),
    ]  # fmt: skip


def _frames(page: Page, *, scroll: bool) -> tuple[float, float]:
    found: Any = page.evaluate(FRAMES, [scroll, 5000])
    return float(found[0]), float(found[1])


def _ready_ms(page: Page) -> float:
    page.reload()
    page.get_by_text("5,000 offers", exact=True).wait_for()
    return float(page.evaluate("performance.now()"))
