"""Settings of the registry client: what this node knows of some hosts, given by its owner.

A host that is not named here is asked anonymously, over TLS, and only at a public address.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from market.errors import RefusedError


@dataclass(frozen=True, slots=True)
class Host:
    """One registry as its owner's configuration says it.

    `private` allows an address that is not of the public internet, `insecure` plain HTTP, and
    `for_jobs` that the credentials are used for the jobs of others, too.
    """

    username: str = ""
    password_file: Path | None = None
    private: bool = False
    insecure: bool = False
    for_jobs: bool = False

    def password(self) -> str:
        """Read anew each time, so that it can be changed, and kept nowhere. RefusedError."""
        if self.password_file is None:
            return ""
        try:
            with self.password_file.open("rb") as file:
                return file.read(4096).decode().strip()
        except (OSError, UnicodeDecodeError) as problem:
            raise RefusedError(
                f"the password file {self.password_file} cannot be read",
                hint="check registries in the configuration",
            ) from problem


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """The hosts by `name` or `name:port`, as references write them."""

    hosts: Mapping[str, Host] = field(default_factory=dict)
    stall_s: float = 30.0  # a registry that sends nothing for so long is left
    retry_s_max: float = 30.0  # the longest wait that a registry may ask for

    def host(self, name: str) -> Host:
        """What is known of a host."""
        return self.hosts.get(name.lower(), Host())

    def for_others(self) -> RegistrySettings:
        """Without the credentials that are only for what the owner asks for."""
        hosts = {
            name: host if host.for_jobs else replace(host, username="", password_file=None)
            for name, host in self.hosts.items()
        }
        return replace(self, hosts=hosts)
