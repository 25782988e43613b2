"""Shop: what this node sells now: kinds of units, what they cost, how busy they are.

Prices, policy and opening hours may change while the node runs (`reconfigure`, `pause`, `drain`,
`resume`). It decides nothing about demands; it reads agreements and changes none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

import structlog

from market.agreement import Agreement, Ending, Phase, Role
from market.certificate import Certified, dlperf_milli
from market.reputation import PRIOR_PPM
from market.site import Running, Site, past_use
from market.terms import Coordinate, Offer
from market.units import UnixTime
from node.certify import Certifier
from node.config import Config, Selling
from node.images import Images
from node.keeper import Keeper, Noted
from node.ports import GANG_NETWORK, Check, Ports, Unit

log = structlog.get_logger("shop")
LINE_KBPS = 100_000  # stated while the line is not measured
START_UP_MS = 1500  # stated until this machine has measured its own
SMOOTHING = 0.25  # weight of the newest start or run: the last dozen decide
CLOSING_S = 5.0  # an agreement whose work has ended frees its units about so much later
PREEMPTED_MAX = 3  # a job that made way so often here is left alone
QUEUE_WAIT_MAX_S = 7 * 24 * 3600
MODE_NOTE = b"shop/mode"
START_NOTE = b"shop/start-up"


class Mode(Enum):
    """Opening hours. What runs goes on in every one of them."""

    OPEN = "open"
    PAUSED = "paused"  # no new quotes, until somebody resumes
    DRAINING = "draining"  # likewise, and the owner waits for what runs to end


@dataclass(frozen=True, slots=True)
class Ware:
    """One way to buy units of a kind: firm, or preemptible."""

    offer_id: bytes
    price_per_hour: int
    collateral_per_unit: int
    preemptible: bool


@dataclass(frozen=True, slots=True)
class Kind:
    """Equal units of this machine, and the ways to buy them. A site of its own."""

    name: str
    ram_mib: int
    declared: bool
    units: tuple[Unit, ...]
    wares: tuple[Ware, ...]

    @property
    def key(self) -> tuple[str, int, bool]:
        """What makes units equal."""
        return self.name, self.ram_mib, self.declared

    @property
    def mask(self) -> int:
        """The kind's units in the provider's unit map."""
        return sum(1 << unit.index for unit in self.units)

    def local(self, units: int) -> int:
        """A part of the unit map as a bitmap of this kind's own slots, 0 to n-1."""
        return sum(1 << slot for slot, unit in enumerate(self.units) if units >> unit.index & 1)

    def map(self, slots: int) -> int:
        """The inverse of `local`."""
        return sum(1 << unit.index for slot, unit in enumerate(self.units) if slots >> slot & 1)


class Shop:
    """What is for sale."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, images: Images,
        certifier: Certifier,
        here: Callable[[], Coordinate] = Coordinate,
        standing: Callable[[], int] = lambda: PRIOR_PPM,
    ) -> None:  # fmt: skip
        """Sells nothing unless the configuration has a `selling` part.

        `here` is this node's place on the map, `standing` its own reliability in ppm, both as
        anybody else would measure them.
        """
        self._config = config
        self._ports = ports
        self._keeper = keeper
        self._here = here
        self._standing = standing
        self.selling = config.selling
        self.mode = _noted(Mode, keeper.notes.get(MODE_NOTE))
        self.closing = False  # this process is about to end; the next one opens as before
        self.start_up_ms = _number(keeper.notes.get(START_NOTE), START_UP_MS)
        self._images = images
        self._certifier = certifier
        self.checks: tuple[Check, ...] | None = None  # of the machine; None: being examined
        self.unusable: Callable[[], int] = lambda: 0  # units that must not be sold, set by the app
        self.waiting_units: dict[tuple[str, int, bool], int] = {}  # by kind, set by the queue

    # Changed without a restart.

    def reconfigure(self, selling: Selling) -> None:
        """Sell so from now on. Quotes and agreements that exist keep their terms."""
        self.selling = selling
        log.info("selling changed", policy=selling.policy, price_per_hour=selling.price_per_hour)

    async def pause(self) -> None:
        """Answer nobody until `resume`; survives a restart."""
        await self._to(Mode.PAUSED)

    async def drain(self) -> None:
        """Answer nobody; what runs may end in its own time. See `drained`."""
        await self._to(Mode.DRAINING)

    async def resume(self) -> None:
        """Sell again."""
        await self._to(Mode.OPEN)

    async def _to(self, mode: Mode) -> None:
        self.mode = mode
        await self._keeper.heed(Noted(MODE_NOTE, mode.value.encode()))
        log.info("shop", mode=mode.value)

    async def examine(self) -> None:
        """Ask the sandbox whether this machine may run strangers' code.

        It sells nothing until then, and after that only if every critical check is well.
        """
        if self.selling is None:
            return
        self.checks = await self._ports.sandbox.preflight()
        for check in self.unfit:
            log.error("not fit to sell", check=check.name, found=check.sentence, fix=check.fix)

    @property
    def unfit(self) -> tuple[Check, ...]:
        """The checks that keep this node from selling."""
        return tuple(one for one in self.checks or () if one.critical and not one.ok)

    @property
    def joins_gangs(self) -> bool:
        """Whether this machine can connect a job to those on other machines."""
        return all(one.ok for one in self.checks or () if one.name == GANG_NETWORK)

    @property
    def sells(self) -> bool:
        """Whether demands are answered now."""
        examined = self.checks is not None and not self.unfit
        open_now = self.mode is Mode.OPEN and not self.closing
        return self.selling is not None and open_now and examined

    @property
    def drained(self) -> bool:
        """Nothing is held, agreed or running: the machine may be switched off."""
        return self.mode is not Mode.OPEN and not self._keeper.taken_units()

    # What there is.

    def kinds(self) -> tuple[Kind, ...]:
        """Every kind of unit that is for sale, by name, the cheaper of its wares first."""
        selling = self.selling
        if selling is None:
            return ()
        found: dict[tuple[str, int, bool], list[Unit]] = {}
        unusable = self.unusable()
        for unit in self._ports.devices.units():
            if unusable >> unit.index & 1:
                continue
            found.setdefault((unit.name, unit.ram_mib, unit.declared), []).append(unit)
        return tuple(
            Kind(*key, tuple(units), self._wares(selling, *key))
            for key, units in sorted(found.items())
        )

    def _wares(self, selling: Selling, name: str, ram_mib: int, declared: bool) -> tuple[Ware, ...]:
        own = next((p for p in selling.prices if (p.name, p.ram_mib) == (name, ram_mib)), None)

        def given(field: str) -> int:
            value = getattr(own, field) if own is not None else None
            return int(getattr(selling, field) if value is None else value)

        label = f"{name}/{ram_mib}/{declared}"
        collateral = given("collateral_per_unit")
        price = given("price_per_hour")
        wares = [Ware(self._id(label), price, collateral, selling.preemptible)]
        cheap = given("preemptible_price_per_hour")
        if cheap and not selling.preemptible:
            wares.append(Ware(self._id(f"{label}/preemptible"), cheap, collateral, True))
        return tuple(sorted(wares, key=lambda ware: (ware.price_per_hour, ware.offer_id)))

    def _id(self, label: str) -> bytes:
        return hashlib.sha256(self._ports.signer.peer + label.encode()).digest()[:16]

    def offers(self) -> tuple[Offer, ...]:
        """One offer for each ware, as it stands now; none while paused."""
        if not self.sells:
            return ()
        return tuple(self.offer(kind, ware) for kind in self.kinds() for ware in kind.wares)

    def offer(self, kind: Kind, ware: Ware) -> Offer:
        """One ware as it is advertised."""
        selling, rules, now = self.selling, self._config.rules, self._ports.clock.now()
        assert selling is not None, "who sells nothing has no wares"
        first, certified = kind.units[0], self._certifier.slowest(kind.units)
        free = len(kind.units) - (self._keeper.taken_units() & kind.mask).bit_count()
        return Offer(
            offer_id=ware.offer_id,
            peer=self._ports.signer.peer,
            provider=self._config.wallet,
            operator=self._ports.signer.operator,
            gpu_name=kind.name,
            num_gpus=free,
            num_units=len(kind.units),
            gpu_ram_mib=kind.ram_mib,
            cuda_vers=first.cuda_vers,
            driver_version=first.driver_version,
            declared=kind.declared,
            verified=certified is not None,  # claimed: whoever reads it finds out
            dlperf_milli=dlperf_milli(certified.certificate) if certified else 0,
            cpu_cores=selling.cpu_cores,
            cpu_ram_mib=selling.cpu_ram_mib,
            disk_space_mib=selling.disk_space_mib,
            inet_up_kbps=selling.inet_up_kbps or _line(certified, "inet_up_kbps"),
            inet_down_kbps=selling.inet_down_kbps or _line(certified, "inet_down_kbps"),
            geolocation=selling.geolocation,
            reliability_ppm=self._standing(),
            price_per_hour=ware.price_per_hour,
            collateral_per_unit=ware.collateral_per_unit,
            min_duration_s=selling.min_duration_s,
            max_duration_s=selling.max_duration_s,
            heartbeat_interval_s=rules.heartbeat_interval_s,
            preemptible=ware.preemptible,
            grace_s=selling.grace_s,
            queue_wait_s=0 if free else self.wait_s(kind, 1, now),
            start_up_ms=self.start_up_ms,
            coordinate=self._here(),
            cached_images=self.cached,
            expires_at_s=int(now) + rules.offer_lifetime_s,
            egress=selling.egress,
            certificate=certified,
        )

    def ware_of(self, a: Agreement) -> tuple[Kind, Ware] | None:
        """What an agreement of ours sold; None if it is not for sale any more."""
        for kind in self.kinds():
            if a.terms.units & kind.mask == a.terms.units:
                for ware in kind.wares:
                    if ware.preemptible == a.preemptible or len(kind.wares) == 1:
                        return kind, ware
        return None

    @property
    def cached(self) -> tuple[bytes, ...]:
        """The images that are complete here, the latest used first."""
        return self._images.cached()

    # How busy it is.

    def site(self, kind: Kind, now: UnixTime) -> Site:
        """The kind's units as a policy sees them: who holds them, until when, who held them."""
        mine = [a for a in self._keeper.agreements.values() if a.role is Role.PROVIDER]
        made_way: dict[bytes, int] = {}
        for a in mine:
            if a.ending is Ending.PREEMPTED:
                made_way[a.job_id] = made_way.get(a.job_id, 0) + 1
        running = tuple(
            Running(
                agreement=a.id,
                requester=a.terms.parties.requester,
                units=kind.local(units),
                started_at=UnixTime(a.opened_at_s or a.created_at_ms / 1000),
                ends_at=_ends_at(a, now),
                price_per_hour=a.terms.money.price_per_hour,
                preemptible=a.preemptible and a.phase is Phase.RUNNING
                and a.ending is Ending.NONE and a.manifest is not None
                and made_way.get(a.job_id, 0) < PREEMPTED_MAX,
                grace_s=a.grace_s,
            )
            for a, units in _apart(a for a in mine if not a.ended)
            if units & kind.mask
        )  # fmt: skip
        spans = (
            (a.terms.parties.requester, (a.terms.units & kind.mask).bit_count(),
             float(a.opened_at_s), a.ended_at_ms / 1000 if a.ended_at_ms else float(now))
            for a in mine
            if a.opened_at_s
        )  # fmt: skip
        return Site(len(kind.units), running, past_use(spans, now))

    def wait_s(self, kind: Kind, units: int, now: UnixTime) -> int:
        """When so many units of the kind should be free for a newcomer, in seconds from now.

        What runs is expected to take the usual share of its agreed duration, as measured here over
        what has finished; those that wait already go first. Rounded up.
        """
        site = self.site(kind, now)
        share = self._usual_share()
        ends = sorted(
            (max(now, min(one.ends_at, one.started_at + share * (one.ends_at - one.started_at))),
             one.unit_count)
            for one in site.running
        )  # fmt: skip
        needed = units + self.waiting_units.get(kind.key, 0)
        free, at = site.free, float(now)
        for end, count in ends:
            if free >= needed:
                break
            free, at = free + count, end
        if free < needed:  # the queue is longer than all that runs: a round of the site each
            rounds = -(-(needed - free) // max(1, site.units))
            spans = [share * (one.ends_at - one.started_at) for one in site.running]
            at += rounds * (sum(spans) / len(spans) if spans else 0.0)
        return max(0, min(QUEUE_WAIT_MAX_S, int(-(-(at - now) // 1))))

    def _usual_share(self) -> float:
        """Which share of its agreed duration a finished job ran here, smoothed; 1 at first."""
        share = 1.0
        for a in self._keeper.agreements.values():
            if a.role is Role.PROVIDER and a.ended and a.ending is Ending.FINISHED:
                ran = min(1.0, a.metered_s / max(1, a.extended.timing.duration_s))
                share += SMOOTHING * (ran - share)
        return share

    # What was measured.

    async def started(self, seconds: float) -> None:
        """A job took so long from the order to its first sign of life."""
        before, now_ms = self.start_up_ms, max(1.0, seconds * 1000)
        self.start_up_ms = int(before + SMOOTHING * (now_ms - before))
        await self._keeper.post(Noted(START_NOTE, self.start_up_ms.to_bytes(8, "big")))


def _apart(agreements: Iterable[Agreement]) -> Iterator[tuple[Agreement, int]]:
    """Each agreement with the units that none before it has, those that have money bound first.

    They overlap only where terms were opened after their hold: see `Keeper.taken_units`.
    """
    taken = 0
    for a in sorted(agreements, key=lambda a: (not a.opened_at_s, a.created_at_ms, a.id)):
        yield a, a.terms.units & ~taken
        taken |= a.terms.units


def _ends_at(a: Agreement, now: UnixTime) -> UnixTime:
    """When it frees its units at the latest. A hold that is taken lasts for its whole duration."""
    if a.ending is not Ending.NONE or a.phase is Phase.CLOSING:
        return UnixTime(now + CLOSING_S)
    begun = float(a.opened_at_s or now)
    return UnixTime(max(now, begun + a.extended.timing.duration_s))


def _line(certified: Certified | None, field: str) -> int:
    """What the owner does not state: as it was measured, or a plain guess where nobody did."""
    return (getattr(certified.certificate, field) if certified else 0) or LINE_KBPS


def _noted(kind: type[Mode], data: bytes | None) -> Mode:
    try:
        return kind((data or b"").decode())
    except ValueError:
        return Mode.OPEN


def _number(data: bytes | None, default: int) -> int:
    return int.from_bytes(data, "big") if data else default
