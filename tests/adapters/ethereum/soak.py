"""Soak: many agreements between many accounts, over a line that loses and a chain that reorganises.

Each agreement is lived by a driver that, like a node, looks at the contract and does what is owed
now; nothing is remembered to be done. At the end every agreement is over, the books rebuilt from
the logs agree with the contract in every field, and everybody withdraws: the tokens that come out
are those that went in, less what was burned.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import trio
from eth_abi import decode as abi_decode

from market.chainlog import EscrowEvent
from market.errors import ChainError, ChainRefusedError
from market.escrow import (
    Answer,
    ChainOrder,
    Challenge,
    Claim,
    CloseSigned,
    Finalize,
    Open,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
)
from market.ledger import Ledger, ledger_of
from market.signing import (
    agreement_id,
    heartbeat_digest,
    keccak,
    settlement_digest,
    voucher_digest,
)
from market.statement import reconcile
from market.terms import NOBODY, Heartbeat, Money, Parties, Settlement, Terms, Timing, Voucher
from node.adapters.ethereum.answers import number, raw
from node.adapters.ethereum.chain import EthereumChain, open_chain
from node.adapters.ethereum.devnet import Devnet, free_port, launch
from node.adapters.ethereum.devnet import deploy as deploy_contracts
from node.adapters.ethereum.events import fact, topics
from node.adapters.ethereum.logs import LogReader
from node.adapters.ethereum.provider import Contracts
from node.adapters.ethereum.rpc import Rpc
from node.adapters.keystore.signer import FileSigner
from tests.adapters.ethereum.proxy import Call, Forward, Proxy, Reply, open_proxy, result

MILLION = 1_000_000
FUNDS, STAKE = 200 * MILLION, 100 * MILLION
FATES = ("settled", "signed", "cancelled", "withdrawn", "slashed", "answered", "forgotten")
WEIGHTS = (40, 10, 10, 10, 10, 10, 10)
NONE, OPEN, CLOSING_R, CLOSING_P, CHALLENGED = range(5)
DURATION_S, GRACE_S, WINDOW_S, CLAIM_WINDOW_S = 300, 4, 40, 60
BLOCK_S = 5  # seconds that pass on the chain with each block
_AGREEMENT = "0x" + keccak(b"agreement(bytes32)")[:4].hex()
_ROW = ("uint8", "uint40", "uint40", "uint96", "uint48", "bool", "uint96", "uint32", "uint96")
DEEP = 8  # blocks; deeper than any reorganisation of the soak


@dataclass
class Account:
    """One wallet (its key also signs for its node) and its adapter."""

    signer: FileSigner
    chain: EthereumChain
    units: set[int] = field(default_factory=lambda: set(range(256)))

    @property
    def wallet(self) -> bytes:
        return self.signer.operator


@dataclass
class Report:
    """What a soak came to."""

    fates: Counter[str] = field(default_factory=Counter)
    transactions: Counter[str] = field(default_factory=Counter)
    reorganisations: int = 0
    blocks: int = 0
    lost: int = 0
    minted: int = 0
    returned: int = 0
    burned: int = 0
    differences: list[str] = field(default_factory=list)
    told: int = 0
    told_amiss: int = 0


class Soak:
    """The stage of one run."""

    def __init__(self, devnet: Devnet, rpc: Rpc, proxy: Proxy, seed: int) -> None:
        self.devnet, self.rpc, self.proxy = devnet, rpc, proxy
        self.rng = random.Random(seed)
        self.accounts: list[Account] = []
        self.report = Report()
        self.escrow = Contracts(rpc, devnet.escrow)
        self.salt = 0
        self.told: list[EscrowEvent] = []
        self.told_until = 0
        self.height, self.now = 0, 0
        self.block = trio.Event()

    # The world.

    def losing(self, loss: float) -> Any:
        async def rule(call: Call, forward: Forward) -> Reply | None:
            if call["method"] != "eth_sendRawTransaction" or self.rng.random() >= loss:
                return None
            self.report.lost += 1
            if self.rng.random() < 0.5:
                return result(call, "0x" + "ab" * 32)
            await forward()
            return Reply(None)

        return rule

    async def mine(self, pause_s: float, reorg_every: int, depth: int) -> None:
        """Blocks for ever, some of them thrown away again."""
        while True:
            with suppress(ChainError):
                await self.rpc.ask("evm_increaseTime", BLOCK_S)
                await self.rpc.ask("evm_mine")
                self.report.blocks += 1
                if self.report.blocks > depth and self.report.blocks % reorg_every == 0:
                    await self.rpc.ask("anvil_reorg", self.rng.randint(1, depth), [])
                    self.report.reorganisations += 1
                self.height, self.now = await self.head()
                self.block.set()
                self.block = trio.Event()
            await trio.sleep(pause_s)

    async def state(self, id_: bytes) -> tuple[Any, ...]:
        """The contract's row, by hand: web3 would take most of the soak's time."""
        question = {"to": "0x" + self.devnet.escrow.hex(), "data": _AGREEMENT + id_.hex()}
        return abi_decode(_ROW, await self.rpc.ask("eth_call", question, "latest", read=raw))

    async def head(self) -> tuple[int, int]:
        block = await self.rpc.ask("eth_getBlockByNumber", "latest", False)
        return number(block["number"]), number(block["timestamp"])

    async def follow(self, chain: EthereumChain) -> None:
        async with aclosing(chain._follower.batches(0)) as batches:  # type: ignore[type-var]
            async for batch in batches:
                self.told += batch.events
                self.told_until = batch.block

    # One agreement.

    async def live(self, requester: Account, provider: Account, limit: trio.Semaphore) -> None:
        async with limit:
            unit = self.rng.choice(sorted(provider.units))
            provider.units.remove(unit)
            fate = self.rng.choices(FATES, WEIGHTS)[0]
            terms = self.terms(requester, provider, unit)
            await self._live(Life(self, requester, provider, terms, fate))
            provider.units.add(unit)
            self.report.fates[fate] += 1

    def terms(self, requester: Account, provider: Account, unit: int) -> Terms:
        self.salt += 1
        return Terms(
            parties=Parties(
                requester.wallet, provider.wallet, requester.wallet, provider.wallet,
                self.devnet.token, NOBODY,
            ),
            money=Money(
                self.rng.randint(1, 3 * MILLION), self.rng.randint(0, MILLION),
                self.rng.randint(1, 40 * MILLION), self.rng.randint(0, 50_000), 10_000,
                self.rng.choice((0, 3333, 5000, 10_000)), 10_000,
            ),
            timing=Timing(self.now + 7200, DURATION_S, GRACE_S, WINDOW_S, CLAIM_WINDOW_S, 20, 60),
            units=1 << unit,
            job=self.rng.randbytes(32),
            salt=self.salt.to_bytes(32, "big"),
        )  # fmt: skip

    async def _live(self, life: Life) -> None:
        over_at, looks = 0, 1
        while True:
            for _ in range(looks):
                await self.block.wait()
            try:
                state = await self.state(life.id)
            except ChainError:  # the machine is busy
                await trio.sleep(1)
                continue
            height, now = self.height, self.now
            if state[0] in (6, 7):
                over_at = over_at or height
                if height > over_at + DEEP:
                    return
            else:
                over_at = 0
                owed = life.owed(state, now)
                if owed is not None:
                    await self._try(*owed)
                looks = 1 if owed is not None else 3  # nothing is owed now: no hurry

    async def _try(self, account: Account, order: ChainOrder) -> None:
        try:
            await account.chain.submit(order)
        except ChainRefusedError as problem:
            self.report.transactions[f"refused {problem.reason}"] += 1
            await trio.sleep(0.1)
        except ChainError:
            self.report.transactions["not mined in time"] += 1


@dataclass
class Life:
    """One agreement and how it is meant to go."""

    soak: Soak
    requester: Account
    provider: Account
    terms: Terms
    fate: str

    def __post_init__(self) -> None:
        self.domain = self.provider.chain.info.domain
        self.id = agreement_id(self.terms, self.domain)
        rng = self.soak.rng
        self.share, self.nonce = rng.random(), rng.randrange(1, 2**48)

    def owed(self, state: Any, now: int) -> tuple[Account, ChainOrder] | None:
        """Who has to do what now, by the contract's state alone."""
        status, opened_at, deadline, paid, nonce = state[:5]
        money, r, p = self.terms.money, self.requester, self.provider
        if status == NONE:
            signed = (r.signer.sign_digest(self.id), p.signer.sign_digest(self.id))
            return r, Open(self.terms, *signed)
        age = now - opened_at
        accrued = money.price_per_hour * max(age, 0) // 3600
        worth = int(min(money.deposit, accrued) * self.share)
        if status == CLOSING_R:
            if self.fate == "cancelled" and now <= deadline and paid == 0 and worth:
                return p, Settle(self.terms, *self.voucher(worth))
            return (p, Finalize(self.terms)) if now > deadline else (p, ProviderClose(self.terms))
        if status == CLOSING_P:
            return (r, Finalize(self.terms)) if now > deadline else None
        if status == CHALLENGED:
            if self.fate == "answered" and now <= deadline - BLOCK_S:
                return p, Answer(self.terms, *self.heartbeat(nonce))
            return (r, Slash(self.terms)) if now > deadline else None
        return self._owed_open(age, paid, nonce, accrued, worth)

    def _owed_open(
        self, age: int, paid: int, nonce: int, accrued: int, worth: int
    ) -> tuple[Account, ChainOrder] | None:
        r, p, ended = self.requester, self.provider, age > DURATION_S
        if ended and age > DURATION_S + CLAIM_WINDOW_S:
            return p, Finalize(self.terms)
        if self.fate == "forgotten" or (ended and self.fate != "settled"):
            return None
        if age < GRACE_S + BLOCK_S:
            return None
        if self.fate in ("slashed", "answered") and accrued >= self.terms.money.deposit:
            return r, RequesterClose(self.terms)  # it cannot be paid up to now any more
        match self.fate:
            case "signed":
                settlement = Settlement(self.id, max(paid, worth), 0)
                named = settlement_digest(settlement, self.domain)
                signed = (r.signer.sign_digest(named), p.signer.sign_digest(named))
                return p, CloseSigned(self.terms, settlement, *signed)
            case "cancelled":
                return r, RequesterClose(self.terms)
            case "withdrawn":
                return p, ProviderClose(self.terms)
            case "slashed":
                return r, Challenge(self.terms, *self.voucher(2**90), self.nonce)
            case "answered" if nonce == 0:
                return r, Challenge(self.terms, *self.voucher(2**90), self.nonce)
            case _ if paid == 0 and worth and self.share > 0.5:
                return p, Claim(self.terms, *self.voucher(max(1, worth // 2)))
            case _:
                return p, Settle(self.terms, *self.voucher(max(paid, worth), last=True))

    def voucher(self, amount: int, *, last: bool = False) -> tuple[Voucher, bytes]:
        voucher = Voucher(self.id, amount, bytes(32), last)
        named = voucher_digest(voucher, self.domain)
        return voucher, self.requester.signer.sign_digest(named)

    def heartbeat(self, challenge: int) -> tuple[Heartbeat, bytes]:
        beat = Heartbeat(self.id, 1, 1, 1, challenge, bytes(32))
        return beat, self.provider.signer.sign_digest(heartbeat_digest(beat, self.domain))


@asynccontextmanager
async def open_soak(accounts: int, loss: float, seed: int, look_s: float) -> AsyncIterator[Soak]:
    """A chain of its own, with every account funded; half requesters' money, half stake."""
    port = free_port()
    process = launch(port=port, block_time_s=0)
    try:
        devnet = await deploy_contracts(f"http://127.0.0.1:{port}", process)
        async with AsyncExitStack() as stack:
            rpc = await stack.enter_async_context(Rpc((devnet.url,), patience_s=30))
            proxy = await stack.enter_async_context(open_proxy(devnet.url))
            soak = Soak(devnet, rpc, proxy, seed)
            rich = devnet.wallet(rpc, 0)
            config = replace(
                devnet.config, urls=(proxy.url,), poll_s=look_s, resend_s=3 * look_s, stuck_s=10.0,
                give_up_s=60.0, confirmations=DEEP,
            )  # fmt: skip
            for index in range(accounts):
                key = (0x1000 + index).to_bytes(32, "big")
                signer = FileSigner(bytes(32), key)
                await rich.send_gas(signer.operator, 10**20)
                await rich.mint(signer.operator, FUNDS)
                wallet = type(rich)(rpc, key, devnet.chain_id, devnet.escrow, devnet.token)
                await wallet.deposit(FUNDS)
                await wallet.stake(STAKE)
                chain = await stack.enter_async_context(open_chain(config, key))
                soak.accounts.append(Account(signer, chain))
                soak.report.minted += FUNDS
            proxy.rules.append(soak.losing(loss))
            await rpc.ask("evm_setAutomine", False)
            yield soak
    finally:
        process.terminate()
        await trio.to_thread.run_sync(process.wait)


async def run_soak(
    agreements: int, accounts: int, *, loss: float = 0.1, depth: int = 6, seed: int = 1,
    at_once: int = 60, reorg_every: int = 25, pause_s: float = 0.15, look_s: float = 0.15,
) -> Report:  # fmt: skip
    """Live so many agreements, then add everything up."""
    async with open_soak(accounts, loss, seed, look_s) as soak:
        limit = trio.Semaphore(at_once)
        async with trio.open_nursery() as world:
            soak.height, soak.now = await soak.head()
            world.start_soon(soak.mine, pause_s, reorg_every, depth)
            world.start_soon(soak.follow, soak.accounts[0].chain)
            async with trio.open_nursery() as nursery:
                for _ in range(agreements):
                    requester, provider = soak.rng.sample(soak.accounts, 2)
                    nursery.start_soon(soak.live, requester, provider, limit)
            world.cancel_scope.cancel()
        await add_up(soak)
        return soak.report


async def add_up(soak: Soak) -> None:
    """Compare books with contract, let everybody go home, count what they carry."""
    report, devnet = soak.report, soak.devnet
    for account in soak.accounts:
        for name, count in account.chain._sender.statistics().items():
            report.transactions[name] += count
    await soak.rpc.ask("evm_setAutomine", True)
    for _ in range(DEEP):
        await soak.rpc.ask("evm_mine")
    events = await all_events(soak.rpc, devnet)
    report.differences = await differences(soak.rpc, devnet, ledger_of(events), events)
    for account in soak.accounts:
        expected, booked = reconcile(events, account.wallet, devnet.token)
        if expected != booked:
            report.differences.append(f"{account.wallet.hex()}: {expected} != {booked}")
    report.told = len(soak.told)
    report.told_amiss = _told_amiss(soak, events)
    for account in soak.accounts:
        key = account.signer.operator_key
        wallet = type(devnet.wallet(soak.rpc, 0))(
            soak.rpc, key, devnet.chain_id, devnet.escrow, devnet.token
        )
        state = await account.chain.account(account.wallet, account.wallet)
        if state.locked or state.units:
            report.differences.append(f"{account.wallet.hex()}: {state.locked} still locked")
        await wallet.perform(wallet.plans.thaw(state.stake))
        await soak.rpc.ask("evm_increaseTime", 61)
        await wallet.perform(wallet.plans.take_thawed())
        await wallet.withdraw(state.free + state.stake)
        report.returned += (await account.chain.account(account.wallet, account.wallet)).tokens
    report.burned = await soak.accounts[0].chain.burned()


def _told_amiss(soak: Soak, events: tuple[EscrowEvent, ...]) -> int:
    """How many events a follower over the bad line told twice, wrongly or not at all."""
    told = Counter(soak.told)
    facts = Counter(
        event for event in events if event.place.block <= soak.told_until and fact(event)
    )
    return sum(((facts - told) + (told - facts)).values())


async def all_events(rpc: Rpc, devnet: Devnet) -> tuple[EscrowEvent, ...]:
    """Everything the escrow ever said."""
    head = await rpc.ask("eth_blockNumber", read=number)
    return await LogReader(rpc, devnet.escrow).of_range(0, head, (topics(),))


async def differences(
    rpc: Rpc, devnet: Devnet, ledger: Ledger, events: tuple[EscrowEvent, ...]
) -> list[str]:
    """Where the books that follow from events alone are not the contract's, field by field."""
    contracts = Contracts(rpc, devnet.escrow)
    escrow, view = contracts.escrow.functions, contracts.view
    text = contracts.web3.to_checksum_address
    found = []

    def same(what: str, booked: object, has: object) -> None:
        if booked != has:
            found.append(f"{what}: booked {booked}, the contract has {has}")

    accounts = {*ledger.free, *ledger.stake, *ledger.thaws}
    for token, wallet in sorted(accounts):
        thaw = ledger.thaws.get((token, wallet))
        booked = (
            ledger.free.get((token, wallet), 0), ledger.stake.get((token, wallet), 0),
            thaw.amount if thaw else 0, thaw.thawed_at if thaw else 0,
        )  # fmt: skip
        has = tuple(await view(escrow.balance(text(token), text(wallet))))
        same(f"balance of {wallet.hex()}", booked, has)
    for (wallet, operator, token), given in sorted(ledger.allowances.items()):
        has = await view(escrow.authorisation(text(wallet), text(operator), text(token)))
        same(f"authorisation of {wallet.hex()}", given, tuple(has))
    for provider, units in sorted(ledger.units.items()):
        same(f"units of {provider.hex()}", units, await view(escrow.unitsTaken(text(provider))))
    for id_, row in sorted(ledger.agreements.items()):
        has = await view(escrow.agreement(id_))
        booked_row = (
            row.status, row.opened.place.at_s, row.paid, row.nonce, row.bonded,
            row.extra_deposit, row.extra_duration, row.offline,
        )  # fmt: skip
        same(f"agreement {id_.hex()}", booked_row, (*has[:2], *has[3:]))
        if row.deadline:
            same(f"deadline of {id_.hex()}", row.deadline, has[2])
    for id_ in sorted(ledger.cancelled):
        same(f"cancelled {id_.hex()}", 8, (await view(escrow.agreement(id_)))[0])
    for token in sorted({token for token, _ in accounts}):
        coin = contracts.at("TestToken", token).functions
        has = await view(coin.balanceOf(text(devnet.escrow)))
        same("all tokens", ledger.total(token), has)
        same("burned", ledger.burned.get(token, 0), await view(escrow.burned(text(token))))
    return found
