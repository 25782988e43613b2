"""Endpoints: the RPC URLs of one chain and how well each does. Knows no request and no answer.

Asked in the order of the configuration; one that fails rests for a while that doubles, so that a
dead one costs little and comes back by itself. Their names in messages leave out the URL's path:
it often holds a key.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

REST_MIN_S: Final = 0.5
REST_MAX_S: Final = 30.0  # a provider's maintenance is noticed to be over within half a minute
REST_ASKED_MAX_S: Final = 120.0  # what a Retry-After may ask for


@dataclass(slots=True)
class Endpoint:
    """One URL. Times are of one clock that only moves forward."""

    url: str
    checked: bool = False  # it was seen to be on the right chain
    head: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0
    trouble: str = ""
    asked: int = 0
    failed: int = 0

    @property
    def name(self) -> str:
        """Scheme, host and port."""
        parts = urlsplit(self.url)
        return parts.netloc.rpartition("@")[2] or "?"

    def works(self) -> None:
        """It answered as it should."""
        self.failures, self.trouble, self.rests_until = 0, "", 0.0

    def fails(self, now: float, trouble: str) -> None:
        """It did not; leave it alone for a while. Many questions at once fail once."""
        self.checked = False  # another chain may run there when it is back
        if self.rests_until > now:
            return
        self.failures += 1
        self.failed += 1
        rest_s = min(REST_MIN_S * 2 ** min(self.failures - 1, 10), REST_MAX_S)
        self.rests_until, self.trouble = now + rest_s, trouble

    def asks_for_rest(self, now: float, seconds: float | None) -> None:
        """It limits how often it is asked, and may say for how long."""
        self.failures += 1
        self.failed += 1
        if seconds is None:
            seconds = min(2.0 ** min(self.failures - 1, 10), REST_MAX_S)
        rest_s = min(max(seconds, REST_MIN_S), REST_ASKED_MAX_S)
        self.rests_until, self.trouble = now + rest_s, "limits its requests"


class Endpoints:
    """All of them, in order of preference."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        """At least one."""
        assert urls, "at least one endpoint"
        self.all = tuple(Endpoint(url) for url in urls)
        self.best_head = 0  # the newest block that any of them has shown

    def in_turn(self, now: float) -> Iterator[Endpoint]:
        """Those that are awake by preference, then those that wake first."""
        awake = [one for one in self.all if one.rests_until <= now]
        resting = [one for one in self.all if one.rests_until > now]
        yield from awake
        yield from sorted(resting, key=lambda one: one.rests_until)

    def wakes_at(self) -> float:
        """When the first of them may be asked."""
        return min(one.rests_until for one in self.all)

    def troubles(self) -> str:
        """What is wrong, endpoint by endpoint."""
        return "; ".join(f"{one.name}: {one.trouble}" for one in self.all if one.trouble)
