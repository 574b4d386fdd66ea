"""Trials that are experiments: from chosen values to a config, and through the workplace of this process to its end."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from omegaconf import OmegaConf
from optuna.trial import Trial, TrialState

from mlops_hydra.config.check import as_tree
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.variations import Variations
from mlops_hydra.sweeps.space import as_overrides
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.worker import Ended, Job, reporter, work
from mlops_hydra.sweeps.workplace import Outcome, Workplace
from mlops_hydra.tracking.post import Shared


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
    trainer = job.config.trainer
    share: dict[str, Any] = {}
    if trainer.num_threads is None and job.num_workers > 1:
        share["num_threads"] = max(1, (os.cpu_count() or 1) // job.num_workers)
    if trainer.device == "auto" and job.num_workers > 1 and (num_gpus := torch.cuda.device_count()) > 1:
        share["device"] = f"cuda:{index % num_gpus}"
    return share


def _ended(outcome: Outcome) -> Ended:
    attrs = {"run": f"{outcome.fingerprint}/{outcome.folder.name}"}
    if outcome.status != "new":  # each is a transaction
        attrs["status"] = outcome.status
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
