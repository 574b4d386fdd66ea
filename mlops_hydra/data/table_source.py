"""From one table to three splits: choose columns, read the target, split, fit the schema on the training rows.

Not here: reading (`tables.py`), and the checks that every source passes (`checks.py`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.config.schema import DataConfig
from mlops_hydra.config.section import Kind
from mlops_hydra.data.digests import row_hashes
from mlops_hydra.data.encoding import Feature, FeatureSchema
from mlops_hydra.data.frames import as_array, fit_feature, infer_kinds, read_features
from mlops_hydra.data.splits import TEST, TRAIN, VAL, Splits, Table, assign
from mlops_hydra.data.tables import Reader
from mlops_hydra.data.target import TargetColumn, read_target
from mlops_hydra.data.values import IntArray, read_dates
from mlops_hydra.errors import DataError, Fault, nearest


@dataclass(frozen=True)
class TableSource:
    """A table and how it is to be learnt from; `given` is the split of each row [n] where the user made it."""

    reader: Reader
    config: DataConfig
    given: NDArray[np.int8] | None = None

    def digest(self) -> str:
        """Of the table's full content."""
        return self.reader.digest()

    def load(self) -> Splits:
        """Three tables and their schema.

        Raises:
            DataError: columns or values do not fit the configuration.
        """
        frame = self.reader.read()
        names = choose_features(list(frame.columns), self.config)
        target, kinds = self._read_target_and_kinds(frame, names)
        values = read_features(frame[names], kinds)
        split = self.given if self.given is not None else self._assign(frame, names, target)
        train = split == TRAIN
        max_categories = self.config.encoding.max_categories
        features = tuple(fit_feature(n, kinds[n], values[n][train], max_categories=max_categories) for n in names)
        return Splits(
            train=self._table(frame, names, target, np.flatnonzero(split == TRAIN)),
            val=self._table(frame, names, target, np.flatnonzero(split == VAL)),
            test=self._table(frame, names, target, np.flatnonzero(split == TEST)),
            task=target.task,
            classes=target.classes,
            schema=FeatureSchema(
                features,
                self.config.target,
                target.task,
                target.classes,
                _image_shape(features, self.config.image_shape),
            ),
        )

    def _read_target_and_kinds(self, frame: pd.DataFrame, names: Sequence[str]) -> tuple[TargetColumn, dict[str, Kind]]:
        """Both, so that the faults of both are reported at once."""
        faults: list[Fault] = []
        target, kinds = None, {}
        try:
            target = read_target(frame[self.config.target], task=self.config.task, classes=self.config.classes)
        except DataError as error:
            faults += error.faults
        try:
            kinds = infer_kinds(frame[list(names)], self.config.kinds)
        except DataError as error:
            faults += error.faults
        if target is None or faults:
            raise DataError(faults)
        return target, kinds

    def _assign(self, frame: pd.DataFrame, names: Sequence[str], target: TargetColumn) -> NDArray[np.int8]:
        config = self.config.split
        column = None if config.column is None else _split_values(frame[config.column], config.by)
        keys = [_codes(frame[self.config.id])] if self.config.id else []
        if config.by == "group" and config.column:
            keys.append(_codes(frame[config.column]))
        if config.duplicates == "together":
            keys.append(np.unique(row_hashes(frame[list(names)], target.values), return_inverse=True)[1])
        return assign(
            config,
            num_rows=len(frame),
            labels=target.values if target.classes else None,
            column=column,
            linked=link(keys, len(frame)),
        )

    def _table(self, frame: pd.DataFrame, names: Sequence[str], target: TargetColumn, rows: IntArray) -> Table:
        split, part = self.config.split, frame.iloc[rows]
        return Table(
            features=part[list(names)].reset_index(drop=True),
            targets=target.values[rows],
            rows=rows,
            ids=as_array(part[self.config.id]) if self.config.id else None,
            groups=as_array(part[split.column]) if split.by == "group" and split.column else None,
            others=part.drop(columns=[*names, str(self.config.target)]).reset_index(drop=True),
        )


def choose_features(columns: Sequence[str], config: DataConfig) -> list[str]:
    """The feature columns, in the order of the table; never the target, the id or the column that splits.

    Raises:
        DataError: a name that does not exist, a contradiction, or nothing is left; all at once.
    """
    roles = {"data.target": config.target, "data.id": config.id, "data.split.column": config.split.column}
    lists = {"data.keep": config.keep or (), "data.drop": config.drop, "data.kinds": tuple(config.kinds)}
    named = [(path, name) for path, name in roles.items() if name] + [
        (p, name) for p, ns in lists.items() for name in ns
    ]
    faults = [
        Fault(path, f"no such column; there are {_listed(columns)}", name, nearest(name, columns))
        for path, name in named
        if name not in columns
    ]
    if config.target is None:
        faults.append(Fault("data.target", f"is needed: the column to predict; there are {_listed(columns)}"))
    taken = {name: path for path, name in roles.items() if name}
    for name in config.keep or ():
        role = taken.get(name) or ("data.drop" if name in config.drop else None)
        if role:
            faults.append(Fault("data.keep", f"names the column of {role}, which is no feature", name))
    wanted = [
        c for c in columns if (config.keep is None or c in config.keep) and c not in config.drop and c not in taken
    ]
    if not wanted and not faults:
        faults.append(Fault("data", "no feature column is left; change data.keep or data.drop"))
    if faults:
        raise DataError(faults)
    return wanted


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns[:12]) + (f" and {len(columns) - 12} more" if len(columns) > 12 else "")


def _split_values(series: "pd.Series[Any]", by: str) -> NDArray[Any]:
    """Sortable times [n], or what the column holds.

    Raises:
        DataError: a value is missing.
    """
    absent = np.flatnonzero(series.isna())
    if len(absent):
        rule = f"data.split.by={by} needs a value in every row ({len(absent)} are missing)"
        raise DataError(Fault(f"column {str(series.name)!r}, row {absent[0]}", rule))
    values = as_array(series)
    if by == "time" and values.dtype.kind not in "iuf":
        return read_dates(values, str(series.name))
    return values


def _codes(series: "pd.Series[Any]") -> IntArray:
    """Equal values have equal codes [n]; a missing value is equal to nothing."""
    codes, found = pd.factorize(as_array(series))
    absent = codes < 0
    return np.asarray(np.where(absent, len(found) + np.cumsum(absent), codes), dtype=np.int64)


def link(keys: Iterable[IntArray], num_rows: int) -> IntArray:
    """Rows that share a code of any key, directly or through others, get the same number [n]."""
    keys = list(keys)
    linked = np.arange(num_rows)
    while True:
        before = linked
        for key in keys:
            lowest = np.full(key.max(initial=-1) + 1, num_rows)
            np.minimum.at(lowest, key, linked)
            linked = lowest[key]
        if np.array_equal(linked, before):
            return linked


def _image_shape(features: Sequence[Feature], shape: Sequence[int] | None) -> tuple[int, int, int] | None:
    if shape is None:
        return None
    channels, height, width = shape
    others = [f.name for f in features if f.kind not in ("numeric", "boolean")]
    if others:
        raise DataError(Fault("data.image_shape", "pixels are numbers, but these columns are not", ", ".join(others)))
    if channels * height * width != len(features):
        rule = f"must multiply to the number of feature columns, {len(features)}"
        raise DataError(Fault("data.image_shape", rule, list(shape)))
    return channels, height, width
