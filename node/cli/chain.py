"""Chain: which chain the configuration means, as the adapter wants it, and at what pace to look.

Loaded by the commands that go to a chain themselves; it brings web3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from node.adapters.ethereum.settings import ChainConfig
from node.cli.readers import SettingsError
from node.cli.settings import Settings, config_path

GWEI: Final = 10**9


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Of a network, in seconds: how often to look, when to send again, when to bid more."""

    poll_s: float
    resend_s: float
    stuck_s: float


RHYTHMS: Final = {
    "devnet": Rhythm(0.25, 2.0, 20.0),
    "sepolia": Rhythm(4.0, 15.0, 60.0),  # a block each 12 s
    "base-sepolia": Rhythm(1.0, 5.0, 30.0),  # each 2 s
    "custom": Rhythm(1.0, 5.0, 30.0),
}


def chain_config(settings: Settings) -> ChainConfig:
    """Raises SettingsError for what the configuration lacks."""
    for key in ("escrow", "token", "rpc", "chain_id"):
        if not getattr(settings, key):
            raise SettingsError(f"{key}: missing", hint=f"add it to {config_path()}")
    assert settings.escrow is not None
    assert settings.token is not None
    rhythm = RHYTHMS[settings.network]
    return ChainConfig(
        urls=settings.rpc,
        chain_id=settings.chain_id,
        escrow=settings.escrow,
        token=settings.token,
        confirmations=settings.confirmations,
        explorer=settings.explorer,
        first_block=settings.first_block,
        fee_cap_wei=settings.max_fee_gwei * GWEI,
        poll_s=rhythm.poll_s,
        resend_s=rhythm.resend_s,
        stuck_s=rhythm.stuck_s,
    )
