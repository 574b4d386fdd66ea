"""How far a metric may be off for want of rows: a bootstrap over the rows of a split.

Every metric that `metrics.score` gives, from the same resamples. Not here: differences of two models
(`comparison.py`), metrics of the user's own, and the spread over seeds of training.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.evaluation.resampling import WeightedMetrics, in_resamples, percentiles


@dataclass(frozen=True, slots=True)
class Interval:
    """Between which values a metric of `n` rows lies, in its units; NaN where it is undefined."""

    n: int
    low: float
    high: float


def bootstrap_intervals(
    task: Task,
    targets: NDArray[Any],
    predictions: NDArray[Any],
    *,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile intervals of every metric of the task, from targets and predictions as `metrics.score` takes them.

    Resamples in which a metric is undefined do not count for it; where more than half are such, it has no interval.
    2,000 resamples of 100,000 rows take about 1.6 s (binary), 0.6 s (regression) or 3 s (10 classes) of one core, of
    200 rows 2-15 ms; `benchmarks/gates.py` measures it.

    Raises:
        UsageError: targets and predictions do not fit each other or the task.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions, dtype=np.float64)
    measured = score(task, targets, predictions)
    names = [name for name, value in measured.items() if not math.isnan(value)]
    bounds = dict.fromkeys(measured, (math.nan, math.nan))
    if names:
        weighted = WeightedMetrics(task, targets, predictions, names)
        drawn = in_resamples(weighted, len(targets), resamples=resamples, seed=seed)
        bounds |= {name: percentiles(values, len(targets), confidence) for name, values in drawn.items()}
    return {name: Interval(len(targets), low, high) for name, (low, high) in bounds.items()}
