"""Escrow: the orders the contract takes and the facts it tells, as values.

Knows the contract's words and nothing of transactions, gas or logs. An order may be given twice;
a fact is told once, at the network's depth, and never taken back.
"""

from __future__ import annotations

from dataclasses import dataclass

from market.terms import Extension, Heartbeat, Settlement, Terms, Voucher


@dataclass(frozen=True, slots=True)
class Open:
    """Lock deposit, stake and units of the agreement."""

    terms: Terms
    requester_signature: bytes
    provider_signature: bytes


@dataclass(frozen=True, slots=True)
class OpenMany:
    """Open all of a gang's agreements, or none."""

    opens: tuple[Open, ...]

    @property
    def terms(self) -> Terms:
        """Those of rank 0."""
        return self.opens[0].terms


@dataclass(frozen=True, slots=True)
class Extend:
    """Raise deposit and duration of an open agreement, as both signed."""

    terms: Terms
    extension: Extension
    requester_signature: bytes
    provider_signature: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """Draw what the voucher promises; the agreement goes on."""

    terms: Terms
    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class ClaimOffline:
    """Draw what the heartbeat metered and no voucher covers, within the terms' allowance."""

    terms: Terms
    heartbeat: Heartbeat
    signature: bytes


@dataclass(frozen=True, slots=True)
class Settle:
    """Provider: end with this voucher; at once if it is the last, else after the window."""

    terms: Terms
    voucher: Voucher
    signature: bytes


@dataclass(frozen=True, slots=True)
class CloseSigned:
    """End at once as both signed."""

    terms: Terms
    settlement: Settlement
    requester_signature: bytes
    provider_signature: bytes


@dataclass(frozen=True, slots=True)
class RequesterClose:
    """Requester: end; the provider has the window to bring its best voucher."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class ProviderClose:
    """Provider: end without a (better) voucher."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Finalize:
    """Anybody: a deadline has passed; divide the money."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class Challenge:
    """Requester, paid up by this voucher: let the provider prove that it lives."""

    terms: Terms
    voucher: Voucher
    signature: bytes
    nonce: int


@dataclass(frozen=True, slots=True)
class Answer:
    """Provider: a heartbeat that names the challenge's nonce."""

    terms: Terms
    heartbeat: Heartbeat
    signature: bytes


@dataclass(frozen=True, slots=True)
class Slash:
    """Anybody: the challenge was not answered in its window."""

    terms: Terms


ChainOrder = (
    Open
    | OpenMany
    | Extend
    | Claim
    | ClaimOffline
    | Settle
    | CloseSigned
    | RequesterClose
    | ProviderClose
    | Finalize
    | Challenge
    | Answer
    | Slash
)


@dataclass(frozen=True, slots=True)
class Opened:
    """The agreement is funded. `at_s` is the block's timestamp; wallets and amounts are public."""

    agreement: bytes
    at_s: int
    tx: bytes
    requester: bytes = b""
    provider: bytes = b""
    deposit: int = 0
    collateral: int = 0


@dataclass(frozen=True, slots=True)
class Extended:
    """Deposit and duration were raised by so much in all."""

    agreement: bytes
    extra_deposit: int
    extra_duration_s: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """`paid` base units were paid so far, in total."""

    agreement: bytes
    paid: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Challenged:
    """The provider must answer `nonce` before `deadline_s`."""

    agreement: bytes
    nonce: int
    deadline_s: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Answered:
    """The provider answered; the agreement is open again."""

    agreement: bytes
    tx: bytes


@dataclass(frozen=True, slots=True)
class Closing:
    """The wallet `by` began to end it; anybody may finalize after `deadline_s`."""

    agreement: bytes
    by: bytes
    deadline_s: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Closed:
    """Over: `paid` in total to the provider, `refunded` to the requester, stake released."""

    agreement: bytes
    paid: int
    refunded: int
    tx: bytes


@dataclass(frozen=True, slots=True)
class Slashed:
    """Stake was taken: `to_victim` of it paid to the requester, `burned` destroyed.

    A `Closed` fact of the same transaction follows it.
    """

    agreement: bytes
    slashed: int
    to_victim: int
    burned: int
    tx: bytes


ChainFact = Opened | Extended | Claimed | Challenged | Answered | Closing | Closed | Slashed
