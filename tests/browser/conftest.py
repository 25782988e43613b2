"""Chromium, a world of real nodes, and pages that keep a record of what went wrong in them."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.outpost import Outpost, begin
from tests.browser.wallet import TestWallet
from tests.browser.world import MILLION, World

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
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    assert not lacking(), lacking()
    world = World()
    try:
        world.start()
        if any("outpost" in getattr(item, "fixturenames", ()) for item in request.session.items):
            request.session.stash[OUTPOST] = begin(world)  # it comes up while other tests run
        yield world
    finally:
        world.stop()


OUTPOST = pytest.StashKey[Outpost]()


@pytest.fixture(scope="session")
def outpost(world: World, request: pytest.FixtureRequest) -> Outpost:
    """A node that is exposed, with a token that has no permit."""
    made = request.session.stash[OUTPOST]
    made.node.wait()
    return made


@pytest.fixture
def funded(world: World) -> Iterator[World]:
    """The requester's wallet has 20 or more in the escrow, and its node may use it.

    Jobs that a test leaves behind are cancelled, so that the next finds units free.
    """

    async def fund(devnet: Any, rpc: Any) -> None:
        wallet = devnet.wallet(rpc, 3)
        await wallet.deposit(20 * MILLION)
        month = int(time.time()) + 30 * 86_400
        await wallet.authorise(world.requester.operator, 50 * MILLION, month)

    held = world.requester.ask("/api/wallet")
    if float(held["deposited"]) < 20 or float(held["allowance"]) < 20:
        world.on_chain(fund)
    world.wait_for_offers()
    yield world
    for job in world.requester.ask("/api/jobs"):
        if not job["over"]:
            world.requester.post(f"/api/jobs/{job['id']}/cancel", {})


@pytest.fixture
def job_over(funded: World) -> str:
    """The id of a job that has run and is over: one the walk ran, or a short one of its own."""
    node = funded.requester
    over = [job["id"] for job in node.ask("/api/jobs") if job["over"] and job["metered_s"] > 3]
    if over:
        return str(over[0])
    spec = {
        "name": "short", "image": "base", "run": "for n in 1 2 3 4 5; do echo $n; sleep 1; done",
        "resources": {"accelerators": "CPU:1", "memory": "256MB", "disk_size": "64MB"},
        "max_hourly_cost": "36.00", "max_duration": "10m",
    }  # fmt: skip
    image = node.post("/api/drafts/images", {"name": "base"})
    name = str(node.post("/api/jobs", {"spec": spec, "image": image})["id"])
    deadline = time.monotonic() + 90
    while not node.ask(f"/api/jobs/{name}")["over"]:
        assert time.monotonic() < deadline, node.ask(f"/api/jobs/{name}")["reason"]
        time.sleep(0.2)
    return name


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
        if not node.url:
            node.wait()
        assert world.devnet is not None
        connected = options.pop("connected", False)
        wallet = options.pop("wallet", None) or TestWallet(node.key, world.devnet.url)
        wallet.connected = connected
        base = options.pop("base", node.url.partition("/?")[0])
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(WAIT_MS)
        wallet.install(context)
        if connected:
            context.add_init_script(
                "if (location.protocol === 'http:')"
                "  localStorage.setItem('souk.wallet', 'test.gridsouk.wallet');"
            )
        record = Record()
        watch(context, record, base)
        page = context.new_page()
        page.goto(node.url if node.url.startswith(base) else base)
        made = Visit(context, page, wallet, record, base)
        opened.append(made)
        return made

    yield open_
    for one in opened:
        one.context.close()
    for one in opened:
        one.record.check()


def watch(context: BrowserContext, record: Record, base: str) -> None:
    """Write down errors and requests that leave the node."""

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            record.errors.append(f"{message.type}: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith((base, "data:", "blob:")):
            record.foreign.append(request.url)

    context.on("console", said)
    context.on("weberror", lambda problem: record.errors.append(str(problem.error)))
    context.on("request", asked)
