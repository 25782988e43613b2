"""Server: carries the API on a unix socket and, if asked, on one loopback port. Knows no routes.

Hypercorn's own `serve` sends in a shielded scope without an end, so that one reader who stopped
reading keeps a node from ever shutting down. Our connections give up on such a reader.
"""

from __future__ import annotations

import logging
import os
import re
import socket
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Closed as ConnectionClosed
from hypercorn.events import Event, RawData
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import parse_socket_addr, wrap_app
from starlette.types import ASGIApp
from trio import TaskStatus  # type: ignore[attr-defined]

from market.errors import MarketError, RefusedError, SpecError
from node.web.api import make_app
from node.web.execute import Execute, execute_path
from node.web.forward import Forward, forward_path
from node.web.guard import Door, Guard
from node.web.pages import Pages
from node.web.sessions import Sessions

if TYPE_CHECKING:
    from node.control import Control
    from node.ports import Entropy

SEND_STALL_S: Final = 5.0  # a reader on this machine that takes nothing for so long is stuck
SOCKET_PATH_BYTES_MAX: Final = 107  # sockaddr_un of Linux
BACKLOG: Final = 64
CONNECTIONS_MAX: Final = 256  # on a TCP port; a browser opens six
LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})


@dataclass(frozen=True, slots=True)
class Serving:
    """Where the API can be reached. `url` carries the token; None without a port."""

    socket_path: Path
    url: str | None


@dataclass(frozen=True, slots=True)
class Guests:
    """Who may enter by TCP without the operator's token, and under which names the port is known.

    A port that others than this machine can reach needs both; it belongs behind a proxy with TLS.
    """

    wallets: frozenset[bytes] = frozenset()
    hosts: tuple[str, ...] = ()


async def serve(
    control: Control,
    *,
    socket_path: Path,
    tcp: tuple[str, int] | None = None,
    guests: Guests = Guests(),  # frozen
    images: Path | None = None,
    task_status: TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled. `tcp` is a host and a port, 0 for any free one; a host that is not
    loopback needs `guests`. `images` is the folder of images built on this machine.

    The task status is a `Serving`. Raises RefusedError if a node already serves that socket or
    port, SpecError if the address cannot be used.
    """
    sessions = Sessions(control.ports.entropy.token, guests.wallets)
    app = make_app(control, sessions, images)
    remote = None if tcp is None else _listen_tcp(*tcp, guests)
    try:
        local = _listen_unix(socket_path)
        forward = _listen_unix(forward_path(socket_path))
        execute = _listen_unix(execute_path(socket_path))
    except MarketError:
        if remote is not None:
            remote.close()
        raise
    try:
        async with trio.open_nursery() as nursery:
            if tcp is not None and remote is not None:
                token = _kept_token(socket_path.with_name("web.token"), control.ports.entropy)
                host, port = tcp[0], remote.getsockname()[1]
                door = Door(
                    hosts=frozenset(_names(host, port, guests.hosts)),
                    token=token,
                    sessions=sessions,
                    now=control.ports.clock.now,
                    cookie=f"souk_{port}",
                )
                app.state.url = f"http://{_local(host)}:{port}/?token={token}"
                nursery.start_soon(_serve_socket, Guard(Pages(app), door), remote, CONNECTIONS_MAX)
            nursery.start_soon(_serve_socket, Guard(app, None), local, None)
            nursery.start_soon(_serve_streams, Forward(control).serve, forward)
            nursery.start_soon(_serve_streams, Execute(control).serve, execute)
            task_status.started(Serving(socket_path, app.state.url))
    finally:
        for listening, path in (
            (local, socket_path),
            (forward, forward_path(socket_path)),
            (execute, execute_path(socket_path)),
        ):
            listening.close()
            _forget(path)


async def _serve_streams(
    serve: Callable[[trio.SocketStream], Awaitable[None]], listening: socket.socket
) -> None:
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    await trio.serve_listeners(serve, [listener])


def _names(host: str, port: int, others: tuple[str, ...]) -> set[str]:
    """How a browser on this machine writes the port's address, and what else the owner names."""
    return {f"{name}:{port}" for name in ("localhost", _local(host))} | {
        name.lower() for name in others
    }


def _local(host: str) -> str:
    if host not in LOOPBACK or host == "localhost":
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


async def _serve_socket(app: ASGIApp, listening: socket.socket, most: int | None) -> None:
    config = HypercornConfig()
    config.accesslog = None
    config.keep_alive_timeout = 30  # a loaded machine may take its time to ask
    config.errorlog = logging.getLogger("gridsouk.web")
    config.include_server_header = False
    context = WorkerContext(None)
    wrapped = wrap_app(app, config.wsgi_max_body_size, "asgi")

    count = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal count
        if most is not None and count >= most:
            await trio.aclose_forcefully(stream)
            return
        count += 1
        try:
            await _Connection(wrapped, config, context, ConnectionState({}), stream)
        except Exception:  # whatever one connection may provoke: the node goes on
            config.log.error_logger.exception("a connection broke")
            await trio.aclose_forcefully(stream)
        finally:
            count -= 1

    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    await trio.serve_listeners(handle, [listener])


class _Http11(H11Protocol):  # type: ignore[misc]  # hypercorn's types are not followed
    """HTTP/1.1 and nothing else: hypercorn would let any stranger switch to HTTP/2 (h2c)."""

    async def _check_protocol(self, event: object) -> None:
        """An upgrade may be ignored (RFC 9110, 7.8)."""


class _Connection(TCPServer):  # type: ignore[misc]
    """One connection, which ends when its reader takes nothing for SEND_STALL_S."""

    async def run(self) -> None:
        """As hypercorn's, without TLS and without HTTP/2."""
        socket = self.stream.socket
        try:
            async with TaskGroup() as self._task_group:
                self.protocol = _Http11(
                    self.app, self.config, self.context, self._task_group, self.state, False,
                    parse_socket_addr(socket.family, socket.getpeername()),
                    parse_socket_addr(socket.family, socket.getsockname()), self.protocol_send,
                )  # fmt: skip
                await self.protocol.initiate()
                await self.idle_task.restart(self._task_group, self._idle_timeout)
                await self._read_data()
        except OSError:
            pass  # the other side is gone
        finally:
            await self._close()

    async def protocol_send(self, event: Event) -> None:
        """Bytes, or the end: neither begins while another task is in the middle of sending."""
        if isinstance(event, ConnectionClosed):
            async with self.send_lock:  # what a stranger sent after its request may end it early
                await self._close()
            await self.protocol.handle(ConnectionClosed())
            return
        if not isinstance(event, RawData):
            await super().protocol_send(event)
            return
        gone = False
        async with self.send_lock:
            # Shielded, because half a frame helps nobody, but not for ever.
            deadline = trio.current_time() + SEND_STALL_S
            with trio.CancelScope(deadline=deadline, shield=True) as patience:
                try:
                    await self.stream.send_all(event.data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    gone = True
        if patience.cancelled_caught:
            await trio.aclose_forcefully(self.stream)
        if gone or patience.cancelled_caught:
            await self.protocol.handle(ConnectionClosed())


def _listen_unix(path: Path) -> socket.socket:
    if len(os.fsencode(path)) > SOCKET_PATH_BYTES_MAX:
        raise SpecError(f"{path}: too long for a socket", hint="choose a shorter --data-dir")
    if is_served(path):
        raise RefusedError(f"a node already runs on {path}", hint="look at it with: souk status")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # 0600 from the first moment
    try:
        path.unlink(missing_ok=True)
        listening.bind(os.fsencode(path))
    except OSError as problem:
        listening.close()
        raise SpecError(f"{path}: {problem.strerror}", hint="choose a --data-dir") from problem
    finally:
        os.umask(mask)
    listening.listen(BACKLOG)
    return listening


def _kept_token(path: Path, entropy: Entropy) -> str:
    """The operator's token, drawn once: a page that is open goes on after the node's restart."""
    try:
        found = path.read_text().strip()
        if re.fullmatch(r"[0-9a-f]{32}", found) and not path.stat().st_mode & 0o077:
            return found
    except (OSError, UnicodeDecodeError):
        pass
    token = entropy.token(16).hex()
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(token)
    return token


def _forget(path: Path) -> None:
    path.unlink(missing_ok=True)


def is_served(path: Path) -> bool:
    """Whether a node answers on that socket now."""
    if not path.exists() or not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fsencode(path))
        except OSError:
            return False  # left behind by a node that was killed
    return True


def _listen_tcp(host: str, port: int, guests: Guests) -> socket.socket:
    if host not in LOOPBACK and not (guests.wallets and guests.hosts):
        raise SpecError(
            f"web: {host} is not this machine",
            hint="use 127.0.0.1:PORT, or name web_wallets that may enter and web_hosts",
        )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
    except OSError as problem:
        listening.close()
        raise RefusedError(
            f"web: {host}:{port}: {problem.strerror}", hint="choose another port, or 0"
        ) from problem
    listening.listen(BACKLOG)
    return listening
