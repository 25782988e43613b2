"""Listing: `souk provider init`, from nothing to a configuration whose node may sell.

It looks, proposes, asks, and writes one file; it starts nothing and spends nothing. Each step says
what it found, and the last lines say which commands come next.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Parameter

from market.errors import MarketError, RefusedError, SpecError
from market.models import takes
from market.units import parse_money
from node.cli.options import DEFAULT, Common
from node.cli.output import say, write_json, write_lines
from node.cli.run import UnconfirmedError
from node.cli.settings import NETWORKS, Settings, config_path

if TYPE_CHECKING:
    from node.ports import Unit

USUAL_PRICES: Final = {
    "RTX 3090": "0.17", "RTX 4090": "0.38", "RTX 5090": "0.50", "A100": "0.80", "H100": "2.00",
    "H200": "2.40", "B200": "4.70", "CPU": "0.05",
}  # fmt: skip
"""What a unit-hour was asked for on open markets in 2026, in dollars: a start, where nobody sells
such a unit here yet. Source: public asks, November 2026.
"""
COLLATERAL_HOURS: Final = 5  # what silence costs, in hours of the price


@dataclass(frozen=True, slots=True)
class Machine:
    """What was found here, per unit."""

    units: tuple[Unit, ...]
    cores: int
    ram_gib: int
    disk_gib: int


def init(
    *,
    network: str | None = None,
    wallet: str | None = None,
    price: str | None = None,
    geolocation: str | None = None,
    cpu_units: int = 0,
    yes: Annotated[bool, Parameter(name=["--yes", "-y"], negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Find this machine's units, propose a price, write the configuration, say what comes next.

    Parameters
    ----------
    network
        devnet, sepolia, base-sepolia or custom.
    wallet
        The address that stakes and is paid. Its key stays away from here.
    price
        Whole tokens per unit-hour; the market's median for such units if left out.
    geolocation
        Where the machine is, like DE.
    cpu_units
        So many CPU units to sell where the driver finds no GPU.
    yes
        Take every proposal.
    force
        Replace a configuration that has a [provider] table already.
    """
    place = common.config or config_path()
    settings = common.settings()
    if settings.provider is not None and not force:
        raise RefusedError(f"{place} sells already", hint="change it there, or give --force")
    ask = _asker(yes, common.as_json)
    found = _machine(settings, cpu_units)
    say(f"found: {_inventory(found)}")
    chosen = ask("network", network, settings.network, _network)
    owner = ask("wallet that stakes and is paid", wallet, _hex(settings.wallet), _wallet)
    proposed, why = _price(common, found)
    say(f"price: {proposed} a unit-hour ({why})")
    asked = ask("price per unit-hour", price, proposed, _amount)
    where = ask("geolocation (country)", geolocation, "", str)
    collateral = f"{Decimal(asked) * COLLATERAL_HOURS:.2f}"
    text = _toml(place, found, chosen, owner, asked, collateral, where)
    _write(place, text)
    if common.as_json:
        write_json({"config": str(place), "units": len(found.units), "price_per_hour": asked})
        return 0
    write_lines([str(place)])
    stake = f"{Decimal(collateral) * max(1, len(found.units)):.2f}"
    say("next, in this order:")
    say("  souk provider doctor       whether this machine may run strangers' code")
    say("  souk wallet                what the wallet and the node's own key lack")
    say(f"  souk deposit {stake}, then souk stake add {stake}: it backs all units")
    say(f"  souk wallet authorise --allowance {stake}, and souk wallet gas 0.05")
    say("  souk up                    or: souk service install")
    return 0


def _machine(settings: Settings, cpu_units: int) -> Machine:
    from node.adapters.devices.declared import Declared
    from node.adapters.devices.discover import discover

    declared = (Declared(cpu_units, "CPU", 0),) if cpu_units else ()
    units = discover(declared).units()
    if not units:
        raise RefusedError(
            "the NVIDIA driver finds no GPU here",
            hint="install the driver, or sell CPU units with --cpu-units 2",
        )
    count = len(units)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    folder = settings.data_dir
    while not folder.exists():
        folder = folder.parent
    disk = os.statvfs(folder)
    return Machine(
        units=units,
        cores=max(1, (os.cpu_count() or 1) // count),
        ram_gib=max(1, int(pages * 0.8 / 2**30 / count)),  # a fifth stays with the machine
        disk_gib=max(1, int(disk.f_bavail * disk.f_frsize * 0.7 / 2**30 / count)),
    )


def _inventory(found: Machine) -> str:
    counts: dict[str, int] = {}
    for unit in found.units:
        name = f"{unit.name} {unit.ram_mib / 1024:g} GiB" if unit.ram_mib else unit.name
        counts[name] = counts.get(name, 0) + 1
    listed = ", ".join(f"{count} x {name}" for name, count in counts.items())
    return (
        f"{listed}; per unit {found.cores} cores, {found.ram_gib} GiB of memory, "
        f"{found.disk_gib} GiB of disk"
    )


def _price(common: Common, found: Machine) -> tuple[str, str]:
    """A proposal and where it comes from: the live market, else what is usual."""
    name = found.units[0].name
    try:
        rows = common.node().get("/api/offers")
    except MarketError:
        rows = []
    asks = [float(row["dph"]) for row in rows if takes(name, row["gpu_name"])]
    if asks:
        return f"{median(asks):.4f}".rstrip("0").rstrip("."), f"median of {len(asks)} offers"
    usual = next((p for model, p in USUAL_PRICES.items() if takes(model, name)), None)
    if usual is not None:
        return usual, "what is usual elsewhere; no such offer was heard here"
    return "0.20", "a guess: nobody sells such a unit yet"


Ask = Callable[[str, str | None, str, Callable[[str], Any]], str]


def _asker(yes: bool, as_json: bool) -> Ask:
    terminal = sys.stdin.isatty() and sys.stderr.isatty() and not as_json

    def ask(what: str, given: str | None, default: str, check: Callable[[str], Any]) -> str:
        while True:
            answer = given
            if answer is None and terminal and not yes:
                print(f"{what} [{default}]: ", end="", file=sys.stderr, flush=True)
                answer = sys.stdin.readline().strip() or default
            answer = default if answer is None else answer
            try:
                check(answer)
            except SpecError as problem:
                if given is not None or yes or not terminal:
                    flag = what.split()[0]
                    raise UnconfirmedError(
                        f"{what}: {problem}", hint=problem.hint or f"give --{flag}"
                    ) from None
                say(f"  {problem}" + (f" ({problem.hint})" if problem.hint else ""))
                continue
            return answer

    return ask


def _network(text: str) -> None:
    if text not in NETWORKS:
        raise SpecError(f"{text!r} is none of {', '.join(NETWORKS)}")


def _wallet(text: str) -> None:
    digits = text.removeprefix("0x")
    if len(digits) != 40 or set(digits.lower()) - set("0123456789abcdef"):
        raise SpecError(f"{text!r} is not an address", hint="0x and 40 digits; --wallet 0x...")


def _amount(text: str) -> None:
    if not parse_money(text, 18):
        raise SpecError("a price of nothing sells nothing", hint="write it like 0.40")


def _hex(address: bytes | None) -> str:
    return "" if address is None else f"0x{address.hex()}"


def _toml(
    place: Path, found: Machine, network: str, wallet: str, price: str, collateral: str, where: str
) -> str:
    """The file with our table behind what it said before."""
    kept = ""
    if place.exists():
        lines = place.read_text().splitlines()
        cut = next((i for i, line in enumerate(lines) if line.startswith("[provider")), len(lines))
        after = lines[cut:]
        others = next(
            (i for i, line in enumerate(after)
             if line.startswith("[") and not line.startswith(("[provider", "[[provider"))),
            len(after),
        )  # fmt: skip
        ours = ("network", "wallet")
        top = [line for line in lines[:cut] if line.partition("=")[0].strip() not in ours]
        kept = "\n".join([*top, *after[others:]]).strip()
    head = [f'network = "{network}"', f'wallet  = "{wallet}"']
    table = [
        "[provider]",
        f'price_per_hour      = "{price}"      # whole tokens, per unit',
        f'collateral_per_unit = "{collateral}"      # what silence costs you',
        f"cpu_cores  = {found.cores}                  # per unit, like the sizes",
        f'cpu_ram    = "{found.ram_gib}GB"',
        f'disk_space = "{found.disk_gib}GB"',
        f'geolocation = "{where}"' if where else '# geolocation = "DE"',
        'policy     = "fcfs"             # fcfs priority fair load cost latency',
    ]
    if found.units[0].declared:
        table += [
            "[[provider.units]]",
            'name  = "CPU"',
            f"count = {len(found.units)}",
            'ram   = "0"',
        ]
    first = 0 if kept.startswith("[") else kept.find("\n[")
    before, after_it = (kept, "") if first < 0 else (kept[:first].strip(), kept[first:])
    return "\n".join([*head, *([before] if before else []), "", *table, after_it]) + "\n"


def _write(place: Path, text: str) -> None:
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if place.exists():
            place.with_suffix(".before").write_text(place.read_text())
        partial = place.with_suffix(".part")
        partial.write_text(text)
        partial.replace(place)
    except OSError as problem:
        raise RefusedError(f"{place}: {problem.strerror}", hint="give --config") from None
