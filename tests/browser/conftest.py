"""Chromium, a world of real nodes, and pages that keep a record of what went wrong in them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.wallet import TestWallet
from tests.browser.world import World

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
ROOT = Path(__file__).resolve().parents[2]
AXE = ROOT / ".tools" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
WAIT_MS = 30_000


def lacking() -> str:
    """What this machine lacks for the suite, in words."""
    if CHROMIUM is None:
        return "there is no chromium (./run setup)"
    if not AXE.is_file():
        return "axe-core is not installed (./run setup)"
    if os.geteuid() != 0:
        return "the sandbox needs root"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here; with CI=true that is an error."""
    reason = lacking()
    for item in items:
        if "tests/browser" in str(item.path) and "world" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            if reason and os.environ.get("CI") != "true":
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    assert not lacking(), lacking()
    world = World()
    try:
        yield world.start()
    finally:
        world.stop()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    assert CHROMIUM is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@dataclass
class Record:
    """What a context's pages said and asked for."""

    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    scripts: dict[str, int] = field(default_factory=dict)
    allowed: tuple[str, ...] = ()  # parts of messages that a test provokes

    def check(self) -> None:
        """Nothing but what was provoked."""
        left = [e for e in self.errors if not any(part in e for part in self.allowed)]
        assert left == []
        assert self.foreign == []


@dataclass
class Visit:
    """A browser context with a wallet in it, signed in as the node's operator."""

    context: BrowserContext
    page: Page
    wallet: TestWallet
    record: Record
    base: str

    def go(self, path: str) -> Page:
        """Open an address of the page by itself."""
        self.page.goto(self.base + path)
        return self.page


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(world: World, browser: Browser) -> Iterator[Visitor]:
    """Opens contexts; afterwards none of them may have logged an error or left this host."""
    opened: list[Visit] = []

    def open_(node: Any = None, **options: Any) -> Visit:
        node = node or world.requester
        assert world.devnet is not None
        connected = options.pop("connected", False)
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(WAIT_MS)
        wallet = TestWallet(node.key, world.devnet.url, connected=connected).install(context)
        if connected:
            context.add_init_script(
                "if (location.protocol === 'http:')"
                "  localStorage.setItem('souk.wallet', 'test.gridsouk.wallet');"
            )
        record = Record()
        watch(context, record, node.url)
        page = context.new_page()
        page.goto(node.url)
        made = Visit(context, page, wallet, record, node.url.partition("/?")[0])
        opened.append(made)
        return made

    yield open_
    for one in opened:
        one.context.close()
    for one in opened:
        one.record.check()


def watch(context: BrowserContext, record: Record, url: str) -> None:
    """Write down errors and requests that leave the node."""
    base = url.partition("/?")[0]

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            record.errors.append(f"{message.type}: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            record.foreign.append(request.url)

    context.on("console", said)
    context.on("weberror", lambda problem: record.errors.append(str(problem.error)))
    context.on("request", asked)
