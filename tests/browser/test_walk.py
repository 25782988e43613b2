"""One user's walk through the web view: from an empty wallet to results, over a killed provider.

The tests stand in the order of the walk and share one world; each is named after what it shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, expect

from market.units import parse_money
from node.adapters.ethereum.rpc import Rpc
from tests.browser.conftest import WAIT_MS, Visitor
from tests.browser.world import World

expect.set_options(timeout=WAIT_MS)

# Counts up and keeps its count in a checkpoint. From nothing it never ends; from one, soon.
STEPS = """
import os, sys, time
done = int(open('/ckpt/n').read()) if os.path.exists('/ckpt/n') else 0
print('from', done, flush=True)
for n in range(done + 1, done + 7 if done else 10_000):
    time.sleep(0.5)
    open('/ckpt/n.new', 'w').write(str(n)); os.replace('/ckpt/n.new', '/ckpt/n')
    print('step', n, flush=True)
open('/out/answer.txt', 'w').write('forty-two\\n')
"""
JOB = """# the walk's own job
name: walk
image: base
resources:
  accelerators: "CPU:1"
  memory: 256MB
  disk_size: 128MB
file_mounts:
  /in/steps.py: ./steps.py
outputs: [/out]
checkpoint:
  path: /ckpt
  interval: 1s
run: python3 /in/steps.py
max_hourly_cost: "36.00"
max_duration: 10m
value_of_time: "1.00"
"""


def amount(page: Page, label: str) -> Any:
    return page.get_by_role("textbox", name=re.compile(rf"^{label} \("))


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


def test_a_stranger_sees_no_data(world: World, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(world.requester.url.partition("?")[0])
    expect(page.get_by_role("heading", name="This node does not know your browser")).to_be_visible()
    context.close()


def test_every_refusal_has_its_own_words(visit: Visitor, world: World) -> None:
    here = visit()
    page, wallet = here.go("/wallet"), here.wallet
    said = page.get_by_role("alert")
    connect = button(page, "Test wallet")
    wallet.refuse["eth_requestAccounts"] = (4001, "User rejected the request.")
    connect.click()
    expect(said).to_contain_text("You declined the request in your wallet.")
    wallet.refuse["eth_requestAccounts"] = (-32002, "already pending")
    connect.click()
    expect(said).to_contain_text("already waiting for your answer")
    wallet.chain_id, wallet.chains = 1, {1}
    wallet.refuse["wallet_addEthereumChain"] = (4001, "User rejected the request.")
    connect.click()
    expect(page.get_by_text("Your wallet is on chain 1, this node trades")).to_be_visible()
    button(page, "Switch the chain").click()
    expect(page.get_by_text("Your wallet is on chain 1")).to_have_count(0)
    assert wallet.count("wallet_addEthereumChain") == 2

    # What the chain would refuse is said before the wallet is even asked.
    amount(page, "Deposit").fill("10")
    wallet.refuse["eth_signTypedData_v4"] = (4001, "User rejected the request.")
    button(page, "Deposit").click()
    expect(said).to_contain_text("Nothing was sent.")
    wallet.refuse["eth_sendTransaction"] = (-32000, "insufficient funds for gas * price + value")
    button(page, "Deposit").click()
    expect(said).to_contain_text("too little of the chain’s own coin")
    wallet.refuse["eth_signTypedData_v4"] = (4100, "Unauthorized")
    button(page, "Deposit").click()
    expect(said).to_contain_text("has not given this page that account")
    amount(page, "Withdraw").fill("5")
    expect(page.get_by_text("At most 0 tUSD is free.")).to_be_visible()
    wallet.refuse["personal_sign"] = (4001, "User rejected the request.")
    button(page, "Sign in with the wallet").click()
    expect(said).to_contain_text("You declined")
    page.evaluate("window.soukAnswerMs = 1")
    wallet.hang.add("personal_sign")
    button(page, "Sign in with the wallet").click()
    expect(said).to_contain_text("has not answered for 3 minutes")
    page.evaluate("window.soukAnswerMs = 0")
    wallet.hang.clear()
    page.evaluate("window.__emit('accountsChanged', ['0x' + '11'.repeat(20)])")
    expect(page.get_by_text("Your wallet now uses another account.")).to_be_visible()
    expect(page.get_by_text("This node works for another wallet")).to_be_visible()
    page.evaluate("window.__emit('accountsChanged', [])")
    expect(page.get_by_text("Your wallet has disconnected this page.")).to_be_visible()
    assert wallet.count("eth_sendTransaction") == 1
    assert world.requester.ask("/api/wallet")["deposited"] == "0"


def test_connect_sign_in_deposit_and_authorise(visit: Visitor, world: World) -> None:
    here = visit()
    page, wallet = here.go("/wallet"), here.wallet
    button(page, "Test wallet").click()
    button(page, "Sign in with the wallet").click()
    expect(page.get_by_text("signed in", exact=True)).to_be_visible()
    amount(page, "Deposit").fill("20.5")
    button(page, "Deposit").click()
    expect(page.get_by_text("Deposit 20.5 tUSD: mined in block")).to_be_visible()
    signed = [json.loads(given[1]) for name, given in wallet.calls if "TypedData" in name]
    assert [data["primaryType"] for data in signed] == ["Permit"]
    assert wallet.count("eth_sendTransaction") == 1
    amount(page, "Up to, in all").fill("40")
    button(page, "Authorise").click()
    expect(page.get_by_text("authorised", exact=True)).to_be_visible()
    held = world.requester.ask("/api/wallet")
    assert (held["deposited"], held["allowance"]) == ("20.5", "40")
    # A closed tab loses nothing: the wallet is found again without asking it anything.
    again = here.context.new_page()
    again.goto(here.base + "/wallet")
    expect(again.get_by_text("signed in", exact=True)).to_be_visible()
    expect(button(again, "Disconnect")).to_be_visible()
    assert wallet.count("eth_requestAccounts") == 1


def test_the_market_shows_signed_offers_and_filters_them(visit: Visitor) -> None:
    page = visit().go("/")
    table = page.get_by_role("table", name="Offers")
    expect(table.get_by_role("row")).to_have_count(3)
    page.get_by_label("Price in tUSD/h, at most", exact=True).fill("20")
    expect(table.get_by_role("row")).to_have_count(2)
    expect(page).to_have_url(re.compile(r"max=20"))
    page.reload()
    expect(table.get_by_role("row")).to_have_count(2)  # the address holds the filter
    page.get_by_label("Price in tUSD/h, at most", exact=True).fill("5")
    page.get_by_role("button", name=re.compile("2 offers if you accept a price from 18")).click()
    expect(table.get_by_role("row")).to_have_count(2)
    table.get_by_role("link").first.click()
    drawer = page.get_by_role("dialog")
    expect(drawer.get_by_text("verified")).to_be_visible()
    expect(drawer.get_by_text("stake covers it")).to_be_visible()
    page.keyboard.press("Escape")
    expect(drawer).to_have_count(0)


def test_a_mistake_in_the_file_is_named_with_its_line(visit: Visitor) -> None:
    page = visit(connected=True).go("/new")
    text = page.get_by_label("Job file (YAML)")
    text.fill(JOB.replace("max_duration: 10m", "max_durations: 10m"))
    expect(page.get_by_text(re.compile("Line 16:.*max_durations"))).to_be_visible()
    text.fill(JOB.replace("36.00", "0.10"))
    expect(page.get_by_text("None of 2 live offers fits")).to_be_visible()
    text.fill(JOB)
    expect(page.get_by_text("in order")).to_be_visible()
    page.get_by_label("For at most", exact=True).fill("20m")
    page.get_by_label("For at most", exact=True).blur()
    expect(text).to_have_value(re.compile("# the walk's own job(.|\n)*max_duration: 20m"))


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    steps = tmp_path_factory.mktemp("job") / "steps.py"
    steps.write_text(STEPS)
    return {"steps": steps}


def test_submit_watch_and_survive_a_killed_provider(
    visit: Visitor, world: World, job: dict[str, Any]
) -> None:
    world.wait_for_offers()
    page = visit(connected=True).go("/new")
    page.get_by_label("Job file (YAML)").fill(JOB)
    expect(page.get_by_role("region", name="Ranking").get_by_text("chosen")).to_be_visible()
    page.get_by_label(re.compile("^File for /in/steps.py")).set_input_files(job["steps"])
    button(page, "Run the job").click()
    expect(page).to_have_url(re.compile(r"/jobs/[0-9a-f]{32}$"))
    job["id"] = page.url.rpartition("/")[2]
    log = page.get_by_role("log")
    expect(log).to_contain_text("step 1")
    expect(page.get_by_text("Money lasts")).to_be_visible()
    expect(page.get_by_text("at this node, every 1 s")).to_be_visible()  # a checkpoint came
    shown = world.requester.ask(f"/api/jobs/{job['id']}")
    working = shown["agreements"][-1]["peer"]
    (victim,) = [node for node in world.nodes[:2] if node.peer == working]
    job["victim"] = victim
    victim.kill()
    story = page.get_by_role("region", name="Story")
    expect(story.get_by_text("Failover: looking for another provider").first).to_be_visible()
    expect(story.get_by_text("Failover: funded again on the chain")).to_be_visible()
    expect(log).to_contain_text(re.compile(r"from 0[^f]*from [1-9]"), timeout=3 * WAIT_MS)
    over = page.get_by_role("main").get_by_text("Succeeded", exact=True).first
    expect(over).to_be_visible(timeout=3 * WAIT_MS)
    expect(page.locator("canvas")).to_have_count(2)  # CPU and memory; a CPU unit has no GPU


def test_the_results_come_down_whole(visit: Visitor, job: dict[str, Any], tmp_path: Path) -> None:
    here = visit(connected=True)
    page = here.go(f"/jobs/{job['id']}")
    results = page.get_by_role("region", name="Results")
    with page.expect_download() as waiting:
        results.get_by_role("link", name="Download").first.click()
    path = tmp_path / "result"
    waiting.value.save_as(path)
    data = path.read_bytes()
    assert b"forty-two" in data
    said = results.get_by_text("sha256").first.inner_text()
    assert hashlib.sha256(data).hexdigest().startswith(said.partition("sha256 ")[2].strip("…"))
    with page.expect_download() as waiting:
        button(page, "Download").click()
    assert waiting.value.suggested_filename.startswith("walk-")


def test_the_silent_provider_is_slashed_and_it_shows(
    visit: Visitor, world: World, job: dict[str, Any]
) -> None:
    page = visit(connected=True).go(f"/jobs/{job['id']}")
    expect(page.get_by_text("Slashed", exact=True).first).to_be_visible()
    expect(
        page.get_by_role("region", name="Agreements").get_by_text("slashed", exact=True)
    ).to_be_visible()
    job["victim"].start()  # it comes back while the requester's node restarts, too


def test_a_node_restarts_under_an_open_page(visit: Visitor, world: World) -> None:
    here = visit(connected=True)
    here.record.allowed = ("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE_CHUNKED", "ERR_CONNECTION_RES",
                           "ERR_EMPTY_RESPONSE", "ERR_CONTENT_LENGTH_MISMATCH")  # fmt: skip
    page = here.go("/jobs")
    expect(page.get_by_role("link", name="walk")).to_be_visible()
    world.requester.kill()
    expect(page.get_by_text("The node does not answer.")).to_be_visible()
    world.requester.start(same_port=True)
    world.requester.wait()
    expect(page.get_by_text("The node does not answer.")).to_have_count(0)
    expect(page.get_by_text("live", exact=True)).to_be_visible()
    page.get_by_role("link", name="Network").click()
    expect(page.get_by_text("2 peers").first).to_be_visible()


def test_its_owner_sees_the_slash(visit: Visitor, job: dict[str, Any]) -> None:
    job["victim"].wait()
    page = visit(job["victim"], connected=True).go("/provider")
    expect(page.get_by_role("region", name="Slashes").get_by_text("2 tUSD")).to_be_visible()


def test_the_provider_pauses_and_changes_its_price(visit: Visitor, job: dict[str, Any]) -> None:
    page = visit(job["victim"], connected=True).go("/provider")
    button(page, "Pause").click()
    page.get_by_role("dialog").get_by_role("button", name="Pause").click()
    expect(page.get_by_text("Paused", exact=True)).to_be_visible()
    button(page, "Sell again").click()
    expect(page.get_by_text("Selling", exact=True)).to_be_visible()
    page.get_by_label(re.compile("^New price")).fill("17.25")
    button(page, "Change the price").click()
    expect(page.get_by_text("CPU now costs 17.25 tUSD/h.")).to_be_visible()
    expect(page.get_by_role("region", name="Price").get_by_text("17.25").first).to_be_visible()


def test_what_is_left_is_withdrawn(visit: Visitor, world: World) -> None:
    here = visit(connected=True)
    page = here.go("/wallet")
    held = world.requester.ask("/api/wallet")["deposited"]
    amount(page, "Withdraw").fill(held)
    button(page, "Withdraw").click()
    expect(page.get_by_text(f"Withdraw {held} tUSD: mined in block")).to_be_visible()

    async def tokens(devnet: Any, rpc: Rpc) -> int:
        chain = await rpc.ask(
            "eth_call",
            {
                "to": "0x" + devnet.token.hex(),
                "data": "0x70a08231" + world.requester.wallet.hex().rjust(64, "0"),
            },
            "latest",
        )
        return int(str(chain), 16)

    left = world.on_chain(tokens)
    assert left == 200_000_000 - 20_500_000 + parse_money(held, 6)


def test_another_page_cannot_use_the_node(world: World) -> None:
    base, _, token = world.requester.url.partition("/?token=")
    with httpx.Client(base_url=base) as client:
        client.get(f"/?token={token}")  # takes the cookie
        assert client.get("/api/jobs").status_code == 200
        body = {"content-type": "text/plain", "origin": "https://evil.example"}
        for headers in (body, {"content-type": "text/plain"}):
            answer = client.post("/api/provider/pause", content=b"{}", headers=headers)
            assert answer.status_code == 403, headers
