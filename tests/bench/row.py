"""Row: one measurement beside its reference, and whether the goal holds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """`ours` and `reference` are in `unit`, measured in the same run on the same machine.

    `ratio` says how many times better ours is than the reference; `goal` is the least it may be.
    """

    name: str
    ours: float
    unit: str
    reference_name: str
    reference: float
    goal: float
    less_is_better: bool = False

    @property
    def ratio(self) -> float:
        """1 is as good as the reference, 2 twice as good."""
        better, worse = self.ours, self.reference
        if self.less_is_better:
            better, worse = worse, better
        return better / worse if worse else float("inf")

    @property
    def holds(self) -> bool:
        """Whether the goal is met."""
        return self.ratio >= self.goal

    def as_json(self) -> dict[str, object]:
        """For machines."""
        return {
            "name": self.name,
            "ours": self.ours,
            "unit": self.unit,
            "reference_name": self.reference_name,
            "reference": self.reference,
            "ratio": self.ratio,
            "goal": self.goal,
            "holds": self.holds,
        }
