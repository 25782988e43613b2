"""The machine's wall clock. Knows nothing of monotonic time, which belongs to trio."""

from __future__ import annotations

import time

from market.units import UnixTime


class SystemClock:
    """Wall-clock time, as NTP keeps it; it may step backwards."""

    def now(self) -> UnixTime:
        """Seconds since 1970."""
        return UnixTime(time.time())
