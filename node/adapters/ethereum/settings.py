"""Settings: which chain, and what is trusted on it. One frozen value, made at the edge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from node.adapters.ethereum.rpc import PATIENCE_S


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """Where the chain is and what is trusted on it. `confirmations` 1: the newest block counts.

    `outbox` is the file of signed transactions; without one, those of a crash are not sent again.
    """

    urls: tuple[str, ...]
    chain_id: int
    escrow: bytes
    token: bytes
    confirmations: int = 1
    poll_s: float = 0.5
    fee_cap_wei: int = 200_000_000_000
    explorer: str = ""
    first_block: int = 0
    outbox: Path | None = None
    stuck_s: float = 30.0
    resend_s: float = 4.0
    give_up_s: float = 120.0
    patience_s: float = PATIENCE_S
