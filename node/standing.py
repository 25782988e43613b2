"""Standing: who has kept their word, by what the chain says of ALL agreements, not only ours.

It hears every confirmed fact inside the keeper's beat, and what it learns is journaled with the
block that taught it: a restarted node knows the same. Nobody's own claims count. How outcomes are
weighed is `market/reputation`'s rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Final

from market.codec import U40, U96, Address, Count, decode, encode
from market.errors import CodecError
from market.escrow import ChainFact, Closed, Opened, Slashed
from market.limits import RECORD_BYTES_MAX
from market.reputation import HISTORY_MAX, Outcome, reliability_ppm
from market.units import PPM
from node.ports import ChainBatch, Clock, Write

OPEN_MAX: Final = 65_536  # agreements of strangers that are followed to their end, the latest ones
WALLETS_MAX: Final = 16_384  # wallets whose outcomes are kept, those that changed last
USUAL_LAST: Final = 255  # outcomes of all that say what money is usual
USUAL_MONEY: Final = 1_000_000  # before any outcome is known: one token of six decimals
_PROVIDER = b"repute/provider/"
_REQUESTER = b"repute/requester/"
_OPEN = b"repute/open/"


@dataclass(frozen=True, slots=True)
class Stakes:
    """Who has what at stake in an open agreement; `slashed` of the collateral is gone already."""

    requester: Address
    provider: Address
    deposit: U96
    collateral: U96
    opened_at_s: U40
    slashed: U96 = 0


@dataclass(frozen=True, slots=True)
class Record:
    """How one wallet's agreements ended, oldest first."""

    outcomes: Annotated[tuple[Outcome, ...], Count(0, HISTORY_MAX)] = ()


class Standing:
    """What this node knows of everybody's past."""

    def __init__(self, clock: Clock, notes: Mapping[bytes, bytes]) -> None:
        """`notes` are the keeper's, as journaled."""
        self._clock = clock
        self._open: dict[bytes, Stakes] = {}
        self._providers: dict[bytes, Record] = {}
        self._requesters: dict[bytes, Record] = {}
        self._usual: list[int] = []
        self.changes = 0
        for key, data in sorted(notes.items()):
            self._read(key, data)
        ended = [o for record in self._providers.values() for o in record.outcomes]
        ended.sort(key=lambda o: (o.at_s, o.money))
        self._usual = [o.money for o in ended if o.money][-USUAL_LAST:]

    def _read(self, key: bytes, data: bytes) -> None:
        try:
            if key.startswith(_OPEN):
                self._open[key.removeprefix(_OPEN)] = decode(Stakes, data)
            for prefix, records in ((_PROVIDER, self._providers), (_REQUESTER, self._requesters)):
                if key.startswith(prefix):
                    record = decode(Record, data, size_max=RECORD_BYTES_MAX)
                    records[key.removeprefix(prefix)] = record
        except CodecError:
            return  # of another version: a stranger again

    # What the chain says.

    def witness(self, batch: ChainBatch) -> tuple[Write, ...]:
        """Take a batch of facts to heart; returns what has to be journaled with it."""
        writes: dict[bytes, Write] = {}
        for fact in batch.facts:
            for write in self._hear(fact, batch.at_s):
                writes[write.key] = write
        return tuple(writes.values())

    def _hear(self, fact: ChainFact, at_s: int) -> list[Write]:
        match fact:
            case Opened(agreement=id_, at_s=opened_at_s) if fact.provider:
                stakes = Stakes(fact.requester, fact.provider, fact.deposit, fact.collateral,
                                opened_at_s)  # fmt: skip
                self._open[id_] = stakes
                forgotten = [] if len(self._open) <= OPEN_MAX else [next(iter(self._open))]
                for old in forgotten:
                    del self._open[old]
                return [Write("note", _OPEN + id_, encode(stakes)),
                        *(Write("note", _OPEN + old, None) for old in forgotten)]  # fmt: skip
            case Slashed(agreement=id_, slashed=slashed) if id_ in self._open:
                self._open[id_] = replace(self._open[id_], slashed=slashed)
                return [Write("note", _OPEN + id_, encode(self._open[id_]))]
            case Closed(agreement=id_, paid=paid) if id_ in self._open:
                return [*self._closed(self._open.pop(id_), paid, at_s),
                        Write("note", _OPEN + id_, None)]  # fmt: skip
            case _:
                return []

    def _closed(self, stakes: Stakes, paid: int, at_s: int) -> list[Write]:
        """An end in order weighs what was paid for; a slash what could have been."""
        self.changes += 1
        share = min(PPM, stakes.slashed * PPM // max(1, stakes.collateral))
        outcome = Outcome(at_s, stakes.deposit if stakes.slashed else paid, share)
        self._usual = [*self._usual, *([outcome.money] if outcome.money else [])][-USUAL_LAST:]
        mine = Outcome(at_s, paid, 0)
        return [
            *_add(self._providers, _PROVIDER, stakes.provider, outcome),
            *_add(self._requesters, _REQUESTER, stakes.requester, mine),
        ]

    # What follows.

    def reliability_ppm(self, provider: bytes) -> int:
        """The chance that a provider's wallet ends its next agreement in order, in ppm.

        A wallet without a past has `market.reputation.PRIOR_PPM`.
        """
        outcomes = self._providers.get(provider, Record()).outcomes
        return reliability_ppm(outcomes, self._clock.now(), usual_money=self._usual_money())

    def paid_for(self, requester: bytes) -> int:
        """How many agreements of a requester's wallet ended with something paid, as far as kept."""
        outcomes = self._requesters.get(requester, Record()).outcomes
        return sum(1 for outcome in outcomes if outcome.money)

    def of(self, provider: bytes) -> dict[str, int]:
        """A provider's past in numbers, for people: agreements, slashed, base units paid."""
        outcomes = self._providers.get(provider, Record()).outcomes
        return {
            "agreements": len(outcomes),
            "slashed": sum(1 for outcome in outcomes if outcome.slashed_ppm),
            "paid": sum(outcome.money for outcome in outcomes if not outcome.slashed_ppm),
        }

    def _usual_money(self) -> int:
        return sorted(self._usual)[len(self._usual) // 2] if self._usual else USUAL_MONEY

    def statistics(self) -> dict[str, int]:
        """Counters for people and metrics."""
        return {
            "open": len(self._open),
            "providers": len(self._providers),
            "requesters": len(self._requesters),
        }


def _add(
    records: dict[bytes, Record], prefix: bytes, wallet: bytes, outcome: Outcome
) -> list[Write]:
    """Keep an outcome under its wallet; whoever changed longest ago makes room."""
    before = records.pop(wallet, Record())
    records[wallet] = Record((*before.outcomes, outcome)[-HISTORY_MAX:])
    writes = [Write("note", prefix + wallet, encode(records[wallet]))]
    if len(records) > WALLETS_MAX:
        oldest = next(iter(records))
        del records[oldest]
        writes.append(Write("note", prefix + oldest, None))
    return writes
