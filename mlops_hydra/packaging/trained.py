"""What a trial of a sweep leaves of its training: enough to take its value, and to make a whole run of it later.

`trial.json` with the objective and how it went, beside the weights and the history. What is judged, exported and
packaged is the business of the run that is made of it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from torch import nn

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import TrackingError
from mlops_hydra.packaging import files
from mlops_hydra.tracking.folders import TRIAL
from mlops_hydra.tracking.recorded import read_trial
from mlops_hydra.training.loop import FitResult


@dataclass(frozen=True, slots=True)
class Trained:
    """A training that came to its end, or was pruned on the way.

    `values` are what the sweep looks at, by metric; `scores` the objective after each epoch, from the first.
    """

    state: Literal["trained", "pruned"]
    objective: Objective
    values: Mapping[str, float]
    scores: tuple[float, ...]
    best_epoch: int
    best_score: float
    stopped_early: bool
    num_steps: int

    @classmethod
    def of(cls, fitted: FitResult, objective: Objective, values: Mapping[str, float], *, pruned: bool) -> Self:
        """From what `fit` gave."""
        name = f"val/{objective.metric}"
        return cls(
            "pruned" if pruned else "trained",
            objective,
            values,
            tuple(entry.get(name, math.nan) for entry in fitted.history),
            fitted.best_epoch,
            fitted.best_score,
            fitted.stopped_early,
            fitted.num_steps,
        )

    def restored(self, graph: nn.Module, folder: Path) -> FitResult:
        """How it went, and the weights of its best epoch in `graph`.

        Raises:
            TrackingError: files of the folder are damaged.
        """
        files.load_weights(graph, folder)
        history = files.read_history(folder)
        return FitResult(history, self.best_epoch, self.best_score, self.stopped_early, self.num_steps)


def write_trained(folder: Path, trained: Trained) -> None:
    """Raises TrackingError when the disk does not take it."""
    objective = {"metric": trained.objective.metric, "direction": trained.objective.direction}
    fields = ("state", "values", "scores", "best_epoch", "best_score", "stopped_early", "num_steps")
    tree = {name: getattr(trained, name) for name in fields}
    write_json_atomic(folder / TRIAL, {**tree, "objective": objective})


def read_trained(folder: Path) -> Trained | None:
    """A training that came to its end; None where there is none, or a pruned one, which goes on."""
    trial = read_trial(folder)
    return trained_of(folder, trial) if trial is not None and trial["state"] == "trained" else None


def trained_of(folder: Path, tree: Mapping[str, Any] | None) -> Trained:
    """What `trial.json` holds.

    Raises:
        TrackingError: it is damaged.
    """
    try:
        assert tree is not None
        return Trained(
            tree["state"],
            Objective(tree["objective"]["metric"], tree["objective"]["direction"]),
            {name: _number(value) for name, value in tree["values"].items()},
            tuple(_number(value) for value in tree["scores"]),
            int(tree["best_epoch"]),
            _number(tree["best_score"]),
            bool(tree["stopped_early"]),
            int(tree["num_steps"]),
        )
    except (AssertionError, KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"{folder / TRIAL} is damaged, or of another version ({type(error).__name__}: {error})"
        raise TrackingError(f"{message}; reuse=never trains again") from error


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
