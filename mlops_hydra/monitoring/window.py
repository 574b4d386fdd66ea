"""Current data, counted over the grids of a profile: what drift is judged from, whatever the number of rows.

Rows come in any parts, and windows of parts add up to the window of all. Nothing is kept of a row but its counts.
Not here: the judgement (`judging.py`), and reading files or logs.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np

from mlops_hydra.data.values import FloatArray, Values
from mlops_hydra.errors import UsageError
from mlops_hydra.monitoring.counts import CategoryCounts, Counts, NumericCounts, search_keys
from mlops_hydra.monitoring.profile import (
    CategoryProfile,
    ColumnProfile,
    Moments,
    NumericProfile,
    Profile,
    merged_losses,
)
from mlops_hydra.monitoring.reading import read_categories, read_floats
from mlops_hydra.monitoring.result import Part

MAX_EXTRA: Final = 1000


class Window:
    """Counts of rows over a profile's grids, of its `features` and `outputs` by their names.

    `absent` names features that some added table lacked, `extra` columns that are no features.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.num_rows = 0
        self.absent: set[str] = set()
        self.extra: set[str] = set()
        self.features: dict[str, Counts] = {column.name: _empty(column) for column in profile.features}
        self.outputs: dict[str, Counts] = {column.name: _empty(column) for column in profile.outputs}
        self.losses: dict[str, Moments] = {}
        self._grids = {column.name: _Grid(column) for column in profile.features}
        self._output_grids = {column.name: _Grid(column) for column in profile.outputs}

    def add(
        self, columns: Mapping[str, Values], num_rows: int, *, ordered: dict[str, FloatArray] | None = None
    ) -> None:
        """Count a table; what is not asked of it (the target, ids) is left out beforehand.

        Args:
            ordered: is given the numbers of each numeric feature, in order: they are sorted to be counted.
        """
        self.num_rows += num_rows
        for name, grid in self._grids.items():
            values = columns.get(name)
            if values is None:
                self.absent.add(name)
            else:
                numbers = grid.count(values, self.features[name])
                if ordered is not None and numbers is not None:
                    ordered[name] = numbers
        if len(self.extra) < MAX_EXTRA:
            self.extra.update(name for name in columns if name not in self._grids)

    def add_outputs(self, columns: Mapping[str, Values]) -> None:
        """Count `prediction` (labels as in the data, or numbers) and `confidence`, as far as the profile has them."""
        for name, values in columns.items():
            if name in self._output_grids:
                self._output_grids[name].count(values, self.outputs[name])

    def add_losses(self, losses: Mapping[str, FloatArray]) -> None:
        """Losses [m] of rows whose target is known, by name; NaN is left out."""
        self.losses = merged_losses(
            self.losses, {name: Moments.of(np.asarray(values, dtype=np.float64)) for name, values in losses.items()}
        )

    def counts(self, part: Part, name: str) -> Counts:
        """Of a feature, or of an output (part prediction)."""
        return (self.features if part == "feature" else self.outputs)[name]

    def numeric(self, part: Part, name: str) -> NumericCounts:
        """As `counts`, of numbers or dates."""
        counts = self.counts(part, name)
        assert isinstance(counts, NumericCounts), f"{name} is no number"
        return counts

    def categorical(self, part: Part, name: str) -> CategoryCounts:
        """As `counts`, of categories or booleans."""
        counts = self.counts(part, name)
        assert isinstance(counts, CategoryCounts), f"{name} is no category"
        return counts

    def merged(self, other: "Window") -> "Window":
        """The window of the rows of both.

        Raises:
            UsageError: their profiles have different columns or grids.
        """
        if not have_same_grids(self.profile, other.profile):
            raise UsageError("windows can be merged only where their profiles have the same columns and grids")
        both = Window(self.profile)
        both.num_rows = self.num_rows + other.num_rows
        both.absent, both.extra = self.absent | other.absent, self.extra | other.extra
        both.features = {name: _added(counts, other.features[name]) for name, counts in self.features.items()}
        both.outputs = {name: _added(counts, other.outputs[name]) for name, counts in self.outputs.items()}
        both.losses = merged_losses(self.losses, other.losses)
        return both


class _Grid:
    """What it takes to count a column's values."""

    def __init__(self, column: ColumnProfile) -> None:
        self.kind = column.kind
        self.keys = search_keys(column.edges) if isinstance(column, NumericProfile) else np.empty(0)
        categories = column.categories if isinstance(column, CategoryProfile) else ()
        self.codes = {text: code for code, text in enumerate(categories)}

    def count(self, values: Values, counts: Counts) -> FloatArray | None:
        """Numbers come back in order."""
        if isinstance(counts, NumericCounts):
            numbers, num_unreadable = read_floats(values, self.kind)
            return counts.add(numbers, self.keys, num_unreadable)
        read = read_categories(values, self.kind)
        counts.add(read.counts, self.codes)
        counts.num_missing += read.num_missing
        counts.num_unreadable += read.num_unreadable
        return None


def _empty(column: ColumnProfile) -> Counts:
    if isinstance(column, CategoryProfile):
        return CategoryCounts(np.zeros(len(column.categories) + 1, dtype=np.int64))
    weekdays = np.zeros(7, dtype=np.int64) if column.kind == "date" else None
    return NumericCounts(np.zeros(len(column.edges) + 1, dtype=np.int64), weekdays=weekdays)


def _added(some: Counts, others: Counts) -> Counts:
    if isinstance(some, NumericCounts) and isinstance(others, NumericCounts):
        return some.merged(others)
    assert isinstance(some, CategoryCounts) and isinstance(others, CategoryCounts), "of the same kind"
    return some.merged(others)


def have_same_grids(one: Profile, other: Profile) -> bool:
    """Whether what is counted over the one is counted over the other."""
    if one is other:
        return True
    pairs = ((one.features, other.features), (one.outputs, other.outputs))
    return all(len(a) == len(b) and all(map(_has_same_grid, a, b)) for a, b in pairs)


def _has_same_grid(one: ColumnProfile, other: ColumnProfile) -> bool:
    if (one.name, one.kind) != (other.name, other.kind):
        return False
    if isinstance(one, NumericProfile) and isinstance(other, NumericProfile):
        return np.array_equal(one.edges, other.edges)
    return (
        isinstance(one, CategoryProfile) and isinstance(other, CategoryProfile) and one.categories == other.categories
    )
