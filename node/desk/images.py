"""Images' desk: what this node has, fetch one ahead of a job, let go of those not needed."""

from __future__ import annotations

from typing import Any

from market.errors import RefusedError
from node.holdings import Holdings
from node.images import Images
from node.keeper import Keeper
from node.ports import Ports


class ImageDesk:
    """Asks the images' room."""

    def __init__(self, ports: Ports, images: Images, keeper: Keeper) -> None:
        """Shares the node's rooms."""
        self._ports = ports
        self._images = images
        self._holdings = Holdings(keeper, ports.clock)
        self._holdings.images = images
        self._progress: dict[bytes, tuple[int, int]] = {}

    async def all(self) -> list[dict[str, Any]]:
        """Every image whose parts are known here, the latest used first; sizes in bytes."""
        needed = self._holdings.needed()
        rows = []
        for key, known in reversed(self._images.known.items()):
            sizes = [await self._ports.blobs.size(part.hash) for part in known.parts]
            rows.append(
                {
                    "image": known.image.path,
                    "digest": f"sha256:{key.hex()}",
                    "size_bytes": sum(part.size_bytes for part in known.parts),
                    "here_bytes": sum(size or 0 for size in sizes),
                    "complete": None not in sizes,
                    "parts": len(known.parts),
                    "in_use": key in needed,
                    "open": known.open,
                    "used": known.used_at_s,
                    "pulling": key in self._progress,
                }
            )
        return rows

    async def pull(self, text: str) -> dict[str, Any]:
        """Have an image of a registry here; answers once it is complete."""
        image = await self._images.resolve(text)
        if image.hash in self._progress:
            raise RefusedError("it is being pulled already", hint="see: souk image list")
        self._progress[image.hash] = (0, image.size_bytes)
        try:
            await self._images.stage(image, None, self._teller(image.hash))
        finally:
            del self._progress[image.hash]
        return {"image": image.path, "digest": f"sha256:{image.hash.hex()}",
                "size_bytes": image.size_bytes}  # fmt: skip

    def progress(self) -> list[dict[str, Any]]:
        """What is being pulled by hand now."""
        return [
            {"digest": f"sha256:{key.hex()}", "here_bytes": done, "size_bytes": total}
            for key, (done, total) in self._progress.items()
        ]

    async def prune(self) -> dict[str, Any]:
        """Let go of every image that no live job needs; bytes freed."""
        needed = self._holdings.needed()
        gone, freed = [], 0
        for key, known in list(self._images.known.items()):
            if key not in needed and key not in self._progress:
                freed += await self._images.forget(key, lambda part: part in needed)
                gone.append(known.image.path)
        freed += await self._ports.sandbox.prune()
        return {"removed": gone, "freed_bytes": freed}

    def _teller(self, hash_: bytes) -> Any:
        def tell(done: int, total: int) -> None:
            self._progress[hash_] = (done, total)

        return tell
