"""The chain adapter against a real EVM: whole lives of agreements, refusals, and what is told."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import pytest
import trio

from market.errors import ChainError, ChainRefusedError
from market.escrow import (
    Answer,
    Answered,
    ChainFact,
    ChainOrder,
    Challenge,
    Challenged,
    Closed,
    Closing,
    Finalize,
    Open,
    Opened,
    RequesterClose,
    Settle,
    Slash,
    Slashed,
)
from market.signing import agreement_id, heartbeat_digest, voucher_digest
from market.terms import NOBODY, Heartbeat, Money, Parties, Terms, Timing, Voucher
from market.voucher import owed
from node.adapters.ethereum.chain import EthereumChain, open_chain
from node.adapters.ethereum.devnet import Devnet, run_devnet
from node.adapters.ethereum.rpc import Rpc, number
from node.adapters.ethereum.wallet import Wallet
from node.adapters.keystore.signer import FileSigner, load_or_create
from node.ports import ChainBatch

pytestmark = pytest.mark.chain
MILLION = 1_000_000
_salts = itertools.count(1)


@dataclass
class Side:
    """One party: its cold wallet, its node's signer and the adapter it uses."""

    wallet: Wallet
    signer: FileSigner
    chain: EthereumChain


@dataclass
class Market:
    """A devnet with one requester and one provider, funded."""

    devnet: Devnet
    rpc: Rpc
    requester: Side
    provider: Side

    async def now(self) -> int:
        block = await self.rpc.ask("eth_getBlockByNumber", "latest", False)
        return number(block["timestamp"])

    async def pass_time(self, seconds: int) -> None:
        await self.rpc.ask("evm_increaseTime", seconds)
        await self.rpc.ask("evm_mine")

    async def terms(self, **money: int) -> Terms:
        return Terms(
            parties=Parties(
                self.requester.wallet.address, self.provider.wallet.address,
                self.requester.signer.operator, self.provider.signer.operator,
                self.devnet.token, NOBODY,
            ),
            money=replace(
                Money(3 * MILLION, MILLION, 36 * MILLION, 50_000, 10_000, 5_000, 10_000), **money
            ),
            timing=Timing(await self.now() + 600, 300, 4, 10, 20, 20, 60),
            units=1,
            job=b"\x01" * 32,
            salt=next(_salts).to_bytes(32, "big"),
        )  # fmt: skip

    def opening(self, terms: Terms) -> Open:
        id_ = agreement_id(terms, self.requester.chain.info.domain)
        return Open(
            terms, self.requester.signer.sign_digest(id_), self.provider.signer.sign_digest(id_)
        )

    def voucher(self, terms: Terms, amount: int, *, last: bool) -> tuple[Voucher, bytes]:
        domain = self.requester.chain.info.domain
        voucher = Voucher(agreement_id(terms, domain), amount, bytes(32), last)
        return voucher, self.requester.signer.sign_digest(voucher_digest(voucher, domain))

    async def facts(self, count: int) -> list[ChainFact]:
        found: list[ChainFact] = []
        with trio.fail_after(20):
            async with aclosing(self.provider.chain.facts(0)) as batches:
                async for batch in batches:
                    found += batch.facts
                    if len(found) >= count:
                        return found
        raise AssertionError("unreachable")


@pytest.fixture
async def market(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Market]:
    async with _open_market(tmp_path_factory) as opened:
        yield opened


@asynccontextmanager
async def _open_market(tmp: pytest.TempPathFactory) -> AsyncIterator[Market]:
    signers = [load_or_create(tmp.mktemp(name)) for name in ("requester", "provider")]
    async with (
        run_devnet(block_time_s=0) as devnet,
        Rpc((devnet.url,)) as rpc,
        open_chain(devnet.config, signers[0].operator_key) as first,
        open_chain(devnet.config, signers[1].operator_key) as second,
    ):
        sides = []
        for index, (signer, chain) in enumerate(zip(signers, (first, second), strict=True)):
            wallet = devnet.wallet(rpc, index + 1)
            await wallet.mint(wallet.address, 100 * MILLION)
            await wallet.deposit(50 * MILLION)
            await wallet.authorise(signer.operator, 50 * MILLION, 2**39)
            await wallet.send_gas(signer.operator, 10**18)
            sides.append(Side(wallet, signer, chain))
        await sides[1].wallet.stake(20 * MILLION)
        yield Market(devnet, rpc, *sides)


async def _refused(chain: EthereumChain, order: ChainOrder) -> str:
    with pytest.raises(ChainRefusedError) as refused:
        await chain.submit(order)
    return refused.value.reason


async def test_a_paid_life(market: Market) -> None:
    terms = await market.terms()
    opening = market.opening(terms)
    await market.requester.chain.submit(opening)
    assert await _refused(market.requester.chain, opening) == "Escrow_WrongStatus"
    other = market.opening(await market.terms())
    assert await _refused(market.requester.chain, other) == "Escrow_UnitsTaken"
    await market.pass_time(60)
    voucher, signature = market.voucher(terms, owed(terms, 50), last=True)
    await market.provider.chain.submit(Settle(terms, voucher, signature))
    opened, closed = await market.facts(2)
    assert isinstance(opened, Opened)
    assert opened.agreement == agreement_id(terms, market.requester.chain.info.domain)
    assert isinstance(closed, Closed)
    assert (closed.paid, closed.refunded) == (500_000, 2_500_000)
    buyer = market.requester
    account = await buyer.chain.account(buyer.wallet.address, buyer.signer.operator)
    assert account.free == 50 * MILLION - 500_000
    seller = market.provider
    account = await seller.chain.account(seller.wallet.address, seller.signer.operator)
    assert (account.free, account.stake, account.units) == (30 * MILLION + 500_000, 20 * MILLION, 0)
    await buyer.wallet.withdraw(MILLION)


async def test_silence_is_slashed(market: Market) -> None:
    terms = await market.terms()
    await market.requester.chain.submit(market.opening(terms))
    await market.pass_time(30)
    voucher, signature = market.voucher(terms, owed(terms, 60), last=False)
    challenge = Challenge(terms, voucher, signature, 0xABCDEF)
    await market.requester.chain.submit(challenge)
    assert await _refused(market.requester.chain, Slash(terms)) == "Escrow_TooEarly"
    await market.pass_time(12)
    await market.requester.chain.submit(Slash(terms))
    facts = await market.facts(4)
    kinds = [type(fact).__name__ for fact in facts]
    assert kinds[0] == "Opened"
    assert kinds[-2:] == ["Slashed", "Closed"]
    slashed = next(fact for fact in facts if isinstance(fact, Slashed))
    assert (slashed.slashed, slashed.to_victim, slashed.burned) == (MILLION, 500_000, 500_000)


async def test_an_answer_ends_the_challenge(market: Market) -> None:
    terms = await market.terms()
    domain = market.provider.chain.info.domain
    id_ = agreement_id(terms, domain)
    await market.requester.chain.submit(market.opening(terms))
    await market.pass_time(30)
    voucher, signature = market.voucher(terms, owed(terms, 60), last=False)
    await market.requester.chain.submit(Challenge(terms, voucher, signature, 77))
    stale = Heartbeat(id_, 5, await market.now(), 30, 0, bytes(32))
    signed = market.provider.signer.sign_digest(heartbeat_digest(stale, domain))
    answer = Answer(terms, stale, signed)
    assert await _refused(market.provider.chain, answer) == "Escrow_BadNonce"
    beat = replace(stale, challenge=77)
    signed = market.provider.signer.sign_digest(heartbeat_digest(beat, domain))
    await market.provider.chain.submit(Answer(terms, beat, signed))
    facts = await market.facts(4)
    assert any(isinstance(fact, Challenged) and fact.nonce == 77 for fact in facts)
    assert any(isinstance(fact, Answered) for fact in facts)


async def test_the_requester_may_end_it(market: Market) -> None:
    terms = await market.terms()
    await market.requester.chain.submit(market.opening(terms))
    await market.requester.chain.submit(RequesterClose(terms))
    assert await _refused(market.provider.chain, Finalize(terms)) == "Escrow_TooEarly"
    await market.pass_time(30)
    await market.provider.chain.submit(Finalize(terms))
    _, closing, closed = await market.facts(3)
    assert isinstance(closing, Closing)
    assert not closing.by_provider
    assert isinstance(closed, Closed)
    assert (closed.paid, closed.refunded) == (0, 3 * MILLION)


async def test_many_at_once_keep_their_nonces_in_order(market: Market) -> None:
    orders = []
    for unit in range(8):
        terms = replace(await market.terms(), units=1 << unit)
        orders.append(market.opening(terms))
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(market.requester.chain.submit, order)
    facts = await market.facts(8)
    assert sum(isinstance(fact, Opened) for fact in facts) == 8


async def test_a_reorg_below_the_depth_is_never_told(market: Market) -> None:
    config = replace(market.devnet.config, confirmations=4)
    async with open_chain(config, market.provider.signer.operator_key) as deep:
        batches: list[ChainBatch] = []

        async def follow() -> None:
            async for batch in deep.facts(0):
                batches.append(batch)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(follow)
            await market.requester.chain.submit(market.opening(await market.terms()))
            await market.rpc.ask("anvil_reorg", 2, [])
            for _ in range(6):
                await market.rpc.ask("evm_mine")
            head = number(await market.rpc.ask("eth_blockNumber"))
            with trio.fail_after(10):
                while not batches or batches[-1].block < head - 3:
                    await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert not [fact for batch in batches for fact in batch.facts if isinstance(fact, Opened)]


async def test_a_wrong_chain_is_named(market: Market) -> None:
    wrong = replace(market.devnet.config, chain_id=1)
    with pytest.raises(ChainError, match="is on chain 31337"):
        async with open_chain(wrong, market.provider.signer.operator_key):
            pass
    nowhere = replace(market.devnet.config, escrow=b"\x01" * 20)
    with pytest.raises(ChainError, match="no contract"):
        async with open_chain(nowhere, market.provider.signer.operator_key):
            pass


async def test_an_endpoint_that_is_down_is_passed_over(market: Market) -> None:
    config = replace(market.devnet.config, urls=("http://127.0.0.1:9", market.devnet.url))
    async with open_chain(config, market.provider.signer.operator_key) as chain:
        assert chain.info.decimals == 6
