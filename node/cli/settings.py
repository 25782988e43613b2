"""Settings: the configuration file, checked. The only home of file names and the environment.

TOML at $GRIDSOUK_CONFIG, else gridsouk/config.toml below $XDG_CONFIG_HOME. Flags win over the file,
the file over presets. Amounts stay text until the token's decimals are known.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from market.errors import SpecError
from market.limits import EGRESS_MAX
from market.reach import parse_target
from market.units import parse_duration_s, parse_money, parse_size_mib
from node.cli.selling import AMOUNTS, ProviderSettings, UnitGroup, to_selling

if TYPE_CHECKING:
    from node.config import Config

T = TypeVar("T")

NETWORKS: Final = ("devnet", "sepolia", "base-sepolia", "custom")
_CHAINS: Final = {
    "devnet": (31337, ("http://127.0.0.1:8545",)),
    "sepolia": (11155111, ()),
    "base-sepolia": (84532, ("https://sepolia.base.org",)),
    "custom": (0, ()),
}
DRIVERS: Final = ("oci", "engine")
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")
# Where `./run deploy` puts the escrow of this version and the test token on every testnet; both
# follow from the build and are checked against it by tests/unit/test_settings.py.
TESTNET_ESCROW: Final = bytes.fromhex("e4664a34922d171ef479113a5b28c7cd94e49cfe")
TESTNET_TOKEN: Final = bytes.fromhex("399d26d7501c95572ae59ffa3f3f80e67f4752da")
POLICIES: Final = ("fcfs", "priority", "fair", "load", "cost", "latency")
PLACEMENTS: Final = ("bestfit", "pack", "spread", "fgd")
FILE_BYTES_MAX: Final = 64 * 1024
LIST_MAX: Final = 64
UNITS_MAX: Final = 256


class SettingsError(SpecError):
    """The configuration cannot be used as it is."""

    code = "bad-configuration"


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
    _known(raw, _TOP, "")
    network = _get(raw, "network", _one_of(NETWORKS), "devnet")
    chain_id, rpc = _CHAINS[network]
    public = network in ("sepolia", "base-sepolia")
    return Settings(
        data_dir=_get(raw, "data_dir", _path, _default_data_dir()),
        network=network,
        rpc=_get(raw, "rpc", _texts, rpc),
        chain_id=_get(raw, "chain_id", _whole(1, 2**53), chain_id),
        escrow=_get(raw, "escrow", _address, TESTNET_ESCROW if public else None),
        token=_get(raw, "token", _address, TESTNET_TOKEN if public else None),
        decimals=_get(raw, "decimals", _whole(0, 18), 6),
        confirmations=_get(raw, "confirmations", _whole(1, 1000), 1 if network == "devnet" else 3),
        first_block=_get(raw, "first_block", _whole(0, 2**53), 0),
        max_fee_gwei=_get(raw, "max_fee_gwei", _whole(1, 10**6), 200),
        explorer=_get(raw, "explorer", _url, ""),
        wallet=_get(raw, "wallet", _address, None),
        listen=_get(raw, "listen", _multiaddrs, ("/ip4/0.0.0.0/tcp/4001",)),
        bootstrap=_get(raw, "bootstrap", _multiaddrs, ()),
        web=_get(raw, "web", _host_port, None),
        web_wallets=_get(raw, "web_wallets", _addresses, ()),
        web_hosts=_get(raw, "web_hosts", _hosts, ()),
        password_file=_get(raw, "password_file", _path, None),
        drain_s=_get(raw, "drain", _span, 10),
        provider=_get(raw, "provider", _provider, None),
        sandbox=_get(raw, "sandbox", _sandbox, SandboxSettings()),
        registries=_get(raw, "registries", _registries, ()),
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
    table = _table(raw)
    _known(table, _PROVIDER, "provider.")
    found: dict[str, Any] = {}
    for key in _NEEDED:
        if key not in table:
            raise SettingsError(f"provider.{key}: missing", hint=f'add a line like {key} = "0.20"')
    readers: list[tuple[str, str, Callable[[Any], Any]]] = [
        *((key, key, _amount) for key in AMOUNTS),
        *((key, f"{key}_mib", parse_size_mib) for key in _SIZES),
        *((key, f"{key}_kbps", _mbps) for key in _RATES),
        *((key, f"{key}_s", parse_duration_s) for key in _DURATIONS),
        ("cpu_cores", "cpu_cores", _whole(1, 1024)),
        ("geolocation", "geolocation", _text),
        ("policy", "policy", _one_of(POLICIES)),
        ("placement", "placement", _one_of(PLACEMENTS)),
        ("preemptible", "preemptible", _flag),
        ("units", "units", _units),
        ("egress", "egress", _targets),
        ("egress_max", "egress_mib_max", parse_size_mib),
    ]
    for key, name, read in readers:
        if key in table:
            found[name] = _checked(f"provider.{key}", table[key], read)
    return ProviderSettings(**found)


def _units(raw: Any) -> tuple[UnitGroup, ...]:
    if not isinstance(raw, list) or not 0 < len(raw) <= LIST_MAX:
        raise SettingsError("write [[provider.units]] tables", hint="one for each kind of unit")
    groups: list[UnitGroup] = []
    for table in map(_table, raw):
        _known(table, frozenset({"name", "count", "ram", *AMOUNTS}), "provider.units.")
        name = _get(table, "name", _text, "")
        if not name:
            raise SettingsError("name: missing", hint='name = "CPU"')
        count = _get(table, "count", _whole(1, UNITS_MAX), 1)
        own = {key: _get(table, key, _amount, None) for key in AMOUNTS}
        groups.append(UnitGroup(name, count, _get(table, "ram", parse_size_mib, 0), **own))
    if len({(group.name, group.ram_mib) for group in groups}) < len(groups):
        raise SettingsError("two tables are about the same units", hint="add up their counts")
    if sum(group.count for group in groups) > UNITS_MAX:
        raise SettingsError(f"more than {UNITS_MAX} units", hint="a provider has that many slots")
    return tuple(groups)


def _sandbox(raw: Any) -> SandboxSettings:
    table = _table(raw)
    _known(table, frozenset(field.name for field in fields(SandboxSettings)), "sandbox.")
    return SandboxSettings(
        driver=_get(table, "driver", _one_of(DRIVERS), "oci"),
        runtime=_get(table, "runtime", _text, ""),
        socket=_get(table, "socket", _path, Path("/run/docker.sock")),
        state=_get(table, "state", _path, None),
        run_dir=_get(table, "run_dir", _path, Path("/run/gridsouk")),
        instance=_get(table, "instance", _text, "node"),
        uid_base=_get(table, "uid_base", _whole(65_536, 2**31), 200_000),
    )


def _targets(raw: Any) -> tuple[str, ...]:
    if len(found := _texts(raw)) > EGRESS_MAX:
        raise SettingsError(f"at most {EGRESS_MAX} targets")
    return tuple(dict.fromkeys(str(parse_target(text)) for text in found))


def _registries(raw: Any) -> tuple[tuple[str, RegistryHost], ...]:
    found = []
    for host, value in _table(raw).items():
        table = _table(value)
        _known(
            table, frozenset(field.name for field in fields(RegistryHost)), f"registries.{host}."
        )
        known = RegistryHost(
            username=_get(table, "username", _text, ""),
            password_file=_get(table, "password_file", _path, None),
            private=_get(table, "private", _flag, False),
            insecure=_get(table, "insecure", _flag, False),
        )
        if bool(known.username) != (known.password_file is not None):
            raise SettingsError(f'"{host}": username and password_file go together')
        found.append((host.lower(), known))
    if len(found) > LIST_MAX:
        raise SettingsError(f"at most {LIST_MAX} hosts")
    return tuple(found)


def _known(raw: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            listed = f"known: {', '.join(sorted(keys))}"
            hint = f"did you mean {where}{near[0]}?" if near else listed
            raise SettingsError(f"{where}{key}: no such setting", hint=hint)


def _get(raw: Mapping[str, Any], key: str, read: Callable[[Any], T], default: T) -> T:
    return default if key not in raw else _checked(key, raw[key], read)


def _checked(key: str, value: Any, read: Callable[[Any], T]) -> T:
    try:
        return read(value)
    except SpecError as problem:
        raise SettingsError(f"{key}: {problem}", hint=problem.hint) from None


def _table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError("must be a table")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 64 or not value.isprintable():
        raise SettingsError(f"{value!r} is not a text of at most 64 letters")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > LIST_MAX or not all(isinstance(item, str) and item for item in values):
        raise SettingsError(f"must be a list of at most {LIST_MAX} texts")
    return tuple(values)


def _multiaddrs(value: Any) -> tuple[str, ...]:
    for text in (found := _texts(value)):
        if not text.startswith("/"):
            raise SettingsError(f"{text!r} is not an address", hint="like /ip4/0.0.0.0/tcp/4001")
    return found


def _url(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise SettingsError(f"{value!r} is not a web address")
    return value


def _path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise SettingsError(f"{value!r} is not a path")
    return Path(value).expanduser().absolute()


def read_address(text: str) -> bytes:
    """An address from the command line. Raises SettingsError."""
    return _address(text)


def _addresses(value: Any) -> tuple[bytes, ...]:
    return tuple(map(_address, _texts(value)))


def _hosts(value: Any) -> tuple[str, ...]:
    for host in (hosts := _texts(value)):
        if not _HOST.fullmatch(host):
            raise SettingsError(f"{host!r} is not a host", hint='write it like "souk.example:443"')
    return hosts


def _address(value: Any) -> bytes:
    digits = value.removeprefix("0x") if isinstance(value, str) else ""
    if len(digits) != 40 or set(digits.lower()) - set("0123456789abcdef"):
        raise SettingsError(f"{value!r} is not an address", hint="0x and 40 digits")
    return bytes.fromhex(digits)


def _host_port(value: Any) -> tuple[str, int]:
    host, _, port = str(value).rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{value!r} is not an address", hint="write it like 127.0.0.1:8750")
    return host.strip("[]") or "127.0.0.1", int(port)


def _amount(value: Any) -> str:
    if isinstance(value, bool):
        raise SettingsError(f"{value!r} is not an amount", hint='write it like "0.20"')
    parse_money(value, 18)  # whether the token is that fine shows when it is known
    return str(value)


def _mbps(value: Any) -> int:
    kbps = parse_money(str(value).lower().removesuffix("mbps"), 3)
    if kbps >= 2**32:
        raise SettingsError(f"{value!r} is too fast", hint="megabits a second, like 1000")
    return kbps


def _span(value: Any) -> int:
    return 0 if value in (0, "0", "0s") else parse_duration_s(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError("must be true or false")
    return value


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise SettingsError(f"{value!r} is not a whole number from {low} to {high}")
        return value

    return read


def _one_of(known: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise SettingsError(f"{value!r} is none of {', '.join(known)}")
        return str(value)

    return read
