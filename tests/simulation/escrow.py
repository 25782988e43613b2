"""Escrow: the contract's ledger as a small Python model. Knows no node, no network and no trio.

The state table, the guards and their names, the bonds and windows are those of contracts/src/
Escrow.sol, line for line where it matters; tests/adapters/ethereum/test_model.py walks both at once
and compares. Not modelled: claims on heartbeats, equivocation, arbiters, ERC-1271.
`total` is what the checkers hold it to: nothing appears, nothing vanishes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from enum import Enum

from market.errors import ChainRefusedError, SignatureError
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
    Domain,
    agreement_id,
    digest,
    extension_digest,
    heartbeat_digest,
    recover,
    settlement_digest,
    voucher_digest,
)
from market.terms import NOBODY, Terms, Voucher
from market.units import BPS, HOUR_S

DOMAIN = Domain(31337, b"\xee" * 20)
UNLIMITED = 2**128 - 1
FOREVER = 2**40 - 1


class Status(Enum):
    """As the contract numbers them; an id that is not in the ledger has none."""

    OPEN = 1
    CLOSING_BY_REQUESTER = 2
    CLOSING_BY_PROVIDER = 3
    CHALLENGED = 4
    CLOSED = 6
    SLASHED = 7


@dataclass(frozen=True, slots=True)
class OnChain:
    """One live agreement. `deadline` means what the contract's does in each status."""

    terms: Terms
    status: Status
    opened_at: int
    deadline: int
    paid: int = 0
    offline: int = 0  # of that, on heartbeats alone
    nonce: int = 0
    bonded: bool = True
    extra_deposit: int = 0
    extra_duration: int = 0

    @property
    def end(self) -> int:
        """The first second in which the provider cannot be held to it any more."""
        return self.opened_at + self.terms.timing.duration_s + self.extra_duration

    @property
    def deposit(self) -> int:
        """With what was added."""
        return self.terms.money.deposit + self.extra_deposit


@dataclass(frozen=True, slots=True)
class Limits:
    """What the contract was deployed with, in seconds: the local chain's."""

    window_min: int = 2
    window_max: int = 3600
    claim_window_min: int = 2
    claim_window_max: int = 86_400
    duration_max: int = 30 * 86_400


def refuse(reason: str) -> ChainRefusedError:
    """What `submit` raises."""
    return ChainRefusedError(reason=f"Escrow_{reason}")


def accrued(terms: Terms, seconds: int) -> int:
    """The contract's own: not capped by the deposit, rounded down."""
    return terms.money.price_per_hour * terms.unit_count * seconds // HOUR_S


@dataclass
class Ledger:
    """The contract's state. Amounts in base units, times in whole seconds."""

    domain: Domain = DOMAIN
    limits: Limits = Limits()
    free: dict[bytes, int] = field(default_factory=dict)
    stake: dict[bytes, int] = field(default_factory=dict)
    allowances: dict[tuple[bytes, bytes], tuple[int, int]] = field(default_factory=dict)
    units: dict[bytes, int] = field(default_factory=dict)
    live: dict[bytes, OnChain] = field(default_factory=dict)
    over: dict[bytes, Status] = field(default_factory=dict)
    burned: int = 0
    _executed: int = 0
    _said: list[ChainFact] = field(default_factory=list)
    _at: int = 0
    _sender: bytes = NOBODY
    _tx: bytes = b""

    # The wallets' own calls.

    def deposit(self, wallet: bytes, amount: int) -> None:
        """Money from outside."""
        self._credit(wallet, amount)

    def lock_stake(self, wallet: bytes, amount: int) -> None:
        """Free balance to stake."""
        self._take_free(wallet, amount)
        self.stake[wallet] = self.stake.get(wallet, 0) + amount

    def authorise(
        self, wallet: bytes, operator: bytes, allowance: int = UNLIMITED, expiry: int = FOREVER
    ) -> None:
        """Let a node's key lock the wallet's money."""
        self.allowances[wallet, operator] = (allowance, expiry)

    def total(self) -> int:
        """Every base unit there is."""
        locked = sum(
            one.deposit - one.paid + one.terms.money.collateral
            + (one.terms.money.bond if one.bonded else 0)
            for one in self.live.values()
        )  # fmt: skip
        return sum(self.free.values()) + sum(self.stake.values()) + locked + self.burned

    def locked(self, wallet: bytes) -> int:
        """The stake that live agreements of this provider hold."""
        return sum(
            one.terms.money.collateral
            for one in self.live.values()
            if one.terms.parties.provider == wallet
        )

    # The nodes' orders.

    def execute(
        self, order: ChainOrder, sender: bytes, at: int
    ) -> tuple[bytes, tuple[ChainFact, ...]]:
        """Carry out one order in a block of time `at`: its transaction's hash and its facts.

        Raises ChainRefusedError, and then nothing has changed.
        """
        self._executed += 1
        self._sender, self._at, self._said = sender, at, []
        self._tx = hashlib.sha256(digest(order) + self._executed.to_bytes(8, "big")).digest()
        before = (
            dict(self.free), dict(self.stake), dict(self.allowances), dict(self.units),
            dict(self.live), dict(self.over), self.burned,
        )  # fmt: skip
        try:
            self._perform(order)
        except ChainRefusedError:
            (
                self.free, self.stake, self.allowances, self.units,
                self.live, self.over, self.burned,
            ) = before  # fmt: skip
            raise
        return self._tx, tuple(self._said)

    def _perform(self, order: ChainOrder) -> None:
        id_ = agreement_id(order.terms, self.domain)
        match order:
            case Open():
                self._open(order)
            case OpenMany(opens=opens):
                for one in opens:
                    self._open(one)
            case Extend():
                self._extend(id_, order)
            case ClaimOffline():
                self._claim_offline(id_, order)
            case Claim() | Settle() | CloseSigned() | RequesterClose() | ProviderClose():
                self._perform_end(id_, order)
            case Finalize():
                self._finalize(id_)
            case Challenge():
                self._challenge(id_, order)
            case Answer():
                self._answer(id_, order)
            case Slash():
                live = self._in(id_, Status.CHALLENGED)
                self._not_before(live.deadline + 1)
                money = live.terms.money
                self._close(id_, Status.SLASHED, money.collateral * money.slash_bps // BPS)

    def _perform_end(
        self, id_: bytes, order: Claim | Settle | CloseSigned | RequesterClose | ProviderClose
    ) -> None:
        match order:
            case Claim(voucher=voucher, signature=signature):
                if not self._take_voucher(id_, voucher, signature):
                    raise refuse("NothingToClaim")
            case Settle(voucher=voucher, signature=signature):
                self._only(order.terms, provider=True)
                self._take_voucher(id_, voucher, signature)
                if voucher.last:
                    self._close(id_, Status.CLOSED, 0)
                else:
                    self._close_by_provider(id_)
            case CloseSigned():
                self._close_signed(id_, order)
            case RequesterClose():
                self._only(order.terms, provider=False)
                self._in(id_, Status.OPEN)
                deadline = self._at + order.terms.timing.claim_window_s
                self._change(id_, status=Status.CLOSING_BY_REQUESTER, deadline=deadline)
                self._say(Closing(id_, order.terms.parties.requester, deadline, self._tx))
            case ProviderClose():
                self._only(order.terms, provider=True)
                self._close_by_provider(id_)

    def _open(self, order: Open) -> None:
        terms, parties, money = order.terms, order.terms.parties, order.terms.money
        self._check_terms(terms)
        id_ = agreement_id(terms, self.domain)
        if id_ in self.live or id_ in self.over:
            raise refuse("WrongStatus")
        needed = money.deposit + money.bond
        self._spend(
            parties.requester, parties.requester_signer, needed, id_, order.requester_signature
        )
        self._spend(
            parties.provider, parties.provider_signer, money.collateral, id_,
            order.provider_signature,
        )  # fmt: skip
        if self.units.get(parties.provider, 0) & terms.units:
            raise refuse("UnitsTaken")
        self.units[parties.provider] = self.units.get(parties.provider, 0) | terms.units
        self._take_free(parties.requester, needed)
        if self.stake.get(parties.provider, 0) < money.collateral:
            raise refuse("InsufficientStake")
        self.stake[parties.provider] = self.stake.get(parties.provider, 0) - money.collateral
        grace = self._at + terms.timing.start_grace_s
        self.live[id_] = OnChain(terms, Status.OPEN, self._at, grace)
        self._say(
            Opened(
                id_,
                self._at,
                self._tx,
                parties.requester,
                parties.provider,
                money.deposit,
                money.collateral,
            )
        )

    def _extend(self, id_: bytes, order: Extend) -> None:
        one, extension = self._in(id_, Status.OPEN), order.extension
        self._not_after(one.end - 1)
        self._names(extension.agreement, id_)
        added = extension.deposit - one.extra_deposit
        longer = extension.duration_s - one.extra_duration
        if added < 0 or longer < 0 or added + longer == 0:
            raise refuse("AmountOutOfRange")
        if one.terms.timing.duration_s + extension.duration_s > self.limits.duration_max:
            raise refuse("BadTerms")
        parties, named = one.terms.parties, extension_digest(extension, self.domain)
        self._spend(
            parties.requester, parties.requester_signer, added, named, order.requester_signature
        )
        if longer:
            self._either(parties.provider, parties.provider_signer, named, order.provider_signature)
        self._take_free(parties.requester, added)
        self._change(id_, extra_deposit=extension.deposit, extra_duration=extension.duration_s)
        self._say(Extended(id_, extension.deposit, extension.duration_s, self._tx))

    def _check_terms(self, terms: Terms) -> None:
        p, m, t, limits = terms.parties, terms.money, terms.timing, self.limits
        if self._at > t.open_by_s:
            raise refuse("OpenByPassed")
        named = (p.requester, p.provider, p.requester_signer, p.provider_signer)
        if NOBODY in named or p.requester == p.provider:
            raise refuse("BadTerms")
        if max(m.slash_bps, m.victim_share_bps, m.equivocation_bps) > BPS or not terms.units:
            raise refuse("BadTerms")
        if not 0 < t.duration_s <= limits.duration_max or t.start_grace_s > limits.duration_max:
            raise refuse("BadTerms")
        if not limits.window_min <= t.window_s <= limits.window_max:
            raise refuse("BadTerms")
        if not limits.claim_window_min <= t.claim_window_s <= limits.claim_window_max:
            raise refuse("BadTerms")
        assert p.arbiter == NOBODY, "arbiters are not modelled"

    def _take_voucher(self, id_: bytes, voucher: Voucher, signature: bytes) -> bool:
        one = self._alive(id_)
        self._names(voucher.agreement, id_)
        p = one.terms.parties
        by = self._signer(voucher_digest(voucher, self.domain), signature)
        if by not in (p.requester_signer, p.requester):
            raise refuse("BadSignature")
        payable = min(voucher.amount, self._payable(one))
        if payable > one.paid:
            self._pay(id_, payable)
            return True
        if payable > one.paid - one.offline:
            self._pay(id_, one.paid, one.paid - payable)
            return True
        return False

    def _claim_offline(self, id_: bytes, order: ClaimOffline) -> None:
        one, beat = self._alive(id_), order.heartbeat
        self._names(beat.agreement, id_)
        p, timing = one.terms.parties, one.terms.timing
        by = self._signer(heartbeat_digest(beat, self.domain), order.signature)
        if by not in (p.provider_signer, p.provider):
            raise refuse("BadSignature")
        closed = one.status is Status.CLOSING_BY_REQUESTER
        if beat.at_s > (one.deadline - timing.claim_window_s if closed else self._at):
            raise refuse("TooLate")
        vouched = one.paid - one.offline
        metered_s = min(beat.metered_s, max(0, beat.at_s - one.opened_at))
        most = vouched + accrued(one.terms, timing.offline_allowance_s)
        paid = min(accrued(one.terms, metered_s), most, self._payable(one))
        if paid <= one.paid:
            raise refuse("NothingToClaim")
        self._pay(id_, paid, paid - vouched)

    def _payable(self, one: OnChain) -> int:
        elapsed = min(self._at, one.end) - one.opened_at
        return min(one.deposit, accrued(one.terms, elapsed))

    def _pay(self, id_: bytes, paid: int, offline: int = 0) -> None:
        one = self.live[id_]
        self._credit(one.terms.parties.provider, paid - one.paid)
        self._change(id_, paid=paid, offline=offline)
        self._say(Claimed(id_, paid, self._tx))

    def _close_by_provider(self, id_: bytes) -> None:
        one = self._in(
            id_, Status.OPEN, Status.CLOSING_BY_REQUESTER, Status.CLOSING_BY_PROVIDER
        )  # fmt: skip
        closing = one.status is Status.CLOSING_BY_PROVIDER
        uncontested = one.status is Status.CLOSING_BY_REQUESTER or self._at >= one.end
        if uncontested or (closing and self._at > one.deadline):
            self._close(id_, Status.CLOSED, 0)
            return
        if closing:
            raise refuse("TooEarly")
        deadline = max(self._at, one.deadline) + one.terms.timing.window_s
        self._change(id_, status=Status.CLOSING_BY_PROVIDER, deadline=deadline)
        self._say(Closing(id_, one.terms.parties.provider, deadline, self._tx))

    def _close_signed(self, id_: bytes, order: CloseSigned) -> None:
        one = self._alive(id_)
        p, money, settlement = one.terms.parties, one.terms.money, order.settlement
        self._names(settlement.agreement, id_)
        named = settlement_digest(settlement, self.domain)
        most = one.deposit
        if settlement.slashed:
            self._either(p.requester, p.requester, named, order.requester_signature)
            self._either(p.provider, p.provider, named, order.provider_signature)
            self._in_range(settlement.slashed, 0, money.collateral)
        else:
            hot = not self._either(
                p.requester, p.requester_signer, named, order.requester_signature
            )
            self._either(p.provider, p.provider_signer, named, order.provider_signature)
            most = max(one.paid, self._payable(one)) if hot else most
        self._in_range(settlement.paid, one.paid, most)
        if settlement.paid > one.paid:
            self._pay(id_, settlement.paid)
        status = Status.SLASHED if settlement.slashed else Status.CLOSED
        self._close(id_, status, settlement.slashed)

    def _finalize(self, id_: bytes) -> None:
        one = self._alive(id_)
        if one.status is Status.CHALLENGED:
            raise refuse("WrongStatus")
        unended = one.end + one.terms.timing.claim_window_s
        self._not_before((unended if one.status is Status.OPEN else one.deadline) + 1)
        self._close(id_, Status.CLOSED, 0)

    def _challenge(self, id_: bytes, order: Challenge) -> None:
        self._only(order.terms, provider=False)
        one = self._in(id_, Status.OPEN, Status.CLOSING_BY_PROVIDER)
        timing, not_before = one.terms.timing, one.deadline
        if one.status is Status.CLOSING_BY_PROVIDER:
            self._not_after(one.deadline)
            not_before = one.deadline - timing.window_s
        self._not_before(not_before)
        self._not_after(one.end - 1)
        if order.nonce in (0, one.nonce):
            raise refuse("BadNonce")
        self._take_voucher(id_, order.voucher, order.signature)
        due = accrued(one.terms, self._at - one.opened_at - timing.start_grace_s)
        if self.live[id_].paid < due:
            raise refuse("NotPaidUp")
        self._lock_bond(one)
        deadline = self._at + timing.window_s
        self._change(
            id_, status=Status.CHALLENGED, deadline=deadline, nonce=order.nonce, bonded=True
        )
        self._say(Challenged(id_, order.nonce, deadline, self._tx))

    def _lock_bond(self, one: OnChain) -> None:
        if one.bonded:
            return
        wallet, bond = one.terms.parties.requester, one.terms.money.bond
        if self._sender != wallet:
            self._use_allowance(wallet, self._sender, bond)
        self._take_free(wallet, bond)

    def _answer(self, id_: bytes, order: Answer) -> None:
        one = self._in(id_, Status.CHALLENGED)
        self._not_after(one.deadline)
        if order.heartbeat.challenge != one.nonce:
            raise refuse("BadNonce")
        self._names(order.heartbeat.agreement, id_)
        p = one.terms.parties
        by = self._signer(heartbeat_digest(order.heartbeat, self.domain), order.signature)
        if by not in (p.provider_signer, p.provider):
            raise refuse("BadSignature")
        self._credit(p.provider, one.terms.money.bond)
        deadline = self._at + one.terms.timing.window_s
        self._change(id_, status=Status.OPEN, deadline=deadline, bonded=False)
        self._say(Answered(id_, self._tx))

    def _close(self, id_: bytes, status: Status, slashed: int) -> None:
        one = self.live.pop(id_)
        self.over[id_] = status
        parties, money = one.terms.parties, one.terms.money
        refunded = one.deposit - one.paid
        to_victim = slashed * money.victim_share_bps // BPS
        self._credit(parties.requester, refunded + to_victim + (money.bond if one.bonded else 0))
        self.stake[parties.provider] += money.collateral - slashed
        self.burned += slashed - to_victim
        self.units[parties.provider] &= ~one.terms.units
        if status is Status.SLASHED:
            self._say(Slashed(id_, slashed, to_victim, slashed - to_victim, self._tx))
        self._say(Closed(id_, one.paid, refunded, self._tx))

    # Who may, who signed.

    def _only(self, terms: Terms, *, provider: bool) -> None:
        p = terms.parties
        who = (p.provider, p.provider_signer) if provider else (p.requester, p.requester_signer)
        if self._sender not in who:
            raise refuse("NotParty")

    def _signer(self, named: bytes, signature: bytes) -> bytes:
        if not signature:
            return self._sender
        try:
            return recover(named, signature)
        except SignatureError:
            return b""

    def _either(self, wallet: bytes, hot: bytes, named: bytes, signature: bytes) -> bool:
        by = self._signer(named, signature)
        if by not in (wallet, hot):
            raise refuse("BadSignature")
        return by == wallet

    def _spend(self, wallet: bytes, hot: bytes, amount: int, named: bytes, sig: bytes) -> None:
        if not self._either(wallet, hot, named, sig):
            self._use_allowance(wallet, hot, amount)

    def _use_allowance(self, wallet: bytes, operator: bytes, amount: int) -> None:
        allowance, expiry = self.allowances.get((wallet, operator), (0, 0))
        if expiry < self._at or allowance < amount:
            raise refuse("NotAuthorised")
        if allowance != UNLIMITED:
            self.allowances[wallet, operator] = (allowance - amount, expiry)

    # Steps and guards.

    def _alive(self, id_: bytes) -> OnChain:
        if id_ not in self.live:
            raise refuse("WrongStatus")
        return self.live[id_]

    def _in(self, id_: bytes, *statuses: Status) -> OnChain:
        one = self._alive(id_)
        if one.status not in statuses:
            raise refuse("WrongStatus")
        return one

    def _change(self, id_: bytes, **fields: object) -> None:
        self.live[id_] = replace(self.live[id_], **fields)  # type: ignore[arg-type]

    def _names(self, given: bytes, id_: bytes) -> None:
        if given != id_:
            raise refuse("WrongAgreement")

    def _not_before(self, first: int) -> None:
        if self._at < first:
            raise refuse("TooEarly")

    def _not_after(self, last: int) -> None:
        if self._at > last:
            raise refuse("TooLate")

    def _in_range(self, amount: int, low: int, high: int) -> None:
        if not low <= amount <= high:
            raise refuse("AmountOutOfRange")

    def _take_free(self, wallet: bytes, amount: int) -> None:
        if self.free.get(wallet, 0) < amount:
            raise refuse("InsufficientFree")
        self.free[wallet] = self.free.get(wallet, 0) - amount

    def _credit(self, wallet: bytes, amount: int) -> None:
        self.free[wallet] = self.free.get(wallet, 0) + amount

    def _say(self, fact: ChainFact) -> None:
        self._said.append(fact)
