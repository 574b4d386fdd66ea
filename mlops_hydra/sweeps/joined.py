"""What a launcher runs in the place of the task: a worker of a study.

Where the task is not ours, a trial is a job, composed and run as Hydra does it.
"""

import logging
from dataclasses import dataclass
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict
from optuna import TrialPruned
from optuna.trial import Trial, TrialState

from mlops_hydra.sweeps.ear import listening
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.space import as_overrides
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.worker import Ended, Job, reporter, work

logger = logging.getLogger(__name__)

OURS: Final = "mlops_hydra.cli._job"


@dataclass
class Joined:
    """What a launcher runs in the place of the task: a worker of the study."""

    task: TaskFunction
    context: HydraContext
    job: Job | None = None
    plan: Plan | None = None
    fixed: tuple[str, ...] = ()
    config: DictConfig | None = None

    @property
    def is_ours(self) -> bool:
        """Whether a trial is an experiment of this package."""
        return f"{getattr(self.task, '__module__', '')}.{getattr(self.task, '__qualname__', '')}" == OURS

    def __call__(self, cfg: DictConfig) -> None:
        """Work until the study is over."""
        index = int(HydraConfig.get().job.num)
        if self.job is not None:
            from mlops_hydra.sweeps.experiments import work_on  # torch: other tasks can do without
            from mlops_hydra.sweeps.workplace import open_shared

            shared = open_shared(self.job.config, self.job.parent)
            try:
                work_on(self.job, shared, index=index)
            finally:
                shared.post.finish()
            return
        assert self.plan is not None
        study = Study(self.plan)
        try:
            work(study, AnyTask(self, study), wait=index == 0)
        finally:
            study.close()


@dataclass
class AnyTask:
    """Trials of a task that is not ours: composed and run as Hydra runs a job."""

    joined: Joined
    study: Study

    def __call__(self, trial: Trial) -> Ended:
        """Run the task, with the pruner listening; into the trial's own log goes how it ended."""
        state = HydraConfig.instance()
        outer = state.cfg
        try:
            config = self._composed(trial)
            state.set_config(config)
            ended = self._run(trial, config)
            logger.info("Trial %d: %s with %s", trial.number, ended.values or ended.state.name, trial.params)
            return ended
        except Exception as error:
            logger.warning("Trial %d failed: %s: %s", trial.number, type(error).__name__, error)
            raise
        finally:
            state.cfg = outer

    def _composed(self, trial: Trial) -> DictConfig:
        """As a launcher composes a job; `hydra.job.id` is in the form that this launcher gives it."""
        assert self.joined.config is not None
        self.study.suggest_more(trial, self.joined.config)
        own = HydraConfig.get().job
        added = [text for text in self.joined.fixed if not text.startswith("~")]
        deleted = [text for text in self.joined.fixed if text.startswith("~")]
        overrides = [*as_overrides(trial.params), *added, *deleted]
        config = self.joined.context.config_loader.load_sweep_config(self.joined.config, overrides)
        with open_dict(config):
            config.hydra.job.id = f"{str(own.id).removesuffix(str(own.num))}{trial.number}"
            config.hydra.job.num = trial.number
        return config

    def _run(self, trial: Trial, config: DictConfig) -> Ended:
        plan = self.study.plan
        with listening(reporter(plan, trial) if plan.pruner else None):
            returned = run_job(
                hydra_context=self.joined.context,
                task_function=self.joined.task,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )
        if isinstance(returned._return_value, TrialPruned):  # read as a property it would be printed as an error
            return Ended(TrialState.PRUNED, None, {})
        return _ended(returned.return_value, len(plan.objectives))


def _ended(returned: Any, num_objectives: int) -> Ended:
    """The numbers that a task returned.

    Raises:
        TypeError: they are none, or not as many as there are objectives.
    """
    try:
        values = (float(returned),) if num_objectives == 1 else tuple(map(float, returned))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the task must return a number for each objective, not {returned!r}") from error
    if len(values) != num_objectives:
        raise TypeError(f"the task returned {len(values)} values for {num_objectives} objectives")
    return Ended(TrialState.COMPLETE, values, {})
