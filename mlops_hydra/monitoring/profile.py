"""What the reference data looked like, column by column: the profile that travels with a model.

Each numeric column is a grid of quantiles with counts, each categorical one its categories with counts, and the
model's losses are their moments. It is no table, but not anonymous: the smallest and the largest number, numbers and
categories that many rows share, and quantiles (rounded, one in about a hundred values) can be read in it.
Not here: making one from data (`profiling.py`), its JSON (`profile_json.py`), comparing with it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from mlops_hydra.data.values import FloatArray
from mlops_hydra.errors import Fault, UsageError
from mlops_hydra.monitoring.counts import CategoryCounts, NumericCounts
from mlops_hydra.monitoring.grid import LARGEST, merge_cells, resolution

__all__ = [
    "CategoryCounts",
    "CategoryProfile",
    "ColumnProfile",
    "Moments",
    "NumericCounts",
    "NumericProfile",
    "Profile",
]

FLAGS = ("false", "true")
"""The categories of a boolean column."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Mean and variance (of n - 1) of n numbers; 0 where there are too few."""

    n: int
    mean: float
    variance: float

    @classmethod
    def of(cls, values: FloatArray) -> "Moments":
        """Of those of the values [m] that are not NaN."""
        known = values[~np.isnan(values)]
        if not len(known):
            return cls(0, 0.0, 0.0)
        if known.min() == known.max():  # exactly, which minus the mean is not
            return cls(len(known), float(known[0]), 0.0)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = known.mean()
            if not np.isfinite(mean):  # the sum is too large for a float; the mean is not
                mean = (known / len(known)).sum()
            variance = np.square(known - mean).sum() / (len(known) - 1)
        return cls(len(known), float(mean), float(variance))

    def merged(self, other: "Moments") -> "Moments":
        """Of all numbers (Chan, Golub and LeVeque 1983)."""
        if not self.n or not other.n:
            return self if self.n else other
        n, delta = self.n + other.n, other.mean - self.mean
        part = other.n / n
        mean = self.mean + delta * part
        if not np.isfinite(mean):
            mean = self.mean * (1 - part) + other.mean * part
        squares = self.variance * (self.n - 1) + other.variance * (other.n - 1) + delta * delta * self.n * part
        return Moments(n, mean, squares / (n - 1))


def merged_losses(some: Mapping[str, Moments], others: Mapping[str, Moments]) -> dict[str, Moments]:
    """Of all rows; those of one side alone stay as they are."""
    none = Moments(0, 0.0, 0.0)
    return {name: some.get(name, none).merged(others.get(name, none)) for name in dict.fromkeys([*some, *others])}


@dataclass(frozen=True, slots=True, eq=False)
class NumericProfile:
    """Numbers, or dates as days since 1970-01-01.

    `mean` (NaN without values) and `deviation` are of the finite values. `uncertainty` bounds the error of the
    cumulated shares at the edges; it is 0 unless profiles with different grids were merged.
    """

    name: str
    kind: Literal["numeric", "date"]
    edges: FloatArray
    counts: NumericCounts
    mean: float
    deviation: float
    uncertainty: float = 0.0

    @property
    def minimum(self) -> float:
        """Of the finite values; NaN if there are none."""
        return float(np.nextafter(self.edges[0], np.inf)) if len(self.edges) else float("nan")

    @property
    def maximum(self) -> float:
        """Of the finite values; NaN if there are none."""
        return float(self.edges[-1]) if len(self.edges) else float("nan")

    @property
    def spread(self) -> float:
        """How wide the column is, as the standard deviation of a normal one, with outliers left aside; 0 if constant.

        The smaller of the standard deviation and the interquartile range / 1.349, where that is not 0.
        """
        inner = np.cumsum(self.counts.cells[1:-1])
        if not len(inner) or not inner[-1]:
            return self.deviation
        low, high = np.interp([0.25, 0.75], inner / inner[-1], np.maximum(self.edges[1:], -LARGEST))
        with np.errstate(over="ignore"):
            by_quartiles = high / 1.349 - low / 1.349
        is_wide = by_quartiles > 1e-9 * self.deviation  # a point's two edges differ by an ulp
        return float(min(self.deviation, by_quartiles)) if is_wide else self.deviation

    @property
    def resolution(self) -> float:
        """How wide the interval is in which the Kolmogorov-Smirnov statistic of the full data lies.

        It is [D - uncertainty, D + uncertainty + the grid's own resolution] with D from the cells.
        """
        return resolution(self.edges, self.counts.cells) + 2 * self.uncertainty

    @property
    def moments(self) -> Moments:
        """Of the finite values."""
        n = self.counts.num_values - self.counts.num_infinite
        return Moments(n, self.mean if n else 0.0, self.deviation * self.deviation)

    def merged(self, other: "NumericProfile") -> "NumericProfile":
        """Of the rows of both: exact where the grids are the same."""
        moments = self.moments.merged(other.moments)
        edges, counts, error = _merged_counts(self, other)
        doubt = error + sum(p.uncertainty * p.counts.num_values for p in (self, other))
        uncertainty = min(1.0, doubt / counts.num_values) if doubt else 0.0
        return NumericProfile(self.name, self.kind, edges, counts, *mean_and_deviation(moments), uncertainty)


def mean_and_deviation(moments: Moments) -> tuple[float, float]:
    """As a profile holds them: NaN and 0 without values, and finite with some."""
    if not moments.n:
        return float("nan"), 0.0
    return moments.mean, min(float(np.sqrt(moments.variance)), LARGEST)


def _merged_counts(one: NumericProfile, other: NumericProfile) -> tuple[FloatArray, NumericCounts, float]:
    if np.array_equal(one.edges, other.edges):
        return one.edges, one.counts.merged(other.counts), 0.0
    edges, cells, error = merge_cells((one.edges, other.edges), (one.counts.cells, other.counts.cells))
    a, b = one.counts, other.counts
    weekdays = a.weekdays + b.weekdays if a.weekdays is not None and b.weekdays is not None else None
    missing, unreadable = a.num_missing + b.num_missing, a.num_unreadable + b.num_unreadable
    counts = NumericCounts(cells, missing, unreadable, a.num_infinite + b.num_infinite, weekdays=weekdays)
    return edges, counts, error


@dataclass(frozen=True, slots=True, eq=False)
class CategoryProfile:
    """Categories, or booleans, whose categories are false and true."""

    name: str
    kind: Literal["categorical", "boolean"]
    categories: tuple[str, ...]
    counts: CategoryCounts

    def merged(self, other: "CategoryProfile") -> "CategoryProfile":
        """Of the rows of both; a category that only one of them has was none, or rare, in the other."""
        if self.categories == other.categories:
            return CategoryProfile(self.name, self.kind, self.categories, self.counts.merged(other.counts))
        categories = tuple(sorted({*self.categories, *other.categories}))
        counts = self._over(categories).merged(other._over(categories))
        return CategoryProfile(self.name, self.kind, categories, counts)

    def _over(self, categories: tuple[str, ...]) -> CategoryCounts:
        known = dict(zip(self.categories, self.counts.cells.tolist(), strict=False))
        cells = np.array([*(known.get(text, 0) for text in categories), self.counts.cells[-1]], dtype=np.int64)
        return CategoryCounts(cells, self.counts.num_missing, self.counts.num_unreadable, self.counts.unseen)


ColumnProfile = NumericProfile | CategoryProfile


@dataclass(frozen=True, eq=False)
class Profile:
    """All columns of `num_rows` rows, and what a model made of such rows (which may be others).

    outputs: `prediction` and, for classes, `confidence`. losses, by row: `error_rate` and `log_loss`, or
    `absolute_error` and `squared_error`.
    """

    num_rows: int
    features: tuple[ColumnProfile, ...]
    outputs: tuple[ColumnProfile, ...] = ()
    losses: Mapping[str, Moments] = field(default_factory=dict)

    def to_json(self) -> str:
        """JSON text, one line a column; `from_json` gives an equal profile back.

        The names of categories that are not the profile's (`unseen`) are left out.
        """
        from mlops_hydra.monitoring.profile_json import dump

        return dump(self)

    @classmethod
    def from_json(cls, text: str) -> "Profile":
        """The profile that `to_json` wrote.

        Raises:
            DataError: it is none, or of another version.
        """
        from mlops_hydra.monitoring.profile_json import load

        return load(text)

    def merged(self, other: "Profile") -> "Profile":
        """Of the rows of both, with the columns in the order of this one.

        Raises:
            UsageError: the columns differ, or their kinds.
        """
        return Profile(
            self.num_rows + other.num_rows,
            _merged_columns(self.features, other.features),
            _merged_columns(self.outputs, other.outputs),
            merged_losses(self.losses, other.losses),
        )


def _merged_columns(some: tuple[ColumnProfile, ...], others: tuple[ColumnProfile, ...]) -> tuple[ColumnProfile, ...]:
    kinds, other_kinds = ({column.name: column.kind for column in columns} for columns in (some, others))
    differ = [name for name in {**kinds, **other_kinds} if kinds.get(name) != other_kinds.get(name)]
    if differ:
        rule = "must be in both profiles, of the same kind, for them to be merged"
        faults = [Fault(f"column {n!r}", rule, f"{kinds.get(n)} and {other_kinds.get(n)}") for n in differ]
        raise UsageError(faults)
    by_name = {column.name: column for column in others}
    return tuple(_merged_column(column, by_name[column.name]) for column in some)


def _merged_column(one: ColumnProfile, other: ColumnProfile) -> ColumnProfile:
    if isinstance(one, NumericProfile) and isinstance(other, NumericProfile):
        return one.merged(other)
    assert isinstance(one, CategoryProfile)
    assert isinstance(other, CategoryProfile)
    return one.merged(other)
