"""Strikes: token buckets and strike counts of peers. Pure; is told the (monotonic) time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from node.adapters.libp2p.bounds import CUT_OFF_S, STRIKES_DECAY_PER_S, STRIKES_MAX

_REMEMBERED_MAX = 8192  # peers with strikes; the longest untouched are forgotten first


class TokenBucket:
    """So many tokens a second, saved up to `burst`."""

    __slots__ = ("_at", "_burst", "_per_s", "_tokens")

    def __init__(self, per_s: float, burst: float, now: float) -> None:
        self._per_s, self._burst, self._tokens, self._at = per_s, burst, burst, now

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take `count` tokens if they are there."""
        self._fill(now)
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def borrow(self, now: float, count: float) -> float:
        """Take `count` tokens, there or not; returns the seconds to wait until they are paid."""
        self._fill(now)
        self._tokens -= count
        return max(0.0, -self._tokens / self._per_s)

    def _fill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + (now - self._at) * self._per_s)
        self._at = now


class Buckets:
    """One bucket per key, the least recently used forgotten beyond `size`."""

    def __init__(self, per_s: float, burst: float, size: int) -> None:
        self._per_s, self._burst, self._size = per_s, burst, size
        self._buckets: OrderedDict[bytes, TokenBucket] = OrderedDict()

    def take(self, key: bytes, now: float, count: float = 1.0) -> bool:
        """Take tokens of this key's bucket; a new key starts with a full one."""
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = TokenBucket(self._per_s, self._burst, now)
            if len(self._buckets) > self._size:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
        return bucket.take(now, count)


@dataclass(slots=True)
class _Score:
    points: float
    at: float


class Strikes:
    """Who has misbehaved, and who is cut off until when."""

    def __init__(self, cut_off: Callable[[bytes], None], limit: float = STRIKES_MAX) -> None:
        """`cut_off` is told each peer, once, as it reaches the limit."""
        self._cut_off = cut_off
        self._limit = limit
        self._scores: OrderedDict[bytes, _Score] = OrderedDict()
        self._denied_until: OrderedDict[bytes, float] = OrderedDict()

    def strike(self, peer: bytes, points: float, now: float) -> None:
        """Count `points` against `peer`."""
        score = self._scores.setdefault(peer, _Score(0.0, now))
        self._scores.move_to_end(peer)
        if len(self._scores) > _REMEMBERED_MAX:
            self._scores.popitem(last=False)
        score.points = max(0.0, score.points - (now - score.at) * STRIKES_DECAY_PER_S) + points
        score.at = now
        if score.points >= self._limit and not self.denied(peer, now):
            del self._scores[peer]
            self._denied_until[peer] = now + CUT_OFF_S
            if len(self._denied_until) > _REMEMBERED_MAX:
                self._denied_until.popitem(last=False)
            self._cut_off(peer)

    def points(self, peer: bytes, now: float) -> float:
        """What counts against `peer` now."""
        score = self._scores.get(peer)
        if score is None:
            return 0.0
        return max(0.0, score.points - (now - score.at) * STRIKES_DECAY_PER_S)

    def denied(self, peer: bytes, now: float) -> bool:
        """Whether `peer` is cut off now."""
        until = self._denied_until.get(peer)
        if until is None:
            return False
        if until <= now:
            del self._denied_until[peer]
            return False
        return True

    def __len__(self) -> int:
        return len(self._denied_until)
