"""Trials, one after another, until there is none left to take: in this process, or in one that `pool.py` started.

Workers know nothing of each other; the study in its store is all they share. So it makes no difference whether they
are processes of one command, of several, or of several machines.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from optuna.trial import Trial, TrialState

from mlops_hydra.config.check import as_tree
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.variations import Variations
from mlops_hydra.errors import TrackingError
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.space import as_overrides
from mlops_hydra.sweeps.storage import is_stores, told
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.workplace import Outcome, Report, Workplace
from mlops_hydra.tracking.post import Shared

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
        tick: called between trials, and while others work on the last ones.
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


class Experiments:
    """Trials of our own: the config with the chosen values, trained in this process."""

    def __init__(self, study: Study, job: Job, workplace: Workplace, *, index: int = 0) -> None:
        self._study, self._job, self._workplace = study, job, workplace
        self._variations = Variations(job.config)
        self._trainer = _fair_share(job, index)

    def __call__(self, trial: Trial) -> Ended:
        """Compose, train or take, and say how it ended."""
        config = self._config(trial)
        has_pruner = self._job.plan.pruner is not None
        report = reporter(self._job.plan, trial) if has_pruner else None
        tags = {"study": self._job.plan.name, "trial": trial.number}
        outcome = self._workplace.carry_out(config, report, tags)
        if report is not None and outcome.status == "reused":
            for epoch, value in enumerate(outcome.scores, start=1):
                report(value, epoch)
        return _ended(outcome)

    def _config(self, trial: Trial) -> ExperimentConfig:
        config = self._variations.with_overrides(self._overrides(trial.params))
        if self._job.plan.custom_search_space is not None:
            from omegaconf import OmegaConf

            self._study.suggest_more(trial, OmegaConf.create(as_tree(config)))
            config = self._variations.with_overrides(self._overrides(trial.params))
        trainer = config.trainer.model_copy(update=self._trainer)
        alone = config.model_copy(update={"trainer": trainer, "progress": "off", "on_busy": "wait"})
        alone._origin = config.origin
        return alone

    def _overrides(self, params: Mapping[str, Any]) -> list[str]:
        return chosen_overrides(self._job, params)


def chosen_overrides(job: Job, params: Mapping[str, Any]) -> list[str]:
    """What a trial's parameters add to the overrides of the study."""
    params = dict(params)
    chosen = job.candidates[params.pop("candidate")] if job.candidates else ()
    return [*chosen, *as_overrides(params)]


def _fair_share(job: Job, index: int) -> dict[str, Any]:
    """Threads and GPU of one of several workers on a machine; both are neutral."""
    import os

    import torch

    trainer = job.config.trainer
    share: dict[str, Any] = {}
    if trainer.num_threads is None and job.num_workers > 1:
        share["num_threads"] = max(1, (os.cpu_count() or 1) // job.num_workers)
    if trainer.device == "auto" and job.num_workers > 1 and (num_gpus := torch.cuda.device_count()) > 1:
        share["device"] = f"cuda:{index % num_gpus}"
    return share


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


def _ended(outcome: Outcome) -> Ended:
    attrs = {
        "fingerprint": outcome.fingerprint,
        "status": outcome.status,
        "run": f"{outcome.fingerprint}/{outcome.folder.name}",
    }
    if outcome.state == "pruned":
        return Ended(TrialState.PRUNED, None, attrs)
    return Ended(TrialState.COMPLETE, outcome.values, attrs)


def work_on(job: Job, shared: Shared, *, index: int = 0, tick: Callable[[Study], None] = lambda _: None) -> None:
    """Everything a worker does for one job."""
    study = Study(job.plan)
    names = [name for name, _ in job.plan.objectives]
    keep = job.config.sweeps is not None and job.config.sweeps.keep_checkpoints
    try:
        execute = Experiments(study, job, Workplace(shared, names, keep), index=index)
        work(study, execute, tick=lambda: tick(study), wait=index == 0)
    finally:
        study.close()
