"""Reach: connections to public addresses only, but for those that the owner's settings name.

The name is resolved once and the connection made to an address that was looked at, so that a name
which points elsewhere the second time gains nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import trio

from market.errors import RefusedError
from market.reach import is_public


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """httpcore's way to the network, with a look at each address before it is connected to."""

    def __init__(self, may_be_private: Callable[[str, int], bool]) -> None:
        """`may_be_private(host, port)` says what the owner allows by name."""
        self._may_be_private = may_be_private
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect. Raises RefusedError for a private address, httpcore's errors otherwise."""
        addresses = await self._resolve(host, port)
        if not self._may_be_private(host, port):
            addresses = [address for address in addresses if is_public(address)]
            if not addresses:
                raise RefusedError(
                    f"{host}:{port} is not an address of the public internet",
                    hint=f'to use it, write [registries."{host}:{port}"] private = true',
                )
        problem: Exception | None = None
        for address in addresses[:4]:
            try:
                return await self._inner.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                problem = failed
        raise problem or httpcore.ConnectError(f"{host} has no address")

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: a registry is not a socket of this machine."""
        raise RefusedError(f"{path} is not a registry")

    async def sleep(self, seconds: float) -> None:
        """As trio does."""
        await trio.sleep(seconds)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
        except OSError as problem:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from problem
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def tls() -> ssl.SSLContext:
    """The machine's own trust."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
