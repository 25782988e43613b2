"""Daemon: `souk up`, the one command that is a node itself."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from node.cli.options import DEFAULT, Common


def up(
    *,
    network: str | None = None,
    listen: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    bootstrap: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    web: str | None = None,
    common: Common = DEFAULT,
) -> int:
    """Run a node in the foreground until SIGTERM or Ctrl-C.

    Parameters
    ----------
    network
        devnet, sepolia, base-sepolia or custom.
    listen
        Multiaddress to listen on. May be repeated.
    bootstrap
        Multiaddress of a peer to start from. May be repeated.
    web
        Serve the web view there too, like 127.0.0.1:8750.
    """
    settings = common.settings(
        network=network, listen=listen or None, bootstrap=bootstrap or None, web=web
    )
    import trio  # a node takes seconds to load; no other command should

    from node.live import run

    trio.run(run, settings)
    return 0
