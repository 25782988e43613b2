"""A small slice of the soak; `./run bench chain` runs it whole."""

from __future__ import annotations

from tests.adapters.ethereum.soak import run_soak


async def test_agreements_end_and_money_adds_up_over_losses_and_reorganisations() -> None:
    report = await run_soak(12, 4, seed=3, reorg_every=9, pause_s=0.05)
    assert sum(report.fates.values()) == 12
    assert report.reorganisations > 0
    assert report.lost > 0
    assert report.differences == []
    assert report.told_amiss == 0
    assert report.returned + report.burned == report.minted
