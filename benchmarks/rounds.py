"""Measuring side by side: every competitor once a round, and ratios only within a round.

The order is reversed on odd rounds, so that a machine that slows down slows all alike. Absolute times of two
invocations say nothing beside each other.
"""

import gc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

T = TypeVar("T")


def interleaved(competitors: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """What each competitor returned, a value a round; a first round, which pays for imports and caches, is left out."""
    measured: dict[str, list[T]] = {name: [] for name in competitors}
    for number in range(rounds + 1):
        names = list(competitors)
        for name in names if number % 2 else reversed(names):
            gc.collect()
            value = competitors[name]()
            if number:
                measured[name].append(value)
    return measured


@dataclass(frozen=True, slots=True)
class Ratio:
    """One thing over another: median and extremes of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> "Ratio":
        """Round by round."""
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        return cls(statistics.median(ratios), min(ratios), max(ratios))

    def __str__(self) -> str:
        return f"{self.median:5.2f} ({self.low:.2f}-{self.high:.2f})"


def print_target(what: str, ratio: Ratio, relation: Literal["<=", ">="], limit: float) -> None:
    """One line: the ratio, what it should be, and whether it is."""
    met = ratio.median <= limit if relation == "<=" else ratio.median >= limit
    print(f"  {what:<52} {ratio!s:<20} {relation} {limit:<5} {'met' if met else 'MISSED'}")
