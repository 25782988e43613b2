"""Requests: many questions and answers at once over one long-lived stream per peer and direction.

    size (4) | kind (1) | id (8) | payload               (size counts what follows it, big-endian)

Our own end keeps one stream for all it asks; a peer may use several, and end its side of each once
it has asked. Ids pair replies with requests; the peer is whoever the connection's handshake proved
it to be.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
import trio

from market.errors import LimitError, UnreachableError
from market.limits import ENVELOPE_BYTES_MAX
from node.adapters.libp2p.bounds import (
    ANSWER_S,
    REQUEST_STREAMS_PER_PEER_MAX,
    REQUESTS_PER_PEER_MAX,
)
from node.adapters.libp2p.guard import discard
from node.adapters.libp2p.identity import peer_key
from node.adapters.libp2p.wire import EndedError, Wire

log = structlog.get_logger(__name__)

ASK, ASK_PEERS = 0, 1  # the node's own questions, and the peer keeper's
_REPLY, _FAILED = 2, 3
ASK_DIAL_BACK = 4
_HEADER = struct.Struct(">IBQ")
_AFTER_SIZE = _HEADER.size - 4
_FRAME_MAX = _AFTER_SIZE + ENVELOPE_BYTES_MAX

Answer = Callable[[bytes, bytes], Awaitable[bytes]]


class _Waiting:
    """One request in flight."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.reply: bytes | None = None
        self.problem = "the stream to the peer has ended"


async def _read_frame(wire: Wire) -> tuple[int, int, bytes]:
    size, kind, number = _HEADER.unpack(await wire.read(_HEADER.size))
    if not _AFTER_SIZE <= size <= _FRAME_MAX:
        raise UnreachableError(f"the peer sends a frame of {size} bytes")
    return kind, number, await wire.read(size - _AFTER_SIZE)


def _frame(kind: int, number: int, payload: bytes) -> bytes:
    return _HEADER.pack(_AFTER_SIZE + len(payload), kind, number) + payload


class _Line:
    """The asking end of one stream. A writer of its own: a cancelled asker cuts no frame short."""

    def __init__(self, stream: Any, counts: Counter[str]) -> None:
        self._wire = Wire(stream, counts)
        self._waiting: dict[int, _Waiting] = {}
        self._number = 0
        self._outgoing, self._outgoing_end = trio.open_memory_channel[bytes](REQUESTS_PER_PEER_MAX)
        self.dead = False

    async def ask(self, kind: int, data: bytes) -> bytes:
        """Raises UnreachableError."""
        self._number += 1
        number, waiting = self._number, _Waiting()
        self._waiting[number] = waiting
        try:
            if self.dead:
                raise UnreachableError(waiting.problem)
            await self._outgoing.send(_frame(kind, number, data))
            await waiting.done.wait()
        except trio.BrokenResourceError as problem:
            raise UnreachableError(waiting.problem) from problem
        finally:
            del self._waiting[number]
        if waiting.reply is None:
            raise UnreachableError(waiting.problem)
        return waiting.reply

    async def run(self) -> None:
        """Until the stream ends; never raises."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                await self._read()
        except* UnreachableError as problems:
            log.debug("line ended", problem=repr(problems.exceptions[0]))
        finally:
            self.dead = True
            self._outgoing_end.close()
            for waiting in self._waiting.values():
                waiting.done.set()
            await discard(self._wire.stream)

    async def _write(self) -> None:
        async for frame in self._outgoing_end:
            await self._wire.write(frame)

    async def _read(self) -> None:
        while True:
            kind, number, payload = await _read_frame(self._wire)
            waiting = self._waiting.get(number)
            if waiting is None:
                continue  # its asker has given up
            if kind == _REPLY:
                waiting.reply = payload
            else:
                waiting.problem = (
                    f"the peer could not answer: {payload[:80].decode(errors='replace')}"
                )
            waiting.done.set()


class Requests:
    """Both ends, for all peers."""

    def __init__(
        self,
        nursery: trio.Nursery,
        open_stream: Callable[[bytes], Awaitable[Any]],
        answers: dict[int, Answer],
        counts: Counter[str],
    ) -> None:
        """`open_stream` raises UnreachableError; `answers` by kind must not raise."""
        self._nursery = nursery
        self._open_stream = open_stream
        self._answers = answers
        self._counts = counts
        self._lines: dict[bytes, _Line] = {}
        self._opening: defaultdict[bytes, trio.Lock] = defaultdict(trio.Lock)
        self._slots: dict[bytes, trio.CapacityLimiter] = {}
        self._serving: defaultdict[bytes, deque[trio.CancelScope]] = defaultdict(deque)
        self._answering: Counter[bytes] = Counter()  # over all the streams of a peer

    async def ask(self, peer: bytes, data: bytes, timeout_s: float, kind: int = ASK) -> bytes:
        """Raises UnreachableError, or LimitError if `data` is too large."""
        if len(data) > ENVELOPE_BYTES_MAX:
            raise LimitError(f"a request of {len(data)} bytes, at most {ENVELOPE_BYTES_MAX} travel")
        try:
            with trio.move_on_after(timeout_s):
                async with self._slot(peer):
                    line = await self._line(peer)
                    self._counts["requests_out"] += 1
                    return await line.ask(kind, data)
        finally:
            self._tidy(peer)
        raise UnreachableError(
            f"no answer from the peer within {timeout_s:g}s", hint="it may be overloaded or gone"
        )

    def _tidy(self, peer: bytes) -> None:
        """Keep nothing of a peer with whom nothing is going on."""
        slot, opening = self._slots.get(peer), self._opening.get(peer)
        if slot is not None and not slot.borrowed_tokens:
            del self._slots[peer]
        if opening is not None and not opening.locked():
            del self._opening[peer]

    async def serve(self, stream: Any) -> None:
        """Answer a peer's requests on a stream that it opened; of too many the oldest gives way."""
        peer = peer_key(stream.muxed_conn.peer_id.to_bytes())
        assert peer is not None, "the guard accepts Ed25519 peers only"
        scope, scopes = trio.CancelScope(), self._serving[peer]
        scopes.append(scope)
        if len(scopes) > REQUEST_STREAMS_PER_PEER_MAX:
            scopes.popleft().cancel()
        wire = Wire(stream, self._counts)
        try:
            with scope:
                await _Desk(wire, peer, self._answers, self._answering, self._counts).run()
        finally:
            if scope in scopes:
                scopes.remove(scope)
            if not scopes and self._serving.get(peer) is scopes:
                del self._serving[peer]
            await discard(stream)

    def _slot(self, peer: bytes) -> trio.CapacityLimiter:
        slot = self._slots.get(peer)
        if slot is None:
            slot = self._slots[peer] = trio.CapacityLimiter(REQUESTS_PER_PEER_MAX)
        return slot

    async def _line(self, peer: bytes) -> _Line:
        async with self._opening[peer]:
            line = self._lines.get(peer)
            if line is None or line.dead:
                line = _Line(await self._open_stream(peer), self._counts)
                self._lines[peer] = line
                self._nursery.start_soon(self._keep, peer, line)
            return line

    async def _keep(self, peer: bytes, line: _Line) -> None:
        await line.run()
        if self._lines.get(peer) is line:
            del self._lines[peer]


class _Desk:
    """The answering end of one stream."""

    def __init__(
        self, wire: Wire, peer: bytes, answers: dict[int, Answer], answering: Counter[bytes],
        counts: Counter[str],
    ) -> None:  # fmt: skip
        self._wire = wire
        self._peer = peer
        self._answers = answers
        self._answering = answering
        self._counts = counts
        self._replies, self._replies_end = trio.open_memory_channel[bytes](REQUESTS_PER_PEER_MAX)

    async def run(self) -> None:
        """Until the stream ends. A peer may have asked all it wants, and still wait for replies."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                async with self._replies, trio.open_nursery() as answers:
                    await self._read(answers)
            await self._wire.finish()
        except* UnreachableError as problems:
            log.debug("desk closed", problem=repr(problems.exceptions[0]))

    async def _read(self, answers: trio.Nursery) -> None:
        try:
            while True:
                kind, number, data = await _read_frame(self._wire)
                if self._answering[self._peer] >= REQUESTS_PER_PEER_MAX:
                    await self._replies.send(_frame(_FAILED, number, b"too many at once"))
                    continue
                self._answering[self._peer] += 1
                answers.start_soon(self._answer, kind, number, data)
        except EndedError:
            return

    async def _write(self) -> None:
        async for frame in self._replies_end:
            await self._wire.write(frame)

    async def _answer(self, kind: int, number: int, data: bytes) -> None:
        self._counts["requests_in"] += 1
        outcome, reply = _FAILED, b"not answered in time"
        try:
            answer = self._answers.get(kind)
            if answer is None:
                reply = b"unknown kind of request"
            else:
                with trio.move_on_after(ANSWER_S):
                    reply = await answer(self._peer, data)
                    assert len(reply) <= ENVELOPE_BYTES_MAX, "a reply larger than an envelope"
                    outcome = _REPLY
        except Exception:  # an answerer's bug costs this answer, not the node
            log.exception("answerer failed", peer=self._peer.hex())
            outcome, reply = _FAILED, b"internal error"
        finally:
            self._answering[self._peer] -= 1
            if not self._answering[self._peer]:
                del self._answering[self._peer]
        await self._replies.send(_frame(outcome, number, reply))
