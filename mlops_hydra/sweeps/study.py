"""A study in its store: opened or refused, its next trial taken, and each trial's end told.

Any number of processes and machines may work on one. Who takes a trial writes down who it is; a trial whose process
died is taken over by another, once. Together they make `total` trials, neither more nor fewer, because trials are
counted and made under a lock. How a trial is carried out is none of its business (`worker.py`).
"""

import logging
import math
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, Final

import optuna
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.config.targets import as_function, build, resolve
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.sweeps.plan import GRID, QMC, Plan, differences
from mlops_hydra.sweeps.storage import close_storage, open_storage, study_lock, told
from mlops_hydra.tracking.lease import Owner, lives, this_process

logger = logging.getLogger(__name__)

IDENTITY: Final = "mlops_hydra:identity"
OWNER: Final = "mlops_hydra:owner"
DEATHS: Final = "mlops_hydra:deaths"
OBJECTIVES: Final = "objectives"
BEAT_SECONDS: Final = 20.0
MOST_DEATHS: Final = 2  # a trial that takes its process with it for the second time is at fault itself


class Study:
    """One study, for one process. Threads do not share it."""

    def __init__(self, plan: Plan) -> None:
        """Open the study of `plan`, or make it.

        Raises:
            ConfigError: a study of this name is of something else.
            TrackingError: the store cannot be used.
        """
        self.plan = plan
        self.owner = this_process()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with told(plan.storage):
            self._store = open_storage(plan.storage)
            with study_lock(plan.storage, self._store):
                self.optuna = optuna.create_study(
                    study_name=plan.name,
                    storage=self._store,
                    directions=plan.directions,
                    load_if_exists=True,
                    pruner=_build_pruner(plan),
                )
                self.is_new = self._identify()
        self._storage = self.optuna._storage
        self._id = self.optuna._study_id

    def _identify(self) -> bool:
        """Write down what a new study is of, or compare; whether it is new."""
        known = self.optuna.user_attrs.get(IDENTITY)
        if known is None and not self.optuna.get_trials(deepcopy=False, states=None):
            self.optuna.set_user_attr(IDENTITY, dict(self.plan.identity))
            self.optuna.set_user_attr(OBJECTIVES, [name for name, _ in self.plan.objectives])
            return True
        if changed := differences(known or {}, self.plan.identity):
            raise ConfigError(_refusal(self.plan.name, known, changed))
        return False

    def close(self) -> None:
        """Leave the store."""
        with suppress(Exception):
            close_storage(self._store)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number; not to be changed."""
        with told(self.plan.storage):
            return self.optuna.get_trials(deepcopy=False)

    def take(self) -> Trial | None:
        """The next trial for this process: one that was left, or a new one. None if there is none to take now."""
        with told(self.plan.storage), study_lock(self.plan.storage, self._store):
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
            taken = self._take_over(trials)
            if taken is None and len(trials) < self.plan.total:
                attrs = {OWNER: asdict(self.owner)}
                template = create_trial(state=TrialState.RUNNING, system_attrs=attrs)
                template.datetime_start = datetime.now()
                taken = self._storage.create_new_trial(self._id, template_trial=template)
        return None if taken is None else self._begun(taken)

    def _take_over(self, trials: Sequence[FrozenTrial]) -> int | None:
        """A trial that waits, or whose process is gone; one that was fatal twice is told to have failed."""
        for trial in trials:
            if trial.state == TrialState.WAITING:
                if self._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING):
                    self._own(trial)
                    return trial._trial_id
            elif trial.state == TrialState.RUNNING:
                owner = _owner_of(trial)
                if owner is not None and _is_there(owner, trial):
                    continue
                deaths = trial.system_attrs.get(DEATHS, 0) + (owner is not None)
                if deaths >= MOST_DEATHS:
                    self._fail_dead(trial)
                    continue
                self._storage.set_trial_system_attr(trial._trial_id, DEATHS, deaths)
                self._own(trial)
                return trial._trial_id
        return None

    def _own(self, trial: FrozenTrial) -> None:
        self._storage.set_trial_system_attr(trial._trial_id, OWNER, asdict(self.owner))

    def _fail_dead(self, trial: FrozenTrial) -> None:
        self._storage.set_trial_user_attr(trial._trial_id, "error", "its process died, and that of the second try too")
        self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _begun(self, trial_id: int) -> Trial:
        """Sampled: with a sampler of its own, so that what is drawn depends on the trials before it alone."""
        with told(self.plan.storage), _quiet():
            number = self._storage.get_trial_number_from_id(trial_id)
            self.optuna._thread_local.cached_all_trials = None
            self.optuna.sampler = build_sampler(self.plan, number)
            trial = Trial(self.optuna, trial_id)
            for name, distribution in self.plan.space.distributions.items():
                trial._suggest(name, distribution)
            return trial

    def suggest_more(self, trial: Trial, cfg: object) -> None:
        """What `custom_search_space` adds, as hydra-optuna-sweeper calls it."""
        if self.plan.custom_search_space is not None:
            extend = as_function(Target(self.plan.custom_search_space, FrozenMap({})), where="custom_search_space")
            with told(self.plan.storage):
                extend(cfg, trial)

    def end(self, trial: Trial, state: TrialState, values: Sequence[float] | None, attrs: Mapping[str, Any]) -> bool:
        """Tell how a trial ended; False if another process had taken this one for dead, and it is not ours to tell."""
        with told(self.plan.storage), _quiet():
            now = self._storage.get_trial(trial._trial_id)
            if now.state != TrialState.RUNNING or _owner_of(now) != self.owner:
                logger.warning("Trial %d was taken over by another process meanwhile", trial.number)
                return False
            for name, value in attrs.items():
                self._storage.set_trial_user_attr(trial._trial_id, name, value)
            with _grid_may_stop():
                self.optuna.tell(trial, values=values, state=state)
            return True

    def give_back(self, trial: Trial) -> None:
        """Leave a trial that was interrupted to whoever takes it next."""
        with told(self.plan.storage), study_lock(self.plan.storage, self._store):
            if _owner_of(self._storage.get_trial(trial._trial_id)) == self.owner:
                self._storage.set_trial_system_attr(trial._trial_id, OWNER, None)
                self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Within the block other machines see that this process works on the trial."""
        over = threading.Event()
        key = OWNER

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                with suppress(Exception):  # told by whoever needs the store
                    sign = {**asdict(self.owner), "beat": datetime.now().timestamp()}
                    self._storage.set_trial_system_attr(trial._trial_id, key, sign)

        thread = threading.Thread(target=beat, name="trial", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def num_failed(self, trials: Sequence[FrozenTrial]) -> int:
        """How many trials failed."""
        return sum(trial.state == TrialState.FAIL for trial in trials)

    def is_over(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether all trials there will be have ended, or too many failed."""
        ended = sum(trial.state.is_finished() for trial in trials)
        return ended >= self.plan.total or self.num_failed(trials) > self.plan.most_failures

    def best(self) -> list[FrozenTrial]:
        """The best trial; of several objectives the Pareto front; nothing where no trial is complete."""
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        if not complete:
            return []
        with told(self.plan.storage):
            return [self.optuna.best_trial] if len(self.plan.objectives) == 1 else self.optuna.best_trials

    def ranked(self) -> list[FrozenTrial]:
        """Complete trials of one objective, best first; of equal ones the earliest."""
        sign = 1 if self.optuna.directions[0] == StudyDirection.MINIMIZE else -1
        complete = [trial for trial in self.trials() if trial.state == TrialState.COMPLETE]
        return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def build_sampler(plan: Plan, number: int) -> BaseSampler:
    """The sampler of one trial, seeded by the study's seed and the trial's number.

    A grid and quasi-random points keep one seed: it decides their order.

    Raises:
        ConfigError: Optuna refuses its arguments.
    """
    fixed = plan.sampler.path in (GRID, QMC)
    offers: dict[str, Any] = {"seed": _seed(plan.seed, None if fixed else number)}
    if plan.sampler.path == GRID:
        offers = {"search_space": plan.space.grid()}  # unseeded it is in the same order as the plug-in's
    sampler = build(plan.sampler, offers, where="sweeps.sampler")
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(Fault("sweeps.sampler", "must be an Optuna sampler", plan.sampler.path))
    return sampler


def _seed(seed: int, number: int | None) -> int:
    from mlops_hydra.training.seeding import derive_seed

    return derive_seed(seed, "sampler", "" if number is None else number) % 2**32


def _build_pruner(plan: Plan) -> optuna.pruners.BasePruner:
    if plan.pruner is None:
        return optuna.pruners.NopPruner()
    pruner = build(plan.pruner, where="sweeps.pruner")
    if not isinstance(pruner, optuna.pruners.BasePruner):
        raise ConfigError(Fault("sweeps.pruner", "must be an Optuna pruner", plan.pruner.path))
    return pruner


def check_buildable(plan: Plan) -> None:
    """Raises ConfigError where sampler, pruner or the extension of the space cannot be built."""
    with _quiet():
        build_sampler(plan, 0)
    _build_pruner(plan)
    if plan.custom_search_space is not None:
        resolve(plan.custom_search_space)


def _owner_of(trial: FrozenTrial) -> Owner | None:
    fields = trial.system_attrs.get(OWNER)
    return Owner(**{name: value for name, value in fields.items() if name != "beat"}) if fields else None


def _is_there(owner: Owner, trial: FrozenTrial) -> bool:
    began = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
    return lives(owner, max(trial.system_attrs[OWNER].get("beat", 0.0), owner.since, began))


def _refusal(name: str, known: Mapping[str, Any] | None, changed: Sequence[str]) -> list[Fault]:
    ways = f"go on with another study, sweeps.study_name=OTHER, or ask for what study {name} is of"
    if known is None:
        return [Fault("sweeps.study_name", f"study {name} has trials of another program; {ways}")]
    return [Fault("sweeps.study_name", f"study {name} is of something else ({line}); {ways}") for line in changed]


@contextmanager
def _grid_may_stop() -> Iterator[None]:
    """A grid that is exhausted wants to end a loop of Optuna's own."""
    try:
        yield
    except RuntimeError as error:
        if "Study.stop" not in str(error):
            raise


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna calls useful things experimental, once a trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def is_finite(values: Sequence[float]) -> bool:
    """Whether a trial may be complete with them: Optuna takes no NaN, and an infinity makes nothing better."""
    return all(math.isfinite(value) for value in values)
