"""Control: what a person or a program may ask of a running node. No transport, no rendering.

The HTTP API and the CLI are thin skins over this room. It is the front desk's sign board: each
subject has a desk of its own in `node/desk`. Every answer is plain data (dicts of text, integers
and lists), money as decimal text of whole tokens, hashes in hex, times in Unix seconds.
"""

from __future__ import annotations

from node.bulletin import Bulletin
from node.config import Config
from node.desk.images import ImageDesk
from node.desk.jobs import JobDesk
from node.desk.market import MarketDesk
from node.desk.money import MoneyDesk
from node.desk.network import NetworkDesk
from node.images import Images
from node.keeper import Keeper
from node.ports import Ports
from node.requester import Requester
from node.tunnels.dial import Dialler


class Control:
    """The node's front desk."""

    def __init__(
        self, config: Config, ports: Ports, keeper: Keeper, bulletin: Bulletin,
        requester: Requester, images: Images, tunnels: Dialler,
    ) -> None:  # fmt: skip
        """Opens a desk for each subject; has no state of its own."""
        self.ports = ports  # for the API: blobs go in and out as streams
        self.jobs = JobDesk(ports, keeper, requester, images)
        self.images = ImageDesk(ports, images, keeper)
        self.market = MarketDesk(ports, bulletin)
        self.money = MoneyDesk(config, ports, keeper)
        self.network = NetworkDesk(config, ports, keeper, bulletin)
        self.tunnels = tunnels
        self._keeper = keeper

    async def changed(self, seen: int = -1) -> int:
        """Wait for news of any job or agreement; see `Keeper.changed`."""
        return await self._keeper.changed(seen)
