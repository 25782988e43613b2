"""Escrow: the contract's ledger as a small Python model, and the `Chain` port over it.

One `Ledger` is shared by all nodes of a world; each node has a `SimChain`. Blocks come at fixed
times; facts are told one block later. The money rules are market/voucher's. `total` is what the
checkers hold the ledger to: nothing appears, nothing vanishes.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import trio

from market.errors import ChainError, ChainRefusedError, SignatureError
from market.escrow import (
    Answer,
    Answered,
    Challenge,
    Challenged,
    ChainFact,
    ChainOrder,
    Claim,
    Claimed,
    Closed,
    CloseSigned,
    Closing,
    Finalize,
    Open,
    Opened,
    ProviderClose,
    RequesterClose,
    Settle,
    Slash,
    Slashed,
)
from market.signing import (
    Domain,
    agreement_id,
    check_signer,
    digest,
    heartbeat_digest,
    voucher_digest,
)
from market.terms import Heartbeat, Terms, Voucher
from market.units import UnixTime
from market.voucher import owed, paid_up, slash_split
from node.ports import Account, ChainBatch, ChainInfo

DOMAIN = Domain(31337, b"\xee" * 20)
INFO = ChainInfo(DOMAIN, b"\x70" * 20, "TEST", 6, 1, 1, "")


@dataclass
class Locked:
    """One live agreement on chain."""

    terms: Terms
    opened_at: int
    claimed: int = 0
    nonce: int = 0
    challenge_deadline: int = 0
    closing_deadline: int = 0
    closing_by_provider: bool = False


@dataclass
class Ledger:
    """The contract's state. Amounts in base units, times in whole seconds."""

    now: Callable[[], UnixTime]
    block_s: float = 1.0
    free: dict[bytes, int] = field(default_factory=dict)
    stake: dict[bytes, int] = field(default_factory=dict)
    operators: dict[bytes, bytes] = field(default_factory=dict)
    units: dict[bytes, int] = field(default_factory=dict)
    live: dict[bytes, Locked] = field(default_factory=dict)
    over: set[bytes] = field(default_factory=set)
    burned: int = 0
    blocks: list[tuple[int, tuple[ChainFact, ...]]] = field(default_factory=list)
    _pending: list[ChainFact] = field(default_factory=list)

    def total(self) -> int:
        """Every base unit there is."""
        locked = sum(
            one.terms.money.deposit - one.claimed + one.terms.money.bond
            + one.terms.money.collateral
            for one in self.live.values()
        )  # fmt: skip
        return sum(self.free.values()) + sum(self.stake.values()) + locked + self.burned

    async def mine(self) -> None:
        """A block every `block_s`, for ever."""
        while True:
            await trio.sleep(self.block_s)
            self.blocks.append((int(self.now()), tuple(self._pending)))
            self._pending.clear()

    def execute(self, order: ChainOrder) -> bytes:
        """Carry out one order now. Raises ChainRefusedError."""
        tx = digest(order)
        at = int(self.now())
        if isinstance(order, Open):
            self._open(order, at, tx)
            return tx
        id_ = agreement_id(order.terms, DOMAIN)
        one = self.live.get(id_)
        if one is None:
            raise ChainRefusedError(reason="Escrow_WrongStatus")
        match order:
            case Claim(voucher=voucher, signature=signature):
                self._claim(id_, one, voucher, signature, at)
                self._say(Claimed(id_, one.claimed, tx))
            case Settle(voucher=voucher, signature=signature):
                self._settle(id_, one, voucher, signature, at, tx)
            case ProviderClose():
                self._begin(id_, one, at, by_provider=True, tx=tx)
            case RequesterClose():
                self._begin(id_, one, at, by_provider=False, tx=tx)
            case Finalize():
                ended = one.opened_at + one.terms.timing.duration_s
                ended += one.terms.timing.claim_window_s
                deadline = one.closing_deadline or ended
                if at <= deadline or one.nonce:
                    raise ChainRefusedError(reason="Escrow_TooEarly")
                self._close(id_, one, 0, tx)
            case Challenge(voucher=voucher, signature=signature, nonce=nonce):
                self._challenge(id_, one, voucher, signature, nonce, at, tx)
            case Answer(heartbeat=heartbeat, signature=signature):
                self._answer(id_, one, heartbeat, signature, at, tx)
            case Slash():
                if not one.nonce or at <= one.challenge_deadline:
                    raise ChainRefusedError(reason="Escrow_TooEarly")
                split = slash_split(one.terms.money)
                slashed = split.to_victim + split.burned
                self._say(Slashed(id_, slashed, split.to_victim, split.burned, tx))
                self._close(id_, one, slashed, tx)
            case CloseSigned():
                raise ChainRefusedError(reason="Escrow_NotModelled")
        return tx

    def _open(self, order: Open, at: int, tx: bytes) -> None:
        terms, money = order.terms, order.terms.money
        id_ = agreement_id(terms, DOMAIN)
        p = terms.parties
        if id_ in self.live or id_ in self.over:
            raise ChainRefusedError(reason="Escrow_AlreadyOpened")
        self._signed(id_, order.requester_signature, p.requester_signer)
        self._signed(id_, order.provider_signature, p.provider_signer)
        if self.operators.get(p.requester_signer) != p.requester:
            raise ChainRefusedError(reason="Escrow_NotAuthorised")
        if at > terms.timing.open_by_s:
            raise ChainRefusedError(reason="Escrow_TooLate")
        if self.units.get(p.provider, 0) & terms.units:
            raise ChainRefusedError(reason="Escrow_UnitTaken")
        needed = money.deposit + money.bond
        if self.free.get(p.requester, 0) < needed:
            raise ChainRefusedError(reason="Escrow_InsufficientBalance")
        if self.stake.get(p.provider, 0) < money.collateral:
            raise ChainRefusedError(reason="Escrow_InsufficientStake")
        self.free[p.requester] -= needed
        self.stake[p.provider] -= money.collateral
        self.units[p.provider] = self.units.get(p.provider, 0) | terms.units
        self.live[id_] = Locked(terms, at)
        self._say(Opened(id_, at, tx))

    def _claim(self, id_: bytes, one: Locked, voucher: Voucher, signature: bytes, at: int) -> None:
        if voucher.agreement != id_:
            raise ChainRefusedError(reason="Escrow_WrongAgreement")
        signer = one.terms.parties.requester_signer
        self._signed(voucher_digest(voucher, DOMAIN), signature, signer)
        payable = min(voucher.amount, owed(one.terms, at - one.opened_at))
        drawn = max(0, payable - one.claimed)
        one.claimed += drawn
        self._credit(one.terms.parties.provider, drawn)

    def _settle(
        self, id_: bytes, one: Locked, voucher: Voucher, signature: bytes, at: int, tx: bytes
    ) -> None:
        if one.nonce:
            raise ChainRefusedError(reason="Escrow_Challenged")
        self._claim(id_, one, voucher, signature, at)
        over = at >= one.opened_at + one.terms.timing.duration_s
        requester_closes = one.closing_deadline and not one.closing_by_provider
        if voucher.last or over or requester_closes:
            self._close(id_, one, 0, tx)
        else:
            self._begin(id_, one, at, by_provider=True, tx=tx)

    def _begin(self, id_: bytes, one: Locked, at: int, *, by_provider: bool, tx: bytes) -> None:
        if one.closing_deadline or one.nonce:
            raise ChainRefusedError(reason="Escrow_WrongStatus")
        timing = one.terms.timing
        one.closing_deadline = at + (timing.window_s if by_provider else timing.claim_window_s)
        one.closing_by_provider = by_provider
        self._say(Closing(id_, by_provider, one.closing_deadline, tx))

    def _challenge(
        self, id_: bytes, one: Locked, voucher: Voucher, signature: bytes, nonce: int, at: int,
        tx: bytes,
    ) -> None:  # fmt: skip
        if one.nonce or (one.closing_deadline and not one.closing_by_provider):
            raise ChainRefusedError(reason="Escrow_WrongStatus")
        if at >= one.opened_at + one.terms.timing.duration_s:
            raise ChainRefusedError(reason="Escrow_Ended")
        self._claim(id_, one, voucher, signature, at)
        if one.claimed < paid_up(one.terms, at - one.opened_at):
            raise ChainRefusedError(reason="Escrow_NotPaidUp")
        one.nonce = nonce
        one.challenge_deadline = at + one.terms.timing.window_s
        one.closing_deadline, one.closing_by_provider = 0, False
        self._say(Challenged(id_, nonce, one.challenge_deadline, tx))

    def _answer(
        self, id_: bytes, one: Locked, heartbeat: Heartbeat, signature: bytes, at: int, tx: bytes
    ) -> None:
        if not one.nonce or heartbeat.challenge != one.nonce or at > one.challenge_deadline:
            raise ChainRefusedError(reason="Escrow_WrongAnswer")
        signer = one.terms.parties.provider_signer
        self._signed(heartbeat_digest(heartbeat, DOMAIN), signature, signer)
        one.nonce, one.challenge_deadline = 0, 0
        self._say(Answered(id_, tx))

    def _close(self, id_: bytes, one: Locked, slashed: int, tx: bytes) -> None:
        parties, money = one.terms.parties, one.terms.money
        refunded = money.deposit - one.claimed
        to_victim = slash_split(money).to_victim if slashed else 0
        self._credit(parties.requester, refunded + money.bond + to_victim)
        back = money.collateral - slashed
        self.stake[parties.provider] = self.stake.get(parties.provider, 0) + back
        self.burned += slashed - to_victim
        self.units[parties.provider] &= ~one.terms.units
        del self.live[id_]
        self.over.add(id_)
        self._say(Closed(id_, one.claimed, refunded, tx))

    def _credit(self, wallet: bytes, amount: int) -> None:
        self.free[wallet] = self.free.get(wallet, 0) + amount

    def _say(self, fact: ChainFact) -> None:
        self._pending.append(fact)

    @staticmethod
    def _signed(named: bytes, signature: bytes, signer: bytes) -> None:
        try:
            check_signer(named, signature, signer)
        except SignatureError:
            raise ChainRefusedError(reason="Escrow_BadSignature") from None


class SimChain:
    """One node's view of the ledger, with transactions and answers that get lost."""

    def __init__(self, ledger: Ledger, rng: random.Random, loss: float = 0.0) -> None:
        self._ledger = ledger
        self._rng = rng
        self.loss = loss

    @property
    def info(self) -> ChainInfo:
        """Fixed."""
        return INFO

    async def submit(self, order: ChainOrder) -> bytes:
        """Mined after a while; lost before it arrives, or the answer lost after it."""
        await trio.sleep(self._ledger.block_s * self._rng.random())
        if self._rng.random() < self.loss:
            raise ChainError("the transaction was lost")
        tx = self._ledger.execute(order)
        await trio.sleep(self._ledger.block_s)
        if self._rng.random() < self.loss:
            raise ChainError("the receipt was lost")
        return tx

    async def facts(self, after_block: int) -> AsyncIterator[ChainBatch]:
        """Block by block."""
        block = after_block
        while True:
            while block < len(self._ledger.blocks):
                at_s, facts = self._ledger.blocks[block]
                block += 1
                yield ChainBatch(block, at_s, facts)
            await trio.sleep(self._ledger.block_s / 2)
            if self._rng.random() < self.loss / 4:
                raise ChainError("the connection was lost")

    async def account(self, wallet: bytes, operator: bytes) -> Account:
        """The ledger's rows."""
        ledger = self._ledger
        locked = sum(
            one.terms.money.collateral
            for one in ledger.live.values()
            if one.terms.parties.provider == wallet
        )
        free = ledger.free.get(wallet, 0)
        return Account(
            wallet, free, ledger.stake.get(wallet, 0), locked, 0, 0, free, 2**40 - 1, 0, 0,
            ledger.units.get(wallet, 0),
        )  # fmt: skip
