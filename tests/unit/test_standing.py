"""Standing: what facts about strangers' agreements come to, and that a restart knows the same."""

from __future__ import annotations

from dataclasses import dataclass

from market.escrow import ChainFact, Closed, Opened, Slashed
from market.reputation import PRIOR_PPM
from market.units import UnixTime
from node.ports import ChainBatch
from node.standing import Standing

NOW = 1_800_000_000
GOOD, BAD, NEW, BUYER = (bytes([n]) * 20 for n in (1, 2, 3, 9))
TX = bytes(32)


@dataclass
class Still:
    """A clock that stands."""

    def now(self) -> UnixTime:
        return UnixTime(NOW)


@dataclass
class Kept:
    """What a journal would hold."""

    notes: dict[bytes, bytes]

    def hear(self, standing: Standing, *facts: ChainFact) -> None:
        for write in standing.witness(ChainBatch(1, NOW, facts)):
            assert write.table == "note"
            if write.data is None:
                self.notes.pop(write.key, None)
            else:
                self.notes[write.key] = write.data


def opened(number: int, provider: bytes, deposit: int = 100) -> Opened:
    return Opened(number.to_bytes(32, "big"), NOW - 50, TX, BUYER, provider, deposit, 40)


def closed(number: int, paid: int = 50) -> Closed:
    return Closed(number.to_bytes(32, "big"), paid, 0, TX)


def slashed(number: int, amount: int = 40) -> Slashed:
    return Slashed(number.to_bytes(32, "big"), amount, 20, 20, TX)


def test_strangers_are_judged_by_what_the_chain_says_of_them() -> None:
    kept = Kept({})
    standing = Standing(Still(), kept.notes)
    assert standing.reliability_ppm(NEW) == PRIOR_PPM
    for number in range(8):
        kept.hear(standing, opened(number, GOOD), opened(100 + number, BAD))
        kept.hear(standing, closed(number), slashed(100 + number), closed(100 + number, 0))
    assert standing.reliability_ppm(BAD) < 250_000 < PRIOR_PPM < standing.reliability_ppm(GOOD)
    assert standing.of(BAD) == {"agreements": 8, "slashed": 8, "paid": 0}
    assert standing.paid_for(BUYER) == 8
    assert standing.statistics()["open"] == 0


def test_a_restart_knows_the_same() -> None:
    kept = Kept({})
    standing = Standing(Still(), kept.notes)
    kept.hear(standing, opened(1, GOOD), opened(2, BAD), closed(1))
    again = Standing(Still(), kept.notes)
    kept.hear(again, slashed(2))
    third = Standing(Still(), kept.notes)
    kept.hear(third, closed(2, 0))
    kept.hear(standing, slashed(2), closed(2, 0))
    last = Standing(Still(), kept.notes)
    for wallet in (GOOD, BAD, NEW):
        assert last.reliability_ppm(wallet) == standing.reliability_ppm(wallet)
    assert standing.reliability_ppm(BAD) < PRIOR_PPM


def test_work_that_was_never_paid_earns_no_trust() -> None:
    kept = Kept({})
    standing = Standing(Still(), kept.notes)
    for number in range(50):
        kept.hear(standing, opened(number, NEW, deposit=10**9), closed(number, paid=0))
    assert standing.reliability_ppm(NEW) == PRIOR_PPM
    assert standing.paid_for(BUYER) == 0


def test_what_was_opened_before_this_node_looked_is_left_alone() -> None:
    standing = Standing(Still(), {})
    assert standing.witness(ChainBatch(1, NOW, (closed(7), slashed(8)))) == ()


def test_a_damaged_note_is_a_stranger() -> None:
    standing = Standing(Still(), {b"repute/provider/" + GOOD: b"\xff", b"repute/open/x": b""})
    assert standing.reliability_ppm(GOOD) == PRIOR_PPM
