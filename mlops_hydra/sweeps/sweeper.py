"""`hydra/sweeper=mlops_hydra`: hydra-optuna-sweeper's node and grammar, with what it lacks.

A launcher is given as many jobs as there are to be workers, and each joins the study until it is over: nobody waits for
the slowest of a batch, and joblib, Ray and SLURM are all the same. The task may be ours, or any other of Hydra's.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import run_job
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl
from omegaconf import DictConfig, OmegaConf, open_dict
from optuna import TrialPruned
from optuna.trial import Trial, TrialState

from mlops_hydra.config import jobs
from mlops_hydra.config.check import validated
from mlops_hydra.config.compose import split_swept
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import Direction, SweepsConfig
from mlops_hydra.errors import ConfigError, TrackingError, TrainingError
from mlops_hydra.sweeps.ear import listening
from mlops_hydra.sweeps.leftovers import write_results
from mlops_hydra.sweeps.plan import Plan, make_plan
from mlops_hydra.sweeps.planning import base_config
from mlops_hydra.sweeps.space import as_overrides, parse_space
from mlops_hydra.sweeps.study import Study, is_finite
from mlops_hydra.sweeps.sweep import StudyResult, sweep
from mlops_hydra.sweeps.worker import Ended, Job, reporter, work, work_on
from mlops_hydra.sweeps.workplace import open_shared

logger = logging.getLogger(__name__)

BASIC: Final = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
LOOK_SECONDS: Final = 1.0
OURS: Final = "mlops_hydra.cli._job"


class StudySweeperImpl(OptunaSweeperImpl):
    """A sweeper of Hydra's."""

    def __init__(self, *, pruner: Any = None, **node: Any) -> None:
        super().__init__(**node)
        self._pruner = pruner
        self._custom_search_space = node["custom_search_space"]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Have the launcher run workers rather than the task itself."""
        self._joined = Joined(task_function, hydra_context)
        self._master = config
        super().setup(hydra_context=hydra_context, task_function=self._joined, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Carry out the study that `sweeps` or `hydra.sweeper` describe."""
        self._process_searchspace_config()
        fixed, swept = split_swept([*self._parse_sweeper_params_config(), *arguments])
        if self._joined.is_ours:
            self._sweep_ours(fixed, swept)
        else:
            self._sweep_any(fixed, swept)

    def _sweep_ours(self, fixed: list[str], swept: list[str]) -> None:
        config = base_config(fixed, swept, _roots(self._master))
        if config.sweeps is None:
            origin = config.origin
            config = config.model_copy(update={"sweeps": self._settings()})
            config._origin = origin
        is_basic = self._master.hydra.launcher._target_ == BASIC
        outcome = sweep(config, overrides=swept, launch=None if is_basic else self._launching(fixed))
        folder = Path(self.sweep_dir)
        folder.mkdir(parents=True, exist_ok=True)
        results = outcome.folder / "optimization_results.yaml"
        (folder / results.name).write_bytes(results.read_bytes())
        jobs.say(_as_job(outcome))

    def _launching(self, fixed: Sequence[str]) -> Callable[[Job, Callable[[], None]], None]:
        """The launcher as one that carries out a job, with a look at the study once a second."""

        def launch(job: Job, tick: Callable[[], None]) -> None:
            self._joined.job = job
            over = threading.Event()

            def watch() -> None:
                while not over.wait(LOOK_SECONDS):
                    with suppress(TrackingError):
                        tick()

            thread = threading.Thread(target=watch, name="study", daemon=True)
            thread.start()
            try:
                self._launch([tuple(fixed)] * job.num_workers)
            finally:
                over.set()
                thread.join()

        return launch

    def _launch(self, overrides: Sequence[Sequence[str]]) -> None:
        assert self.launcher is not None
        for returned in self.launcher.launch(overrides, initial_job_idx=self.job_idx):
            _ = returned.return_value  # raises what a worker raised
        self.job_idx += len(overrides)

    def _settings(self) -> SweepsConfig:
        """The node as our settings."""
        tree = {
            "n_trials": self.n_trials,
            "params": {},
            "sampler": _target_of(self.sampler),
            "pruner": _target_of(self._pruner) if self._pruner else None,
            "storage": self.storage,
            "study_name": self.study_name,
            "workers": self.n_jobs,
            "max_failure_rate": float(self.max_failure_rate),
            "custom_search_space": self._custom_search_space,
            "keep_checkpoints": False,
            "confirm": {"top_k": 0, "seeds": 5},
        }
        settings, faults = validated(SweepsConfig, tree)
        if settings is None:
            raise ConfigError([fault.below("hydra.sweeper") for fault in faults])
        return settings

    def _sweep_any(self, fixed: list[str], swept: list[str]) -> None:
        """A study of a task that is not ours."""
        settings = self._settings()
        folder = Path(self.sweep_dir)
        folder.mkdir(parents=True, exist_ok=True)
        space = parse_space({}, [*fixed, *swept])
        directions: list[Direction] = [
            "maximize" if way == "maximize" else "minimize" for way in self._get_directions()
        ]
        names = ["objective"] if len(directions) == 1 else [f"objective_{i}" for i in range(len(directions))]
        plan = make_plan(
            settings,
            space,
            objectives=tuple(zip(names, directions, strict=True)),
            seed=_seed_of(self.sampler),
            storage=f"sqlite:///{folder.absolute() / 'study.db'}",
            of={"job": self._master.hydra.job.name, "fixed": list(space.fixed)},
        )
        self._joined.plan, self._joined.fixed, self._joined.config = plan, tuple(space.fixed), self._master
        is_basic = self._master.hydra.launcher._target_ == BASIC
        self._launch([tuple(space.fixed)] * (1 if is_basic else settings.workers))
        _conclude(plan, folder)


def _conclude(plan: Plan, folder: Path) -> None:
    study = Study(plan)
    try:
        trials = study.trials()
        write_results(study.optuna, folder)
        if study.num_failed(trials) > plan.most_failures:
            errors = [str(trial.user_attrs["error"]) for trial in trials if "error" in trial.user_attrs]
            raise TrainingError(
                f"{len(errors)} trials failed, more than max_failure_rate allows; the first: {errors[0]}"
            )
        for trial in study.best():
            logger.info("Best: %s with %s (trial %d)", trial.values, trial.params, trial.number)
    finally:
        study.close()


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
            shared = open_shared(self.job.config, self.job.parent)
            try:
                work_on(self.job, shared, index=index)
            finally:
                shared.post.finish()
            return
        assert self.plan is not None
        study = Study(self.plan)
        try:
            work(study, AnyTask(self, study))
        finally:
            study.close()


@dataclass
class AnyTask:
    """Trials of a task that is not ours: composed and run as Hydra runs a job."""

    joined: Joined
    study: Study

    def __call__(self, trial: Trial) -> Ended:
        """Run the task, with the pruner listening."""
        joined, plan = self.joined, self.study.plan
        assert joined.config is not None
        self.study.suggest_more(trial, joined.config)
        overrides = [*joined.fixed, *as_overrides(trial.params)]
        config = joined.context.config_loader.load_sweep_config(joined.config, overrides)
        with open_dict(config):
            config.hydra.job.id = f"{config.hydra.job.name}_{trial.number}"
            config.hydra.job.num = trial.number
        state = HydraConfig.instance()
        outer = state.cfg
        state.set_config(config)
        try:
            with listening(reporter(plan, trial) if plan.pruner else None):
                returned = run_job(
                    hydra_context=joined.context,
                    task_function=joined.task,
                    config=config,
                    job_dir_key="hydra.sweep.dir",
                    job_subdir_key="hydra.sweep.subdir",
                )
            return _ended(returned.return_value, len(plan.objectives))
        except TrialPruned:
            return Ended(TrialState.PRUNED, None, {})
        finally:
            state.cfg = outer


def _ended(returned: Any, num_objectives: int) -> Ended:
    """The numbers that a task returned.

    Raises:
        TypeError, ValueError: they are none, or not as many as there are objectives.
    """
    values = tuple(float(value) for value in (returned if isinstance(returned, list | tuple) else [returned]))
    if len(values) != num_objectives:
        raise ValueError(f"the task returned {len(values)} values for {num_objectives} objectives")
    if not is_finite(values):
        return Ended(TrialState.FAIL, None, {"error": f"the task returned {returned}"})
    return Ended(TrialState.COMPLETE, values, {})


def _target_of(node: Any) -> dict[str, Any]:
    """A sampler or pruner as it is configured; seed and search space are set trial by trial."""
    tree = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else dict(node)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if key not in ("seed", "_partial_")}


def _seed_of(node: Any) -> int:
    return int((node.get("seed") if node is not None else None) or 0)


def _roots(config: DictConfig) -> Roots:
    """Where the running application's YAML is."""
    sources = {source.provider: source.path for source in config.hydra.runtime.config_sources}
    return Roots(sources.get("main") or None, sources.get("command-line"), config.hydra.job.config_name)


def _as_job(outcome: StudyResult) -> dict[str, Any]:
    """What decides the exit code of the multirun."""
    job: dict[str, Any] = {"study": outcome.name, "verdict": outcome.verdict}
    return {**job, "error": outcome.problem} if outcome.problem else job
