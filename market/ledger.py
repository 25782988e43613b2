"""Ledger: every account and agreement of the escrow, rebuilt from its events alone.

Knows no chain and no contract call: what it says is what the events add up to, so that whoever
compares it with the contract finds out whether either forgot something.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Final, assert_never

from market.chainlog import (
    AccountEvent,
    AgreementEvent,
    AllowanceUsed,
    AnsweredChallenge,
    Authorised,
    BondLocked,
    CancelledTerms,
    ChallengedProvider,
    ClaimedPayment,
    ClosedAgreement,
    ClosingBegun,
    Deposited,
    DisputeBegun,
    DisputeRuled,
    EscrowEvent,
    ExtendedAgreement,
    OpenedAgreement,
    Revoked,
    Staked,
    StakeSlashed,
    Unstaked,
    UnstakeStarted,
    Withdrawn,
)

UNLIMITED: Final = 2**128 - 1  # an allowance that is not used up

# As the contract numbers them (IEscrow.Status).
NONE, OPEN, CLOSING_BY_REQUESTER, CLOSING_BY_PROVIDER = 0, 1, 2, 3
CHALLENGED, DISPUTED, CLOSED, SLASHED, CANCELLED = 4, 5, 6, 7, 8


@dataclass(frozen=True, slots=True)
class Thaw:
    """Stake on its way out."""

    amount: int = 0
    thawed_at: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    """One agreement. `deadline` means in each status what the contract's does."""

    opened: OpenedAgreement
    status: int = OPEN
    deadline: int = 0
    paid: int = 0
    offline: int = 0
    nonce: int = 0
    bonded: bool = True
    extra_deposit: int = 0
    extra_duration: int = 0
    slashed: int = 0
    to_victim: int = 0
    burned: int = 0

    @property
    def live(self) -> bool:
        """Whether it locks money and units."""
        return self.status not in (CLOSED, SLASHED, CANCELLED)

    @property
    def deposit(self) -> int:
        """Top-ups included."""
        return self.opened.deposit + self.extra_deposit


Account = tuple[bytes, bytes]
"""(token, wallet)"""


@dataclass(slots=True)
class Ledger:
    """The escrow's books. Amounts in base units."""

    free: dict[Account, int] = field(default_factory=dict)
    stake: dict[Account, int] = field(default_factory=dict)
    thaws: dict[Account, Thaw] = field(default_factory=dict)
    allowances: dict[tuple[bytes, bytes, bytes], tuple[int, int]] = field(default_factory=dict)
    agreements: dict[bytes, Row] = field(default_factory=dict)
    cancelled: set[bytes] = field(default_factory=set)
    units: dict[bytes, int] = field(default_factory=dict)
    burned: dict[bytes, int] = field(default_factory=dict)
    deposited: dict[bytes, int] = field(default_factory=dict)
    withdrawn: dict[bytes, int] = field(default_factory=dict)

    def apply(self, event: EscrowEvent) -> None:
        """Book one event. They must come in chain order."""
        match event:
            case (
                Deposited() | Withdrawn() | Staked() | UnstakeStarted() | Unstaked()
                | Authorised() | Revoked() | AllowanceUsed()
            ):  # fmt: skip
                self._book(event)
            case OpenedAgreement():
                self._open(event)
            case CancelledTerms(id=id_):
                self.cancelled.add(id_)
            case _:
                row = self.agreements.get(event.id)
                if row is not None:  # books of one wallet may begin after an agreement did
                    self._step(row, event)

    def locked(self, token: bytes, wallet: bytes) -> int:
        """The provider's stake that live agreements hold."""
        return sum(
            row.opened.collateral
            for row in self.agreements.values()
            if row.live and (row.opened.token, row.opened.provider) == (token, wallet)
        )

    def total(self, token: bytes) -> int:
        """Every base unit of the token that the escrow must have."""
        held = sum(
            row.deposit - row.paid + row.opened.collateral + row.opened.bond * row.bonded
            for row in self.agreements.values()
            if row.live and row.opened.token == token
        )
        for book in (self.free, self.stake):
            held += sum(amount for (of, _), amount in book.items() if of == token)
        held += sum(thaw.amount for (of, _), thaw in self.thaws.items() if of == token)
        return held + self.burned.get(token, 0)

    def _book(self, event: AccountEvent) -> None:
        account = (event.token, event.account)
        match event:
            case Deposited(token=token, amount=amount):
                self._add(self.free, account, amount)
                self.deposited[token] = self.deposited.get(token, 0) + amount
            case Withdrawn(token=token, amount=amount):
                self._add(self.free, account, -amount)
                self.withdrawn[token] = self.withdrawn.get(token, 0) + amount
            case Staked(amount=amount):
                self._add(self.free, account, -amount)
                self._add(self.stake, account, amount)
            case UnstakeStarted(amount=amount, thawing=thawing, thawed_at=thawed_at):
                self._add(self.stake, account, -amount)
                self.thaws[account] = Thaw(thawing, thawed_at)
            case Unstaked(amount=amount):
                self.thaws.pop(account, None)
                self._add(self.free, account, amount)
            case Authorised(operator=operator, token=token, allowance=allowance, expiry=expiry):
                self.allowances[event.account, operator, token] = (allowance, expiry)
            case Revoked(operator=operator, token=token):
                self.allowances.pop((event.account, operator, token), None)
            case AllowanceUsed(operator=operator, token=token, amount=amount):
                key = (event.account, operator, token)
                allowance, expiry = self.allowances.get(key, (0, 0))
                if allowance != UNLIMITED:
                    self.allowances[key] = (allowance - amount, expiry)
            case _:
                assert_never(event)

    def _open(self, opened: OpenedAgreement) -> None:
        requester = (opened.token, opened.requester)
        provider = (opened.token, opened.provider)
        self._add(self.free, requester, -opened.deposit - opened.bond)
        self._add(self.stake, provider, -opened.collateral)
        self.units[opened.provider] = self.units.get(opened.provider, 0) | opened.units
        self.agreements[opened.id] = Row(opened, deadline=opened.challenge_from)

    def _step(self, row: Row, event: AgreementEvent) -> None:
        opened = row.opened
        requester = (opened.token, opened.requester)
        provider = (opened.token, opened.provider)
        match event:
            case ExtendedAgreement(extra_deposit=deposit, extra_duration=duration):
                self._add(self.free, requester, row.extra_deposit - deposit)
                row = replace(row, extra_deposit=deposit, extra_duration=duration)
            case ClaimedPayment(paid=paid, offline=offline):
                self._add(self.free, provider, paid - row.paid)
                row = replace(row, paid=paid, offline=offline)
            case BondLocked(bond=bond):
                self._add(self.free, requester, -bond)
                row = replace(row, bonded=True)
            case ChallengedProvider(nonce=nonce, deadline=deadline):
                row = replace(row, status=CHALLENGED, nonce=nonce, deadline=deadline)
            case AnsweredChallenge(next_challenge=deadline):
                self._add(self.free, provider, opened.bond)
                row = replace(row, status=OPEN, deadline=deadline, bonded=False)
            case ClosingBegun(by=by, deadline=deadline):
                by_provider = by == opened.provider
                status = CLOSING_BY_PROVIDER if by_provider else CLOSING_BY_REQUESTER
                row = replace(row, status=status, deadline=deadline)
            case DisputeBegun(deadline=deadline):
                row = replace(row, status=DISPUTED, deadline=deadline)
            case DisputeRuled(slashed=slashed):
                if not slashed:
                    self._add(self.free, provider, opened.bond)
                    row = replace(row, bonded=False)
            case StakeSlashed(slashed=slashed, to_victim=to_victim, burned=burned):
                self.burned[opened.token] = self.burned.get(opened.token, 0) + burned
                row = replace(row, slashed=slashed, to_victim=to_victim, burned=burned)
                row = replace(row, status=SLASHED)
            case ClosedAgreement():
                row = self._close(row, event)
            case OpenedAgreement() | CancelledTerms():
                raise AssertionError("booked elsewhere")
            case _:
                assert_never(event)
        self.agreements[opened.id] = row

    def _close(self, row: Row, closed: ClosedAgreement) -> Row:
        opened = row.opened
        # What the closing call itself paid has no event of its own.
        self._add(self.free, (opened.token, opened.provider), closed.paid - row.paid)
        back = closed.refunded + row.to_victim + opened.bond * row.bonded
        self._add(self.free, (opened.token, opened.requester), back)
        self._add(self.stake, (opened.token, opened.provider), opened.collateral - row.slashed)
        self.units[opened.provider] = self.units.get(opened.provider, 0) & ~opened.units
        status = SLASHED if row.status == SLASHED else CLOSED
        return replace(row, status=status, paid=closed.paid, bonded=False)

    @staticmethod
    def _add(book: dict[Account, int], account: Account, amount: int) -> None:
        book[account] = book.get(account, 0) + amount


def ledger_of(events: Iterable[EscrowEvent]) -> Ledger:
    """The books after these events, in chain order."""
    ledger = Ledger()
    for event in events:
        ledger.apply(event)
    return ledger
