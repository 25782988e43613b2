"""Statement: what a wallet spent or earned, from the escrow's events alone, to the base unit.

Knows no chain, clock or journal: whoever prints it joins the names of jobs and peers. A day is a
UTC day of block time. `reconcile` says whether the books agree with what the contract holds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import Enum

from market.chainlog import (
    AnsweredChallenge,
    ClaimedPayment,
    ClosedAgreement,
    Deposited,
    DisputeRuled,
    EscrowEvent,
    OpenedAgreement,
    Place,
    StakeSlashed,
    Withdrawn,
)
from market.ledger import Ledger, Row


class Side(Enum):
    """Whose money is looked at: that of agreements it pays for, or is paid for."""

    REQUESTER = "requester"
    PROVIDER = "provider"


class Cause(Enum):
    """Why money moved."""

    PAYMENT = "payment"  # the requester paid the provider
    BOND = "bond"  # a challenge was answered: the requester's bond is the provider's
    SLASH = "slash"  # the provider's stake was taken; the requester got its share


@dataclass(frozen=True, slots=True)
class Movement:
    """Money came to the wallet (positive) or left it, in one transaction, for one agreement."""

    place: Place
    agreement: bytes
    cause: Cause
    amount: int


@dataclass(frozen=True, slots=True)
class Sums:
    """Movements added up; `net` is what the wallet gained, negative for what it spent."""

    payments: int = 0
    bonds: int = 0
    slashes: int = 0

    @property
    def net(self) -> int:
        """All causes together."""
        return self.payments + self.bonds + self.slashes

    def plus(self, movement: Movement) -> Sums:
        """With one more movement."""
        match movement.cause:
            case Cause.PAYMENT:
                return replace(self, payments=self.payments + movement.amount)
            case Cause.BOND:
                return replace(self, bonds=self.bonds + movement.amount)
            case Cause.SLASH:
                return replace(self, slashes=self.slashes + movement.amount)


@dataclass(frozen=True, slots=True)
class Line:
    """One agreement of the wallet. `held` is what it still locks of the wallet's money."""

    row: Row
    other: bytes
    sums: Sums
    held: int
    closed_at_s: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One side of one wallet's business in one token, since a moment; days are `YYYY-MM-DD`."""

    side: Side
    wallet: bytes
    token: bytes
    lines: tuple[Line, ...]
    days: tuple[tuple[str, Sums], ...]
    total: Sums
    movements: tuple[Movement, ...]


@dataclass(frozen=True, slots=True)
class Position:
    """All that the wallet has in the escrow, wherever it lies there."""

    free: int
    stake: int
    thawing: int
    locked: int  # as provider, in live agreements
    held: int  # as requester, in live agreements: deposits not yet paid, and bonds

    @property
    def total(self) -> int:
        """Together."""
        return self.free + self.stake + self.thawing + self.locked + self.held


def statement(
    events: Iterable[EscrowEvent], wallet: bytes, token: bytes, side: Side, since_s: int = 0
) -> Statement:
    """What agreements of this side moved since then. `events` are the wallet's, in chain order."""
    ledger = Ledger()
    opened: dict[bytes, OpenedAgreement] = {}
    closed: dict[bytes, int] = {}
    found: list[Movement] = []
    for event in events:
        if isinstance(event, OpenedAgreement) and event.token == token:
            if wallet == (event.requester if side is Side.REQUESTER else event.provider):
                opened[event.id] = event
        elif isinstance(event, ClosedAgreement):
            closed[event.id] = event.place.at_s
        found += _moved(event, ledger, opened, side)
        ledger.apply(event)
    recent = tuple(movement for movement in found if movement.place.at_s >= since_s)
    lines = []
    for id_, start in opened.items():
        own = [movement for movement in recent if movement.agreement == id_]
        row = ledger.agreements[id_]
        if not own and start.place.at_s < since_s and not row.live:
            continue
        other = start.provider if side is Side.REQUESTER else start.requester
        lines.append(Line(row, other, _sum(own), _held(row, side), closed.get(id_, 0)))
    days: dict[str, list[Movement]] = {}
    for movement in recent:
        day = datetime.fromtimestamp(movement.place.at_s, UTC).date().isoformat()
        days.setdefault(day, []).append(movement)
    by_day = tuple((day, _sum(days[day])) for day in sorted(days))
    return Statement(side, wallet, token, tuple(lines), by_day, _sum(recent), recent)


def position(ledger: Ledger, wallet: bytes, token: bytes) -> Position:
    """Where the wallet's money lies, by the books."""
    account = (token, wallet)
    thaw = ledger.thaws.get(account)
    held = sum(
        _held(row, Side.REQUESTER)
        for row in ledger.agreements.values()
        if (row.opened.requester, row.opened.token) == (wallet, token)
    )
    return Position(
        free=ledger.free.get(account, 0),
        stake=ledger.stake.get(account, 0),
        thawing=thaw.amount if thaw else 0,
        locked=ledger.locked(token, wallet),
        held=held,
    )


def reconcile(events: Iterable[EscrowEvent], wallet: bytes, token: bytes) -> tuple[int, int]:
    """What must be there (paid in, less paid out, plus all that moved), and what the books hold.

    Equal, or an event was missed. The caller compares the second with the contract.
    """
    listed = tuple(events)
    into = sum(
        event.amount
        for event in listed
        if isinstance(event, Deposited) and (event.account, event.token) == (wallet, token)
    )
    out = sum(
        event.amount
        for event in listed
        if isinstance(event, Withdrawn) and (event.account, event.token) == (wallet, token)
    )
    moved = sum(statement(listed, wallet, token, side).total.net for side in Side)
    ledger = Ledger()
    for event in listed:
        ledger.apply(event)
    return into - out + moved, position(ledger, wallet, token).total


def _moved(
    event: EscrowEvent, ledger: Ledger, opened: dict[bytes, OpenedAgreement], side: Side
) -> list[Movement]:
    moving = ClaimedPayment | AnsweredChallenge | DisputeRuled | StakeSlashed | ClosedAgreement
    if not isinstance(event, moving):
        return []
    if event.id not in opened:
        return []
    row, sign = ledger.agreements[event.id], -1 if side is Side.REQUESTER else 1
    match event:
        case ClaimedPayment(paid=paid) | ClosedAgreement(paid=paid):
            cause, amount = Cause.PAYMENT, sign * (paid - row.paid)
        case StakeSlashed(slashed=slashed, to_victim=to_victim):
            cause, amount = Cause.SLASH, to_victim if side is Side.REQUESTER else -slashed
        case AnsweredChallenge():
            cause, amount = Cause.BOND, sign * row.opened.bond
        case DisputeRuled(slashed=slashed):
            cause, amount = Cause.BOND, 0 if slashed else sign * row.opened.bond
    return [Movement(event.place, event.id, cause, amount)] if amount else []


def _sum(movements: Iterable[Movement]) -> Sums:
    sums = Sums()
    for movement in movements:
        sums = sums.plus(movement)
    return sums


def _held(row: Row, side: Side) -> int:
    if not row.live:
        return 0
    if side is Side.PROVIDER:
        return row.opened.collateral
    return row.deposit - row.paid + row.opened.bond * row.bonded
