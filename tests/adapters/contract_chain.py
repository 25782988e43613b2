"""The contract of the port Chain, for a real EVM and for the simulated escrow alike.

Import everything of this module into a test module that has a fixture `world`: two funded parties
on one chain whose blocks come by themselves, and whose time can be passed.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import pytest
import trio

from market.errors import ChainRefusedError
from market.escrow import (
    Answer,
    Answered,
    ChainFact,
    ChainOrder,
    Challenge,
    Challenged,
    Claim,
    Claimed,
    ClaimOffline,
    Closed,
    CloseSigned,
    Closing,
    Extend,
    Extended,
    Finalize,
    Open,
    Opened,
    OpenMany,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
    Slashed,
)
from market.signing import (
    agreement_id,
    extension_digest,
    heartbeat_digest,
    settlement_digest,
    voucher_digest,
)
from market.terms import (
    NOBODY,
    Extension,
    Heartbeat,
    Money,
    Parties,
    Settlement,
    Terms,
    Timing,
    Voucher,
)
from node.ports import Account, Chain, ChainBatch

MILLION = 1_000_000
DEPOSIT, COLLATERAL, BOND = 3 * MILLION, MILLION, 50_000
PER_SECOND = 10_000  # of 36 million per hour
DURATION_S, GRACE_S, WINDOW_S, CLAIM_WINDOW_S = 300, 4, 10, 20
FUNDS, STAKE = 50 * MILLION, 20 * MILLION
_FACTS_S = 20.0  # a real chain on a busy machine
_salts = itertools.count(1)


class Signs(Protocol):
    """The chain's half of the port Signer."""

    @property
    def operator(self) -> bytes: ...

    def sign_digest(self, digest: bytes) -> bytes: ...


@dataclass(frozen=True)
class Party:
    """A wallet with FUNDS free (the provider: STAKE of it staked), and its node's key and chain."""

    wallet: bytes
    signer: Signs
    chain: Chain

    async def account(self) -> Account:
        return await self.chain.account(self.wallet, self.signer.operator)


@dataclass
class ChainWorld:
    """Both parties, and the chain's clock. `pass_time` also makes a block."""

    requester: Party
    provider: Party
    now: Callable[[], Any]
    pass_time: Callable[[int], Any]

    async def terms(self, *, units: int = 1, **money: int) -> Terms:
        return Terms(
            parties=Parties(
                self.requester.wallet, self.provider.wallet,
                self.requester.signer.operator, self.provider.signer.operator,
                self.requester.chain.info.token, NOBODY,
            ),
            money=replace(
                Money(DEPOSIT, COLLATERAL, 3600 * PER_SECOND, BOND, 10_000, 5_000, 10_000), **money
            ),
            timing=Timing(
                await self.now() + 600, DURATION_S, GRACE_S, WINDOW_S, CLAIM_WINDOW_S, 20, 60
            ),
            units=units,
            job=b"\x01" * 32,
            salt=next(_salts).to_bytes(32, "big"),
        )  # fmt: skip

    def id(self, terms: Terms) -> bytes:
        return agreement_id(terms, self.requester.chain.info.domain)

    def opening(self, terms: Terms) -> Open:
        named = self.id(terms)
        return Open(
            terms,
            self.requester.signer.sign_digest(named),
            self.provider.signer.sign_digest(named),
        )

    async def opened(self, **changes: int) -> Terms:
        terms = await self.terms(**changes)
        await self.requester.chain.submit(self.opening(terms))
        return terms

    def voucher(self, terms: Terms, amount: int, *, last: bool = False) -> tuple[Voucher, bytes]:
        voucher = Voucher(self.id(terms), amount, bytes(32), last)
        named = voucher_digest(voucher, self.requester.chain.info.domain)
        return voucher, self.requester.signer.sign_digest(named)

    def heartbeat(self, terms: Terms, challenge: int) -> tuple[Heartbeat, bytes]:
        beat = Heartbeat(self.id(terms), 5, 1, 30, challenge, bytes(32))
        named = heartbeat_digest(beat, self.provider.chain.info.domain)
        return beat, self.provider.signer.sign_digest(named)

    def challenge(self, terms: Terms, amount: int, nonce: int = 0xABCDEF) -> Challenge:
        return Challenge(terms, *self.voucher(terms, amount), nonce)

    async def story(self, terms: Terms, until: type) -> list[ChainFact]:
        """The facts of one agreement, up to the first of this kind."""
        found: list[ChainFact] = []
        async with told(self.provider.chain) as batches:
            async for batch in batches:
                found += [fact for fact in batch.facts if fact.agreement == self.id(terms)]
                if any(isinstance(fact, until) for fact in found):
                    return found
        raise AssertionError("facts come for ever")


@asynccontextmanager
async def told(chain: Chain, after_block: int = 0) -> AsyncIterator[AsyncIterator[ChainBatch]]:
    """The chain's facts, for a while; fails if that while is too long."""
    facts = chain.facts(after_block)
    try:
        with trio.fail_after(_FACTS_S):
            yield facts
    finally:
        await cast("AsyncGenerator[ChainBatch, None]", facts).aclose()


async def refused(party: Party, order: ChainOrder) -> str:
    """Why the contract says no."""
    with pytest.raises(ChainRefusedError) as problem:
        await party.chain.submit(order)
    return problem.value.reason


def names(facts: list[ChainFact]) -> list[str]:
    """The kinds of facts, in order."""
    return [type(fact).__name__ for fact in facts]


# Opening.


async def test_opening_locks_deposit_bond_stake_and_units(world: ChainWorld) -> None:
    terms = await world.opened(units=0b101 | 1 << 255)
    (opened,) = await world.story(terms, Opened)
    assert isinstance(opened, Opened)
    assert abs(opened.at_s - await world.now()) < 30
    said = (opened.requester, opened.provider, opened.deposit, opened.collateral)
    assert said == (world.requester.wallet, world.provider.wallet, DEPOSIT, COLLATERAL)
    requester, provider = await world.requester.account(), await world.provider.account()
    assert requester.free == FUNDS - DEPOSIT - BOND
    assert (provider.free, provider.stake) == (FUNDS - STAKE, STAKE - COLLATERAL)
    assert (provider.locked, provider.units) == (COLLATERAL, 0b101 | 1 << 255)
    assert (requester.locked, requester.units) == (0, 0)


async def test_what_an_operator_may_lock_of_a_wallet(world: ChainWorld) -> None:
    mine, other = world.requester, world.provider
    ask = mine.chain.spendable
    assert await ask(mine.wallet, mine.signer.operator) == FUNDS
    assert await ask(mine.wallet, other.signer.operator) == 0, "it was never authorised"
    assert await ask(mine.wallet, mine.wallet) == FUNDS, "the wallet itself needs no allowance"
    await world.opened()
    assert await ask(mine.wallet, mine.signer.operator) == FUNDS - DEPOSIT - BOND


async def test_what_is_locked_is_added_up_over_agreements(world: ChainWorld) -> None:
    one = await world.opened(units=0b011)
    two = await world.opened(units=0b100, collateral=2 * MILLION)
    assert (await world.provider.account()).locked == 3 * MILLION
    await world.pass_time(20)
    await world.provider.chain.submit(Settle(one, *world.voucher(one, 0, last=True)))
    assert (await world.provider.account()).locked == 2 * MILLION
    again = await world.opened(units=0b001)
    assert (await world.provider.account()).locked == 3 * MILLION
    for terms in (two, again):
        await world.provider.chain.submit(Settle(terms, *world.voucher(terms, 0, last=True)))
    account = await world.provider.account()
    assert (account.locked, account.stake, account.units) == (0, STAKE, 0)


async def test_a_unit_is_never_sold_twice(world: ChainWorld) -> None:
    await world.opened(units=0b011)
    other = world.opening(await world.terms(units=0b110))
    assert await refused(world.provider, other) == "Escrow_UnitsTaken"


async def test_an_order_carried_out_is_refused_when_repeated(world: ChainWorld) -> None:
    terms = await world.terms()
    opening = world.opening(terms)
    await world.requester.chain.submit(opening)
    assert await refused(world.requester, opening) == "Escrow_WrongStatus"
    closing = RequesterClose(terms)
    await world.requester.chain.submit(closing)
    assert await refused(world.requester, closing) == "Escrow_WrongStatus"


async def test_what_cannot_be_opened_says_why(world: ChainWorld) -> None:
    async def reason(terms: Terms) -> str:
        return await refused(world.requester, world.opening(terms))

    terms = await world.terms()
    timing = terms.timing
    assert await reason(await world.terms(deposit=100 * MILLION)) == "Escrow_InsufficientFree"
    assert await reason(await world.terms(collateral=100 * MILLION)) == "Escrow_InsufficientStake"
    assert await reason(await world.terms(units=0)) == "Escrow_BadTerms"
    late = replace(timing, open_by_s=1)
    assert await reason(replace(terms, timing=late)) == "Escrow_OpenByPassed"
    short = replace(timing, window_s=1)
    assert await reason(replace(terms, timing=short)) == "Escrow_BadTerms"
    for forged in (
        replace(world.opening(terms), requester_signature=b"\x01" * 65),
        replace(world.opening(terms), provider_signature=b"\x01" * 65),
        replace(world.opening(terms), terms=replace(terms, salt=bytes(32))),
    ):
        assert await refused(world.requester, forged) == "Escrow_BadSignature"


async def test_a_key_nobody_authorised_locks_nothing(world: ChainWorld) -> None:
    terms = await world.terms()
    swapped = replace(
        terms.parties,
        requester_signer=terms.parties.provider_signer,
        provider_signer=terms.parties.requester_signer,
    )
    terms = replace(terms, parties=swapped)
    named = world.id(terms)
    opening = Open(
        terms, world.provider.signer.sign_digest(named), world.requester.signer.sign_digest(named)
    )
    assert await refused(world.requester, opening) == "Escrow_NotAuthorised"


# Being paid.


async def test_a_voucher_pays_what_has_accrued_and_no_more(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(10)
    claim = Claim(terms, *world.voucher(terms, 5 * PER_SECOND))
    await world.provider.chain.submit(claim)
    assert await refused(world.provider, claim) == "Escrow_NothingToClaim"
    await world.provider.chain.submit(Claim(terms, *world.voucher(terms, DEPOSIT)))
    facts = await world.story(terms, Claimed)
    assert names(facts)[:2] == ["Opened", "Claimed"]
    assert (await world.provider.account()).free >= FUNDS - STAKE + 10 * PER_SECOND
    assert (await world.provider.account()).free < FUNDS - STAKE + DEPOSIT


async def test_seconds_without_a_voucher_are_claimed_on_a_heartbeat(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(60)
    await world.provider.chain.submit(Claim(terms, *world.voucher(terms, 10 * PER_SECOND)))
    facts = await world.story(terms, Claimed)
    assert isinstance(facts[0], Opened)
    beat = Heartbeat(world.id(terms), 9, facts[0].at_s + 40, 40, 0, bytes(32))
    named = heartbeat_digest(beat, world.provider.chain.info.domain)
    forged = ClaimOffline(terms, beat, world.requester.signer.sign_digest(named))
    assert await refused(world.provider, forged) == "Escrow_BadSignature"
    claim = ClaimOffline(terms, beat, world.provider.signer.sign_digest(named))
    await world.provider.chain.submit(claim)
    assert await refused(world.provider, claim) == "Escrow_NothingToClaim"
    allowed_s = min(30, terms.timing.offline_allowance_s)
    worth = (10 + allowed_s) * PER_SECOND
    assert (await world.provider.account()).free == FUNDS - STAKE + worth


async def test_the_last_voucher_settles_at_once(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(60)
    settle = Settle(terms, *world.voucher(terms, 50 * PER_SECOND, last=True))
    assert await refused(world.requester, settle) == "Escrow_NotParty"
    tx = await world.provider.chain.submit(settle)
    facts = await world.story(terms, Closed)
    assert names(facts) == ["Opened", "Claimed", "Closed"]
    paid = 50 * PER_SECOND
    assert facts[2] == Closed(world.id(terms), paid, DEPOSIT - paid, tx)
    assert (await world.requester.account()).free == FUNDS - paid
    provider = await world.provider.account()
    assert (provider.free, provider.stake) == (FUNDS - STAKE + paid, STAKE)
    assert (provider.locked, provider.units) == (0, 0)


async def test_a_voucher_of_another_agreement_or_key_is_refused(world: ChainWorld) -> None:
    terms, other = await world.opened(units=1), await world.opened(units=2)
    await world.pass_time(10)
    strange = Claim(terms, *world.voucher(other, PER_SECOND))
    assert await refused(world.provider, strange) == "Escrow_WrongAgreement"
    voucher, signature = world.voucher(terms, PER_SECOND)
    forged = Claim(terms, replace(voucher, amount=DEPOSIT), signature)
    assert await refused(world.provider, forged) == "Escrow_BadSignature"


async def test_both_may_end_it_as_they_signed(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(10)
    settlement = Settlement(world.id(terms), 7 * PER_SECOND, 0)
    named = settlement_digest(settlement, world.requester.chain.info.domain)
    signed = (
        world.requester.signer.sign_digest(named),
        world.provider.signer.sign_digest(named),
    )
    greedy = CloseSigned(terms, replace(settlement, paid=DEPOSIT), *signed)
    assert await refused(world.provider, greedy) == "Escrow_BadSignature"
    await world.provider.chain.submit(CloseSigned(terms, settlement, *signed))
    closed = (await world.story(terms, Closed))[-1]
    assert isinstance(closed, Closed)
    assert (closed.paid, closed.refunded) == (7 * PER_SECOND, DEPOSIT - 7 * PER_SECOND)


# Ending.


async def test_the_requester_ends_it_and_the_provider_brings_its_voucher(
    world: ChainWorld,
) -> None:
    terms = await world.opened()
    await world.pass_time(30)
    assert await refused(world.provider, RequesterClose(terms)) == "Escrow_NotParty"
    await world.requester.chain.submit(RequesterClose(terms))
    assert await refused(world.requester, Finalize(terms)) == "Escrow_TooEarly"
    await world.provider.chain.submit(Settle(terms, *world.voucher(terms, 9 * PER_SECOND)))
    facts = await world.story(terms, Closed)
    assert names(facts) == ["Opened", "Closing", "Claimed", "Closed"]
    closing = facts[1]
    assert isinstance(closing, Closing)
    assert closing.by == world.requester.wallet


async def test_the_requester_ends_it_and_anybody_finalizes(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.requester.chain.submit(RequesterClose(terms))
    await world.pass_time(CLAIM_WINDOW_S + 2)
    await world.provider.chain.submit(Finalize(terms))
    closed = (await world.story(terms, Closed))[-1]
    assert isinstance(closed, Closed)
    assert (closed.paid, closed.refunded) == (0, DEPOSIT)
    assert (await world.requester.account()).free == FUNDS


async def test_the_provider_ends_it_and_finalizes_after_the_window(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(GRACE_S + 2)
    assert await refused(world.requester, ProviderClose(terms)) == "Escrow_NotParty"
    await world.provider.chain.submit(ProviderClose(terms))
    assert await refused(world.provider, ProviderClose(terms)) == "Escrow_TooEarly"
    assert await refused(world.requester, RequesterClose(terms)) == "Escrow_WrongStatus"
    await world.pass_time(WINDOW_S + 2)
    await world.requester.chain.submit(Finalize(terms))
    facts = await world.story(terms, Closed)
    assert names(facts) == ["Opened", "Closing", "Closed"]
    assert isinstance(facts[1], Closing)
    assert facts[1].by == world.provider.wallet
    assert (await world.provider.account()).stake == STAKE


async def test_a_forgotten_agreement_is_finalized_after_its_end(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(DURATION_S + 2)
    assert await refused(world.requester, Finalize(terms)) == "Escrow_TooEarly"
    await world.pass_time(CLAIM_WINDOW_S + 2)
    await world.requester.chain.submit(Finalize(terms))
    assert names(await world.story(terms, Closed)) == ["Opened", "Closed"]


# Silence.


async def test_silence_is_slashed(world: ChainWorld) -> None:
    terms = await world.opened()
    early = world.challenge(terms, DEPOSIT)
    assert await refused(world.requester, early) == "Escrow_TooEarly"
    await world.pass_time(30)
    unpaid = world.challenge(terms, PER_SECOND)
    assert await refused(world.requester, unpaid) == "Escrow_NotPaidUp"
    assert await refused(world.provider, Slash(terms)) == "Escrow_WrongStatus"
    tx = await world.requester.chain.submit(world.challenge(terms, 28 * PER_SECOND))
    assert await refused(world.requester, Slash(terms)) == "Escrow_TooEarly"
    assert await refused(world.requester, Finalize(terms)) == "Escrow_WrongStatus"
    await world.pass_time(WINDOW_S + 2)
    answer = Answer(terms, *world.heartbeat(terms, 0xABCDEF))
    assert await refused(world.provider, answer) == "Escrow_TooLate"
    await world.requester.chain.submit(Slash(terms))
    facts = await world.story(terms, Closed)
    assert names(facts) == ["Opened", "Claimed", "Challenged", "Slashed", "Closed"]
    challenged, slashed, closed = facts[2:]
    assert isinstance(challenged, Challenged)
    assert (challenged.nonce, challenged.tx) == (0xABCDEF, tx)
    assert isinstance(slashed, Slashed)
    assert isinstance(closed, Closed)
    assert (slashed.slashed, slashed.to_victim, slashed.burned) == (COLLATERAL, 500_000, 500_000)
    assert slashed.tx == closed.tx
    assert (closed.paid, closed.refunded) == (28 * PER_SECOND, DEPOSIT - 28 * PER_SECOND)
    # The bond comes back to the one who challenged rightly.
    assert (await world.requester.account()).free == FUNDS - 28 * PER_SECOND + 500_000
    assert (await world.provider.account()).stake == STAKE - COLLATERAL


async def test_an_answer_takes_the_bond_and_cools_down(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(30)
    await world.requester.chain.submit(world.challenge(terms, 28 * PER_SECOND, 77))
    stale = Answer(terms, *world.heartbeat(terms, 0))
    assert await refused(world.provider, stale) == "Escrow_BadNonce"
    await world.provider.chain.submit(Answer(terms, *world.heartbeat(terms, 77)))
    assert (await world.provider.account()).free == FUNDS - STAKE + 28 * PER_SECOND + BOND
    assert await refused(world.requester, world.challenge(terms, DEPOSIT, 78)) == "Escrow_TooEarly"
    await world.pass_time(WINDOW_S + 2)
    assert await refused(world.requester, world.challenge(terms, DEPOSIT, 77)) == "Escrow_BadNonce"
    before = (await world.requester.account()).free
    await world.requester.chain.submit(world.challenge(terms, DEPOSIT, 78))
    assert (await world.requester.account()).free == before - BOND
    facts = await world.story(terms, Answered)
    assert names(facts)[:4] == ["Opened", "Claimed", "Challenged", "Answered"]


async def test_a_provider_that_closes_may_still_be_challenged(world: ChainWorld) -> None:
    terms = await world.opened()
    await world.pass_time(30)
    await world.provider.chain.submit(ProviderClose(terms))
    await world.requester.chain.submit(world.challenge(terms, 40 * PER_SECOND))
    assert await refused(world.provider, ProviderClose(terms)) == "Escrow_WrongStatus"
    await world.pass_time(WINDOW_S + 2)
    await world.provider.chain.submit(Slash(terms))
    assert names(await world.story(terms, Closed))[-2:] == ["Slashed", "Closed"]


# Facts.


async def test_facts_are_told_from_where_one_left_off(world: ChainWorld) -> None:
    first = await world.opened(units=1)
    batches: list[ChainBatch] = []
    async with told(world.provider.chain) as coming:
        async for batch in coming:
            batches.append(batch)
            if batch.facts:
                break
    second = await world.opened(units=2)
    await world.requester.chain.submit(RequesterClose(first))
    later: list[ChainFact] = []
    async with told(world.provider.chain, batches[-1].block) as coming:
        async for batch in coming:
            batches.append(batch)
            later += batch.facts
            if len(later) == 2:
                break
    assert names(later) == ["Opened", "Closing"]
    assert (later[0].agreement, later[1].agreement) == (world.id(second), world.id(first))
    closing = later[1]
    # It was opened before this reader began, and still it is known who closed it.
    assert isinstance(closing, Closing)
    assert closing.by == world.requester.wallet
    numbers = [batch.block for batch in batches]
    assert numbers == sorted(set(numbers))
    assert [batch.at_s for batch in batches] == sorted(batch.at_s for batch in batches)


async def test_time_is_told_without_facts(world: ChainWorld) -> None:
    async with told(world.requester.chain) as coming:
        async for batch in coming:
            await world.pass_time(1)
            if batch.block >= 3 and not batch.facts and batch.at_s >= await world.now() - 10:
                return


async def test_many_at_once(world: ChainWorld) -> None:
    orders = [
        world.opening(await world.terms(units=1 << n, deposit=MILLION)) for n in range(20)
    ]  # fmt: skip
    async with trio.open_nursery() as nursery:
        for order in orders:
            nursery.start_soon(world.requester.chain.submit, order)
    assert (await world.provider.account()).units == 2**20 - 1


# Gangs and longer agreements.


async def test_a_gang_opens_whole_in_one_transaction(world: ChainWorld) -> None:
    gang = [await world.terms(units=0b01), await world.terms(units=0b10)]
    tx = await world.requester.chain.submit(OpenMany(tuple(map(world.opening, gang))))
    opened = [(await world.story(terms, Opened))[0] for terms in gang]
    assert [fact.tx for fact in opened if isinstance(fact, Opened)] == [tx, tx]
    assert (await world.requester.account()).free == FUNDS - 2 * (DEPOSIT + BOND)
    assert (await world.provider.account()).units == 0b11


async def test_a_gang_of_which_one_cannot_be_opened_opens_nothing(world: ChainWorld) -> None:
    gang = [await world.terms(units=0b01), await world.terms(units=0b11)]
    order = OpenMany(tuple(map(world.opening, gang)))
    assert await refused(world.requester, order) == "Escrow_UnitsTaken"
    assert (await world.requester.account()).free == FUNDS
    assert (await world.provider.account()).units == 0


async def test_both_make_it_longer_and_its_deposit_larger(world: ChainWorld) -> None:
    terms = await world.opened()
    more = Extension(world.id(terms), 100 * PER_SECOND, 100)
    agreed = world.provider.signer.sign_digest(
        extension_digest(more, world.requester.chain.info.domain)
    )
    forged = Extend(terms, more, b"", world.requester.signer.sign_digest(bytes(32)))
    assert await refused(world.requester, forged) == "Escrow_BadSignature"
    tx = await world.requester.chain.submit(Extend(terms, more, b"", agreed))
    facts = await world.story(terms, Extended)
    assert facts[-1] == Extended(world.id(terms), 100 * PER_SECOND, 100, tx)
    assert (await world.requester.account()).free == FUNDS - DEPOSIT - BOND - 100 * PER_SECOND
    again = Extend(terms, more, b"", agreed)
    assert await refused(world.requester, again) != "", "nothing would be added"
    await world.pass_time(DURATION_S + 60)
    paid = (DURATION_S + 50) * PER_SECOND
    settle = Settle(terms, *world.voucher(terms, paid, last=True))
    await world.provider.chain.submit(settle)
    closed = (await world.story(terms, Closed))[-1]
    assert isinstance(closed, Closed)
    assert (closed.paid, closed.refunded) == (paid, 50 * PER_SECOND)
