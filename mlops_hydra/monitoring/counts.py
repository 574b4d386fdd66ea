"""What is counted of one column: values in the cells of its grid or by category, and those that are none.

Counts of the same grid add up exactly, in whatever parts the rows come. Not here: grids (`grid.py`), and what the
counts are compared with.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.grid import LARGEST

MAX_UNSEEN: Final = 1000
_MAX_LETTERS: Final = 200  # of the name of an unseen category: what comes from strangers is bounded


@dataclass(slots=True, eq=False)
class NumericCounts:
    """Numbers, or dates as days, in the cells [k+1] of k edges.

    Infinities are in `cells`, too. `below` and `above` sum up by how much finite values lie outside of the range of
    the grid. `weekdays` [7], of dates only, begins on Monday.
    """

    cells: IntArray
    num_missing: int = 0
    num_unreadable: int = 0
    num_infinite: int = 0
    below: float = 0.0
    above: float = 0.0
    weekdays: IntArray | None = None

    @property
    def num_values(self) -> int:
        """Rows with a number, infinite ones included."""
        return int(self.cells.sum())

    @property
    def num_rows(self) -> int:
        """All of them."""
        return self.num_values + self.num_missing + self.num_unreadable

    def add(self, numbers: FloatArray, keys: FloatArray, num_unreadable: int = 0) -> FloatArray:
        """Count numbers [n], NaN where missing or unreadable; returns the others in order.

        Sorting them and looking the edges up costs three quarters of looking every number up, and tells the rest.

        Args:
            keys: `search_keys` of the grid.
        """
        ordered = numbers.copy()
        ordered.sort()  # NaN goes to the end
        found = ordered.searchsorted(keys, "right")
        cells, upto = self.cells, found[:-2]
        cells += upto
        cells[1:] -= upto[:-1]
        end, end_finite, start_finite = found[-3:].tolist()
        self.num_missing += len(ordered) - end - num_unreadable
        self.num_unreadable += num_unreadable
        self.num_infinite += end - end_finite + start_finite
        if len(upto) > 1:
            first, last = found.item(0), found.item(-4)
            if start_finite < first or last < end_finite:
                self._add_distances(ordered[start_finite:first], ordered[last:end_finite], keys)
        if self.weekdays is not None:
            self.weekdays += count_weekdays(ordered[start_finite:end_finite])
        return np.asarray(ordered[:end])

    def _add_distances(self, below: FloatArray, above: FloatArray, keys: FloatArray) -> None:
        minimum, maximum = np.nextafter(keys[0], np.inf), keys[-4]
        with np.errstate(over="ignore"):
            self.below += float((minimum - below).sum())
            self.above += float((above - maximum).sum())

    def merged(self, other: "NumericCounts") -> "NumericCounts":
        """The counts of both, over the same grid."""
        weekdays = None
        if self.weekdays is not None and other.weekdays is not None:
            weekdays = self.weekdays + other.weekdays
        return NumericCounts(
            self.cells + other.cells,
            self.num_missing + other.num_missing,
            self.num_unreadable + other.num_unreadable,
            self.num_infinite + other.num_infinite,
            self.below + other.below,
            self.above + other.above,
            weekdays,
        )


def search_keys(edges: FloatArray) -> FloatArray:
    """What `NumericCounts.add` looks up in sorted numbers: the edges, and where infinities and NaN begin."""
    return np.concatenate([edges, [np.inf, LARGEST, -np.inf]])


def count_weekdays(days: FloatArray) -> IntArray:
    """Days since 1970-01-01 [n], finite, by weekday [7], Monday first."""
    weekday = (np.floor(days).astype(np.int64) + 3) % 7  # 1970-01-01 was a Thursday
    return np.bincount(weekday, minlength=7)


@dataclass(slots=True, eq=False)
class CategoryCounts:
    """Rows of each category [c+1]; the last cell is for every other one, of which `unseen` names some."""

    cells: IntArray
    num_missing: int = 0
    num_unreadable: int = 0
    unseen: Counter[str] = field(default_factory=Counter)

    @property
    def num_values(self) -> int:
        """Rows with a category."""
        return int(self.cells.sum())

    @property
    def num_rows(self) -> int:
        """All of them."""
        return self.num_values + self.num_missing + self.num_unreadable

    def add(self, counts: Mapping[str, int], codes: Mapping[str, int]) -> None:
        """Count categories by their names; `codes` says which cell each has."""
        cells, num_others = self.cells, 0
        for text, number in counts.items():
            code = codes.get(text)
            if code is None:
                num_others += number
                self._note(text, number)
            else:
                cells[code] += number
        cells[-1] += num_others

    def merged(self, other: "CategoryCounts") -> "CategoryCounts":
        """The counts of both, of the same categories."""
        both = CategoryCounts(
            self.cells + other.cells,
            self.num_missing + other.num_missing,
            self.num_unreadable + other.num_unreadable,
            Counter(self.unseen),
        )
        for text, number in other.unseen.items():
            both._note(text, number)
        return both

    def _note(self, text: str, number: int) -> None:
        unseen = self.unseen
        text = text[:_MAX_LETTERS]
        if len(unseen) < MAX_UNSEEN or text in unseen:
            unseen[text] += number


Counts = NumericCounts | CategoryCounts
