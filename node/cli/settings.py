"""Settings: the configuration file, checked. The only home of file names and the environment.

TOML at $GRIDSOUK_CONFIG, else gridsouk/config.toml below $XDG_CONFIG_HOME. Flags win over the file,
the file over presets. Amounts stay text until the token's decimals are known.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from market.limits import EGRESS_MAX
from market.reach import parse_target
from market.units import parse_duration_s, parse_size_mib
from node.cli import readers as read
from node.cli.readers import LIST_MAX, SettingsError
from node.cli.selling import AMOUNTS, ProviderSettings, UnitGroup, to_selling

if TYPE_CHECKING:
    from node.config import Config

NETWORKS: Final = ("devnet", "sepolia", "base-sepolia", "custom")
_CHAINS: Final = {
    "devnet": (31337, ("http://127.0.0.1:8545",)),
    "sepolia": (11155111, ()),
    "base-sepolia": (84532, ("https://sepolia.base.org",)),
    "custom": (0, ()),
}
DRIVERS: Final = ("oci", "engine")
# Where `./run deploy` puts the escrow of this version and the test token on every testnet; both
# follow from the build and are checked against it by tests/unit/test_settings.py.
TESTNET_ESCROW: Final = bytes.fromhex("e4664a34922d171ef479113a5b28c7cd94e49cfe")
TESTNET_TOKEN: Final = bytes.fromhex("399d26d7501c95572ae59ffa3f3f80e67f4752da")
POLICIES: Final = ("fcfs", "priority", "fair", "load", "cost", "latency")
PLACEMENTS: Final = ("bestfit", "pack", "spread", "fgd")
FILE_BYTES_MAX: Final = 64 * 1024
UNITS_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class SandboxSettings:
    """Which runtime runs jobs, and where their disks lie (None: below the data directory).

    `instance` and `uid_base` keep the nodes of one machine apart.
    """

    driver: str = "oci"
    runtime: str = ""
    socket: Path = Path("/run/docker.sock")
    state: Path | None = None
    run_dir: Path = Path("/run/gridsouk")
    instance: str = "node"
    uid_base: int = 200_000


@dataclass(frozen=True, slots=True)
class RegistryHost:
    """What this node knows of one registry: who it is there, and what its owner allows."""

    username: str = ""
    password_file: Path | None = None
    private: bool = False
    insecure: bool = False
    for_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """All of it. `wallet` and `escrow` may be missing until a node is to run."""

    data_dir: Path
    network: str = "devnet"
    rpc: tuple[str, ...] = ()
    chain_id: int = 0
    escrow: bytes | None = None
    token: bytes | None = None
    decimals: int = 6
    confirmations: int = 1
    first_block: int = 0
    max_fee_gwei: int = 200
    explorer: str = ""
    wallet: bytes | None = None
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/4001",)
    bootstrap: tuple[str, ...] = ()
    announce: tuple[str, ...] = ()  # what others dial, where it is not what we listen on
    reachable: bool | None = None  # None: found out by asking peers
    relay: bool | None = None  # None: carry for others if reachable
    relay_rate: int = 32_000  # kbit/s that all of their circuits together may use
    web: tuple[str, int] | None = None
    web_wallets: tuple[bytes, ...] = ()  # may use the web view without the operator's token
    web_hosts: tuple[str, ...] = ()  # names the web view answers to, beside this machine's own
    password_file: Path | None = None
    drain_s: int = 10
    provider: ProviderSettings | None = None
    sandbox: SandboxSettings = SandboxSettings()
    registries: tuple[tuple[str, RegistryHost], ...] = ()

    @property
    def socket_path(self) -> Path:
        """Where a node answers its own commands."""
        return self.data_dir / "node.sock"

    @property
    def images_dir(self) -> Path:
        """Where images of `souk image build` lie."""
        return self.data_dir / "images"


def load(path: Path | None = None, overrides: Mapping[str, object] | None = None) -> Settings:
    """The settings in the file at `path` (None: the usual place, which may be empty).

    `overrides` has the file's keys and wins. Raises SettingsError, which names the key.
    """
    raw = _read(path)
    raw.update({key: value for key, value in (overrides or {}).items() if value is not None})
    read.known(raw, _TOP, "")
    network = read.get(raw, "network", read.one_of(NETWORKS), "devnet")
    chain_id, rpc = _CHAINS[network]
    public = network in ("sepolia", "base-sepolia")
    return Settings(
        data_dir=read.get(raw, "data_dir", read.path, _default_data_dir()),
        network=network,
        rpc=read.get(raw, "rpc", read.texts, rpc),
        chain_id=read.get(raw, "chain_id", read.whole(1, 2**53), chain_id),
        escrow=read.get(raw, "escrow", read.address, TESTNET_ESCROW if public else None),
        token=read.get(raw, "token", read.address, TESTNET_TOKEN if public else None),
        decimals=read.get(raw, "decimals", read.whole(0, 18), 6),
        confirmations=read.get(
            raw, "confirmations", read.whole(1, 1000), 1 if network == "devnet" else 3
        ),
        first_block=read.get(raw, "first_block", read.whole(0, 2**53), 0),
        max_fee_gwei=read.get(raw, "max_fee_gwei", read.whole(1, 10**6), 200),
        explorer=read.get(raw, "explorer", read.url, ""),
        wallet=read.get(raw, "wallet", read.address, None),
        listen=read.get(raw, "listen", read.multiaddrs, ("/ip4/0.0.0.0/tcp/4001",)),
        bootstrap=read.get(raw, "bootstrap", read.multiaddrs, ()),
        announce=read.get(raw, "announce", read.announced, ()),
        reachable=read.get(raw, "reachable", read.flag, None),
        relay=read.get(raw, "relay", read.flag, None),
        relay_rate=read.get(raw, "relay_rate", read.relay_rate, 32_000),
        web=read.get(raw, "web", read.host_port, None),
        web_wallets=read.get(raw, "web_wallets", read.addresses, ()),
        web_hosts=read.get(raw, "web_hosts", read.hosts, ()),
        password_file=read.get(raw, "password_file", read.path, None),
        drain_s=read.get(raw, "drain", read.span, 10),
        provider=read.get(raw, "provider", _provider, None),
        sandbox=read.get(raw, "sandbox", _sandbox, SandboxSettings()),
        registries=read.get(raw, "registries", _registries, ()),
    )


def to_config(settings: Settings, decimals: int) -> Config:
    """What a node decides by; `decimals` are the token's. Raises SettingsError for what it lacks.

    `node.config` comes late, so that a command that only asks a node does not load it.
    """
    from node.config import Config, devnet_rules, testnet_rules

    for key in ("wallet", "escrow", "token", "rpc", "chain_id"):
        if not getattr(settings, key):
            raise SettingsError(f"{key}: missing", hint=f"add it to {config_path()}")
    selling = to_selling(settings.provider, decimals) if settings.provider else None
    local = settings.network == "devnet"
    assert settings.wallet is not None
    return Config(
        network=f"{settings.network}-{settings.chain_id}",
        wallet=settings.wallet,
        rules=devnet_rules() if local else testnet_rules(),
        selling=selling,
    )


def config_path() -> Path:
    """Where the configuration is, or would be."""
    named = os.environ.get("GRIDSOUK_CONFIG")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "gridsouk" / "config.toml"


def _default_data_dir() -> Path:
    if state := os.environ.get("XDG_STATE_HOME"):
        return Path(state) / "gridsouk"
    if os.geteuid() == 0:
        return Path("/var/lib/gridsouk")
    return Path.home() / ".local" / "state" / "gridsouk"


def _read(path: Path | None) -> dict[str, Any]:
    named = path is not None or "GRIDSOUK_CONFIG" in os.environ
    path = path or config_path()
    try:
        with path.open("rb") as file:
            data = file.read(FILE_BYTES_MAX + 1)
    except FileNotFoundError:
        if not named:
            return {}
        raise SettingsError(f"{path}: there is no such file", hint="check --config") from None
    except OSError as problem:
        raise SettingsError(f"{path}: {problem.strerror}", hint="check --config") from problem
    if len(data) > FILE_BYTES_MAX:
        raise SettingsError(f"{path}: larger than {FILE_BYTES_MAX} bytes")
    try:
        return tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise SettingsError(f"{path}: {problem}", hint="it is TOML: key = value") from problem


_TOP: Final = frozenset(field.name.removesuffix("_s") for field in fields(Settings))
_NEEDED: Final = ("price_per_hour", "collateral_per_unit")
_SIZES: Final = ("cpu_ram", "disk_space")
_RATES: Final = ("inet_up", "inet_down")
_DURATIONS: Final = ("min_duration", "max_duration", "grace")
_PROVIDER: Final = frozenset(
    (*AMOUNTS, *_SIZES, *_RATES, *_DURATIONS)  # and those that are read as they stand:
) | {
    "cpu_cores",
    "geolocation",
    "policy",
    "placement",
    "preemptible",
    "units",
    "egress",
    "egress_max",
}


def _provider(raw: Any) -> ProviderSettings:
    table = read.table(raw)
    read.known(table, _PROVIDER, "provider.")
    found: dict[str, Any] = {}
    for key in _NEEDED:
        if key not in table:
            raise SettingsError(f"provider.{key}: missing", hint=f'add a line like {key} = "0.20"')
    readers: list[tuple[str, str, Callable[[Any], Any]]] = [
        *((key, key, read.amount) for key in AMOUNTS),
        *((key, f"{key}_mib", parse_size_mib) for key in _SIZES),
        *((key, f"{key}_kbps", read.mbps) for key in _RATES),
        *((key, f"{key}_s", parse_duration_s) for key in _DURATIONS),
        ("cpu_cores", "cpu_cores", read.whole(1, 1024)),
        ("geolocation", "geolocation", read.text),
        ("policy", "policy", read.one_of(POLICIES)),
        ("placement", "placement", read.one_of(PLACEMENTS)),
        ("preemptible", "preemptible", read.flag),
        ("units", "units", _units),
        ("egress", "egress", _targets),
        ("egress_max", "egress_mib_max", parse_size_mib),
    ]
    for key, name, reader in readers:
        if key in table:
            found[name] = read.checked(f"provider.{key}", table[key], reader)
    return ProviderSettings(**found)


def _units(raw: Any) -> tuple[UnitGroup, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= LIST_MAX:
        raise SettingsError("write [[provider.units]] tables", hint="one for each kind of unit")
    groups: list[UnitGroup] = []
    for table in map(read.table, raw):
        read.known(table, frozenset({"name", "count", "ram", *AMOUNTS}), "provider.units.")
        name = read.get(table, "name", read.text, "")
        if not name:
            raise SettingsError("name: missing", hint='name = "CPU"')
        count = read.get(table, "count", read.whole(1, UNITS_MAX), 1)
        own = {key: read.get(table, key, read.amount, None) for key in AMOUNTS}
        groups.append(UnitGroup(name, count, read.get(table, "ram", parse_size_mib, 0), **own))
    if len({(group.name, group.ram_mib) for group in groups}) < len(groups):
        raise SettingsError("two tables are about the same units", hint="add up their counts")
    if sum(group.count for group in groups) > UNITS_MAX:
        raise SettingsError(f"more than {UNITS_MAX} units", hint="a provider has that many slots")
    return tuple(groups)


def _sandbox(raw: Any) -> SandboxSettings:
    table = read.table(raw)
    read.known(table, frozenset(field.name for field in fields(SandboxSettings)), "sandbox.")
    return SandboxSettings(
        driver=read.get(table, "driver", read.one_of(DRIVERS), "oci"),
        runtime=read.get(table, "runtime", read.text, ""),
        socket=read.get(table, "socket", read.path, Path("/run/docker.sock")),
        state=read.get(table, "state", read.path, None),
        run_dir=read.get(table, "run_dir", read.path, Path("/run/gridsouk")),
        instance=read.get(table, "instance", read.text, "node"),
        uid_base=read.get(table, "uid_base", read.whole(65_536, 2**31), 200_000),
    )


def _targets(raw: Any) -> tuple[str, ...]:
    if len(found := read.texts(raw)) > EGRESS_MAX:
        raise SettingsError(f"at most {EGRESS_MAX} targets")
    return tuple(dict.fromkeys(str(parse_target(text)) for text in found))


def _registries(raw: Any) -> tuple[tuple[str, RegistryHost], ...]:
    found = []
    for host, value in read.table(raw).items():
        table = read.table(value)
        read.known(
            table, frozenset(field.name for field in fields(RegistryHost)), f"registries.{host}."
        )
        known = RegistryHost(
            username=read.get(table, "username", read.text, ""),
            password_file=read.get(table, "password_file", read.path, None),
            private=read.get(table, "private", read.flag, False),
            insecure=read.get(table, "insecure", read.flag, False),
            for_jobs=read.get(table, "for_jobs", read.flag, False),
        )
        if bool(known.username) != (known.password_file is not None):
            raise SettingsError(f'"{host}": username and password_file go together')
        found.append((host.lower(), known))
    if len(found) > LIST_MAX:
        raise SettingsError(f"at most {LIST_MAX} hosts")
    return tuple(found)
