"""All numbers of a finished run: each split's metrics, the baseline's, and the user's own.

Works on arrays alone; whoever calls it has made the predictions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.evaluation.baseline import Baseline
from mlops_hydra.evaluation.metrics import score, user_metrics


@dataclass(frozen=True, slots=True)
class Predicted:
    """One split: targets and predictions, shaped as for `metrics.score`."""

    targets: NDArray[Any]
    predictions: NDArray[Any]


def evaluate(
    splits: Mapping[str, Predicted],
    train_targets: NDArray[Any],
    *,
    task: Task,
    num_classes: int,
    functions: Mapping[str, Callable[..., object]],
) -> dict[str, float]:
    """`<split>/<metric>` for each of `splits`, and `baseline/<metric>` on the test split.

    Args:
        train_targets: all that the baseline knows.
        functions: the user's metrics, `(targets, predictions) -> float`.
    """
    test = splits["test"]
    baseline = Baseline.fit(train_targets, task, num_classes).predict(len(test.targets))
    measured = {**splits, "baseline": Predicted(test.targets, baseline)}
    metrics: dict[str, float] = {}
    for name, split in measured.items():
        values = score(task, split.targets, split.predictions)
        values |= user_metrics(functions, split.targets, split.predictions, task)
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
    return metrics
