"""Story: the line that an event leaves in an agreement's story; what comes each second leaves none.

Knows no journal: who calls it writes down what it says.
"""

from __future__ import annotations

from typing import Final

from market.agreement import Agreement
from market.escrow import ChainFact
from market.events import (
    BeatHeard,
    BeatMade,
    BeatTaken,
    Event,
    LogPulled,
    Looked,
    Staging,
    Ticked,
)
from market.messages import WorkState
from market.units import UnixTime
from node.ports import LogLine

_QUIET: Final = (Ticked, Looked, Staging, BeatMade, BeatTaken, BeatHeard, LogPulled)


def line_of(
    before: Agreement, event: Event | ChainFact, after: Agreement, now: UnixTime
) -> LogLine | None:
    """What is worth a line of what `event` changed, or None."""
    kind = type(event).__name__
    if after.phase is not before.phase or not isinstance(event, _QUIET):
        text = f"{kind} -> {after.phase.value}"
        if after.ending is not before.ending:
            text += f" ({after.ending.value}: {after.reason})"
        return LogLine(now, after.id, kind, text)
    runs = before.report.work is after.report.work is WorkState.RUNNING
    if runs and after.report.reason != before.report.reason:
        return LogLine(now, after.id, "Slowed", after.report.reason or "at full speed again")
    return None
