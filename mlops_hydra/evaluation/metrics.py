"""Metrics: all of them from arrays once a model is trained, the cheap ones from tensors after each epoch.

    targets       [n]           int64 class codes, or float64 in units of the target
    predictions   [n, classes]  float64 probabilities; regression: [n] float64 in units of the target
    outputs       [n, classes]  float32 logits; regression: [n, 1] float32, standardised

What cannot be measured is NaN: every metric of no rows or of predictions that are not finite; where only one class
occurs, each metric that would reward naming that class. Means over classes go over the classes that occur in the
targets (f1: also over those predicted). Not here: baselines, thresholds, and the training loss.
"""

from __future__ import annotations

import math
import numbers
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.objective import METRICS
from mlops_hydra.config.section import Task
from mlops_hydra.config.targets import offered
from mlops_hydra.errors import Fault, UsageError
from mlops_hydra.evaluation.curves import area_under_roc, average_precision, calibration_bins

if TYPE_CHECKING:
    from torch import Tensor

_SMALLEST_PROBABILITY: Final = float(np.finfo(np.float64).eps)  # log_loss stays finite: at most 36.04 a row, as sklearn
_ROW_SUM_TOLERANCE: Final = 1e-3  # wide enough for probabilities rounded to half precision


def metric_names(task: Task) -> tuple[str, ...]:
    """What `score` measures for a task."""
    return tuple(name for name, info in METRICS.items() if task in info.tasks and name != "loss")


def score(task: Task, targets: NDArray[Any], predictions: NDArray[Any]) -> dict[str, float]:
    """Every metric of the task.

    Raises:
        UsageError: targets and predictions do not fit each other or the task.
    """
    targets, predictions = np.asarray(targets), np.asarray(predictions, dtype=np.float64)
    if faults := _misfits(task, targets, predictions):
        raise UsageError(faults)
    if not targets.size or not np.isfinite(predictions).all():
        return dict.fromkeys(metric_names(task), math.nan)
    if task == "regression":
        return _score_values(targets.astype(np.float64), predictions)
    return _score_classes(task, targets.astype(np.int64), predictions)


def _misfits(task: Task, targets: NDArray[Any], predictions: NDArray[np.float64]) -> list[Fault]:
    if task == "regression":
        if targets.ndim == 1 and predictions.shape == targets.shape:
            return []
        return [Fault("predictions", f"one number a row for targets of shape {targets.shape}", predictions.shape)]
    if targets.ndim != 1 or predictions.ndim != 2 or len(predictions) != len(targets):
        rule = f"probabilities of shape [n, classes] for targets of shape {targets.shape}"
        return [Fault("predictions", rule, predictions.shape)]
    num_classes = predictions.shape[1]
    if num_classes < 2 or (task == "binary" and num_classes != 2):
        rule = "two columns, one for each class" if task == "binary" else "at least two columns, one for each class"
        return [Fault("predictions", rule, predictions.shape)]
    return [*_bad_codes(targets, num_classes), *_bad_probabilities(predictions)]


def _bad_codes(targets: NDArray[Any], num_classes: int) -> list[Fault]:
    if targets.dtype.kind not in "iub":
        return [Fault("targets", "class codes are whole numbers", str(targets.dtype))]
    bad = np.flatnonzero((targets < 0) | (targets >= num_classes))
    if not bad.size:
        return []
    return [Fault(f"targets[{bad[0]}]", f"class codes go from 0 to {num_classes - 1}", int(targets[bad[0]]))]


def _bad_probabilities(predictions: NDArray[np.float64]) -> list[Fault]:
    wrong = (np.abs(predictions.sum(axis=1) - 1) > _ROW_SUM_TOLERANCE) | (predictions < 0).any(axis=1)
    bad = np.flatnonzero(wrong & np.isfinite(predictions).all(axis=1))
    if not bad.size:
        return []
    rule = "probabilities are positive and add up to 1 in each row; logits need a softmax first"
    return [Fault(f"predictions[{bad[0]}]", rule, predictions[bad[0]].tolist())]


def _score_values(targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> dict[str, float]:
    errors = predictions - targets
    centred = targets - targets[0]  # exactly zero when all targets are equal, which minus the mean is not
    centred = centred - centred.mean()
    means = [float(np.mean(values)) for values in (errors**2, np.abs(errors), centred**2)]
    return _from_squares(*means, scale=1.0)


def _from_squares(mean_square: float, mean_absolute: float, variance: float, *, scale: float) -> dict[str, float]:
    return {
        "rmse": scale * math.sqrt(mean_square),
        "mae": scale * mean_absolute,
        "r2": 1 - mean_square / variance if variance > 0 else math.nan,
    }


def _score_classes(task: Task, targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> dict[str, float]:
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    counted = (targets[predicted == targets], targets, predicted)
    counts = [np.bincount(codes, minlength=num_classes).tolist() for codes in counted]
    picked = np.maximum(probabilities[np.arange(targets.size), targets], _SMALLEST_PROBABILITY)
    measured = _from_counts(task, *counts)
    measured["log_loss"] = float(-np.log(picked).mean())
    measured.update((name, measure(task, targets, probabilities)) for name, measure in _DEAR.items())
    return {name: measured[name] for name in metric_names(task)}


def _from_counts(task: Task, hits: list[float], support: list[float], claimed: list[float]) -> dict[str, float]:
    """Accuracies and F1 from counts of each class: rows rightly predicted, truly there, predicted.

    Lists, because NumPy's calls on ten numbers cost more than the sums: 50 us of an epoch.
    """
    accuracy = sum(hits) / sum(support)
    recalls = [hit / true for hit, true in zip(hits, support, strict=True) if true]
    if len(recalls) < 2:
        return {"accuracy": accuracy, "balanced_accuracy": math.nan, "f1": math.nan}
    f1s = [2 * hit / (true + said) for hit, true, said in zip(hits, support, claimed, strict=True) if true or said]
    return {
        "accuracy": accuracy,
        "balanced_accuracy": sum(recalls) / len(recalls),
        "f1": f1s[-1] if task == "binary" else sum(f1s) / len(f1s),
    }


def _roc_auc(task: Task, targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return _one_against_rest(area_under_roc, task, targets, probabilities)


def _average_precision(task: Task, targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return _one_against_rest(average_precision, task, targets, probabilities)


def _calibration_error(_task: Task, targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    return calibration_bins(targets, probabilities).error


def _one_against_rest(
    measure: Callable[[NDArray[np.bool_], NDArray[np.float64]], float],
    task: Task,
    targets: NDArray[np.int64],
    probabilities: NDArray[np.float64],
) -> float:
    """Of the positive class (binary), or the mean over the classes that occur."""
    occurring = np.unique(targets)
    if occurring.size < 2:
        return math.nan
    classes = [1] if task == "binary" else occurring
    return float(np.mean([measure(targets == code, probabilities[:, code]) for code in classes]))


_DEAR: Final = {"roc_auc": _roc_auc, "average_precision": _average_precision, "calibration_error": _calibration_error}
"""Those that sort or bin all rows: each epoch only when one of them is the objective."""


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """Metrics after each epoch, measured where the tensors are and read back once (twice with a dear objective).

    `target_scale` is the deviation of the training targets: it turns standardised errors into units of the target.
    """

    task: Task
    num_classes: int
    objective_metric: str
    target_scale: float = 1.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """From logits `[n, classes]` and codes `[n]`, or standardised values `[n, 1]` both."""
        if self.task == "regression":
            return self._of_values(outputs.detach(), targets)
        return self._of_classes(outputs.detach().float(), targets)

    def _of_values(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        import torch

        wide = _widest(outputs)
        actual = targets.reshape(-1).to(wide)
        errors = outputs.reshape(-1).to(wide) - actual
        centred = actual - actual[:1]
        centred = centred - centred.mean()
        means = torch.stack([errors.square().mean(), errors.abs().mean(), centred.square().mean()]).tolist()
        return _from_squares(*means, scale=self.target_scale)

    def _of_classes(self, logits: Tensor, targets: Tensor) -> dict[str, float]:
        counts, log_loss = self._counts_and_log_loss(logits, targets)
        names = ["accuracy", "balanced_accuracy", "f1", "log_loss"]
        dear = _DEAR.get(self.objective_metric)
        if not math.isfinite(log_loss):
            return dict.fromkeys([*names, self.objective_metric] if dear else names, math.nan)
        measured = _from_counts(self.task, *counts)
        measured["log_loss"] = log_loss
        if dear:
            probabilities = logits.cpu().double().softmax(dim=1).numpy()
            measured[self.objective_metric] = dear(self.task, targets.cpu().numpy(), probabilities)
        return measured

    def _counts_and_log_loss(self, logits: Tensor, targets: Tensor) -> tuple[list[list[float]], float]:
        """Counts for `_from_counts`: rows rightly predicted, truly there, predicted."""
        import torch

        size = self.num_classes
        predicted = logits.argmax(dim=1)
        hits = torch.where(predicted == targets, targets, 3 * size)  # misses go to a last bin, which is cut off
        counts = torch.cat([hits, targets + size, predicted + 2 * size]).bincount(minlength=3 * size + 1)
        log_probabilities = logits.t().contiguous().log_softmax(dim=0)  # 5x faster on a CPU than over short rows
        picked = log_probabilities.gather(0, targets[None])
        log_loss = -picked.clamp_min(math.log(_SMALLEST_PROBABILITY)).mean()
        wide = _widest(logits)
        row: list[float] = torch.cat([counts[:-1].to(wide), log_loss.reshape(1).to(wide)]).tolist()
        return [row[:size], row[size : 2 * size], row[2 * size : -1]], row[-1]


def _widest(tensor: Tensor) -> Any:
    import torch

    return torch.float32 if tensor.device.type == "mps" else torch.float64  # Apple's GPUs have no float64


def user_metrics(
    functions: Mapping[str, Callable[..., object]], targets: NDArray[Any], predictions: NDArray[Any], task: Task
) -> dict[str, float]:
    """What the user's own functions say of targets `[n]` and predicted class codes `[n]` (regression: values).

    A function that names a parameter `probabilities` gets them too, `[n, classes]`.

    Raises:
        UsageError: functions that failed or did not return one number, all of them at once.
    """
    if not np.isfinite(predictions).all():
        return dict.fromkeys(functions, math.nan)
    values: dict[str, float] = {}
    faults, cause = [], None
    for name, function in functions.items():
        try:
            values[name] = _as_number(_call_metric(function, targets, predictions, task))
        except Exception as error:
            cause = cause or error
            faults.append(Fault(f"metrics.{name}", f"{type(error).__name__}: {error}{_place(error)}"))
    if faults:
        raise UsageError(faults) from cause
    return values


def _call_metric(function: Callable[..., object], targets: NDArray[Any], predictions: NDArray[Any], task: Task) -> Any:
    # Copies: a function that sorts in place must not change what is recorded.
    if task == "regression":
        return function(targets.copy(), predictions.copy())
    extras = offered(function, {"probabilities": predictions.copy()})
    return function(targets.copy(), predictions.argmax(axis=1), **extras)


def _place(error: Exception) -> str:
    """Where in the user's function it happened, if it got that far."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    return f" ({frames[0].filename}:{frames[0].lineno})" if frames else ""


def _as_number(value: Any) -> float:
    number = value.item() if getattr(value, "size", None) == 1 or getattr(value, "ndim", None) == 0 else value
    if not isinstance(number, numbers.Real):
        raise TypeError(f"returned {value!r}; a metric returns one number")
    return float(cast("float", number))
