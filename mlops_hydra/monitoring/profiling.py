"""The profile of a table, at once or, where it is larger than the memory, in two passes over its chunks.

The first pass learns the grids (numbers: from a uniform sample, with the range of all rows) and the categories, the
second one counts, as a `Window` does: counts are exact whatever the grids. Not here: what is done with a profile.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Kind, Task
from mlops_hydra.data.values import FloatArray, Values
from mlops_hydra.monitoring.counts import CategoryCounts, NumericCounts
from mlops_hydra.monitoring.grid import make_edges
from mlops_hydra.monitoring.profile import (
    FLAGS,
    CategoryProfile,
    ColumnProfile,
    Moments,
    NumericProfile,
    Profile,
    mean_and_deviation,
)
from mlops_hydra.monitoring.reading import read_categories, read_floats
from mlops_hydra.monitoring.window import Window

Columns = Mapping[str, Values]
SMALLEST_PROBABILITY: Final = float(np.finfo(np.float64).eps)
"""As in `evaluation/metrics.py`: log_loss stays finite."""

_MAX_KNOWN: Final = 100_000


def profile_columns(
    columns: Columns, kinds: Mapping[str, Kind], *, bins: int, max_categories: int, num_rows: int
) -> tuple[ColumnProfile, ...]:
    """A profile of each column [num_rows] in `kinds`; one that is not in the table is missing in every row."""
    scan = _Scan(kinds, sample_rows=num_rows, seed=0)
    scan.add(columns, num_rows)
    return _counted(scan.profiles(bins, max_categories), [(columns, num_rows)], num_rows)


def profile_chunks(
    chunks: Callable[[], Iterable[Columns]],
    kinds: Mapping[str, Kind],
    *,
    bins: int,
    max_categories: int,
    sample_rows: int = 200_000,
    seed: int = 0,
) -> tuple[int, tuple[ColumnProfile, ...]]:
    """As `profile_columns`, of chunks that are read twice; also the number of rows.

    Memory is bounded: `sample_rows` of each numeric column, and at most 100,000 different categories of each other
    one (where there are more, those that were rare so far are forgotten now and then).
    """
    scan = _Scan(kinds, sample_rows=sample_rows, seed=seed)
    for chunk in chunks():
        scan.add(chunk, count_rows(chunk))
    counted = ((chunk, count_rows(chunk)) for chunk in chunks())
    return scan.num_rows, _counted(scan.profiles(bins, max_categories), counted, scan.num_rows)


def count_rows(columns: Columns) -> int:
    """Of the longest column."""
    return max(map(len, columns.values()), default=0)


def row_losses(task: Task, targets: NDArray[Any], outputs: NDArray[Any]) -> dict[str, FloatArray]:
    """What the model loses on each row [m]; `Moments.of` these belong into a profile.

    Args:
        targets: class codes [m], or numbers [m] in units of the target.
        outputs: probabilities [m, classes], or numbers [m].
    """
    outputs = np.asarray(outputs, dtype=np.float64)
    if task == "regression":
        errors = np.asarray(targets, dtype=np.float64) - outputs
        return {"absolute_error": np.abs(errors), "squared_error": errors**2}
    codes = np.asarray(targets, dtype=np.int64)
    picked = np.maximum(outputs[np.arange(len(codes)), codes], SMALLEST_PROBABILITY)
    wrong = (outputs.argmax(axis=1) != codes).astype(np.float64)
    return {"error_rate": wrong, "log_loss": -np.log(picked)}


def _counted(
    profiles: tuple[ColumnProfile, ...], chunks: Iterable[tuple[Columns, int]], num_rows: int
) -> tuple[ColumnProfile, ...]:
    window = Window(Profile(num_rows, profiles))
    for columns, rows in chunks:
        window.add(columns, rows)
    done: list[ColumnProfile] = []
    for profile in profiles:
        counts = window.features[profile.name]
        counts.num_missing += num_rows - counts.num_rows  # of chunks without this column
        if isinstance(profile, NumericProfile) and isinstance(counts, NumericCounts):
            done.append(replace(profile, counts=counts))
        elif isinstance(profile, CategoryProfile) and isinstance(counts, CategoryCounts):
            counts.unseen.clear()  # rare categories name persons
            done.append(replace(profile, counts=counts))
    return tuple(done)


class _Scan:
    """The first pass. The rows with the smallest of random keys, one a row, are the sample, whatever the chunks are."""

    def __init__(self, kinds: Mapping[str, Kind], *, sample_rows: int, seed: int) -> None:
        self.num_rows, self.sample_rows = 0, sample_rows
        self.rng = np.random.default_rng(seed)
        self.keys: FloatArray = np.empty(0)
        self.threshold = np.inf
        self.numbers = {name: _Numbers(kind) for name, kind in kinds.items() if kind in {"numeric", "date"}}
        self.categories = {name: _Categories(kind) for name, kind in kinds.items() if name not in self.numbers}
        self.names = tuple(kinds)

    def add(self, columns: Columns, num_rows: int) -> None:
        self.num_rows += num_rows
        keys = self.rng.random(num_rows)
        chosen = keys < self.threshold
        self.keys = np.concatenate([self.keys, keys[chosen]])
        for name, numbers in self.numbers.items():
            numbers.add(columns.get(name, np.full(num_rows, np.nan)), chosen)
        for name, categories in self.categories.items():
            if name in columns:
                categories.add(columns[name])
        if len(self.keys) > 1.25 * self.sample_rows:
            self._thin()

    def _thin(self) -> None:
        if len(self.keys) > self.sample_rows:
            chosen = np.argsort(self.keys, kind="stable")[: self.sample_rows]
            self.keys = self.keys[chosen]
            self.threshold = self.keys.max(initial=0.0)
            for numbers in self.numbers.values():
                numbers.sample = [np.concatenate(numbers.sample)[chosen]]

    def profiles(self, bins: int, max_categories: int) -> tuple[ColumnProfile, ...]:
        """Without counts."""
        self._thin()
        return tuple(
            self.numbers[name].profile(name, bins)
            if name in self.numbers
            else self.categories[name].profile(name, max_categories)
            for name in self.names
        )


class _Numbers:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.moments = Moments(0, 0.0, 0.0)
        self.minimum, self.maximum = np.inf, -np.inf
        self.sample: list[FloatArray] = []

    def add(self, values: Values, chosen: NDArray[np.bool_]) -> None:
        numbers, _ = read_floats(values, self.kind)
        finite = numbers[np.isfinite(numbers)]
        self.moments = self.moments.merged(Moments.of(finite))
        self.minimum = min(self.minimum, finite.min(initial=np.inf))
        self.maximum = max(self.maximum, finite.max(initial=-np.inf))
        self.sample.append(numbers[chosen])

    def profile(self, name: str, bins: int) -> NumericProfile:
        edges = self._edges(bins)
        counts = NumericCounts(np.zeros(len(edges) + 1, dtype=np.int64))
        kind: Literal["numeric", "date"] = "date" if self.kind == "date" else "numeric"
        return NumericProfile(name, kind, edges, counts, *mean_and_deviation(self.moments))

    def _edges(self, bins: int) -> FloatArray:
        sampled = np.concatenate([np.empty(0), *self.sample])
        if np.isfinite(sampled).sum() == self.moments.n:
            return make_edges(sampled, bins=bins)
        weights = np.concatenate([np.ones(len(sampled)), [0.0, 0.0]])  # the range is that of all rows
        return make_edges(np.concatenate([sampled, [self.minimum, self.maximum]]), bins=bins, weights=weights)


class _Categories:
    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.counts: Counter[str] = Counter()

    def add(self, values: Values) -> None:
        self.counts.update(read_categories(values, self.kind).counts)
        if len(self.counts) > _MAX_KNOWN:
            self.counts = Counter(dict(self.counts.most_common(_MAX_KNOWN // 2)))

    def profile(self, name: str, max_categories: int) -> CategoryProfile:
        if self.kind == "boolean":
            return CategoryProfile(name, "boolean", FLAGS, CategoryCounts(np.zeros(3, dtype=np.int64)))
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        categories = tuple(sorted(text for text, _ in ordered[:max_categories]))  # as `fit_feature` has them
        return CategoryProfile(name, "categorical", categories, CategoryCounts(np.zeros(len(categories) + 1, np.int64)))
