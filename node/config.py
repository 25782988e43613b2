"""Config: one frozen object, built at the edge and passed down. Presets rather than flags.

Reads no file and no environment: `node/cli/settings.py` does, and hands over values.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from market.errors import SpecError
from market.limits import HOLD_S, QUOTE_WINDOW_S
from market.policy import POLICIES
from market.slots import SLOT_POLICIES


@dataclass(frozen=True, slots=True)
class Rules:
    """The clocks and shares this node puts into the terms it writes, and accepts in others'.

    Spans are seconds, shares basis points, the bond base units of the token.
    """

    heartbeat_interval_s: int
    window_s: int  # to answer a challenge
    claim_window_s: int  # to bring a better voucher once the requester closes
    start_grace_s: int
    offline_allowance_s: int
    arbiter_window_s: int
    open_span_s: int  # from quote to funding
    bond: int
    slash_bps: int = 10_000
    victim_share_bps: int = 5_000
    equivocation_bps: int = 10_000
    hold_s: int = HOLD_S
    quote_window_s: float = QUOTE_WINDOW_S
    offer_lifetime_s: int = 90
    offer_interval_s: int = 20
    tick_s: float = 0.25

    def __post_init__(self) -> None:
        """Raise SpecError for what no network could work with."""
        if self.heartbeat_interval_s < 1 or self.window_s < 2 * self.heartbeat_interval_s:
            raise SpecError("rules.window_s must be at least two heartbeat intervals")
        if not 0 <= self.victim_share_bps <= 10_000 or not 0 <= self.slash_bps <= 10_000:
            raise SpecError("rules: shares are basis points, 0 to 10000")


def devnet_rules() -> Rules:
    """Seconds, so that a whole life with a slash fits a demonstration."""
    return Rules(
        heartbeat_interval_s=1,
        window_s=6,
        claim_window_s=10,
        start_grace_s=5,
        offline_allowance_s=20,
        arbiter_window_s=60,
        open_span_s=30,
        bond=100_000,
        hold_s=20,
        quote_window_s=1.0,
        offer_interval_s=5,
    )


def testnet_rules() -> Rules:
    """Half an hour and more: a sequencer may be down for minutes."""
    return Rules(
        heartbeat_interval_s=10,
        window_s=1800,
        claim_window_s=86_400,
        start_grace_s=600,
        offline_allowance_s=600,
        arbiter_window_s=604_800,
        open_span_s=300,
        bond=500_000,
        hold_s=60,
    )


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """What one kind of units costs, where it is not what the others cost. None: as the others."""

    name: str
    ram_mib: int
    price_per_hour: int | None = None
    collateral_per_unit: int | None = None
    preemptible_price_per_hour: int | None = None


@dataclass(frozen=True, slots=True)
class Selling:
    """What a provider asks. Prices and collateral per unit, in base units; sizes per unit.

    `preemptible`: everything is sold so. `preemptible_price_per_hour`: the same units are offered
    a second time, preemptible, at this price (0: they are not).
    """

    price_per_hour: int
    collateral_per_unit: int
    cpu_cores: int = 1
    cpu_ram_mib: int = 2048
    disk_space_mib: int = 10_240
    inet_up_kbps: int = 0  # 0: as measured
    inet_down_kbps: int = 0
    geolocation: str = ""
    min_duration_s: int = 1
    max_duration_s: int = 7 * 24 * 3600
    policy: str = "fcfs"
    preemptible: bool = False
    preemptible_price_per_hour: int = 0
    grace_s: int = 10
    placement: str = "fgd"
    prices: tuple[UnitPrice, ...] = ()
    egress: tuple[str, ...] = ()  # host:port that jobs may reach through the proxy
    egress_mib_max: int = 10_240  # per job, both ways

    def __post_init__(self) -> None:
        """Raise SpecError for what cannot be sold."""
        if self.policy not in POLICIES:
            raise SpecError(
                f"policy: {self.policy!r} is none of {', '.join(POLICIES)}",
                hint='policy = "fcfs" is a good start',
            )
        if self.placement not in SLOT_POLICIES:
            raise SpecError(f"placement: {self.placement!r} is none of {', '.join(SLOT_POLICIES)}")
        for name in ("price_per_hour", "collateral_per_unit", "preemptible_price_per_hour"):
            if not 0 <= getattr(self, name) < 2**96:
                raise SpecError(f"{name}: not an amount the escrow can hold")
        if self.min_duration_s > self.max_duration_s:
            raise SpecError("min_duration is longer than max_duration")


@dataclass(frozen=True, slots=True)
class Config:
    """Everything `run_node` decides by. `wallet` holds the money; the operator key only signs."""

    network: str
    wallet: bytes
    rules: Rules
    selling: Selling | None = None
    topics: tuple[str, ...] = field(default=("offers", "demands"))

    def __post_init__(self) -> None:
        """Raise SpecError for a configuration that cannot work."""
        if len(self.wallet) != 20:
            raise SpecError(
                "wallet must be an address", hint='write wallet = "0x…" in the configuration'
            )
        if not self.network or len(self.network) > 64:
            raise SpecError("network must be a name of at most 64 letters")
