"""Assertions for a user's own tests: what a transform, a model and a split should always satisfy.

Not here: the checks of a run (`data/checks.py`), which need no test to happen.
"""

from collections.abc import Callable, Sized
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.config.objective import METRICS, resolve_objective
from mlops_hydra.config.schema import ObjectiveConfig
from mlops_hydra.config.section import Task
from mlops_hydra.data.checks import (
    copy_warnings,
    encode_tables,
    equal_to_target_faults,
    hash_rows,
    overlap_faults,
    tables_of,
)
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import Fault, UsageError, nearest
from mlops_hydra.evaluation.baseline import Baseline
from mlops_hydra.evaluation.metrics import score


def assert_preserves_rows(transform: Callable[[Any], Sized], table: Sized) -> None:
    """`transform(table)` has as many rows as `table`, and for two DataFrames the same ones in the same order.

    Raises:
        AssertionError: rows were lost, added or reordered.
    """
    num_before = len(table)
    result = transform(table)
    if len(result) != num_before:
        verb = "lost" if len(result) < num_before else "added"
        raise AssertionError(f"the transform {verb} rows: {num_before} went in, {len(result)} came out")
    if isinstance(table, pd.DataFrame) and isinstance(result, pd.DataFrame) and not result.index.equals(table.index):
        place = int(np.flatnonzero(result.index != table.index)[0])
        before, after = table.index[place], result.index[place]
        raise AssertionError(f"the transform reordered rows: at position {place}, {before} became {after}")


def assert_beats_baseline(
    predictions: NDArray[Any],
    *,
    targets: NDArray[Any],
    train_targets: NDArray[Any],
    task: Task,
    metric: str | None = None,
    by: float = 0.0,
) -> None:
    """`predictions` score better than what is known from the training labels alone.

    Args:
        predictions: probabilities [n, classes], or values [n] for regression.
        targets: class codes [n], or values [n].
        metric: None is log_loss, or rmse for regression.
        by: the smallest lead that counts, in units of the metric.

    Raises:
        AssertionError: they do not.
        UsageError: the task has no such metric, or targets and predictions do not fit each other.
    """
    name = metric or resolve_objective(ObjectiveConfig(metric=None, direction=None), task).metric
    measured = score(task, targets, predictions)
    if name not in measured:
        rule = f"is not measured for {task}; choose from {', '.join(measured)}"
        raise UsageError(Fault("metric", rule, name, nearest(name, measured)))
    num_classes = None if task == "regression" else predictions.shape[1]
    baseline = Baseline.fit(train_targets, task, num_classes).predict(len(targets))
    ours, theirs = measured[name], score(task, targets, baseline)[name]
    lead = theirs - ours if METRICS[name].direction == "minimize" else ours - theirs
    if not (lead >= by if by else lead > 0):
        margin = f" by {by:g}" if by else ""
        side = "lower" if METRICS[name].direction == "minimize" else "higher"
        raise AssertionError(f"{name} {ours:.6g} does not beat the baseline's {theirs:.6g}{margin} ({side} is better)")


def assert_no_leakage(splits: Splits) -> None:
    """No row, id, group or exact copy in two splits, and no feature that equals the target.

    Raises:
        AssertionError: names everything that leaks.
    """
    problems = [str(fault) for fault in overlap_faults(splits)]
    tables = tables_of(splits)
    if tables and splits.schema:
        encoded, faults = encode_tables(tables, splits.schema)
        faults += equal_to_target_faults(tables, encoded, splits.schema)
        problems += [*map(str, faults), *copy_warnings(hash_rows(tables))]
    if problems:
        raise AssertionError("the splits leak:\n" + "\n".join(problems))
