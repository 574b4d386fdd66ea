"""Whether one model is better than another on the same rows, and how sure that is.

Paired: what is hard for both tells nothing, so the interval is that of the difference (candidate - champion), not of
two values. Not here: which direction is better, margins, and verdicts (`gates.py`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.errors import Fault, UsageError, nearest
from mlops_hydra.evaluation.metrics import metric_names, score, user_metrics
from mlops_hydra.evaluation.resampling import WeightedMetrics, Weights, in_resamples, percentiles

_MOST_CALLS: Final = 500  # resamples of a metric of the user's own, each two calls of a function we know nothing about

_Function = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A metric of two models on the same rows, and an interval of the difference, in units of the metric.

    Bounds are NaN where the metric is undefined. `p_value`, two-sided, exists for McNemar's test alone.
    """

    metric: str
    candidate: float
    champion: float
    low: float
    high: float
    num_rows: int
    method: str
    p_value: float | None

    @property
    def difference(self) -> float:
        """Candidate minus champion."""
        return self.candidate - self.champion

    def rows_to_decide(self, margin: float) -> int | None:
        """Roughly how many rows would shrink the interval off `margin`, were the difference to stay what it is.

        Widths shrink with the root of the rows. None where no number would do.
        """
        gap = abs(self.difference - margin)
        half_width = self.difference - self.low if self.difference > margin else self.high - self.difference
        if not math.isfinite(half_width) or not math.isfinite(gap) or gap == 0:
            return None
        needed = self.num_rows * (half_width / gap) ** 2
        return math.floor(needed) + 1 if math.isfinite(needed) else None


def compare(  # noqa: PLR0913
    metric: str,
    task: Task,
    targets: NDArray[Any],
    candidate: NDArray[Any],
    champion: NDArray[Any],
    *,
    function: _Function | None = None,
    resamples: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Comparison:
    """Compare two models' predictions, each as `metrics.score` takes them, for the same targets.

    Accuracy is decided by McNemar's test, which few rows suffice for; every other metric by a bootstrap whose resamples
    weigh both models alike. At 95 % that told equal models apart in at most 6.5 % of simulated pairs with 200 rows, 6 %
    with 1,000, and 7.5 % with 50 (log loss, whose tails are heavy).

    `function` is a metric of the user's own, called as `metrics.user_metrics` does, for at most 500 resamples; those it
    fails on do not count.

    Raises:
        UsageError: predictions do not fit the targets or the task, no such metric, or `function` failed on all rows.
    """
    models = (np.asarray(candidate, dtype=np.float64), np.asarray(champion, dtype=np.float64))
    pair = _Pair(metric, task, np.asarray(targets), models, function)
    values = pair.values()
    exact = metric == "accuracy" and function is None
    p_value = None
    if any(map(math.isnan, values)):
        low, high = math.nan, math.nan
    elif exact:
        p_value, (low, high) = pair.mcnemar(confidence)
    else:
        low, high = pair.bootstrap(confidence, resamples=resamples, seed=seed)
    return Comparison(
        metric,
        *values,
        low=low,
        high=high,
        num_rows=pair.targets.size,
        method="McNemar" if exact else "paired bootstrap",
        p_value=p_value,
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Candidate and champion on the same rows."""

    metric: str
    task: Task
    targets: NDArray[Any]
    models: tuple[NDArray[np.float64], NDArray[np.float64]]
    function: _Function | None

    def values(self) -> tuple[float, float]:
        """The metric of each model on all rows."""
        names = metric_names(self.task)
        if self.function is None and self.metric not in names:
            rule = f"one of {', '.join(names)} for {self.task}"
            raise UsageError(Fault("metric", rule, self.metric, nearest(self.metric, names)))
        measured, faults = [], []
        for name, predictions in zip(("candidate", "champion"), self.models, strict=True):
            try:
                measured.append(score(self.task, self.targets, predictions))
            except UsageError as error:
                faults += [fault if "targets" in fault.path else fault.below(name) for fault in error.faults]
        if faults:
            raise UsageError([fault for number, fault in enumerate(faults) if fault not in faults[:number]])
        if self.function is None:
            return measured[0][self.metric], measured[1][self.metric]
        return self._call(slice(None)) if self.targets.size else (math.nan, math.nan)

    def mcnemar(self, confidence: float) -> tuple[float, tuple[float, float]]:
        """The p-value, and the interval of the difference of accuracies."""
        right, was_right = (model.argmax(axis=1) == self.targets for model in self.models)
        gained, lost = int((right & ~was_right).sum()), int((was_right & ~right).sum())
        p_value = mcnemar(gained, lost)
        same = np.array_equal(*self.models)
        return p_value, (0.0, 0.0) if same else paired_interval(gained, lost, self.targets.size, confidence)

    def bootstrap(self, confidence: float, *, resamples: int, seed: int) -> tuple[float, float]:
        """Percentiles of the difference; zero is among them where a sign test could not exclude it either.

        Were the models equally good, swapping them in any of the m rows in which they differ would change nothing: no
        honest two-sided test gets below 2 / 2^m. Percentiles alone would decide from 4 rows.
        """
        num_different = self._num_different()
        if not num_different:
            return 0.0, 0.0
        draw = self._differences if self.function is None else self._called_differences
        low, high = percentiles(draw(resamples, seed), self.targets.size, confidence)
        if num_different < 1000 and 2.0 ** (1 - num_different) > 1 - confidence:
            low, high = min(low, 0.0), max(high, 0.0)
        return low, high

    def _num_different(self) -> int:
        """Rows in which the metric can see the difference."""
        first, second = self.models
        if self.metric in {"balanced_accuracy", "f1"} and self.function is None and not np.array_equal(first, second):
            return max(1, int((first.argmax(axis=1) != second.argmax(axis=1)).sum()))
        return int((first != second).reshape(self.targets.size, -1).any(axis=1).sum())

    def _differences(self, resamples: int, seed: int) -> NDArray[np.float64]:
        names = [self.metric]
        first, second = (WeightedMetrics(self.task, self.targets, model, names) for model in self.models)

        def measure(weights: Weights) -> dict[str, NDArray[np.float64]]:
            return {self.metric: first(weights)[self.metric] - second(weights)[self.metric]}

        return in_resamples(measure, self.targets.size, resamples=resamples, seed=seed)[self.metric]

    def _called_differences(self, resamples: int, seed: int) -> NDArray[np.float64]:
        rng = np.random.default_rng(seed)
        differences = np.full(min(resamples, _MOST_CALLS), np.nan)
        for number in range(differences.size):
            try:
                first, second = self._call(rng.integers(self.targets.size, size=self.targets.size))
            except UsageError:
                continue
            differences[number] = first - second
        return differences

    def _call(self, rows: Any) -> tuple[float, float]:
        assert self.function is not None
        functions = {self.metric: self.function}
        first, second = (
            user_metrics(functions, self.targets[rows], model[rows], self.task)[self.metric] for model in self.models
        )
        return first, second


def mcnemar(gained: int, lost: int) -> float:
    """Two-sided mid-p value of McNemar's test, from the numbers of rows that only one of two models has right.

    Close to its level where the exact test wastes half of it: Fagerland, Lydersen, Laake 2013, The McNemar test for
    binary matched-pairs data, BMC Medical Research Methodology 13:91.
    """
    from scipy.special import bdtr

    num = gained + lost
    fewer = min(gained, lost)
    ways = math.lgamma(num + 1) - math.lgamma(fewer + 1) - math.lgamma(num - fewer + 1)
    point = math.exp(ways - num * math.log(2))
    return float(min(1.0, 2 * bdtr(fewer, num, 0.5) - point))


def paired_interval(gained: int, lost: int, num_rows: int, confidence: float) -> tuple[float, float]:
    """Interval of the difference of two shares of rows, from the rows in which only one of both counts.

    Tango's score interval (1998, Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17:891), right for every margin and few rows; at zero it is McNemar's
    large-sample test, so it is widened to hold zero wherever `mcnemar` does not reject.
    """
    from scipy.special import ndtri

    reach = float(ndtri((1 + confidence) / 2))
    difference = (gained - lost) / num_rows
    low = _bisect(lambda delta: _tango(gained, lost, num_rows, delta) - reach, -1.0, difference)
    high = _bisect(lambda delta: _tango(gained, lost, num_rows, delta) + reach, difference, 1.0)
    if mcnemar(gained, lost) > 1 - confidence:
        low, high = min(low, 0.0), max(high, 0.0)
    return low, high


def _tango(gained: int, lost: int, num_rows: int, delta: float) -> float:
    """The score statistic of a true difference `delta`, standard normal if it is true; falls with `delta`."""
    excess = gained - lost - num_rows * delta
    linear = (2 * num_rows - gained + lost) * delta - gained - lost
    root = math.sqrt(max(0.0, linear**2 + 8 * num_rows * lost * delta * (1 - delta)))
    only_lost = (root - linear) / (4 * num_rows)  # its likeliest probability, given delta
    variance = num_rows * (2 * only_lost + delta * (1 - delta))
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def _bisect(falling: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero, to the last bits."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if falling(middle) > 0 else (low, middle)
    return (low + high) / 2
