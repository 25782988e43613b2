"""TCP: connections to the outside for jobs. The name is resolved once, and what it resolves to is
looked at before it is connected to: a name never leads into this machine or its own network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from market.errors import RefusedError, SandboxError, UnreachableError
from market.reach import Target, is_address, is_public

CONNECT_S = 15.0
ADDRESSES_MAX = 4


class TcpPipe:
    """Implements the port `Pipe` with a TCP connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def send(self, data: bytes) -> None:
        """All of it."""
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the other end has closed the connection") from problem

    async def receive(self, limit: int) -> bytes:
        """Some of it; nothing at the end."""
        try:
            return bytes(await self._stream.receive_some(limit))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as problem:
            raise SandboxError("the connection broke") from problem

    async def close_write(self) -> None:
        """Half of it ends."""
        try:
            await self._stream.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class TcpOutside:
    """Fills the port `Outside`."""

    @asynccontextmanager
    async def connect(self, target: Target) -> AsyncIterator[TcpPipe]:
        """A connection to a public address, or to an address that was written out."""
        stream = await self._open(target)
        async with stream:
            yield TcpPipe(stream)

    async def _open(self, target: Target) -> trio.SocketStream:
        try:
            with trio.fail_after(CONNECT_S):
                for address in await self._addresses(target):
                    try:
                        return await trio.open_tcp_stream(address, target.port)
                    except OSError:
                        continue
        except trio.TooSlowError as problem:
            raise UnreachableError(f"{target} does not answer") from problem
        raise UnreachableError(f"{target} cannot be connected to")

    async def _addresses(self, target: Target) -> list[str]:
        if is_address(target.host):
            return [target.host]
        try:
            found = await trio.socket.getaddrinfo(
                target.host, target.port, type=trio.socket.SOCK_STREAM
            )
        except OSError as problem:
            raise UnreachableError(f"{target.host} cannot be resolved") from problem
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        public = [address for address in addresses if is_public(address)]
        if not public:
            raise RefusedError(f"{target.host} is not an address of the public internet")
        return public[:ADDRESSES_MAX]
