"""A study in its store: opened or refused, its next trial taken, and each trial's end told.

Any number of processes and machines may work on one. Who takes a trial writes down who it is; a trial whose process
died is taken over by another, once. Together they make `total` trials, neither more nor fewer, because trials are
counted and made under a lock. How a trial is carried out is none of its business (`worker.py`).
"""

import logging
import math
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, QMCSampler, RandomSampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.config.section import Direction
from mlops_hydra.config.seeds import derive_seed
from mlops_hydra.config.targets import as_function, build, resolve
from mlops_hydra.errors import ConfigError, Fault, MlopsHydraError
from mlops_hydra.sweeps.plan import GRID, QMC, Plan, differences
from mlops_hydra.sweeps.storage import close_storage, open_storage, store_path, study_lock, told
from mlops_hydra.tracking.lease import Owner, lives, this_process
from mlops_hydra.training.interruption import Interruption

logger = logging.getLogger(__name__)

IDENTITY: Final = "mlops_hydra:identity"
OWNER: Final = "mlops_hydra:owner"
DEATHS: Final = "mlops_hydra:deaths"
OBJECTIVES: Final = "objectives"
BEAT_SECONDS: Final = 20.0
MOST_DIFFERENCES: Final = 3  # of a study that is called nearly the same
WHEN_TOLD: Final = "once the study knows"  # an exception out of nowhere would leave a trial that nobody works on
MOST_DEATHS: Final = 2  # a trial that takes its process with it for the second time is at fault itself
_open: Final[set[str]] = set()  # tokens of owners in this process: what it left behind, closed, nobody works on


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
            try:
                self.optuna, self.is_new = self._made()
            except BaseException:
                self.close()
                raise
        self.seen: list[FrozenTrial] = []
        """What `trials` gave the last time: looking costs some milliseconds."""
        _open.add(self.owner.token)
        self._storage = self.optuna._storage
        self._id = self.optuna._study_id

    def _made(self) -> tuple[optuna.Study, bool]:
        """The study, and whether it is new."""
        with study_lock(self.plan.storage, self._store):
            study = optuna.create_study(
                study_name=self.plan.name,
                storage=self._store,
                directions=self.plan.directions,
                load_if_exists=True,
            )
            return study, self._identify(study)

    def _identify(self, study: optuna.Study) -> bool:
        """Write down what a new study is of, or compare; whether it is new."""
        known = study.user_attrs.get(IDENTITY)
        is_empty = not study.get_trials(deepcopy=False, states=None)
        ways = [direction.name.lower() for direction in study.directions]
        if known is None and is_empty and ways == self.plan.directions:
            study.set_user_attr(IDENTITY, dict(self.plan.identity))
            study.set_user_attr(OBJECTIVES, [name for name, _ in self.plan.objectives])
            return True
        if changed := differences(known or {}, self.plan.identity):
            raise ConfigError(_refusal(self.plan.name, known, changed))
        return False

    def most_alike(self) -> tuple[str, list[str]] | None:
        """The study in this store that differs least, and in what; None if none is nearly the same."""
        with told(self.plan.storage):
            others = [one for one in self.optuna._storage.get_all_studies() if one.study_name != self.plan.name]
        known = ((one.study_name, one.user_attrs.get(IDENTITY)) for one in others)
        found = [(name, differences(identity, self.plan.identity)) for name, identity in known if identity]
        nearest = min(found, key=lambda pair: len(pair[1]), default=None)
        return nearest if nearest is not None and len(nearest[1]) <= MOST_DIFFERENCES else None

    def close(self) -> None:
        """Leave the store; a trial that was neither ended nor given back is for others to take over."""
        _open.discard(self.owner.token)
        with suppress(Exception):
            close_storage(self._store)

    def trials(self) -> list[FrozenTrial]:
        """All trials by number, as they are now; not to be changed."""
        with told(self.plan.storage):
            self.seen = self.optuna.get_trials(deepcopy=False)
        return self.seen

    def take(self) -> Trial | None:
        """The next trial for this process: one that was left, or a new one. None if there is none to take now."""
        trial = None
        try:
            with Interruption(WHEN_TOLD):
                trial = self._taken()
        except BaseException:
            if trial is not None:
                self.give_back(trial)
            raise
        return trial

    def _taken(self) -> Trial | None:
        """A trial with its point; one for which none can be drawn (what a person enqueued does not fit) has failed."""
        while (reserved := self._reserved()) is not None:
            trial_id, is_new = reserved
            try:
                return self._begun(trial_id, is_new=is_new)
            except MlopsHydraError:
                self._leave(trial_id)
                raise
            except Exception as error:
                self._fail(trial_id, f"no point could be drawn: {type(error).__name__}: {error}")
            if self.is_over(self.trials()):
                return None
        return None

    def _reserved(self) -> tuple[int, bool] | None:
        """The id of a trial that is this process's from now on, and whether it was made for it."""
        with told(self.plan.storage), study_lock(self.plan.storage, self._store):
            trials = self._storage.get_all_trials(self._id, deepcopy=False)
            if (taken := self._take_over(trials)) is not None:
                return taken, False
            if len(trials) >= self.plan.total:
                return None
            template = create_trial(state=TrialState.RUNNING, system_attrs={OWNER: self._sign()})
            template.datetime_start = datetime.now()
            return self._storage.create_new_trial(self._id, template_trial=template), True

    def _take_over(self, trials: Sequence[FrozenTrial]) -> int | None:
        """A trial that waits, or whose process is gone; one that was fatal twice is told to have failed."""
        for trial in trials:
            trial_id = trial._trial_id
            if trial.state == TrialState.WAITING:
                if self._storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    self._own(trial_id)
                    return trial_id
            elif trial.state == TrialState.RUNNING:
                owner = _owner_of(trial)
                if owner is not None and self._is_there(owner, trial):
                    continue
                deaths = trial.system_attrs.get(DEATHS, 0) + (owner is not None)
                if deaths >= MOST_DEATHS:
                    self._fail(trial_id, "its process died, and that of the second try too")
                    continue
                self._storage.set_trial_system_attr(trial_id, DEATHS, deaths)
                self._own(trial_id)
                return trial_id
        return None

    def _sign(self) -> dict[str, Any]:
        """Who works on a trial, and since when that is known: a process elsewhere can only be asked for a late one."""
        return {**asdict(self.owner), "beat": time.time()}

    def _own(self, trial_id: int) -> None:
        self._storage.set_trial_system_attr(trial_id, OWNER, self._sign())

    def _is_ours(self, trial_id: int) -> bool:
        trial = self._storage.get_trial(trial_id)
        return trial.state == TrialState.RUNNING and _owner_of(trial) == self.owner

    def _is_there(self, owner: Owner, trial: FrozenTrial) -> bool:
        if replace(owner, since=0.0, token="") == replace(self.owner, since=0.0, token=""):
            return owner.token in _open
        return lives(owner, trial.system_attrs[OWNER].get("beat", owner.since))

    def _fail(self, trial_id: int, why: str) -> None:
        with told(self.plan.storage):
            self._storage.set_trial_user_attr(trial_id, "error", why)
            self._storage.set_trial_state_values(trial_id, TrialState.FAIL)

    def _begun(self, trial_id: int, *, is_new: bool) -> Trial:
        """Sampled: with a sampler and a pruner of its own, so that it depends on the trials before it alone."""
        with told(self.plan.storage), _quiet():
            known = None if is_new else self._storage.get_trial(trial_id)
            self.optuna._thread_local.cached_all_trials = None
            self.optuna.sampler = build_sampler(self.plan, self._storage.get_trial_number_from_id(trial_id))
            self.optuna.pruner = _build_pruner(self.plan)
            trial = Trial(self.optuna, trial_id)
            for name, distribution in self.plan.space.distributions.items():
                if known is not None and name in known.params:
                    self._draw_again(trial, known, name, distribution)
                trial._suggest(name, distribution)
            return trial

    def _draw_again(self, trial: Trial, known: FrozenTrial, name: str, distribution: BaseDistribution) -> None:
        """Move the sampler on: a process that died between two parameters must not change the second."""
        is_whole = self.plan.custom_search_space is None and self.plan.space.distributions.keys() <= known.params.keys()
        if is_whole or distribution.single() or name in trial._fixed_params or name in trial.relative_params:
            return
        study = optuna.pruners._filter_study(self.optuna, known)
        self.optuna.sampler.sample_independent(study, known, name, distribution)

    def suggest_more(self, trial: Trial, cfg: object) -> None:
        """What `custom_search_space` adds, as hydra-optuna-sweeper calls it."""
        if self.plan.custom_search_space is not None:
            extend = as_function(Target(self.plan.custom_search_space, FrozenMap({})), where="custom_search_space")
            with told(self.plan.storage):
                extend(cfg, trial)

    def end(self, trial: Trial, state: TrialState, values: Sequence[float] | None, attrs: Mapping[str, Any]) -> bool:
        """Tell how a trial ended; False if another process had taken this one for dead, and it is not ours to tell.

        What `Study.tell` does, with one look at the trial instead of three: each costs some milliseconds. Values that
        are not finite make it a failure.
        """
        if state == TrialState.COMPLETE and not is_finite(values or ()):
            shown = ", ".join(f"{value:g}" for value in values or ())
            state, values, attrs = TrialState.FAIL, None, {**attrs, "error": f"the objective is {shown}"}
        lock = study_lock(self.plan.storage, self._store)
        with told(self.plan.storage), lock, Interruption(WHEN_TOLD), _quiet():
            known = self._storage.get_trial(trial._trial_id)
            if known.state != TrialState.RUNNING or _owner_of(known) != self.owner:
                logger.warning("Trial %d was taken over by another process meanwhile", trial.number)
                return False
            for name, value in attrs.items():
                self._storage.set_trial_user_attr(trial._trial_id, name, value)
            if state == TrialState.PRUNED:
                values = _last_report(known)
            with _grid_may_stop():
                self.optuna.sampler.after_trial(optuna.pruners._filter_study(self.optuna, known), known, state, values)
            self._storage.set_trial_state_values(trial._trial_id, state, values)
            return True

    def give_back(self, trial: Trial) -> None:
        """Leave a trial that was interrupted to whoever takes it next."""
        self._leave(trial._trial_id)

    def _leave(self, trial_id: int) -> None:
        with told(self.plan.storage), study_lock(self.plan.storage, self._store):
            if self._is_ours(trial_id):
                self._storage.set_trial_system_attr(trial_id, OWNER, None)
                self._storage.set_trial_state_values(trial_id, TrialState.WAITING)

    @contextmanager
    def alive(self, trial: Trial) -> Iterator[None]:
        """Within the block other machines see that this process works on the trial, unless one took it over."""
        over = threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                with suppress(Exception), study_lock(self.plan.storage, self._store):  # told by whoever needs the store
                    if self._is_ours(trial._trial_id):
                        self._own(trial._trial_id)

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
        if len(self.plan.objectives) == 1:
            return self.ranked()[:1]
        with told(self.plan.storage):
            return self.optuna.best_trials

    def ranked(self) -> list[FrozenTrial]:
        """Complete trials of one objective, best first."""
        return best_first(self.trials(), self.plan.directions[0])


def best_first(trials: Sequence[FrozenTrial], direction: Direction) -> list[FrozenTrial]:
    """The complete ones of one objective; of equal ones the earliest."""
    sign = 1 if direction == "minimize" else -1
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(complete, key=lambda trial: (sign * (trial.value or 0.0), trial.number))


def trials_in(plan: Plan) -> list[FrozenTrial]:
    """What the store has of the study; nothing is made.

    Raises:
        ConfigError: a study of this name is of something else.
        TrackingError: the store cannot be used.
    """
    path = store_path(plan.storage)
    if path is not None and not path.exists():
        return []
    with told(plan.storage):
        store = open_storage(plan.storage)
        try:
            known = next((one for one in store.get_all_studies() if one.study_name == plan.name), None)
            if known is None:
                return []
            if changed := differences(known.user_attrs.get(IDENTITY) or {}, plan.identity):
                raise ConfigError(_refusal(plan.name, known.user_attrs.get(IDENTITY), changed))
            return list(store.get_all_trials(known._study_id, deepcopy=False))
        finally:
            close_storage(store)


def build_sampler(plan: Plan, number: int) -> BaseSampler:
    """The sampler of one trial, seeded by the study's seed and the trial's number.

    A grid and quasi-random points keep one seed: it decides their order.

    Raises:
        ConfigError: Optuna refuses its arguments.
    """
    offers: dict[str, Any] = {"seed": _seed(plan.seed, number)}
    if plan.sampler.path == GRID:
        offers = {"search_space": plan.space.grid()}  # unseeded it is in the same order as the plug-in's
    elif plan.sampler.path == QMC:
        others = RandomSampler(seed=_seed(plan.seed, number))
        offers = {"seed": _seed(plan.seed, None), "independent_sampler": others}
    sampler = build(plan.sampler, offers, where="sweeps.sampler")
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(Fault("sweeps.sampler", "must be an Optuna sampler", plan.sampler.path))
    if isinstance(sampler, QMCSampler):
        _number(sampler, plan, number)
    return sampler


def _number(sampler: QMCSampler, plan: Plan, number: int) -> None:
    """Have trial n take the n-th point: a count in the study gives two processes the same, and loses one to a crash."""
    space = {name: one for name, one in plan.space.distributions.items() if not one.single()}
    vars(sampler).update(
        infer_relative_search_space=lambda _study, _trial: space, _find_sample_id=lambda _study, _space: number
    )


def _seed(seed: int, number: int | None) -> int:
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


def _last_report(trial: FrozenTrial) -> list[float] | None:
    """The value of a pruned trial, if it said one."""
    last = None if trial.last_step is None else trial.intermediate_values[trial.last_step]
    return None if last is None or math.isnan(last) else [last]


def _owner_of(trial: FrozenTrial) -> Owner | None:
    fields = trial.system_attrs.get(OWNER)
    return Owner(**{name: value for name, value in fields.items() if name != "beat"}) if fields else None


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
