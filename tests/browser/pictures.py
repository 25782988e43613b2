"""Pictures: the README's, taken of a real run.

    python -m tests.browser.pictures        # writes docs/images; needs what the browser tests need

The market's is of the real page and API over 1,200 generated offers; the others are of real nodes
on a local chain, and a job whose first provider is killed.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from node.client.http import Node as Client
from tests.browser.conftest import CHROMIUM, ROOT
from tests.browser.wallet import TestWallet
from tests.browser.world import Node, World

IMAGES = ROOT / "docs" / "images"
QUALITY = 86
BYTES_MAX = 120_000  # a README that loads at once
SIZE = {"width": 1280, "height": 800}
OFFERS, PER_S = 1200, 40
LEARN = """
import json, math, os, sys, time
at = json.load(open('/ckpt/at')) if os.path.exists('/ckpt/at') else {'step': 0}
ballast, first = [], at['step']
print(f"resume from step {first}" if first else "start from scratch", flush=True)
for step in range(first + 1, first + 400):
    ballast.append(bytearray(600_000))
    until = time.monotonic() + 0.2 + 0.15 * math.sin(step / 4)
    while time.monotonic() < until: sum(n * n for n in range(2000))
    time.sleep(0.25)
    print(f"step {step:4d}  loss {2.3 * 0.985 ** step + 0.02 * math.sin(step):.4f}", flush=True)
    json.dump({'step': step}, open('/ckpt/new', 'w')); os.replace('/ckpt/new', '/ckpt/at')
"""
JOB = {
    "name": "finetune", "image": "base", "run": "python3 /in/learn.py", "outputs": ["/out"],
    "resources": {"accelerators": "CPU:1", "memory": "512MB", "disk_size": "128MB"},
    "file_mounts": {"/in/learn.py": "./learn.py"}, "max_hourly_cost": "36.00",
    "max_duration": "20m", "checkpoint": {"path": "/ckpt", "interval": "2s"},
}  # fmt: skip


def take(page: Page, name: str) -> None:
    """Write one picture as WebP. AssertionError if it is too large for a README."""
    page.mouse.move(0, 0)
    chromium = page.context.new_cdp_session(page)  # Playwright's own would be PNG: twice the bytes
    shot = chromium.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    data = base64.b64decode(shot["data"])
    assert len(data) <= BYTES_MAX, f"{name}: {len(data)} bytes"
    (IMAGES / f"{name}.webp").write_bytes(data)
    sys.stdout.write(f"{name}.webp: {len(data)} bytes\n")
    sys.stdout.flush()


def market(browser: Browser) -> None:
    """Light and dark, over a crowd."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.browser.crowd", folder, str(OFFERS), str(PER_S)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as node:
            assert node.stdout is not None
            url = node.stdout.readline().strip()
            try:
                page = browser.new_page(viewport=SIZE)
                page.goto(url)
                for scheme in ("light", "dark"):
                    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
                    expect(page.get_by_text(f"{OFFERS:,} offers", exact=True)).to_be_visible()
                    take(page, f"market-{scheme}")
            finally:
                node.terminate()


@contextmanager
def seen(browser: Browser, world: World, node: Node) -> Iterator[Page]:
    """A page of that node's owner, with a wallet."""
    assert world.devnet is not None
    context = browser.new_context(viewport=SIZE, color_scheme="light")
    TestWallet(node.key, world.devnet.url, connected=True).install(context)
    context.add_init_script(
        "if (location.protocol === 'http:')"
        "  localStorage.setItem('souk.wallet', 'test.gridsouk.wallet');"
    )
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(node.url)
    yield page
    context.close()


def submit(world: World) -> str:
    """Hand the job in, as the command line does."""
    node = world.requester
    image = node.post("/api/drafts/images", {"name": "base"})
    file, data = world.home / "learn.py", LEARN.encode()
    file.write_bytes(data)
    named: dict[str, Any] = {
        "path": "/in/learn.py", "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
    }  # fmt: skip
    client = Client(node.home / "data" / "node.sock")
    client.send_blob(file, named["sha256"], len(data), 0)
    made = node.post("/api/jobs", {"spec": JOB, "image": image, "inputs": [named]})
    return str(made["id"])


def until_metered(node: Node, job: str, seconds: float) -> None:
    """Until the job has run so long."""
    deadline = time.monotonic() + 240
    while node.ask(f"/api/jobs/{job}")["metered_s"] < seconds:
        assert time.monotonic() < deadline, node.ask(f"/api/jobs/{job}")["reason"]
        time.sleep(0.5)


def job_and_money(browser: Browser, world: World) -> None:
    """A job over a killed provider; what the other one sells; the wallet."""
    world.wait_for_offers()
    node = world.requester
    job = submit(world)
    until_metered(node, job, 40)
    working = node.ask(f"/api/jobs/{job}")["agreements"][-1]["peer"]
    (victim,) = [one for one in world.nodes[:2] if one.peer == working]
    (other,) = [one for one in world.nodes[:2] if one.peer != working]
    victim.kill()
    with seen(browser, world, node) as page:
        page.goto(node.url.partition("?")[0] + f"jobs/{job}")
        expect(page.get_by_text("Failover: funded again on the chain")).to_be_visible(
            timeout=120_000
        )
        expect(page.get_by_role("log")).to_contain_text("resume from step", timeout=60_000)
        until_metered(node, job, 75)
        expect(page.locator("canvas")).to_have_count(2)
        page.set_viewport_size({"width": 1280, "height": 1180})
        page.wait_for_timeout(600)  # the charts take their new width
        take(page, "job")
        page.set_viewport_size(SIZE)
        page.get_by_role("link", name="Wallet", exact=True).click()
        expect(page.get_by_role("heading", name="Stake")).to_be_visible()
        take(page, "wallet")
    with seen(browser, world, other) as page:
        page.goto(other.url.partition("?")[0] + "provider")
        expect(page.get_by_role("heading", name="Stake and money")).to_be_visible()
        expect(page.get_by_text("Reading")).to_have_count(0)
        take(page, "provider")


def main() -> None:
    """All of them."""
    world = World()
    IMAGES.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        market(browser)
        try:
            world.start(ready=True)
            job_and_money(browser, world)
        finally:
            world.stop()
        browser.close()


if __name__ == "__main__":
    main()
