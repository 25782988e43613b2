"""Chainlog: the escrow's events as values, field by field as the contract emits them.

`market/escrow.py` has what an agreement lives by; this is everything, for whoever keeps books.
Amounts are base units, times Unix seconds, addresses 20 bytes, ids 32. Names of the fields
are the contract's (contracts/src/IEscrow.sol), in our spelling.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where on the chain an event stands: block, index in it, the block's time, transaction."""

    block: int
    index: int
    at_s: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Deposited:
    """`amount` of `by`'s tokens became free balance of `account`."""

    place: Place
    token: bytes
    account: bytes
    by: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Free balance left the escrow."""

    place: Place
    token: bytes
    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Staked:
    """Free balance became stake."""

    place: Place
    token: bytes
    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class UnstakeStarted:
    """Stake began to thaw; `thawing` is the new total, free to leave at `thawed_at`."""

    place: Place
    token: bytes
    account: bytes
    amount: int
    thawing: int
    thawed_at: int


@dataclass(frozen=True, slots=True)
class Unstaked:
    """All that had thawed became free balance."""

    place: Place
    token: bytes
    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Authorised:
    """`operator` may lock up to `allowance` until `expiry`; replaces what was before."""

    place: Place
    account: bytes
    operator: bytes
    token: bytes
    allowance: int
    expiry: int


@dataclass(frozen=True, slots=True)
class Revoked:
    """`operator` may lock nothing any more."""

    place: Place
    account: bytes
    operator: bytes
    token: bytes


@dataclass(frozen=True, slots=True)
class AllowanceUsed:
    """`operator` locked `amount`; its allowance fell by as much unless it is unlimited."""

    place: Place
    account: bytes
    operator: bytes
    token: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class OpenedAgreement:
    """Deposit and bond (requester), collateral and units (provider) are locked.

    The provider can be challenged from `challenge_from` on, and be held to it until before `end`.
    """

    place: Place
    id: bytes
    requester: bytes
    provider: bytes
    token: bytes
    deposit: int
    collateral: int
    bond: int
    units: int
    opened_at: int
    challenge_from: int
    end: int


@dataclass(frozen=True, slots=True)
class ExtendedAgreement:
    """Totals beyond the terms, not steps."""

    place: Place
    id: bytes
    extra_deposit: int
    extra_duration: int


@dataclass(frozen=True, slots=True)
class ClaimedPayment:
    """`paid` in total so far, `offline` of it on heartbeats alone."""

    place: Place
    id: bytes
    paid: int
    offline: int


@dataclass(frozen=True, slots=True)
class BondLocked:
    """A fresh bond of the requester; that of the opening was spent."""

    place: Place
    id: bytes
    bond: int


@dataclass(frozen=True, slots=True)
class ChallengedProvider:
    """The provider must answer `nonce` until `deadline`."""

    place: Place
    id: bytes
    nonce: int
    deadline: int


@dataclass(frozen=True, slots=True)
class AnsweredChallenge:
    """Open again, the bond is the provider's; no challenge before `next_challenge`."""

    place: Place
    id: bytes
    sequence: int
    next_challenge: int


@dataclass(frozen=True, slots=True)
class ClosingBegun:
    """The wallet `by` wants it closed; final after `deadline`."""

    place: Place
    id: bytes
    by: bytes
    deadline: int


@dataclass(frozen=True, slots=True)
class DisputeBegun:
    """The arbiter has until `deadline`."""

    place: Place
    id: bytes
    deadline: int


@dataclass(frozen=True, slots=True)
class DisputeRuled:
    """The bond goes to the provider if nothing is slashed."""

    place: Place
    id: bytes
    slashed: int


@dataclass(frozen=True, slots=True)
class StakeSlashed:
    """`to_victim` went to the requester, `burned` to nobody. `ClosedAgreement` follows."""

    place: Place
    id: bytes
    slashed: int
    to_victim: int
    burned: int


@dataclass(frozen=True, slots=True)
class ClosedAgreement:
    """The end: `paid` in total, some of it perhaps just now, without a `ClaimedPayment`; `refunded`
    and a bond still locked to the requester, the rest of the collateral to the provider's stake,
    units free.
    """

    place: Place
    id: bytes
    paid: int
    refunded: int


@dataclass(frozen=True, slots=True)
class CancelledTerms:
    """Terms that were never opened never will be."""

    place: Place
    id: bytes


AccountEvent = (
    Deposited
    | Withdrawn
    | Staked
    | UnstakeStarted
    | Unstaked
    | Authorised
    | Revoked
    | AllowanceUsed
)
AgreementEvent = (
    OpenedAgreement
    | ExtendedAgreement
    | ClaimedPayment
    | BondLocked
    | ChallengedProvider
    | AnsweredChallenge
    | ClosingBegun
    | DisputeBegun
    | DisputeRuled
    | StakeSlashed
    | ClosedAgreement
    | CancelledTerms
)
EscrowEvent = AccountEvent | AgreementEvent

KINDS: Final[dict[str, type[EscrowEvent]]] = {
    "Deposited": Deposited,
    "Withdrawn": Withdrawn,
    "Staked": Staked,
    "UnstakeStarted": UnstakeStarted,
    "Unstaked": Unstaked,
    "Authorised": Authorised,
    "Revoked": Revoked,
    "AllowanceUsed": AllowanceUsed,
    "Opened": OpenedAgreement,
    "Extended": ExtendedAgreement,
    "Claimed": ClaimedPayment,
    "Bonded": BondLocked,
    "Challenged": ChallengedProvider,
    "Answered": AnsweredChallenge,
    "Closing": ClosingBegun,
    "Disputed": DisputeBegun,
    "Ruled": DisputeRuled,
    "Slashed": StakeSlashed,
    "Closed": ClosedAgreement,
    "Cancelled": CancelledTerms,
}
"""The contract's names of them. `SettleSkipped` changes nothing and is not among them."""
