"""The Python model and the contract walk together: the same orders at the same seconds.

Each step must be refused by both for the same reason, or accepted by both with the same facts;
after each the wallets' balances, allowances and units are compared. Most orders are wrong
somewhere, which is the point.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from web3 import Web3

from market.errors import ChainRefusedError
from market.escrow import (
    Answer,
    ChainOrder,
    Challenge,
    Claim,
    ClaimOffline,
    CloseSigned,
    Extend,
    Finalize,
    Open,
    OpenMany,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
)
from market.signing import (
    Domain,
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
from node.adapters.ethereum.answers import logs, number
from node.adapters.ethereum.contract import call, calldata, reason, result
from node.adapters.ethereum.events import event, fact
from node.adapters.ethereum.rpc import Rpc, RpcError
from node.adapters.keystore.signer import FileSigner
from tests.adapters.contract_chain import FUNDS, STAKE
from tests.adapters.ethereum.stage import SIGNERS, Stage
from tests.simulation.escrow import UNLIMITED, Ledger

pytestmark = pytest.mark.chain
STEPS = 100
PRICE = 36_000_000


@dataclass
class Walk:
    """One seed's way. Both hot keys and both wallets sign; anybody sends."""

    stage: Stage
    rpc: Rpc
    dice: random.Random
    at: int
    ledger: Ledger = field(default_factory=Ledger)
    terms: list[Terms] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        devnet = self.stage.devnet
        self.keys = [FileSigner(bytes(32), devnet.keys[index]) for index in (1, 2)] + list(SIGNERS)
        self.wallets = [key.operator for key in self.keys[:2]]
        self.domain = Domain(devnet.chain_id, devnet.escrow)
        self.ledger = Ledger(domain=self.domain)
        for wallet, key in zip(self.wallets, SIGNERS, strict=True):
            self.ledger.deposit(wallet, FUNDS)
            self.ledger.authorise(wallet, key.operator)
        self.ledger.lock_stake(self.wallets[1], STAKE)

    # What they may think of.

    def draft(self) -> Terms:
        dice = self.dice
        return Terms(
            Parties(
                self.wallets[0], self.wallets[1], self.keys[2].operator, self.keys[3].operator,
                self.stage.devnet.token, NOBODY,
            ),
            Money(
                dice.randrange(3_000_000), dice.randrange(2_000_000), PRICE,
                dice.randrange(50_000), dice.randrange(10_001), dice.randrange(10_001), 10_000,
            ),
            Timing(
                self.at + dice.randrange(-2, 60), dice.randrange(0, 120), dice.randrange(10),
                dice.randrange(1, 12), dice.randrange(1, 20), 20, 60,
            ),
            1 << dice.randrange(4) | (dice.random() < 0.2) << 255,
            bytes(32), dice.randbytes(32),
        )  # fmt: skip

    def signed(self, digest: bytes, *able: int) -> bytes:
        """By one who may, now and then by one who may not, or not at all: then the sender signs."""
        if self.dice.random() < 0.1:
            return b""
        who = self.dice.choice(able if self.dice.random() < 0.9 else (0, 1, 2, 3))
        return self.keys[who].sign_digest(digest)

    def opening(self) -> Open:
        terms = self.draft()
        self.terms.append(terms)
        id_ = agreement_id(terms, self.domain)
        return Open(terms, self.signed(id_, 0, 2), self.signed(id_, 1, 3))

    def voucher(self, id_: bytes) -> tuple[Voucher, bytes]:
        voucher = Voucher(id_, self.dice.randrange(3_500_000), bytes(32), self.dice.random() < 0.3)
        return voucher, self.signed(voucher_digest(voucher, self.domain), 0, 2)

    def order(self) -> ChainOrder:
        dice, kind = self.dice, self.dice.randrange(15)
        if kind == 0 or not self.terms:
            return self.opening()
        if kind == 1:
            return OpenMany((self.opening(), self.opening()))
        terms = dice.choice(self.terms[-6:])
        live = [one.terms for one in self.ledger.live.values()]
        if live and dice.random() < 0.85:
            terms = dice.choice(live)
        id_ = agreement_id(terms, self.domain)
        nonce = self.ledger.live[id_].nonce if id_ in self.ledger.live else 7
        match kind:
            case 2:
                extension = Extension(id_, dice.randrange(500_000), dice.randrange(60))
                named = extension_digest(extension, self.domain)
                return Extend(terms, extension, self.signed(named, 0, 2), self.signed(named, 1, 3))
            case 3 | 4:
                return Claim(terms, *self.voucher(id_))
            case 5:
                return Settle(terms, *self.voucher(id_))
            case 6:
                slashed = dice.randrange(1_000_000) if dice.random() < 0.3 else 0
                settlement = Settlement(id_, dice.randrange(2_000_000), slashed)
                named = settlement_digest(settlement, self.domain)
                mine, other = self.signed(named, 0, 2), self.signed(named, 1, 3)
                return CloseSigned(terms, settlement, mine, other)
            case 7:
                return RequesterClose(terms)
            case 8:
                return ProviderClose(terms)
            case 9:
                return Finalize(terms)
            case 10:
                paid_up = replace(self.voucher(id_)[0], amount=2**90)
                signature = self.signed(voucher_digest(paid_up, self.domain), 0, 2)
                return Challenge(terms, paid_up, signature, dice.choice((nonce, 0, 8, 9, 10)))
            case 11:
                beat = Heartbeat(id_, 1, self.at, 1, nonce, bytes(32))
                return Answer(terms, beat, self.signed(heartbeat_digest(beat, self.domain), 1, 3))
            case 12 | 13:
                at_s = self.at - dice.choice((-2, 0, 1, 30))
                beat = Heartbeat(id_, 2, at_s, dice.randrange(200), 0, bytes(32))
                named = heartbeat_digest(beat, self.domain)
                return ClaimOffline(terms, beat, self.signed(named, 1, 3))
            case _:
                return Slash(terms)

    # How each side takes it.

    def by_model(self, order: ChainOrder, sender: bytes) -> object:
        try:
            _, facts = self.ledger.execute(order, sender, self.at)
        except ChainRefusedError as problem:
            return problem.reason
        return tuple(replace(one, tx=b"") for one in facts)

    async def by_contract(self, order: ChainOrder, sender: bytes) -> object:
        who = Web3.to_checksum_address(sender)
        asked: dict[str, Any] = {
            "from": who, "to": Web3.to_checksum_address(self.stage.devnet.escrow),
            "data": calldata(order), "gas": hex(3_000_000),
        }  # fmt: skip
        await self.rpc.ask("anvil_impersonateAccount", who)
        await self.rpc.ask("anvil_setBalance", who, hex(10**18))
        await self.rpc.ask("evm_setNextBlockTimestamp", self.at)
        tx: Any = await self.rpc.ask("eth_sendTransaction", asked)
        receipt: Any = None
        while receipt is None:
            receipt = await self.rpc.ask("eth_getTransactionReceipt", tx)
        if number(receipt["status"]):
            told = [event(log, self.at) for log in logs(receipt["logs"])]
            facts = [fact(one) for one in told if one is not None]
            return tuple(replace(one, tx=b"") for one in facts if one is not None)
        try:  # in the block it failed in, whose time is its own
            await self.rpc.ask("eth_call", asked, receipt["blockNumber"])
        except RpcError as problem:
            return reason(problem.data)
        raise AssertionError("it failed once and not again")

    async def view(self, function: str, *arguments: object) -> tuple[Any, ...]:
        to = Web3.to_checksum_address(self.stage.devnet.escrow)
        asked = {"to": to, "data": call("Escrow", function, *arguments)}
        answer: Any = await self.rpc.ask("eth_call", asked, "latest")
        return result("Escrow", function, bytes.fromhex(answer[2:]))

    async def compare(self) -> None:
        token = Web3.to_checksum_address(self.stage.devnet.token)
        for wallet, key in zip(self.wallets, SIGNERS, strict=True):
            owner = Web3.to_checksum_address(wallet)
            free, staked, _, _ = await self.view("balance", token, owner)
            books = (self.ledger.free.get(wallet, 0), self.ledger.stake.get(wallet, 0))
            assert (free, staked) == books
            operator = Web3.to_checksum_address(key.operator)
            allowance, _ = await self.view("authorisation", owner, operator, token)
            assert allowance == self.ledger.allowances[wallet, key.operator][0] == UNLIMITED
            assert await self.view("unitsTaken", owner) == (self.ledger.units.get(wallet, 0),)
        assert await self.view("burned", token) == (self.ledger.burned,)
        assert self.ledger.total() == 2 * FUNDS


@pytest.mark.parametrize("seed", range(2))
async def test_model_and_contract_agree(stage: Stage, rpc: Rpc, seed: int) -> None:
    head: Any = await rpc.ask("eth_getBlockByNumber", "latest", False)
    walk = Walk(stage, rpc, random.Random(seed), number(head["timestamp"]) + 10)
    for step in range(STEPS):
        walk.at += walk.dice.choice((1, 1, 2, 3, 8, 15, 40))
        order = walk.order()
        sender = walk.dice.choice(walk.keys).operator
        expected = walk.by_model(order, sender)
        found = await walk.by_contract(order, sender)
        assert found == expected, f"step {step}: {order}"
        await walk.compare()
        kind = type(order).__name__
        walk.outcomes[kind if isinstance(expected, tuple) else f"{kind} refused"] += 1
    assert len(walk.outcomes) > 12, walk.outcomes
