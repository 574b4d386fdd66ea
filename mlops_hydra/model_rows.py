"""The rows of a file as a model takes them: in chunks, their columns and labels as its training read them, and what it
makes of them.

Rows that cannot be read are named, and do not stop the others. Not here: what is asked of the rows (`prediction.py`,
`drift.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.data.chunks import Chunk, are_spelled, as_read, read_chunks
from mlops_hydra.data.tables import Csv
from mlops_hydra.data.values import is_missing, read_numbers, read_values, to_text
from mlops_hydra.errors import DataError, Fault
from mlops_hydra.packaging.bundle import Bundle


def file_chunks(path: str, num_rows: int, csv: Csv, *, names: Mapping[str, str]) -> Iterator[Chunk]:
    """The rows of a CSV or Parquet file.

    Args:
        names: how faults call the settings of the file: how the command does.

    Raises:
        DataError: no such file, or it cannot be read.
    """
    try:
        yield from read_chunks(path, num_rows, csv)
    except DataError as error:
        raise DataError([_renamed(fault, names) for fault in error.faults]) from error


def _renamed(fault: Fault, names: Mapping[str, str]) -> Fault:
    for name, own in names.items():
        fault = replace(fault, path=fault.path.replace(name, own), rule=fault.rule.replace(name, own))
    return fault


class ModelColumns:
    """The columns that a model reads, as its training read them."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.schema is not None, "a model of a table"
        self._features, raw = bundle.schema.features, bundle.golden.rows
        self._are_spelled = {f.name: are_spelled(f.categories, raw[f.name]) for f in self._features}
        self.numeric = [feature.name for feature in self._features if feature.kind == "numeric"]

    def of(self, chunk: Chunk) -> dict[str, NDArray[Any]]:
        """By name, each [n]; those that the chunk has."""
        names = set(chunk.names)
        return {
            f.name: chunk.column(f.name, f.kind, is_spelled=self._are_spelled[f.name])
            for f in self._features
            if f.name in names
        }


def predict_rows(
    bundle: Bundle, columns: Mapping[str, NDArray[Any]], num_rows: int
) -> tuple[NDArray[np.float64], dict[int, str]]:
    """Outputs [n, classes] or [n], NaN for bad rows, and what is wrong with those by their number in the chunk."""
    try:
        outputs, problems = bundle.outputs(columns), {}
    except DataError:
        problems = _bad_rows(bundle, columns)
        good = np.array([row not in problems for row in range(num_rows)], dtype=bool)
        outputs = np.full((num_rows, len(bundle.classes)) if bundle.classes else (num_rows,), np.nan)
        if good.any():
            outputs[good] = bundle.outputs({name: values[good] for name, values in columns.items()})
    for row in np.flatnonzero(are_empty(outputs)).tolist():
        problems.setdefault(row, "the model gives no number for it")
    return outputs, dict(sorted(problems.items()))


def are_empty(outputs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """[n]: whether there is no prediction."""
    empty = np.isnan(outputs)
    return np.asarray(empty.any(axis=1) if outputs.ndim == 2 else empty, dtype=np.bool_)


def _bad_rows(bundle: Bundle, columns: Mapping[str, NDArray[Any]]) -> dict[int, str]:
    """Column by column, and value by value where a column cannot be read at once."""
    assert bundle.schema is not None, "checked before"
    problems: dict[int, list[str]] = {}
    for feature in bundle.schema.features:
        values = columns[feature.name]
        try:
            read_values(values, feature.kind, feature.name)
        except DataError:
            for row in range(len(values)):
                try:
                    read_values(values[row : row + 1], feature.kind, feature.name)
                except DataError as error:
                    fault = error.faults[0]
                    problems.setdefault(row, []).append(f"column {feature.name!r} {fault.rule}, got {fault.value!r}")
    return {row: "; ".join(texts) for row, texts in problems.items()}


@dataclass(frozen=True, slots=True)
class ReadLabels:
    """`values`: int64 codes [n] or float64 [n], of those that are `known` [n]; `strange` are neither known nor missing.

    `rule` says what a label must be.
    """

    values: NDArray[Any]
    known: NDArray[np.bool_]
    strange: NDArray[np.bool_]
    raw: NDArray[Any]
    rule: str


class Labels:
    """The targets of a file, where it has a column of them. `name` is that of the column; None: the model has none."""

    def __init__(self, bundle: Bundle, target: str | None) -> None:
        assert bundle.schema is not None, "a model of a table"
        self.name = target or bundle.schema.target
        self._classes = bundle.classes
        self._places = {str(label): place for place, label in enumerate(bundle.classes)}

    def read(self, chunk: Chunk) -> ReadLabels | None:
        """None where the chunk has no such column."""
        if self.name is None or self.name not in chunk.names:
            return None
        raw = chunk.column(self.name, "categorical" if self._classes else "numeric", is_spelled=True)
        missing = np.array([is_missing(value) for value in raw], dtype=bool)
        if self._classes:
            values: NDArray[Any] = np.array([self._code(value) for value in raw], dtype=np.int64)
            strange = (values < 0) & ~missing
            rule = f"must be a class that the model knows ({', '.join(self._places)})"
        else:
            values, rule = _numbers(raw)
            strange = np.isnan(values) & ~missing
        return ReadLabels(values, ~missing & ~strange, strange, raw, rule)

    def _code(self, value: Any) -> int:
        """Classes go by their names; those that are numbers may be written otherwise, `1.0` for 1."""
        text = str(to_text(value))
        return self._places.get(text, self._places.get(str(to_text(as_read(text))), -1))


def _numbers(raw: NDArray[Any]) -> tuple[NDArray[np.float64], str]:
    """With NaN for what is none, and the rule that the first of those breaks."""
    try:
        return read_numbers(raw, ""), ""
    except DataError as error:
        rule = error.faults[0].rule
    values = np.full(len(raw), np.nan)
    for row, value in enumerate(raw):
        try:
            values[row] = read_numbers([value], "")[0]
        except DataError:
            continue
    return values, rule
