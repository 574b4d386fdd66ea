"""Trials, one after another, until there is none left to take: in this process, or in one that `pool.py` started.

Workers know nothing of each other; the study in its store is all they share. So it makes no difference whether they
are processes of one command, of several, or of several machines. How a trial is carried out is told by who calls: ours
are in `experiments.py`.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from optuna.trial import Trial, TrialState

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import TrackingError
from mlops_hydra.sweeps.ear import Report
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.storage import is_stores, told
from mlops_hydra.sweeps.study import Study

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5  # between two looks at trials that other processes work on
SHOWN_LENGTH: Final = 1000  # characters of an error that the study keeps


@dataclass(frozen=True, slots=True)
class Ended:
    """How a trial ended, as the study keeps it."""

    state: TrialState
    values: tuple[float, ...] | None
    attrs: Mapping[str, Any]


class Execute(Protocol):
    """Carries out one trial."""

    def __call__(self, trial: Trial) -> Ended: ...


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is told: the study, what is varied, and how many work at the same time.

    `candidates` are overrides that a parameter `candidate` chooses among, when the best are confirmed.
    """

    plan: Plan
    config: ExperimentConfig
    parent: str
    num_workers: int = 1
    candidates: tuple[tuple[str, ...], ...] = ()


def work(study: Study, execute: Execute, *, tick: Callable[[], None] = lambda: None, wait: bool = True) -> None:
    """Take trials and carry them out until the study is over.

    Args:
        tick: called between trials, and while others work on the last ones; `study.seen` is then what there is.
        wait: for the trials of other processes, which may die and leave one.

    Raises:
        TrackingError: the store, or the disk, does not take what is written; the trial is left to go on with.
    """
    while not study.is_over(study.trials()):
        tick()
        trial = study.take()
        if trial is not None:
            _carry_out(study, trial, execute)
        elif not wait:
            return
        else:
            time.sleep(LOOK_SECONDS)
    tick()


def _carry_out(study: Study, trial: Trial, execute: Execute) -> None:
    try:
        with study.alive(trial):
            ended = _executed(trial, execute)
    except BaseException:  # Ctrl-C, SIGTERM, a full disk: not the trial's fault
        study.give_back(trial)
        raise
    study.end(trial, ended.state, ended.values, ended.attrs)


def _executed(trial: Trial, execute: Execute) -> Ended:
    try:
        return execute(trial)
    except TrackingError as error:
        if _is_elsewhere(error.__cause__):
            raise
        return _failed(trial, error)
    except Exception as error:  # whatever is wrong with one point, the others are worth trying
        return _failed(trial, error)


def _is_elsewhere(cause: BaseException | None) -> bool:
    """Whether the disk or the study's store failed, as it would for any other trial."""
    return isinstance(cause, OSError) or (isinstance(cause, Exception) and is_stores(cause))


def _failed(trial: Trial, error: Exception) -> Ended:
    text = str(error).strip()
    logger.debug("Trial %d failed", trial.number, exc_info=error)
    return Ended(TrialState.FAIL, None, {"error": f"{type(error).__name__}: {text}"[:SHOWN_LENGTH]})


def reporter(plan: Plan, trial: Trial) -> Report:
    """What tells the study of an epoch, each once, and asks the pruner."""
    reported = set(trial.storage.get_trial(trial._trial_id).intermediate_values)

    def report(value: float, epoch: int) -> bool:
        with told(plan.storage):
            if epoch not in reported:
                reported.add(epoch)
                trial.report(value, epoch)
            return trial.should_prune()

    return report
