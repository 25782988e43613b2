"""Reputation, live: who was slashed ranks worse in every book, whatever it says of itself."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from market.job import JobState
from market.reputation import PRIOR_PPM
from tests.simulation.world import MILLION, Machine, open_world


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


def _believed(looker: Machine, of: Machine) -> float:
    assert looker.control is not None
    rows = looker.control.market.offers()
    (row,) = (row for row in rows if row["peer"] == of.signer.peer.hex())
    return float(row["reliability"])


@pytest.mark.parametrize("seed", [61])
async def test_a_slashed_provider_is_believed_by_nobody(
    seed: int, autojump_clock: MockClock
) -> None:
    async with open_world(seed) as world:
        bad = world.add("bad", units=1, price=MILLION)
        good = world.add("good", units=1, price=MILLION + 100)
        victim, stranger = world.add("victim"), world.add("stranger")
        for machine in world.machines.values():
            await machine.start()
        await trio.sleep(10)
        assert _believed(stranger, bad) == _believed(stranger, good) == PRIOR_PPM / 1e6
        job_id = await world.submit(victim, "work 40", value_of_time="0")
        await trio.sleep(15)
        assert bad.sandbox.work, "the cheaper one was chosen"
        await bad.power_cut()
        await world.until_over(victim, job_id, 300)
        await world.until_settled(60)
        await bad.start()
        await trio.sleep(12)
        for looker in (stranger, victim, good, bad):
            assert _believed(looker, bad) < 0.75 < _believed(looker, good)
        await stranger.crash()
        await stranger.start()
        await trio.sleep(12)
        assert _believed(stranger, bad) < 0.75, "it is in the journal"
        # A little dearer is cheaper than a broken promise: in the eyes of who never dealt with it.
        job_id = await world.submit(stranger, "work 20", value_of_time="1")
        job = await world.until_over(stranger, job_id, 120)
        assert job.state is JobState.SUCCEEDED
        (attempt,) = world.requesters_agreements(stranger)
        assert attempt["peer"] == good.signer.peer.hex()
