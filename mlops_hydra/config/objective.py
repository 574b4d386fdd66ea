"""The metrics this package measures, which way is better, and the objective that follows from them.

The names stand here, above everything that measures, because configuration is checked against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.schema import ObjectiveConfig
from mlops_hydra.config.section import Direction, Task
from mlops_hydra.errors import ConfigError, Fault

_CLASSES: Final[frozenset[Task]] = frozenset({"binary", "multiclass"})
_NUMBERS: Final[frozenset[Task]] = frozenset({"regression"})


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """Which way a metric is better, and for which tasks it exists."""

    direction: Direction
    tasks: frozenset[Task]


METRICS: Final[dict[str, MetricInfo]] = {
    "accuracy": MetricInfo("maximize", _CLASSES),
    "balanced_accuracy": MetricInfo("maximize", _CLASSES),
    "f1": MetricInfo("maximize", _CLASSES),
    "roc_auc": MetricInfo("maximize", _CLASSES),
    "average_precision": MetricInfo("maximize", _CLASSES),
    "log_loss": MetricInfo("minimize", _CLASSES),
    "calibration_error": MetricInfo("minimize", _CLASSES),
    "rmse": MetricInfo("minimize", _NUMBERS),
    "mae": MetricInfo("minimize", _NUMBERS),
    "r2": MetricInfo("maximize", _NUMBERS),
    "loss": MetricInfo("minimize", _CLASSES | _NUMBERS),
}
"""`loss` is the training loss on validation data; the others are measured on predictions."""

COSTS: Final = ("latency_p50_ms", "latency_p95_ms", "model_size_mb")
"""Measured on the predictor rather than on a split; lower is better."""

NUM_PARAMETERS: Final = "num_parameters"
"""Trainable numbers in a model: what a sweep may weigh against the objective."""

TEMPERATURE: Final = "temperature"
"""What the logits of a calibrated model are divided by."""

_DEFAULT: Final[dict[Task, str]] = {"binary": "log_loss", "multiclass": "log_loss", "regression": "rmse"}


@dataclass(frozen=True, slots=True)
class Objective:
    """The one metric, on validation, and its direction."""

    metric: str
    direction: Direction

    @property
    def sign(self) -> int:
        """1 where lower is better, -1 where higher is: `sign * value` is always minimised."""
        return 1 if self.direction == "minimize" else -1

    def __str__(self) -> str:
        return f"{self.direction} val/{self.metric}"


def check_gate_metrics(gates: Mapping[str, GateConfig], task: Task) -> None:
    """Raises ConfigError for gates, meant for `task`, on metrics that do not exist for it: known before training."""
    faults = []
    for name, gate in gates.items():
        info = METRICS.get(gate.metric)
        if info is not None and task not in info.tasks and (gate.tasks is None or task in gate.tasks):
            rule = f"not measured for {task}; say gates.{name}.tasks=[...] if it is meant for another"
            faults.append(Fault(f"gates.{name}.metric", rule, gate.metric))
    if faults:
        raise ConfigError(faults)


def resolve_objective(config: ObjectiveConfig, task: Task) -> Objective:
    """Fill in what the configuration leaves to the task.

    Raises:
        ConfigError: the metric does not exist for this task, or nothing tells which way it is better.
    """
    metric = config.metric or _DEFAULT[task]
    info = METRICS.get(metric)
    if info is not None and task not in info.tasks:
        choices = [name for name, other in METRICS.items() if task in other.tasks]
        raise ConfigError(
            Fault("objective.metric", f"not measured for {task}; choose from {', '.join(choices)}", metric)
        )
    direction = config.direction or (info.direction if info else None)
    if direction is None:
        raise ConfigError(
            Fault("objective.direction", f"needed, because {metric} is a metric of your own: minimize or maximize")
        )
    return Objective(metric, direction)
