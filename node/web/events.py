"""Events: news of the node as a stream of server-sent events. Knows ASGI; renders nothing.

A line says only that something changed: whoever reads it asks again for what it shows. So a slow
reader misses nothing, and the node keeps no queue for anybody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import trio
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from market.errors import LimitError

SUBSCRIBERS_MAX: Final = 64  # each costs a task and a wake-up per change
PAUSE_S: Final = 0.25  # four lines a second are all that eyes can follow
LOOK_S: Final = 0.5  # how late a mark is noticed
PING_S: Final = 15.0  # proxies drop what is silent for half a minute


class Audience:
    """Counts who listens, so that nobody can open streams without end."""

    def __init__(self) -> None:
        """Nobody listens yet."""
        self.count = 0


class EventStream(Response):
    """`text/event-stream`: `event: changed` with the version that `changed` returned, and an event
    named like each of `marks()` whose number is another than before.
    """

    def __init__(
        self,
        changed: Callable[[int], Awaitable[int]],
        marks: Callable[[], Mapping[str, int]],
        audience: Audience,
    ) -> None:
        """`changed(seen)` returns a newer version as soon as there is one. Raises LimitError.

        `marks` is asked twice a second: it must cost nothing.
        """
        if audience.count >= SUBSCRIBERS_MAX:
            raise LimitError("too many listen to this node's events", hint="close another page")
        super().__init__(media_type="text/event-stream", headers={"cache-control": "no-store"})
        del self.headers["content-length"]
        self._changed = changed
        self._marks = marks
        self._audience = audience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write until the reader goes away or the server ends."""
        self._audience.count += 1
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(until_gone, receive, nursery.cancel_scope)
                await self._write(send)
        finally:
            self._audience.count -= 1

    async def _write(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)
        seen = -1
        last: dict[str, int] = {}
        silent_since = trio.current_time()
        while True:
            text = ""
            with trio.move_on_after(LOOK_S):
                seen = await self._changed(seen)
                text = _line("changed", seen)
            now = dict(self._marks())
            text += "".join(_line(name, now[name]) for name in now if now[name] != last.get(name))
            last = now
            if not text and trio.current_time() - silent_since >= PING_S:
                text = ": ping\n\n"
            if text:
                silent_since = trio.current_time()
                body = text.encode()
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await trio.sleep(PAUSE_S)


def _line(name: str, version: int) -> str:
    return f'event: {name}\ndata: {{"version":{version}}}\n\n'


async def until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    """Cancel `scope` once the reader has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
