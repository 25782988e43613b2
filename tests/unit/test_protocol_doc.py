"""The protocol page and the phase diagram say what the code says."""

from __future__ import annotations

import pytest

from market.agreement import TRANSITIONS, Phase
from market.messages import KINDS
from scripts import protocol


def test_the_protocol_page_is_generated() -> None:
    assert protocol.PROTOCOL.read_text(encoding="utf-8") == protocol.protocol()


def test_the_phase_diagram_is_generated() -> None:
    text = protocol.ARCHITECTURE.read_text(encoding="utf-8")
    assert protocol.architecture(text) == text


def test_every_message_and_every_transition_is_told() -> None:
    page = protocol.protocol()
    assert [word for word in KINDS if f"### {word}\n" not in page] == []
    steps = [(a.name, b.name) for a, following in TRANSITIONS.items() for b in following]
    assert [
        step for step in steps if f"    {step[0]} --> {step[1]}\n" not in protocol.phases()
    ] == []


def test_a_new_transition_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    text = protocol.ARCHITECTURE.read_text(encoding="utf-8")
    changed = {**TRANSITIONS, Phase.SETTLED: frozenset({Phase.VOID})}
    monkeypatch.setattr(protocol, "TRANSITIONS", changed)
    assert protocol.architecture(text) != text
