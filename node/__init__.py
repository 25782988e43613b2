"""One running node: the only home of trio. From notebooks: `node.connect()`, `node.connect_sync()`.

import node

async with node.connect() as souk:
    job = await souk.run("train.yaml")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.client.aio import connect
    from node.client.souk import connect_sync

__all__ = ["connect", "connect_sync"]


def __getattr__(name: str) -> Any:
    """The client, loaded when it is asked for: every part of the node imports this package."""
    if name == "connect":
        from node.client.aio import connect

        return connect
    if name == "connect_sync":
        from node.client.souk import connect_sync

        return connect_sync
    raise AttributeError(f"module 'node' has no attribute {name!r}")
