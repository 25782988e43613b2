"""Jobs in the browser: money that runs out and is topped up, cancelling for a refund, a gang."""

from __future__ import annotations

import re
import time

from playwright.sync_api import expect

from tests.browser.conftest import WAIT_MS, Visitor
from tests.browser.world import World

expect.set_options(timeout=WAIT_MS)

LONG = """name: {name}
image: base
resources:
  accelerators: "CPU:1"
  memory: 256MB
  disk_size: 64MB
num_nodes: {nodes}
run: echo rank ${{SOUK_NODE_RANK:-0}} of ${{SOUK_NUM_NODES:-1}}; while true; do sleep 1; done
max_hourly_cost: "{cap}"
max_duration: 10m
"""


def test_what_runs_out_is_topped_up_and_what_is_left_comes_back(
    visit: Visitor, funded: World
) -> None:
    node = funded.requester
    before = float(node.ask("/api/wallet")["deposited"])
    page = visit(connected=True).go("/new")
    page.get_by_label("Job file (YAML)").fill(LONG.format(name="long", nodes=1, cap="36.00"))
    page.get_by_role("button", name="Run the job").click()
    expect(page.get_by_role("log")).to_contain_text("rank 0 of 1")
    id_ = page.url.rpartition("/")[2]
    held = node.ask(f"/api/jobs/{id_}")

    page.clock.set_system_time(time.time() + held["max_duration_s"] - 100)  # eight minutes on
    warning = page.get_by_role("alert").filter(has_text="The money for this job lasts")
    expect(warning).to_contain_text(re.compile("lasts 1 min .* more"))
    expect(warning).to_contain_text("It keeps no checkpoint.")
    warning.get_by_role("button", name="Add time").click()
    dialog = page.get_by_role("dialog", name="Add time")
    add = dialog.get_by_role("button", name="Add the time")
    dialog.get_by_label("Minutes more").fill("0")
    expect(add).to_be_disabled()
    expect(dialog).to_contain_text("Write whole minutes")
    dialog.get_by_label("Minutes more").fill("30000")
    expect(dialog).to_contain_text("are free in the escrow. To the wallet")
    expect(add).to_be_disabled()
    dialog.get_by_label("Minutes more").fill("15")
    price = float(held["agreements"][-1]["price_per_hour"])
    expect(dialog.get_by_text(f"{price / 4:g} tUSD", exact=True)).to_be_visible()
    add.click()
    expect(page.get_by_text("Asked the provider for more time.")).to_be_visible()
    deposit = round(float(held["agreements"][-1]["deposit"]) + price / 4, 6)
    table = page.get_by_role("region", name="Agreements")
    expect(table.get_by_role("cell", name=f"{deposit:g}", exact=True)).to_be_visible()
    expect(warning).to_have_count(0)
    longer = node.ask(f"/api/jobs/{id_}")
    assert round(longer["ends"] - held["ends"]) == 900
    assert float(longer["agreements"][-1]["deposit"]) == deposit

    page.get_by_role("button", name="Cancel the job").click()
    dialog = page.get_by_role("dialog", name="Cancel this job?")
    said = re.search(r"About ([\d.]+) tUSD of the ([\d.]+) held", dialog.inner_text())
    assert said is not None
    assert float(said[2]) == round(deposit, 4)
    dialog.get_by_role("button", name="Not now").click()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Cancel the job").click()
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("main").get_by_text("Cancelled", exact=True).first).to_be_visible()
    expect(page.get_by_text("Paid, refunded")).to_be_visible()
    story = page.get_by_role("region", name="Story")
    expect(story.get_by_text("Closed on the chain")).to_be_visible()
    over = node.ask(f"/api/jobs/{id_}")
    assert abs(float(over["refunded"]) - float(said[1])) < 0.1  # a few seconds' pay went by
    assert float(over["paid"]) + float(over["refunded"]) == deposit
    after = float(node.ask("/api/wallet")["deposited"])
    assert round(before - after, 6) == float(over["paid"])


def test_each_rank_of_a_gang_has_its_own_output(visit: Visitor, funded: World) -> None:
    page = visit(connected=True).go("/new")
    page.get_by_label("Job file (YAML)").fill(LONG.format(name="gang", nodes=2, cap="60.00"))
    page.get_by_role("button", name="Run the job").click()
    log = page.get_by_role("log")
    expect(log).to_contain_text("rank 0 of 2", timeout=2 * WAIT_MS)
    page.get_by_label("Rank", exact=True).select_option("rank 1")
    expect(log).to_contain_text("rank 1 of 2")
    expect(log).not_to_contain_text("rank 0 of 2")
    agreements = page.get_by_role("region", name="Agreements").get_by_role("row")
    expect(agreements).to_have_count(3)  # a head and one for each
    expect(page.get_by_text("failover")).to_have_count(0)
    page.get_by_role("button", name="Cancel the job").click()
    dialog = page.get_by_role("dialog", name="Cancel this job?")
    held = sum(
        float(one["deposit"])
        for one in funded.requester.ask(f"/api/jobs/{page.url.rpartition('/')[2]}")["agreements"]
    )
    expect(dialog).to_contain_text(f"of the {round(held, 4):g} held")
    dialog.get_by_role("button", name="Cancel the job").click()
    expect(page.get_by_role("main").get_by_text("Cancelled", exact=True).first).to_be_visible()
