"""A random life on a real chain: books rebuilt from events alone agree with the contract.

What the soak's slice does not reach: accounts' own calls, operators, top-ups and cancelled terms.
"""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from web3 import Web3

from market.errors import ChainRefusedError
from market.escrow import Claim, ProviderClose, RequesterClose, Settle
from market.ledger import ledger_of
from node.adapters.ethereum.contract import call, terms_tuple
from node.adapters.ethereum.pending import Call
from node.adapters.ethereum.rpc import Rpc
from node.desk.books import BooksDesk
from tests.adapters.contract_chain import FUNDS, MILLION, PER_SECOND, ChainWorld, Party
from tests.adapters.ethereum.soak import all_events, differences
from tests.adapters.ethereum.stage import Stage


def desk(party: Party) -> BooksDesk:
    """The desk of a node that has lost its journal."""
    ports = SimpleNamespace(chain=party.chain, signer=party.signer)
    keeper = SimpleNamespace(agreements={}, jobs={})
    return BooksDesk(
        cast(Any, SimpleNamespace(wallet=party.wallet)), cast(Any, ports), cast(Any, keeper)
    )


async def test_books_from_events_alone_agree_with_the_contract(
    stage: Stage, rpc: Rpc, world: ChainWorld
) -> None:
    rng = random.Random(7)
    wallets = [stage.devnet.wallet(rpc, n) for n in (1, 2)]
    token = Web3.to_checksum_address(stage.devnet.token)
    live: list[Any] = []
    units = iter(range(200))

    async def try_(wallet: Any, function: str, *arguments: Any) -> None:
        made = Call(stage.devnet.escrow, call("Escrow", function, *arguments))
        with suppress(ChainRefusedError):
            await wallet.perform((made,))

    async def open_one() -> None:
        terms = await world.terms(units=1 << next(units), deposit=rng.randint(1, MILLION))
        await world.requester.chain.submit(world.opening(terms))
        live.append(terms)

    async def pay_one() -> None:
        terms = rng.choice(live)
        amount = rng.randint(1, 30) * PER_SECOND
        order = rng.choice((Claim, Settle))(terms, *world.voucher(terms, amount))
        await world.provider.chain.submit(order)

    async def end_one() -> None:
        terms = rng.choice(live)
        if rng.random() < 0.5:
            await world.requester.chain.submit(RequesterClose(terms))
        else:
            await world.provider.chain.submit(ProviderClose(terms))

    async def cancel_one() -> None:
        terms = await world.terms(units=1 << next(units))
        await try_(wallets[0], "cancel", terms_tuple(terms))

    async def account_call() -> None:
        wallet, amount = rng.choice(wallets), rng.randint(1, MILLION)
        operator = Web3.to_checksum_address(bytes([rng.randint(1, 3)]) * 20)
        await rng.choice(
            (
                lambda: wallet.deposit(amount),
                lambda: try_(wallet, "withdraw", token, amount),
                lambda: try_(wallet, "stake", token, amount),
                lambda: try_(wallet, "unstake", token, amount),
                lambda: try_(wallet, "completeUnstake", token),
                lambda: try_(wallet, "authorise", operator, token, amount, 2**40 - 1),
                lambda: try_(wallet, "revoke", operator, token),
            )
        )()

    await open_one()
    for _ in range(120):
        steps = (open_one, pay_one, pay_one, end_one, cancel_one, *(account_call,) * 4)
        step = rng.choice(steps)
        await world.pass_time(rng.randint(1, 20))
        try:
            await step()
        except ChainRefusedError:
            continue  # the contract's own answer; what it changed is nothing
    events = await all_events(rpc, stage.devnet)
    kinds = {type(event).__name__ for event in events}
    assert {"ClosedAgreement", "CancelledTerms", "Unstaked", "Revoked", "ClosingBegun"} <= kinds
    assert await differences(rpc, stage.devnet, ledger_of(events), events) == []
    # A missed event would show.
    missing = tuple(event for event in events if type(event).__name__ != "ClaimedPayment")
    assert await differences(rpc, stage.devnet, ledger_of(missing), missing) != []
    spent, earned = await desk(world.requester).spent(0), await desk(world.provider).earned(0)
    assert (spent["agrees"], earned["agrees"]) == (True, True)
    assert spent["total"]["paid"] == earned["total"]["paid"]
    assert float(spent["total"]["paid"]) > 0
    assert len(spent["agreements"]) == len(live)


async def test_each_wallet_reads_only_its_own_log(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(10)
    await world.provider.chain.submit(
        Settle(terms, *world.voucher(terms, 5 * PER_SECOND, last=True))
    )
    history = await world.requester.chain.history(world.requester.wallet)
    assert [event.place for event in history] == sorted(event.place for event in history)
    assert sum(type(event).__name__ == "OpenedAgreement" for event in history) == 1
    assert await world.requester.chain.history(b"\x09" * 20) == ()
    books = await desk(world.provider).earned(0)
    (line,) = books["agreements"]
    assert (line["state"], line["paid"], line["held"]) == ("settled", "0.05", "0")
    account = await world.requester.account()
    assert replace(account, gas=0, tokens=0).free == FUNDS - 5 * PER_SECOND
