"""The column to predict: which task it makes, its classes, and its values as training needs them.

Not here: the features (`frames.py`), and targets of torch Datasets (`dataset_source.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.data.encoding import ClassLabel
from mlops_hydra.data.frames import as_array
from mlops_hydra.data.values import read_numbers
from mlops_hydra.errors import DataError, Fault, nearest

MAX_INFERRED_CLASSES: Final = 20
"""A whole-number target with more distinct values than this is taken for a quantity."""

_TEXT: Final = ("string", "categorical", "mixed", "mixed-integer")
_WHOLE: Final = ("integer", "boolean")
_NUMBERS: Final = ("floating", "mixed-integer-float", "decimal", *_WHOLE)

AnyTask = Task | Literal["auto"]


@dataclass(frozen=True, slots=True)
class TargetColumn:
    """values: int64 class codes [n], or float64 [n] and no classes."""

    task: Task
    classes: tuple[ClassLabel, ...]
    values: NDArray[Any]


def read_target(series: "pd.Series[Any]", *, task: AnyTask, classes: Sequence[ClassLabel] | None) -> TargetColumn:
    """The target column of a table.

    Args:
        task: auto infers it from the values.
        classes: their order; null: sorted.

    Raises:
        DataError: missing, infinite or constant values, or values that do not fit the task or the classes.
    """
    where = f"column {str(series.name)!r}"
    absent = np.flatnonzero(series.isna())
    if len(absent):
        rule = f"the target has no value ({len(absent)} of {len(series)} rows): remove such rows or fill them in"
        raise DataError(Fault(f"{where}, row {absent[0]}", rule))
    values = as_array(series)
    if task == "auto":
        task = _task_of_classes(classes) if classes else _infer_task(series, where)
    if task != "regression":
        return _read_classes(values, where, task, classes)
    numbers = read_numbers(values, str(series.name))
    if len(numbers) and numbers.min() == numbers.max():
        raise DataError(Fault(where, "the target has the same value in every row: nothing to learn", float(numbers[0])))
    return TargetColumn(task, (), numbers)


def _task_of_classes(classes: Sequence[ClassLabel]) -> Task:
    return "binary" if len(classes) == 2 else "multiclass"


def _infer_task(series: "pd.Series[Any]", where: str) -> Task:
    """Two values, or few whole numbers, or text are classes; other numbers are a quantity."""
    word = pd.api.types.infer_dtype(series, skipna=True)
    if word not in _TEXT + _NUMBERS:
        raise DataError(Fault(where, f"holds {word} values, which are no target: name another data.target"))
    num_values = series.nunique()
    is_whole = word in _TEXT + _WHOLE or bool((series.astype(float) % 1 == 0).all())
    if num_values <= 2 and is_whole:
        return "binary"
    if word in _TEXT or (word in _WHOLE and num_values <= MAX_INFERRED_CLASSES):
        return "multiclass"
    return "regression"


def _read_classes(values: NDArray[Any], where: str, task: Task, classes: Sequence[ClassLabel] | None) -> TargetColumn:
    codes, found = pd.factorize(values)
    labels = [_label(value, where) for value in found.tolist()]
    order = tuple(classes) if classes else tuple(sorted(labels, key=lambda label: (isinstance(label, str), label)))
    place = {label: index for index, label in enumerate(order)}
    strange = [index for index, label in enumerate(labels) if label not in place]
    if strange:
        row = int(np.flatnonzero(codes == strange[0])[0])
        meant = nearest(str(labels[strange[0]]), map(str, order))
        rule = f"is not one of data.classes: {', '.join(map(str, order))}"
        raise DataError(Fault(f"{where}, row {row}", rule, labels[strange[0]], meant))
    if len(labels) < 2:
        raise DataError(Fault(where, "the target has the same value in every row: nothing to learn", labels[0]))
    if task == "binary" and len(order) != 2:
        shown = ", ".join(map(str, order[:10])) + (", ..." if len(order) > 10 else "")
        raise DataError(Fault(where, f"data.task=binary needs two classes, found {len(order)}: {shown}"))
    return TargetColumn(task, order, np.array([place[label] for label in labels], dtype=np.int64)[codes])


def _label(value: Any, where: str) -> ClassLabel:
    if isinstance(value, str | bool | int):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    raise DataError(Fault(where, "a class is text, a whole number or a boolean; else set data.task=regression", value))
