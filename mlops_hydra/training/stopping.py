"""When to stop: the objective has not improved for a while."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from mlops_hydra.errors import Fault, UsageError


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Immutable: `step(score)` gives the next state.

    Args:
        patience: epochs without improvement until it stops; None never stops, but still knows the best.
        min_delta: smallest change that counts as improvement, in units of the score.
        direction: which way a score is better.

    A score that is NaN stops at once: nothing can be compared with it any more.
    """

    patience: int | None = 10
    min_delta: float = 0.0
    direction: Literal["minimize", "maximize"] = "minimize"
    best: float | None = None
    num_bad: int = 0
    stopped_by_nan: bool = False

    def __post_init__(self) -> None:
        faults = []
        if self.direction not in ("minimize", "maximize"):
            faults.append(Fault("direction", "must be minimize or maximize", self.direction))
        if self.patience is not None and self.patience < 1:
            faults.append(Fault("patience", "must be at least 1 epoch, or None for never", self.patience))
        if not self.min_delta >= 0:
            faults.append(Fault("min_delta", "must be at least 0", self.min_delta))
        if faults:
            raise UsageError(faults)

    def step(self, score: float) -> Self:
        """The state after one more epoch that ended with `score`."""
        if math.isnan(score):
            return replace(self, num_bad=self.num_bad + 1, stopped_by_nan=True)
        if self.is_better(score):
            return replace(self, best=score, num_bad=0)
        return replace(self, num_bad=self.num_bad + 1)

    def is_better(self, score: float) -> bool:
        """Whether `score` improves on the best so far by more than `min_delta`."""
        if math.isnan(score):
            return False
        if self.best is None:
            return True
        gain = self.best - score if self.direction == "minimize" else score - self.best
        return gain > self.min_delta

    @property
    def improved(self) -> bool:
        """Whether the last step was the best so far."""
        return self.best is not None and self.num_bad == 0

    @property
    def should_stop(self) -> bool:
        """Whether training should end now."""
        return self.stopped_by_nan or (self.patience is not None and self.num_bad >= self.patience)
