"""`hydra/sweeper=mlops_hydra`: hydra-optuna-sweeper's node and grammar, with what it lacks.

A launcher is given as many jobs as there are to be workers, and each joins the study until it is over: nobody waits for
the slowest of a batch, and joblib, Ray and SLURM are all the same. The task may be ours, or any other of Hydra's.
"""

import json
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra._internal.callbacks import Callbacks
from hydra.errors import CompactHydraException
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper._impl import (
    OptunaSweeperImpl,
    create_nsgaii_sampler,
    create_nsgaiii_sampler,
)
from hydra_plugins.hydra_optuna_sweeper.config import Direction as EnumDirection
from omegaconf import DictConfig, OmegaConf
from optuna.samplers import NSGAIIISampler, NSGAIISampler
from optuna.trial import FrozenTrial

from mlops_hydra.config import jobs
from mlops_hydra.config.check import validated
from mlops_hydra.config.compose import split_swept
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.config.section import Direction
from mlops_hydra.errors import ConfigError, Fault, MlopsHydraError, TrackingError, TrainingError
from mlops_hydra.sweeps.joined import Joined
from mlops_hydra.sweeps.leftovers import write_results
from mlops_hydra.sweeps.plan import GRID, Plan, make_plan
from mlops_hydra.sweeps.planning import base_config, planned
from mlops_hydra.sweeps.space import Space, parse_space
from mlops_hydra.sweeps.study import Study, check_buildable
from mlops_hydra.sweeps.worker import Job
from mlops_hydra.tracking.store import redacted

if TYPE_CHECKING:
    from mlops_hydra.sweeps.sweep import StudyResult

logger = logging.getLogger(__name__)

BASIC: Final = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
LOOK_SECONDS: Final = 1.0
WORKER: Final = (
    *("hydra.output_subdir=null", "hydra.job.chdir=false", "hydra.sweep.subdir=."),
    "hydra/job_logging=none",
)
"""A worker is a job that leaves nothing: folder 0 is that of trial 0."""


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
        unheard = replace(hydra_context, callbacks=Callbacks())  # they are told of trials, not of workers
        super().setup(hydra_context=unheard, task_function=self._joined, config=config)

    def sweep(self, arguments: list[str]) -> None:
        """Carry out the study that `sweeps` or `hydra.sweeper` describe.

        Raises:
            SystemExit: a trial is ours, and the request is wrong or the study failed.
            CompactHydraException: the same with another task.
        """
        self._process_searchspace_config()
        asked = [*self._parse_sweeper_params_config(), *arguments]
        latest = list({text.partition("=")[0]: text for text in asked}.values())  # the command line wins
        try:
            fixed, swept = split_swept(latest)
            if self._joined.is_ours:
                self._sweep_ours(fixed, swept)
            else:
                self._sweep_any(fixed, swept)
        except MlopsHydraError as error:
            if self._joined.is_ours:
                jobs.stopped(error)
            raise CompactHydraException(str(error)) from error

    def _sweep_ours(self, fixed: list[str], swept: list[str]) -> None:
        from mlops_hydra.sweeps.sweep import sweep  # torch: other tasks can do without

        config = base_config(fixed, swept, _roots(self._master))
        if config.sweeps is None:
            origin = config.origin
            config = config.model_copy(update={"sweeps": self._settings()})
            config._origin = origin
            self._check_directions(config, swept)
        is_basic = self._master.hydra.launcher._target_ == BASIC
        first = next(parse_space({}, swept).probes()) if swept else []
        launch = None if is_basic else self._launching((*fixed, *first))
        outcome = sweep(config, overrides=swept, launch=launch)
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
                self._launch(fixed, job.num_workers)
            finally:
                over.set()
                thread.join()

        return launch

    def _launch(self, overrides: Sequence[str], num_workers: int) -> None:
        assert self.launcher is not None
        for returned in self.launcher.launch([(*overrides, *WORKER)] * num_workers, initial_job_idx=0):
            _ = returned.return_value  # raises what a worker raised

    def _check_directions(self, config: ExperimentConfig, swept: list[str]) -> None:
        """An experiment knows which way is better; `direction`, where it is given, must say the same."""
        if isinstance(self.direction, EnumDirection):  # the node's own default
            return
        objectives = planned(config, swept).plan.objectives
        if self._directions() != [direction for _, direction in objectives]:
            shown = ", ".join(f"{direction} {name}" for name, direction in objectives)
            rule = f"does not fit the objectives, which are {shown}; leave it out, or set objective.direction"
            raise ConfigError(Fault("hydra.sweeper.direction", rule, self._get_directions()))

    def _directions(self) -> list[Direction]:
        ways: dict[str, Direction] = {"minimize": "minimize", "maximize": "maximize"}
        asked = [str(way) for way in self._get_directions()]
        if not asked or not set(asked) <= set(ways):
            raise ConfigError(Fault("hydra.sweeper.direction", "must be minimize, maximize, or a list of them", asked))
        return [ways[way] for way in asked]

    def _settings(self) -> SweepsConfig:
        """The node as our settings."""
        tree = {
            "n_trials": self.n_trials,
            "params": {},
            "sampler": _target_of(self.sampler),
            "pruner": None if self._pruner is None else _target_of(self._pruner),
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
        settings, folder = self._settings(), Path(self.sweep_dir).absolute()
        is_extended = bool(self._custom_search_space) and not swept
        space = Space({}, tuple(fixed)) if is_extended else parse_space({}, [*fixed, *swept])
        directions = self._directions()
        names = ["objective"] if len(directions) == 1 else [f"objective_{i}" for i in range(len(directions))]
        plan = make_plan(
            settings,
            space,
            objectives=tuple(zip(names, directions, strict=True)),
            seed=_seed_of(self.sampler),
            storage=f"sqlite:///{folder / 'study.db'}",
            of={"job": self._master.hydra.job.name, "fixed": list(space.fixed), "config": _without_hydra(self._master)},
        )
        check_buildable(plan)
        folder.mkdir(parents=True, exist_ok=True)
        _announce(plan)
        self._joined.plan, self._joined.fixed, self._joined.config = plan, tuple(space.fixed), self._master
        is_basic = self._master.hydra.launcher._target_ == BASIC
        worker = [*space.fixed, *next(space.probes())]  # a group may have no option without
        self._launch(worker, 1 if is_basic else settings.workers)
        _conclude(plan, folder)


def _announce(plan: Plan) -> None:
    """Raises ConfigError where the store has a study of this name that is of something else."""
    study = Study(plan)
    try:
        ended = sum(trial.state.is_finished() for trial in study.trials())
        how = "New study" if study.is_new else "Going on with study"
        logger.info(
            "%s %s: %d of %d trials are there, in %s", how, plan.name, ended, plan.total, redacted(plan.storage)
        )
    finally:
        study.close()


def _conclude(plan: Plan, folder: Path) -> None:
    study = Study(plan)
    try:
        trials = study.trials()
        write_results(study.optuna, folder)
        if study.num_failed(trials) > plan.most_failures:
            raise TrainingError(
                f"Study {plan.name}: {study.num_failed(trials)} trials failed, more than"
                f" max_failure_rate={plan.max_failure_rate:g} of {plan.total} allows. {_first_error(trials)}"
            )
        if not study.best():
            raise TrainingError(f"Study {plan.name}: no trial came to its end. {_first_error(trials)}")
        for trial in study.best():
            logger.info("Best of study %s: %s with %s (trial %d)", plan.name, trial.values, trial.params, trial.number)
    finally:
        study.close()


def _first_error(trials: Sequence[FrozenTrial]) -> str:
    errors = ((trial.number, trial.user_attrs["error"]) for trial in trials if "error" in trial.user_attrs)
    return next((f"The first, trial {number}: {error}" for number, error in errors), "")


def _target_of(node: Any) -> Any:
    """A sampler or pruner as it is configured; seed and search space are set trial by trial.

    A grid keeps its seed, which shuffles it.
    """
    if not OmegaConf.is_dict(node):
        return node
    tree = OmegaConf.to_container(node, resolve=True, enum_to_str=True)
    assert isinstance(tree, dict)
    path = tree.get("_target_")
    left_out = {"_partial_"} if path == GRID and tree.get("seed") is not None else {"_partial_", "seed"}
    kept = {str(key): value for key, value in tree.items() if key not in left_out}
    return {**kept, "_target_": _SEEDED[path]} if path in _SEEDED else kept


def nsgaii_sampler(seed: int | None = None, **node: Any) -> NSGAIISampler:
    """The plug-in's own, whose signature does not say that it takes a seed."""
    return create_nsgaii_sampler(seed=seed, **node)


def nsgaiii_sampler(seed: int | None = None, **node: Any) -> NSGAIIISampler:
    """The same of the other."""
    return create_nsgaiii_sampler(seed=seed, **node)


_SEEDED: Final = {
    f"{one.__module__}.{one.__qualname__}": f"{ours.__module__}.{ours.__qualname__}"
    for one, ours in ((create_nsgaii_sampler, nsgaii_sampler), (create_nsgaiii_sampler, nsgaiii_sampler))
}


def _without_hydra(config: DictConfig) -> Mapping[str, Any]:
    """What the task is configured with, as plain values; interpolations as text."""
    own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    tree = OmegaConf.to_container(own, resolve=False, enum_to_str=True)
    plain: dict[str, Any] = json.loads(json.dumps(tree, default=str), parse_constant=str)  # a NaN equals nothing
    return plain


def _seed_of(node: Any) -> int:
    return int((node.get("seed") if node is not None else None) or 0)


def _roots(config: DictConfig) -> Roots:
    """Where the running application's YAML is."""
    sources = {source.provider: source.path for source in config.hydra.runtime.config_sources}
    return Roots(sources.get("main") or None, sources.get("command-line"), config.hydra.job.config_name)


def _as_job(outcome: "StudyResult") -> dict[str, Any]:
    """What decides the exit code of the multirun."""
    job: dict[str, Any] = {"study": outcome.name, "verdict": outcome.verdict}
    return {**job, "error": outcome.problem} if outcome.problem else job
