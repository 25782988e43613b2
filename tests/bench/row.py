"""Row: one measured figure beside its reference. The contract of every bench area."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`ratio` is ours over the reference; `goal` says in words what must hold."""

    name: str
    ours: float
    unit: str
    reference_name: str
    reference: float
    ratio: float
    goal: str
    holds: bool


def row(
    name: str, ours: float, unit: str, against: tuple[str, float], goal: str, holds: bool
) -> Row:
    """A row with its ratio worked out; a reference of 0 means there is none."""
    reference_name, reference = against
    return Row(
        name,
        round(ours, 4),
        unit,
        reference_name,
        reference,
        round(ours / reference, 4) if reference else 0.0,
        goal,
        holds,
    )
