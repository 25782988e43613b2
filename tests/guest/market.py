"""Market: a real node under systemd, on a local chain: `souk up` as the unit starts it, and sells.

Its clocks are a devnet's, seconds, which an emulated machine cannot keep with jobs; so none is run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import httpx
import trio

from node.adapters.ethereum.devnet import run_devnet
from node.adapters.ethereum.rpc import Rpc
from node.cli.town import Member, _fund
from tests.guest.unit import add_to_unit, shown, step, systemctl, wait

CONFIG: Final = Path("/etc/gridsouk/config.toml")
LOG: Final = Path("/guest/node.log")
HOME: Final = Path("/guest/provider-1")


async def main() -> None:
    """Chain, wallet, settings; then the unit as it was written."""
    member = Member("provider-1", HOME, "0.20", "unit")
    member.data.mkdir(parents=True)
    async with run_devnet() as devnet, Rpc((devnet.url,)) as rpc:
        step("a local chain, and a provider's wallet with its stake")
        await _fund(member, devnet, rpc, 1)
        CONFIG.parent.mkdir(exist_ok=True)
        CONFIG.write_text(member.toml(devnet, ()))
        await trio.to_thread.run_sync(lives)


def lives() -> None:
    """Start, sell, read the settings again, stop."""
    add_to_unit(f"[Service]\nTimeoutStartSec=900\nWatchdogSec=600\nStandardOutput=append:{LOG}\n"
                "StandardError=inherit\n")  # fmt: skip
    step("souk up says that it is ready")
    systemctl("start", "gridsouk")
    assert shown("StatusText").startswith("node "), shown("StatusText")
    step("its own doctor finds the machine fit, the escape probe and all")
    wait(lambda: status()["examined"])
    assert status()["unfit"] == []
    step("it reads its settings again")
    systemctl("reload", "gridsouk")
    assert shown("ActiveState") == "active"
    step("and stops when it is told to")
    systemctl("stop", "gridsouk")
    assert (shown("ActiveState"), shown("Result")) == ("inactive", "success")


def status() -> dict[str, Any]:
    """What the node says of its selling."""
    transport = httpx.HTTPTransport(uds=str(HOME / "data" / "node.sock"))
    with httpx.Client(transport=transport, base_url="http://node", timeout=300) as client:
        return cast(dict[str, Any], client.get("/api/provider").json())


if __name__ == "__main__":
    trio.run(main)
