"""The figures of one generated trace, written down: a change of any of them is a decision.

Rewrite with `python -m node.cli.simulate --jobs 60 --units 16 --seed 7 [--preempt] --json`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from node.cli.simulate import simulate

HERE = Path(__file__).parent


@pytest.mark.parametrize(
    ("name", "preempt"), [("simulate_seed7", False), ("simulate_seed7_preempt", True)]
)
def test_figures_are_as_written_down(
    name: str, preempt: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate(jobs=60, units=16, seed=7, preempt=preempt, as_json=True)
    found = json.loads(capsys.readouterr().out)
    written = json.loads((HERE / f"{name}.json").read_text())
    assert [one["policy"] for one in found] == [one["policy"] for one in written]
    for ours, theirs in zip(found, written, strict=True):
        # Not to the last bit: the logarithm of another machine's libm may differ there.
        for key, value in theirs.items():
            assert ours[key] == (pytest.approx(value, rel=1e-6) if key != "policy" else value)
