"""Which rows train, which validate, which test.

`assign` decides it from the configuration, the seed and what must not be torn apart; sources call it and fill `Splits`.
Not here: reading data, and checking that the result can be learnt from (`checks.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.config.schema import SplitConfig
from mlops_hydra.config.section import Task
from mlops_hydra.data.encoding import ClassLabel, FeatureSchema
from mlops_hydra.data.frames import as_array, as_columns
from mlops_hydra.data.values import IntArray, read_values
from mlops_hydra.errors import DataError, Fault, nearest

if TYPE_CHECKING:
    from torch.utils.data import Dataset

SPLITS: Final = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)


@dataclass(frozen=True)
class Table:
    """The rows of one split, as they came.

    targets: int64 class codes [n] or float64 [n]. rows: int64 [n], counted from 0 in the source. ids, groups: the
    values [n] that must not appear in two splits, if the configuration names such columns. others: the columns that
    are neither features nor the target.
    """

    features: pd.DataFrame
    targets: NDArray[Any]
    rows: IntArray
    ids: NDArray[Any] | None = None
    groups: NDArray[Any] | None = None
    others: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.features)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The features as NumPy arrays, fit for `encode`."""
        return as_columns(self.features)

    def texts(self, name: str) -> NDArray[np.object_]:
        """A raw column, feature or not, as text [n]; None where a value is missing.

        Raises:
            DataError: there is no such column.
        """
        frames = [frame for frame in (self.features, self.others) if frame is not None]
        for frame in frames:
            if name in frame.columns:
                return read_values(as_array(frame[name]), "categorical", name)
        known = [str(column) for frame in frames for column in frame.columns]
        raise DataError(Fault(f"column {name!r}", "is not in the data", None, nearest(name, known)))


@dataclass(frozen=True)
class Splits:
    """What a source loads: three tables, or three torch Datasets (then there is no schema)."""

    train: "Table | Dataset[Any]"
    val: "Table | Dataset[Any]"
    test: "Table | Dataset[Any]"
    task: Task
    classes: tuple[ClassLabel, ...] = ()
    schema: FeatureSchema | None = None
    warnings: tuple[str, ...] = ()
    scanned: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Targets of map-style Datasets by split, read while they were hashed; nothing for a stream."""

    def __getitem__(self, name: str) -> "Table | Dataset[Any]":
        return {"train": self.train, "val": self.val, "test": self.test}[name]

    def targets(self, name: str) -> NDArray[Any] | None:
        """int64 class codes [n] or float64 [n] of one split; None for a stream."""
        split = self[name]
        return split.targets if isinstance(split, Table) else self.scanned.get(name)


def assign(
    config: SplitConfig,
    *,
    num_rows: int,
    labels: IntArray | None = None,
    column: NDArray[Any] | None = None,
    linked: IntArray | None = None,
) -> NDArray[np.int8]:
    """0, 1 or 2 (train, val, test) for each row; the same for the same seed.

    Args:
        labels: class codes [n]; None for regression.
        column: values [n] of `split.column`: sortable times, or the words train, val and test.
        linked: rows with the same number [n] stay in one split (not by=time or by=column, which decide themselves).

    Raises:
        DataError: this way of splitting does not fit the data.
    """
    by = config.by if config.by != "auto" else ("random" if labels is None else "stratified")
    if by == "stratified" and labels is None:
        raise DataError(Fault("data.split.by", "regression has no classes to stratify by: use random", by))
    if by == "column":
        return _by_words(np.asarray(column, dtype=object))
    if by == "time":
        units = _Units.of(np.asarray(column))
        return _deal(config, units, order=np.arange(len(units.size))[::-1])[units.of_row]
    units = _Units.of(np.arange(num_rows) if linked is None else linked, labels if by == "stratified" else None)
    order = np.random.default_rng(config.seed).permutation(len(units.size))
    if config.num_folds is None:
        return _deal(config, units, order)[units.of_row]
    return _deal_fold(config, units, order)[units.of_row]


def _by_words(words: NDArray[np.object_]) -> NDArray[np.int8]:
    strange = [row for row, word in enumerate(words) if word not in SPLITS]
    if strange:
        word = words[strange[0]]
        rule = f"must be train, val or test (so for {len(strange)} of {len(words)} rows)"
        path = f"data.split.column, row {strange[0]}"
        raise DataError(Fault(path, rule, word, nearest(str(word), SPLITS)))
    return np.array([SPLITS.index(word) for word in words], dtype=np.int8)


@dataclass(frozen=True, slots=True)
class _Units:
    """What is dealt: rows that stay together. of_row: unit of each row [n]. size: rows, stratum: class [units]."""

    of_row: IntArray
    size: IntArray
    stratum: IntArray

    @classmethod
    def of(cls, linked: NDArray[Any], labels: IntArray | None = None) -> "_Units":
        _, first, of_row, size = np.unique(linked, return_index=True, return_inverse=True, return_counts=True)
        stratum = np.zeros(len(size), dtype=np.int64) if labels is None else labels[first]
        return cls(of_row, size, stratum)


def _deal_fold(config: SplitConfig, units: _Units, order: IntArray) -> NDArray[np.int8]:
    """The folds are dealt like cards, class by class and large units first, so that they are alike."""
    assert config.num_folds is not None
    ordered = order[np.lexsort((-units.size[order], units.stratum[order]))]
    is_test = np.zeros(len(ordered), dtype=bool)
    is_test[ordered[np.arange(len(ordered)) % config.num_folds == config.fold]] = True
    split = _deal(config.model_copy(update={"test": 0.0}), units, order[~is_test[order]])
    split[is_test] = TEST
    return split


def _deal(config: SplitConfig, units: _Units, order: IntArray) -> NDArray[np.int8]:
    """A split for each unit in `order` (others: train): within each stratum first test, then val, the rest train.

    A unit goes where its middle row falls; the last one of a stratum always trains.
    """
    ordered = order[np.argsort(units.stratum[order], kind="stable")]
    size, stratum = units.size[ordered], units.stratum[ordered]
    _, start, place, num_units = np.unique(stratum, return_index=True, return_inverse=True, return_counts=True)
    rows = np.bincount(place, weights=size).astype(np.int64)
    num_test = _apportion(rows, config.test, room=rows - 1)
    num_val = _apportion(rows, config.val, room=rows - 1 - num_test)
    before = np.cumsum(size) - size
    middle = before - before[start][place] + size / 2
    is_last = np.arange(len(size)) == (start + num_units - 1)[place]
    dealt = np.select([is_last, middle < num_test[place], middle < (num_test + num_val)[place]], [TRAIN, TEST, VAL])
    split = np.full(len(units.size), TRAIN, dtype=np.int8)
    split[ordered] = _none_empty(dealt, config) if len(rows) == 1 else dealt
    return split


def _apportion(rows: IntArray, share: float, room: IntArray) -> IntArray:
    """How many of `rows` [strata] make `share` of all, by largest remainders and never more than `room`."""
    exact = rows * share
    seats: IntArray = np.minimum(np.floor(exact).astype(np.int64), room)
    left = round(float(rows.sum()) * share) - int(seats.sum())
    for index in np.argsort(-(exact - seats), kind="stable"):
        if left > 0 and seats[index] < room[index]:
            seats[index] += 1
            left -= 1
    return seats


def _none_empty(dealt: IntArray, config: SplitConfig) -> IntArray:
    """Few large units can miss a split altogether: then it gets one, as long as one remains to train."""
    for split, share, place in ((TEST, config.test, 0), (VAL, config.val, int((dealt == TEST).sum()) or 1)):
        if share > 0 and split not in dealt and place < len(dealt) - 1:
            dealt[place] = split
    return dealt
