"""What `status` says that a node waits for, the chain's trouble first and since when."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from market.units import UnixTime
from node.desk.network import NetworkDesk
from node.ports import ChainHealth


def desk(health: ChainHealth, waiting: str) -> NetworkDesk:
    ports = SimpleNamespace(
        chain=SimpleNamespace(health=lambda: health),
        clock=SimpleNamespace(now=lambda: UnixTime(1000.0)),
    )
    bulletin = SimpleNamespace(waiting_for=lambda: waiting)
    none = cast(Any, None)
    return NetworkDesk(none, cast(Any, ports), none, cast(Any, bulletin))


def test_nothing_keeps_it_waiting() -> None:
    assert desk(ChainHealth(7, 999, "", UnixTime(0)), "").waiting_for() == ""


def test_the_chain_comes_first_with_how_long() -> None:
    down = ChainHealth(7, 999, "node.example: cannot be reached", UnixTime(810.0))
    expected = "chain: node.example: cannot be reached (for 3m 10s)"
    assert desk(down, "").waiting_for() == expected
    both = f"{expected}; offers: none was heard yet"
    assert desk(down, "offers: none was heard yet").waiting_for() == both
