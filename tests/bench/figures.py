"""What was measured, beside what is wanted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and, where there is a goal, the most that it may be."""

    what: str
    value: float
    unit: str = ""
    goal: float | None = None

    @property
    def missed(self) -> bool:
        return self.goal is not None and self.value > self.goal

    def __str__(self) -> str:
        text = f"{self.what:<58}{self.value:>10.2f} {self.unit}"
        if self.goal is None:
            return text
        return f"{text:<74} goal: {self.goal:g}{'  MISSED' if self.missed else ''}"


def show(figures: Sequence[Figure]) -> int:
    """Print them all; 1 when a goal was missed, else 0."""
    for one in figures:
        print(one, flush=True)
    return int(any(one.missed for one in figures))


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value below or at which so many of the values are."""
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]
