"""Errands: what the owner of a wallet may ask of escrow and token. The wallet signs, not the node.

Values only; they know nothing of calldata, gas or browsers. Amounts are base units.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Approve:
    """Let the escrow take `amount` of the wallet's tokens."""

    amount: int


@dataclass(frozen=True, slots=True)
class Deposit:
    """Move approved tokens into the escrow's ledger."""

    amount: int


@dataclass(frozen=True, slots=True)
class DepositWithPermit:
    """The same with a signed permit (EIP-2612), 65 bytes r, s, v, good until `deadline_s`."""

    amount: int
    deadline_s: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take free money out of the ledger, back to the wallet."""

    amount: int


@dataclass(frozen=True, slots=True)
class Stake:
    """Move free money to the stake that backs a provider's agreements."""

    amount: int


@dataclass(frozen=True, slots=True)
class Unstake:
    """Let unlocked stake thaw; the clock of all that thaws starts anew."""

    amount: int


@dataclass(frozen=True, slots=True)
class CompleteUnstake:
    """Move what has thawed to the free money."""


@dataclass(frozen=True, slots=True)
class Authorise:
    """Let the key `operator` lock up to `allowance`, until then."""

    operator: bytes
    allowance: int
    expires_at_s: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Take that back."""

    operator: bytes


Errand = (
    Approve
    | Deposit
    | DepositWithPermit
    | Withdraw
    | Stake
    | Unstake
    | CompleteUnstake
    | Authorise
    | Revoke
)
