"""What the pictures of a study show: its trials, objectives and parameters as numbers, and the ranges worth seeing.

Not here: drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.config.objective import Objective
from mlops_hydra.sweeps.trial_text import objectives_of, override_text

Numbers = NDArray[np.float64]

_FAR: Final = 10.0  # times the distance of the best from the worst quarter
LARGEST: Final = 1e300  # matplotlib's ticks overflow above


@dataclass(frozen=True, slots=True)
class Parameter:
    """What was tried for one parameter; `choices` is empty for a number."""

    name: str
    is_log: bool
    is_whole: bool
    choices: tuple[str, ...]

    def positions(self, trials: Sequence[FrozenTrial]) -> Numbers:
        """Each trial's number, or the index of its choice; NaN for trials without this parameter."""
        return np.array([self._position(trial) for trial in trials], dtype=np.float64)

    def _position(self, trial: FrozenTrial) -> float:
        if self.name not in trial.params:
            return math.nan
        value = trial.params[self.name]
        return float(self.choices.index(override_text(value)) if self.choices else value)


@dataclass(frozen=True, slots=True)
class StudyData:
    """A study as it was read once. `done` are the complete trials whose values are all finite."""

    study: optuna.Study
    objectives: tuple[Objective, ...]
    trials: tuple[FrozenTrial, ...]
    done: tuple[FrozenTrial, ...]
    parameters: tuple[Parameter, ...]

    def values(self, objective: int) -> Numbers:
        """Of the trials in `done`."""
        return np.array([trial.values[objective] for trial in self.done], dtype=np.float64)

    def numbers(self) -> Numbers:
        """The numbers of the trials in `done`."""
        return np.array([trial.number for trial in self.done], dtype=np.float64)

    @property
    def num_infinite(self) -> int:
        """How many complete trials cannot be drawn."""
        return sum(trial.state == TrialState.COMPLETE for trial in self.trials) - len(self.done)

    def front(self) -> NDArray[np.bool_]:
        """Which of `done` no other one is better than in everything."""
        best = {trial.number for trial in self.study.best_trials}
        return np.array([trial.number in best for trial in self.done], dtype=np.bool_)


def read_study(study: optuna.Study) -> StudyData:
    """Read all trials once: a database takes its time."""
    trials = tuple(study.get_trials(deepcopy=False))
    complete = (trial for trial in trials if trial.state == TrialState.COMPLETE)
    done = tuple(trial for trial in complete if all(abs(value) <= LARGEST for value in trial.values))
    return StudyData(study, objectives_of(study), trials, done, _parameters(done))


def _parameters(trials: Sequence[FrozenTrial]) -> tuple[Parameter, ...]:
    """Those that took at least two values: the others explain nothing."""
    found: dict[str, dict[BaseDistribution, None]] = {}
    values: dict[str, dict[str, None]] = {}
    for trial in trials:
        for name, distribution in trial.distributions.items():
            found.setdefault(name, {})[distribution] = None
            values.setdefault(name, {})[override_text(trial.params[name])] = None
    return tuple(_parameter(name, list(found[name]), list(values[name])) for name in found if len(values[name]) > 1)


def _parameter(name: str, distributions: list[BaseDistribution], values: list[str]) -> Parameter:
    if any(isinstance(distribution, CategoricalDistribution) for distribution in distributions):
        choices = [override_text(choice) for own in distributions for choice in getattr(own, "choices", ())]
        return Parameter(name, False, False, tuple(dict.fromkeys((*choices, *values))))
    numbers = [own for own in distributions if isinstance(own, FloatDistribution | IntDistribution)]
    is_log = all(own.log for own in numbers)
    return Parameter(name, is_log, all(isinstance(own, IntDistribution) for own in numbers), ())


def worst_shown(values: Numbers, objective: Objective) -> float | None:
    """From where on values are too bad to be drawn to scale, as they would hide all others; None if none is."""
    costs = np.unique(objective.sign * values[np.isfinite(values)])
    kept = costs
    while kept.size > 2:
        cap = kept[0] + (1 + _FAR) * (np.quantile(kept, 0.75) - kept[0])
        if kept[-1] <= cap:
            break
        kept = kept[kept <= cap]
    if kept.size == costs.size:
        return None
    return objective.sign * float(kept[-1] + 0.06 * (kept[-1] - kept[0]))


def clipped(values: Numbers, worst: float | None, objective: Objective) -> tuple[Numbers, NDArray[np.bool_]]:
    """The values, none worse than `worst`, and which of them were."""
    if worst is None:
        return values, np.zeros(values.shape, dtype=np.bool_)
    beyond = objective.sign * values > objective.sign * worst
    return np.where(beyond, worst, values), beyond


def best_so_far(values: Numbers, objective: Objective) -> Numbers:
    """The best of the values up to each."""
    return objective.sign * np.minimum.accumulate(objective.sign * values)


def at_first(objective: Objective, values: Numbers) -> int:
    """The index of the best value, the first of equals."""
    return int(np.argmin(objective.sign * values))
