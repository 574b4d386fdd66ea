"""The baseline: what can be predicted from the training labels alone. A model that does not beat it has learnt nothing.

Not here: measuring it (`metrics.score`, as for any predictions) and demanding a margin over it (`gates.py`).
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.errors import Fault, UsageError


@dataclass(frozen=True, slots=True)
class Baseline:
    """The same prediction for every row: the share of each class, or the mean target."""

    task: Task
    prediction: tuple[float, ...]

    @classmethod
    def fit(cls, train_targets: NDArray[Any], task: Task, num_classes: int | None = None) -> Self:
        """From codes `[n]` of `num_classes` classes, or from values `[n]` of a regression.

        Raises:
            UsageError: no targets, or class codes outside 0 to num_classes - 1.
        """
        targets = np.asarray(train_targets)
        if not targets.size:
            raise UsageError(Fault("train_targets", "a baseline needs at least one training label", targets.shape))
        if task == "regression":
            return cls(task, (float(targets.mean(dtype=np.float64)),))
        if num_classes is None:
            raise UsageError(Fault("num_classes", f"needed for {task}"))
        if targets.min() < 0 or targets.max() >= num_classes:
            found = f"{targets.min()} to {targets.max()}"
            raise UsageError(Fault("train_targets", f"class codes go from 0 to {num_classes - 1}", found))
        counts = np.bincount(targets.astype(np.int64), minlength=num_classes)
        return cls(task, tuple((counts / targets.size).tolist()))

    def predict(self, num_rows: int) -> NDArray[np.float64]:
        """Probabilities `[num_rows, classes]`, or values `[num_rows]` of a regression."""
        if self.task == "regression":
            return np.full(num_rows, self.prediction[0])
        return np.tile(np.array(self.prediction), (num_rows, 1))
