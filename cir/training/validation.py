"""The result of a validation on held-out training data, whatever the task."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Validation:
    """How good a model is on held-out training data. Tasks extend it with their own figures.

    Attributes:
        headline: decides which checkpoint is kept; higher is better.
    """

    headline: float

    @property
    def figures(self) -> dict[str, float]:
        """Every figure by the name it has in logs and in the model's card."""
        return {"headline": self.headline}

    @property
    def summary(self) -> dict[str, float]:
        """The figures for a progress line."""
        return self.figures

    def to_json(self) -> dict[str, float]:
        """The figures for the model's card, to four digits."""
        return {name: round(value, 4) for name, value in self.figures.items()}
