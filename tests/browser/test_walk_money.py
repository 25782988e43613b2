"""The wallet page: every way in and out for money, every refusal, an exposed node, contracts.

A wallet that is a contract (ERC-1271) has no key: it signs in, approves, deposits, authorises and
withdraws by its own calls.
"""

from __future__ import annotations

import re
from typing import Any

from playwright.sync_api import Page, expect
from web3 import Web3

from node.adapters.ethereum.devnet import Devnet
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.rpc import Rpc
from tests.browser.conftest import WAIT_MS, Visitor
from tests.browser.outpost import OWNER, Outpost
from tests.browser.wallet import TestWallet, build
from tests.browser.world import World

expect.set_options(timeout=WAIT_MS)


def amount(page: Page, label: str) -> Any:
    return page.get_by_role("textbox", name=re.compile(rf"^{label} \("))


def button(page: Page, name: str) -> Any:
    return page.get_by_role("button", name=name, exact=True)


REFUSALS = [
    (4001, "User rejected the request.", "You declined the request"),
    (4100, "Unauthorized", "has not given this page that account"),
    (4200, "Unsupported method", "does not know this kind of request"),
    (4900, "Disconnected", "has lost its connection"),
    (4901, "Chain disconnected", "is not connected to this node’s chain"),
    (-32002, "already pending", "already waiting for your answer"),
    (-32601, "the method does not exist", "does not offer this function"),
    (-32000, "insufficient funds for gas * price + value", "too little of the chain’s own coin"),
    (-32000, "nonce too low", "disagree on the transaction’s number"),
    (-32603, "Internal JSON-RPC error.", "It says: Internal JSON-RPC error."),
    (-32603, "", "It gave no reason."),
]


def test_each_refusal_of_a_wallet_has_its_own_words(visit: Visitor, funded: World) -> None:
    here = visit(connected=True)
    page, wallet = here.go("/wallet"), here.wallet
    said = page.get_by_role("alert")
    amount(page, "Withdraw").fill("1")
    for code, message, words in REFUSALS:
        wallet.refuse["eth_sendTransaction"] = (code, message)
        button(page, "Withdraw").click()
        expect(said).to_contain_text(words)
        expect(amount(page, "Withdraw")).to_have_value("1")  # nothing that was typed is lost
    expect(page.get_by_text("Withdraw 1 tUSD")).to_have_count(0)  # nothing is said to be sent
    # The chain is not added, or the wallet says it switched and did not.
    wallet.chain_id, wallet.chains = 1, {1}
    page.evaluate("window.__emit('chainChanged', '0x1')")
    expect(page.get_by_text("Your wallet is on chain 1, this node trades")).to_be_visible()
    wallet.refuse["wallet_addEthereumChain"] = (4902, "Unrecognized chain ID")
    button(page, "Switch the chain").click()
    expect(said.filter(has_text="did not add it")).to_be_visible()
    wallet.stubborn = True
    button(page, "Switch the chain").click()
    expect(said.filter(has_text="Switch the chain in your wallet")).to_be_visible()
    wallet.stubborn = False
    button(page, "Switch the chain").click()
    expect(page.get_by_text("Your wallet is on chain 1")).to_have_count(0)
    page.evaluate("window.__emit('disconnect', {})")
    expect(page.get_by_text("Your wallet has disconnected.")).to_be_visible()
    expect(page.get_by_role("heading", name="Connect a wallet")).to_be_visible()


def test_an_account_without_the_chains_coin_is_told_so(visit: Visitor, world: World) -> None:
    assert world.devnet is not None
    poor = TestWallet(bytes([7]) * 32, world.devnet.url)
    page = visit(connected=True, wallet=poor).go("/wallet")
    expect(page.get_by_text("This node works for another wallet")).to_be_visible()
    amount(page, "Up to, in all").fill("1")
    button(page, "Authorise").click()
    expect(page.get_by_role("alert").filter(has_text="coin")).to_contain_text("Send it some")


def test_stake_is_added_thaws_and_is_taken_out(visit: Visitor, funded: World) -> None:
    node = funded.requester
    before = node.ask("/api/wallet")
    page = visit(connected=True).go("/wallet")
    amount(page, "Add stake").fill("5")
    button(page, "Stake").click()
    expect(page.get_by_text("Stake 5 tUSD: mined in block")).to_be_visible()
    expect(page.get_by_text("At most 5 tUSD is not locked.")).to_have_count(0)
    amount(page, "Take stake out").fill("9")
    expect(page.get_by_text("At most 5 tUSD is not locked.")).to_be_visible()
    amount(page, "Take stake out").fill("5")
    button(page, "Unstake").click()
    expect(page.get_by_text("Unstake 5 tUSD: mined in block")).to_be_visible()
    take = button(page, "Take thawed stake back")
    take.click()  # once it has thawed; before that, it cannot be clicked
    expect(page.get_by_text("Take thawed stake back: mined in block")).to_be_visible()
    expect(take).to_have_count(0)
    after = node.ask("/api/wallet")
    assert (after["stake"], after["thawing"]) == (before["stake"], before["thawing"])
    assert after["deposited"] == before["deposited"]


def test_a_wallet_that_signs_no_permits_approves_first(visit: Visitor, funded: World) -> None:
    here = visit(connected=True)
    page, wallet = here.go("/wallet"), here.wallet
    before = float(funded.requester.ask("/api/wallet")["deposited"])
    amount(page, "Deposit").fill("1.25")
    wallet.refuse["eth_signTypedData_v4"] = (4200, "Unsupported method")
    button(page, "Deposit").click()
    expect(page.get_by_text("Deposit 1.25 tUSD: mined in block")).to_be_visible()
    assert wallet.count("eth_sendTransaction") == 2
    assert float(funded.requester.ask("/api/wallet")["deposited"]) == before + 1.25


def sign_in(page: Page) -> None:
    page.get_by_role("button", name="Test wallet").click()


def test_an_exposed_node_lets_in_the_wallets_that_its_owner_names(
    visit: Visitor, world: World, outpost: Outpost
) -> None:
    assert world.devnet is not None
    stranger = TestWallet(bytes([9]) * 32, world.devnet.url)
    guest = TestWallet(outpost.guest_key, world.devnet.url)
    words = "this wallet may not use this node"
    here = visit(outpost.node, wallet=stranger, base=outpost.page)
    here.record.allowed = ("status of 401", "status of 422")
    page = here.page
    expect(page.get_by_role("heading", name="This node does not know your browser")).to_be_visible()
    stranger.refuse["personal_sign"] = (4001, "User rejected the request.")
    sign_in(page)
    expect(page.get_by_role("alert")).to_contain_text("You declined")
    sign_in(page)
    expect(page.get_by_role("alert")).to_contain_text(words)
    page.reload()
    expect(page.get_by_role("heading", name="This node does not know your browser")).to_be_visible()

    there = visit(outpost.node, wallet=guest, base=outpost.page)
    there.record.allowed = ("status of 401",)
    page = there.page
    sign_in(page)
    expect(page.get_by_role("heading", name="Market")).to_be_visible()
    page.get_by_role("link", name="Wallet", exact=True).click()
    expect(page.get_by_text("signed in", exact=True)).to_be_visible()
    button(page, "Sign out").click()
    page.reload()
    expect(page.get_by_role("heading", name="This node does not know your browser")).to_be_visible()


def test_a_contract_wallet_signs_in_and_moves_its_money(
    visit: Visitor, world: World, outpost: Outpost
) -> None:
    assert world.devnet is not None
    wallet = TestWallet(outpost.owner_key, world.devnet.url, contract=outpost.contract)
    here = visit(outpost.node, wallet=wallet, base=outpost.page)
    here.record.allowed = ("status of 401",)
    page = here.page
    sign_in(page)
    expect(page.get_by_role("heading", name="Market")).to_be_visible()
    page.get_by_role("link", name="Wallet", exact=True).click()
    expect(page.get_by_text("signed in", exact=True)).to_be_visible()
    amount(page, "Deposit").fill("30.000000000000000001")  # its token has 18 decimals
    button(page, "Deposit").click()
    said = "Deposit 30.000000000000000001 CB: mined in block"
    expect(page.get_by_text(said)).to_be_visible()
    assert wallet.count("eth_signTypedData_v4") == 0  # no permit, neither token nor wallet
    assert wallet.count("eth_sendTransaction") == 2
    amount(page, "Up to, in all").fill("12.5")
    button(page, "Authorise").click()
    expect(page.get_by_text("authorised", exact=True)).to_be_visible()
    held = outpost.node.ask("/api/wallet")
    assert (held["deposited"], held["allowance"]) == ("30.000000000000000001", "12.5")
    page.get_by_role("button", name="all", exact=True).nth(1).click()
    button(page, "Withdraw").click()
    expect(page.get_by_text("Withdraw 30.000000000000000001 CB: mined in block")).to_be_visible()
    assert outpost.node.ask("/api/wallet")["deposited"] == "0"


MOODS = {
    1: "could not check the signature",  # reverts
    3: "could not check the signature",  # burns all gas
    5: "does not take this signature",  # floods
    6: "does not take this signature",  # says no
}


def test_a_hostile_contract_wallet_is_refused_in_words(
    visit: Visitor, world: World, outpost: Outpost
) -> None:
    assert world.devnet is not None

    def feel(mood: int) -> None:
        async def set_(devnet: Devnet, rpc: Rpc) -> None:
            data = build("MoodyWallet").encode_abi(
                "set", [mood, Web3.to_checksum_address(outpost.moody), "0x"]
            )
            await devnet.wallet(rpc, OWNER).sender.send(Call(outpost.moody, data))

        world.on_chain(set_)

    wallet = TestWallet(outpost.owner_key, world.devnet.url, contract=outpost.moody)
    here = visit(outpost.node, wallet=wallet, base=outpost.page)
    here.record.allowed = ("status of 401", "status of 422")
    for mood, words in MOODS.items():
        feel(mood)
        sign_in(here.page)
        expect(here.page.get_by_role("alert")).to_contain_text(words)
    feel(0)
    sign_in(here.page)
    expect(here.page.get_by_role("heading", name="Market")).to_be_visible()
