"""A crowd: the real API over a book of some thousand offers that change as gossip would have it.

Run as a program with a folder, a number of offers, and how many of them are said anew a second; it
prints the address of its web view. There is no chain and no peer behind it.
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import trio

from market.book import Book
from market.units import UnixTime
from node.adapters.system.clock import SystemClock
from node.control import Control
from node.desk.market import MarketDesk
from node.ports import Account
from node.web.server import serve
from tests.bench import samples
from tests.cli.stub_node import Desk

PAUSE_S = 0.25
LIFETIME_S = 90


class Crowd(Desk):
    """The stub's desks, with the real one for the market."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.book, self._random, self._sequence = Book(), Random(7), 0
        self._offers = [
            replace(offer, provider=offer.peer[:20])
            for offer in (samples.offer(n, self._random) for n in range(count))
        ]
        chain = SimpleNamespace(info=self.ports.chain.info, account=self._account)
        ports = SimpleNamespace(chain=chain, clock=SystemClock())
        self.real = MarketDesk(
            cast(Any, ports), cast(Any, SimpleNamespace(agreements={})),
            cast(Any, SimpleNamespace(book=self.book)),
        )  # fmt: skip
        self.market = cast(Any, self.real)
        self.say(self._offers)

    def say(self, offers: list[Any]) -> None:
        """Some offers anew, one of ten at another price."""
        self._sequence += 1
        now = time.time()
        for offer in offers:
            moved = self._random.random() < 0.1
            price = offer.price_per_hour * self._random.randint(95, 105) // 100
            said = replace(
                offer, expires_at_s=int(now) + LIFETIME_S,
                price_per_hour=price if moved else offer.price_per_hour,
            )  # fmt: skip
            self.book.update(offer.peer, (said,), self._sequence, b"", UnixTime(now))

    async def live(self, per_s: float) -> None:
        """Say a part of them for ever."""
        while True:
            await trio.sleep(PAUSE_S)
            self.say(self._random.sample(self._offers, max(1, int(per_s * PAUSE_S))))
            self.book.expire(time.time())

    def marks(self) -> dict[str, int]:
        return {"market": self.real.version()}

    def status(self) -> dict[str, Any]:
        return {
            **super().status(), "token": "tUSD", "decimals": 6, "explorer": "", "chain_id": 31337,
            "wallet": "0x" + "11" * 20, "network": "crowd", "waiting_for": "",
        }  # fmt: skip

    async def _account(self, wallet: bytes, operator: bytes) -> Account:
        stake = 50_000_000
        expires = int(time.time()) + 86_400
        return Account(wallet, 0, stake, 4_000_000, 0, 0, 10**8, expires, 0, 10**18, 0)


async def main(folder: Path, count: int, per_s: float) -> None:
    desk = Crowd(count)
    async with trio.open_nursery() as nursery:

        async def ready(task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
            await serve(
                cast(Control, desk), socket_path=folder / "node.sock", tcp=("127.0.0.1", 0),
                task_status=task_status,
            )  # fmt: skip

        serving = await nursery.start(ready)
        nursery.start_soon(desk.live, per_s)
        print(serving.url, flush=True)


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
