"""The column to predict."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.data.target import TargetColumn, read_target
from mlops_hydra.errors import DataError


def read(values: Any, task: Any = "auto", classes: Any = None) -> TargetColumn:
    return read_target(pd.Series(values, name="y"), task=task, classes=classes)


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([True, False, True], "binary", (False, True)),
        (["ja", "nein", "ja"], "binary", ("ja", "nein")),
        ([3, 5, 5], "binary", (3, 5)),
        ([0.0, 1.0, 0.0], "binary", (0, 1)),
        (["c", "a", "b"], "multiclass", ("a", "b", "c")),
        (list(range(20)), "multiclass", tuple(range(20))),
        (pd.Categorical(["x", "y", "z"]), "multiclass", ("x", "y", "z")),
        (list(range(21)), "regression", ()),
        ([0.5, 1.5, 0.5], "regression", ()),
        ([1.0, 2.0, 3.0], "regression", ()),
    ],
)
def test_the_task_follows_from_the_values(values: Any, task: str, classes: tuple[Any, ...]) -> None:
    column = read(values)
    assert (column.task, column.classes) == (task, classes)
    assert column.values.dtype == (np.float64 if task == "regression" else np.int64)


def test_the_task_can_be_given() -> None:
    assert read([1, 2, 3], task="regression").values.tolist() == [1.0, 2.0, 3.0]
    assert read(list(range(30)), task="multiclass").classes == tuple(range(30))


def test_the_order_of_the_classes_can_be_given() -> None:
    column = read(["benign", "malignant", "benign"], classes=("malignant", "benign"))
    assert column.values.tolist() == [1, 0, 1]


def test_python_and_numpy_values_make_plain_labels() -> None:
    assert [type(label) for label in read(np.array([1, 2, 3])).classes] == [int, int, int]


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([1.0, None, math.nan, 2.5], {}, r"column 'y', row 1: the target has no value \(2 of 4 rows\)"),
        (["a", None], {}, r"column 'y', row 1: the target has no value"),
        ([1.5, math.inf, 2.0], {}, r"column 'y', row 1: must be finite"),
        (["a", "a"], {}, r"same value in every row: nothing to learn, got 'a'"),
        ([2.5, 2.5], {}, r"same value in every row: nothing to learn, got 2\.5"),
        (["a", "b", "c"], {"task": "binary"}, r"data\.task=binary needs two classes, found 3: a, b, c"),
        (["a", "b"], {"task": "regression"}, r"column 'y', row 0: must be a number, got 'a'"),
        ([0.5, 1.5, 2.5], {"task": "multiclass"}, r"a class is text, a whole number or a boolean; .*, got 0\.5"),
        (["yes", "no", "nope"], {"classes": ("no", "yes")}, r"row 2: is not one of data\.classes: no, yes, got 'nope'"),
        (pd.to_datetime(["2024-01-01", "2024-01-02"]), {}, r"holds datetime64 values, which are no target"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_named(values: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(values, **options)
