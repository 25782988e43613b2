"""Auth: what a registry's `WWW-Authenticate` asks for, and how the answer is said.

The token flow of the distribution specification, or Basic. Parses and formats; sends nothing.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode, urlsplit

from market.errors import RefusedError, UnreachableError

TOKEN_BYTES_MAX: Final = 64 * 1024
TOKEN_S_MIN: Final = 60  # the specification's default
_PARAMETER: Final = re.compile(r'([A-Za-z_]+)\s*=\s*(?:"([^"]*)"|([^\s,]+))')
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True)
class Challenge:
    """How a registry wants to be asked: `basic`, or a token from `realm`."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""

    def url(self, scope: str) -> str:
        """Where the token is asked for."""
        wanted = [("service", self.service)] if self.service else []
        query = urlencode([*wanted, ("scope", self.scope or scope)])
        return f"{self.realm}{'&' if urlsplit(self.realm).query else '?'}{query}"


def parse_challenge(header: str) -> Challenge:
    """Read `WWW-Authenticate`. Raises RefusedError for a scheme that is not known here."""
    scheme, _, rest = header.strip().partition(" ")
    found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(rest)}
    match scheme.lower():
        case "bearer" if found.get("realm"):
            return Challenge(
                "bearer", found["realm"], found.get("service", ""), found.get("scope", "")
            )
        case "basic":
            return Challenge("basic")
    raise RefusedError(f"the registry wants to be asked in a way not known here: {scheme[:40]!r}")


def basic(username: str, password: str) -> str:
    """The value of `Authorization` for a name and a password."""
    return "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()


def parse_token(data: bytes) -> tuple[str, float]:
    """The token in an answer and for how many seconds it holds. Raises UnreachableError."""
    try:
        raw = json.loads(data)
        token = raw.get("token") or raw.get("access_token")
        expires_s = float(raw.get("expires_in") or TOKEN_S_MIN)
    except (ValueError, AttributeError, TypeError, RecursionError) as problem:
        raise UnreachableError("the registry's token server makes no sense") from problem
    if not isinstance(token, str) or not _TOKEN.fullmatch(token):
        raise UnreachableError("the registry's token server gave no token")
    return token, max(float(TOKEN_S_MIN), min(expires_s, 3600.0))
