"""Readers: how each value of the configuration is read, and what is said of one that is wrong.

Each takes what TOML or a flag gave, and raises SettingsError. Knows no key and no file.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

from market.errors import SpecError
from market.units import parse_duration_s, parse_money

T = TypeVar("T")
LIST_MAX: Final = 64
_HOST: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:\d{1,5})?|\[[0-9a-fA-F:]+\](:\d{1,5})?")


class SettingsError(SpecError):
    """The configuration cannot be used as it is."""

    code = "bad-configuration"


def known(raw: Mapping[str, Any], keys: frozenset[str], where: str) -> None:
    for key in raw:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            listed = f"known: {', '.join(sorted(keys))}"
            hint = f"did you mean {where}{near[0]}?" if near else listed
            raise SettingsError(f"{where}{key}: no such setting", hint=hint)


def get(raw: Mapping[str, Any], key: str, read: Callable[[Any], T], default: T) -> T:
    return default if key not in raw else checked(key, raw[key], read)


def checked(key: str, value: Any, read: Callable[[Any], T]) -> T:
    try:
        return read(value)
    except SpecError as problem:
        raise SettingsError(f"{key}: {problem}", hint=problem.hint) from None


def table(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise SettingsError("must be a table")
    return value


def text(value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= 64 or not value.isprintable():
        raise SettingsError(f"{value!r} is not a text of at most 64 letters")
    return value


def texts(value: Any) -> tuple[str, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if len(values) > LIST_MAX or not all(isinstance(item, str) and item for item in values):
        raise SettingsError(f"must be a list of at most {LIST_MAX} texts")
    return tuple(values)


def multiaddrs(value: Any) -> tuple[str, ...]:
    for text in (found := texts(value)):
        if not text.startswith("/"):
            raise SettingsError(f"{text!r} is not an address", hint="like /ip4/0.0.0.0/tcp/4001")
    return found


def announced(value: Any) -> tuple[str, ...]:
    for text in (found := multiaddrs(value)):
        parts = text.split("/")
        good = len(parts) == 5 and parts[1] in ("ip4", "ip6", "dns", "dns4", "dns6")
        if not good or parts[3] != "tcp" or not parts[4].isdecimal() or int(parts[4]) > 65535:
            raise SettingsError(
                f"{text!r} is not what others can dial",
                hint="without a peer id, like /ip4/203.0.113.7/tcp/4001",
            )
    return found


def url(value: Any) -> str:
    if not isinstance(value, str) or not value.startswith(("http://", "https://")):
        raise SettingsError(f"{value!r} is not a web address")
    return value


def path(value: Any) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise SettingsError(f"{value!r} is not a path")
    return Path(value).expanduser().absolute()


def read_address(said: str) -> bytes:
    """An address from the command line. Raises SettingsError."""
    return address(said)


def addresses(value: Any) -> tuple[bytes, ...]:
    return tuple(map(address, texts(value)))


def hosts(value: Any) -> tuple[str, ...]:
    for host in (hosts := texts(value)):
        if not _HOST.fullmatch(host):
            raise SettingsError(f"{host!r} is not a host", hint='write it like "souk.example:443"')
    return hosts


def address(value: Any) -> bytes:
    digits = value.removeprefix("0x") if isinstance(value, str) else ""
    if len(digits) != 40 or set(digits.lower()) - set("0123456789abcdef"):
        raise SettingsError(f"{value!r} is not an address", hint="0x and 40 digits")
    return bytes.fromhex(digits)


def host_port(value: Any) -> tuple[str, int]:
    host, _, port = str(value).rpartition(":")
    if not port.isdecimal() or int(port) > 65535:
        raise SettingsError(f"{value!r} is not an address", hint="write it like 127.0.0.1:8750")
    return host.strip("[]") or "127.0.0.1", int(port)


def amount(value: Any) -> str:
    if isinstance(value, bool):
        raise SettingsError(f"{value!r} is not an amount", hint='write it like "0.20"')
    parse_money(value, 18)  # whether the token is that fine shows when it is known
    return str(value)


def mbps(value: Any) -> int:
    kbps = parse_money(str(value).lower().removesuffix("mbps"), 3)
    if kbps >= 2**32:
        raise SettingsError(f"{value!r} is too fast", hint="megabits a second, like 1000")
    return kbps


def relay_rate(value: Any) -> int:
    kbps = mbps(value)
    if not kbps:
        raise SettingsError("carries nothing at that rate", hint="relay = false carries nothing")
    return kbps


def span(value: Any) -> int:
    return 0 if value in (0, "0", "0s") else parse_duration_s(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise SettingsError("must be true or false")
    return value


def whole(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise SettingsError(f"{value!r} is not a whole number from {low} to {high}")
        return value

    return read


def one_of(known: tuple[str, ...]) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in known:
            raise SettingsError(f"{value!r} is none of {', '.join(known)}")
        return str(value)

    return read
