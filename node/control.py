"""Control: what a person or a program may ask of a running node. No transport, no rendering.

The HTTP API and the CLI are thin skins over this room. It is the front desk's sign board: each
subject has a desk of its own in `node/desk`. Every answer is plain data (dicts of text, integers
and lists), money as decimal text of whole tokens, hashes in hex, times in Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import trio

from node.bulletin import Bulletin
from node.certify import Certifier
from node.challenger import Challenger
from node.config import Config
from node.demands import Demands
from node.desk.books import BooksDesk
from node.desk.certificates import CertificateDesk
from node.desk.earning import EarningDesk
from node.desk.gauges import GaugeDesk
from node.desk.images import ImageDesk
from node.desk.jobs import JobDesk
from node.desk.market import MarketDesk
from node.desk.money import MoneyDesk
from node.desk.network import NetworkDesk
from node.desk.plans import PlanDesk
from node.desk.selling import SellingDesk
from node.desk.series import SeriesDesk
from node.desk.wallet import WalletDesk
from node.images import Images
from node.keeper import Keeper
from node.ports import Ports
from node.queue import Queue
from node.shop import Shop
from node.tunnels.dial import Dialler
from node.tunnels.enter import Entrance


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms behind the desks."""

    keeper: Keeper
    bulletin: Bulletin
    demands: Demands
    shop: Shop
    queue: Queue
    images: Images
    tunnels: Dialler
    entrance: Entrance
    certifier: Certifier
    challenger: Challenger


class Control:
    """The node's front desk."""

    def __init__(self, config: Config, ports: Ports, rooms: Rooms) -> None:
        """Opens a desk for each subject; has no state of its own."""
        keeper, bulletin, demands = rooms.keeper, rooms.bulletin, rooms.demands
        self.ports = ports  # for the API: blobs go in and out as streams
        self.jobs = JobDesk(ports, keeper, demands, rooms.images)
        self.images = ImageDesk(ports, rooms.images, keeper)
        self.plans = PlanDesk(config, ports, bulletin, demands)
        self.market = MarketDesk(ports, keeper, bulletin)
        self.money = MoneyDesk(config, ports, keeper)
        self.books = BooksDesk(config, ports, keeper)
        self.network = NetworkDesk(config, ports, keeper, bulletin)
        self.earning = EarningDesk(config, ports, keeper, bulletin)
        self.series = SeriesDesk(ports, keeper)
        self.wallet = WalletDesk(config, ports)
        self.gauges = GaugeDesk(ports, keeper, bulletin)
        self.selling = SellingDesk(ports, keeper, rooms.shop, rooms.queue)
        self.tunnels = rooms.tunnels
        self.entrance = rooms.entrance
        self.certificates = CertificateDesk(rooms.certifier, rooms.challenger, bulletin)
        self._keeper = keeper

    async def changed(self, seen: int = -1) -> int:
        """Wait for news of any job or agreement; see `Keeper.changed`."""
        return await self._keeper.changed(seen)

    def marks(self) -> dict[str, int]:
        """A number a subject that is another one when there is news of it; costs nothing."""
        return {"market": self.market.version(), "money": self.wallet.version}

    async def run(self) -> None:
        """What the desks do by themselves: take samples, watch transactions."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.series.run)
            nursery.start_soon(self.wallet.run)
