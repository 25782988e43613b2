"""Pending: a nonce of ours from its signature until nothing takes it back. Values only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import trio

from node.adapters.ethereum.answers import Receipt
from node.adapters.ethereum.outbox import Transaction


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient a sender is, in seconds; `settled_blocks` deep nothing is taken back."""

    look_s: float = 0.5
    resend_s: float = 4.0
    stuck_s: float = 30.0
    lost_s: float = 20.0
    give_up_s: float = 120.0
    settled_blocks: int = 64


@dataclass(frozen=True, slots=True)
class Call:
    """What a transaction does. `to` is empty for a deployment."""

    to: bytes
    data: str
    value: int = 0


@dataclass(eq=False, slots=True)
class Pending:
    """One nonce of ours and every transaction signed for it, oldest first."""

    nonce: int
    call: Call
    tries: list[Transaction]
    since: float  # Unix time, for people
    seen_at: float = -math.inf  # when it was last sent or found in the pool
    raised_at: float = math.inf
    used_at: float = math.inf  # when its nonce was first found used without a receipt of ours
    receipt: Receipt | None = None
    gone: bool = False
    news: trio.Event = field(default_factory=trio.Event)

    @property
    def over(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.receipt is not None or self.gone

    def tell(self) -> None:
        """Wake whoever waits."""
        self.news.set()
        self.news = trio.Event()
