"""Errors: the one tree of things that can go wrong, each said as its reader needs it.

A `MarketError` is somebody's fault but ours: a peer, a user, a chain, a runtime. Our own bugs are
assertions. The docstring of each class is the sentence a user reads when no better one is given.
"""

from __future__ import annotations


class MarketError(Exception):
    """Something the node was asked to do cannot be done."""

    code = "error"
    exit_code = 1

    def __init__(self, message: str = "", *, hint: str = "") -> None:
        """`message` says what is wrong, `hint` what to do next; both are shown to people."""
        super().__init__(message or (type(self).__doc__ or "").strip())
        self.hint = hint


class CodecError(MarketError):
    """These bytes are not a message of this market."""

    code = "malformed"


class SignatureError(MarketError):
    """The signature does not fit the text or its author."""

    code = "bad-signature"


class StaleError(MarketError):
    """The message has expired, is not valid yet, or was seen before."""

    code = "stale"


class LimitError(MarketError):
    """A bound of market/limits.py would be passed."""

    code = "limit"


class RefusedError(MarketError):
    """The other side understood the request and says no."""

    code = "refused"


class SpecError(MarketError):
    """The job file cannot be used as it is."""

    code = "bad-job-file"
    exit_code = 2


class NotFoundError(MarketError):
    """Nothing has that name here."""

    code = "not-found"
    exit_code = 102


class NoMatchError(MarketError):
    """No live offer fits the demand."""

    code = "no-match"
    exit_code = 5


class FundsError(MarketError):
    """The account does not hold enough for this."""

    code = "insufficient-funds"
    exit_code = 6


class UnreachableError(MarketError):
    """The peer could not be reached."""

    code = "unreachable"
    exit_code = 3


class ChainError(MarketError):
    """The chain could not be asked, or did not answer in time."""

    code = "chain-unavailable"


class ChainRefusedError(ChainError):
    """The contract refused the transaction."""

    code = "chain-refused"

    def __init__(self, message: str = "", *, reason: str = "", hint: str = "") -> None:
        """`reason` is the contract's own error name, for instance `Escrow_UnitTaken`."""
        super().__init__(message or reason, hint=hint)
        self.reason = reason


class SandboxError(MarketError):
    """The sandbox could not do what was asked."""

    code = "sandbox"


class IntegrityError(MarketError):
    """The bytes do not have the hash they were asked by."""

    code = "integrity"
