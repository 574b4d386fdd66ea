"""One study, in one process and after another: what it makes, who may work on what, and what it refuses."""

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.errors import ConfigError
from mlops_hydra.sweeps import study as module
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.space import parse_space
from mlops_hydra.sweeps.storage import close_storage, open_storage
from mlops_hydra.sweeps.study import DEATHS, OWNER, Study
from tests.sampled import some

Opens = Callable[[Plan], Study]
Point = tuple[Mapping[str, Any], TrialState, Any, Mapping[int, float]]

SPACE = ("x=interval(-1.0, 1.0)", "lr=tag(log, interval(1e-4, 1e-1))", "kind=a,b,c")
NUMBERS = ("x=interval(-1.0, 1.0)", "y=interval(-1.0, 1.0)", "n=range(1, 9)")
GRID = ("n=range(1, 5)", "kind=a,b,c")
SEARCHES: dict[str, tuple[Target, tuple[str, ...], int]] = {
    "random": (Target("optuna.samplers.RandomSampler", FrozenMap({})), SPACE, 50),
    "tpe": (
        Target("optuna.samplers.TPESampler", FrozenMap({"n_startup_trials": 10, "multivariate": True})),
        SPACE,
        50,
    ),
    "tpe, each by itself": (Target("optuna.samplers.TPESampler", FrozenMap({})), SPACE, 30),
    "qmc": (Target("optuna.samplers.QMCSampler", FrozenMap({"scramble": True})), SPACE, 50),
    "nsga2": (Target("optuna.samplers.NSGAIISampler", FrozenMap({"population_size": 8})), SPACE, 50),
    "gp": (Target("optuna.samplers.GPSampler", FrozenMap({"n_startup_trials": 6})), NUMBERS, 12),
    "cmaes": (Target("optuna.samplers.CmaEsSampler", FrozenMap({})), NUMBERS, 30),
}
REPEATING_NOTHING = [name for name in SEARCHES if name != "nsga2"]
"""In evolution a child may be as its parent was."""


def plan_of(url: str, total: int, *space: str, search: str = "random", **others: Any) -> Plan:
    fields = {
        "sampler": SEARCHES[search][0],
        "objectives": (("loss", "minimize"), ("size", "minimize"))[: 2 if search == "nsga2" else 1],
        "pruner": None,
        "seed": 7,
        **others,
    }
    parsed = parse_space({}, space or SPACE)
    identity = {"experiment": {"model": "mlp"}, "space": parsed.as_json(), "seed": fields["seed"]}
    return Plan(name="s", storage=url, total=total, space=parsed, identity=identity, **fields)


def grid_of(url: str, total: int = 12) -> Plan:
    return plan_of(url, total, *GRID, sampler=Target("optuna.samplers.GridSampler", FrozenMap({})))


@pytest.fixture
def opens() -> Iterator[Opens]:
    """`Study`, closed at the end."""
    with ExitStack() as stack:

        def open_(plan: Plan) -> Study:
            study = Study(plan)
            stack.callback(study.close)
            return study

        yield open_


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Of the fastest store, where it is not the store that matters."""
    return f"journal:///{tmp_path}/study.log"


def loss(params: Mapping[str, Any]) -> float:
    return sum(number * (value - 0.3) ** 2 for number, value in enumerate(_numbers(params), start=1))


def _numbers(params: Mapping[str, Any]) -> list[float]:
    return [float(value) for value in params.values() if not isinstance(value, str)]


def complete(study: Study, trial: Trial) -> None:
    values = [loss(trial.params), abs(trial.params.get("x", 0.0))][: len(study.plan.objectives)]
    assert study.end(trial, TrialState.COMPLETE, values, {})


def search(study: Study, most: int | None = None, end: Callable[[Study, Trial], None] = complete) -> int:
    """Carry out trials until there is none, or so many; how many there were."""
    number = 0
    while number != most and (trial := study.take()) is not None:
        end(study, trial)
        number += 1
    return number


def points(study: Study) -> list[Point]:
    return [(trial.params, trial.state, trial.values, trial.intermediate_values) for trial in study.trials()]


def states(study: Study) -> list[str]:
    return [trial.state.name for trial in study.trials()]


DYING = """
import os, pickle, signal, sys
import alembic.migration, mlops_hydra.training.seeding, optuna.storages.journal, sqlalchemy.orm
from mlops_hydra.sweeps.study import Study
def die(plan, num_params):
    study = Study(plan)
    write, written = study._storage.set_trial_param, []
    def counted(*args):
        write(*args)
        written.append(args)
        if len(written) == num_params:
            os.kill(os.getpid(), signal.SIGKILL)
    study._storage.set_trial_param = counted
    study.take()
    os.kill(os.getpid(), signal.SIGKILL)
while True:
    try:
        told = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    child = os.fork()
    if child == 0:
        die(*told)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Dies(Protocol):
    """A process takes a trial and is killed: with its point drawn, or after so many parameters."""

    def __call__(self, plan: Plan, *, after_params: int | None = None) -> None: ...


@pytest.fixture(scope="module")
def die() -> Iterator[Dies]:
    """Has everything imported, and forks those that die."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", DYING], **pipes) as process:  # type: ignore[call-overload]

        def die_(plan: Plan, *, after_params: int | None = None) -> None:
            pickle.dump((plan, after_params), process.stdin)
            process.stdin.flush()
            assert int(process.stdout.readline()) == -signal.SIGKILL

        yield die_


# How many, and which


def test_a_study_makes_exactly_its_total_and_then_no_more(storage_url: str, opens: Opens) -> None:
    study = opens(plan_of(storage_url, 7))
    assert study.is_new
    assert search(study) == 7
    assert study.take() is None
    assert [trial.number for trial in study.trials()] == list(range(7))
    assert study.is_over(study.trials())
    assert not opens(plan_of(storage_url, 7)).is_new


@pytest.mark.parametrize("name", some(SEARCHES, every=2))
def test_a_search_that_is_continued_tries_what_one_in_one_go_tries(name: str, tmp_path: Path, opens: Opens) -> None:
    _, space, total = SEARCHES[name]
    whole = opens(plan_of(f"journal:///{tmp_path}/whole.log", total, *space, search=name))
    search(whole)
    for so_far in (total // 2, total):
        parts = opens(plan_of(f"journal:///{tmp_path}/parts.log", so_far, *space, search=name))
        search(parts)
    assert len(points(whole)) == total
    assert points(parts) == points(whole)


@pytest.mark.parametrize("name", some(["tpe", "qmc", "nsga2", "cmaes"], every=2))
def test_every_store_gives_the_same_search_however_often_it_is_opened(
    name: str, storage_url: str, url: str, opens: Opens
) -> None:
    space = SEARCHES[name][1]
    search(whole := opens(plan_of(url, 16, *space, search=name)))
    for _ in range(4):
        search(study := opens(plan_of(storage_url, 16, *space, search=name)), 4)
    assert points(study) == points(whole)


@pytest.mark.parametrize("name", REPEATING_NOTHING)
def test_no_point_is_tried_twice(name: str, url: str, opens: Opens) -> None:
    _, space, total = SEARCHES[name]
    for _ in range(3):
        study = opens(plan_of(url, total, *space, search=name))
        search(study, total // 3)
    tried = [tuple(trial.params.values()) for trial in study.trials()]
    assert len(set(tried)) == len(tried)


@pytest.mark.parametrize("name", REPEATING_NOTHING)
def test_trials_that_run_at_the_same_time_try_different_points(name: str, url: str, opens: Opens) -> None:
    _, space, _ = SEARCHES[name]
    studies = [opens(plan_of(url, 12, *space, search=name)) for _ in range(4)]
    for _ in range(3):
        running = [(study, study.take()) for study in studies]
        for study, trial in running:
            assert trial is not None
            complete(study, trial)
    tried = [tuple(trial.params.values()) for trial in studies[0].trials()]
    assert len(set(tried)) == 12


@pytest.mark.parametrize("name", ["random", "qmc"])
def test_points_that_look_at_no_results_are_the_same_for_one_process_and_for_four(
    name: str, tmp_path: Path, opens: Opens
) -> None:
    one = opens(plan_of(f"journal:///{tmp_path}/one.log", 12, search=name))
    search(one)
    four = [opens(plan_of(f"journal:///{tmp_path}/four.log", 12, search=name)) for _ in range(4)]
    for _ in range(3):
        running = [(study, study.take()) for study in four]
        for study, trial in running:
            assert trial is not None
            complete(study, trial)
    assert points(four[0]) == points(one)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_a_grid_covers_each_point_once(num_processes: int, storage_url: str, opens: Opens) -> None:
    studies = [opens(grid_of(storage_url)) for _ in range(num_processes)]
    while running := [(study, trial) for study in studies if (trial := study.take()) is not None]:
        for study, trial in running:
            complete(study, trial)
    tried = [(trial.params["n"], trial.params["kind"]) for trial in studies[0].trials()]
    assert sorted(tried) == sorted(product(range(1, 5), "abc"))


def test_the_point_of_a_trial_does_not_depend_on_the_processes_before_it(tmp_path: Path, opens: Opens) -> None:
    """Each number by itself: the trials before it are the same, but another process drew them."""
    search(whole := opens(plan_of(f"journal:///{tmp_path}/whole.log", 16, search="tpe")))
    for _ in range(16):
        study = opens(plan_of(f"journal:///{tmp_path}/each.log", 16, search="tpe"))
        search(study, 1)
    assert points(study) == points(whole)


def test_a_higher_total_goes_on_and_a_lower_one_ends_without_taking_anything_away(
    storage_url: str, opens: Opens
) -> None:
    assert search(opens(plan_of(storage_url, 4))) == 4
    assert search(opens(plan_of(storage_url, 6))) == 2
    lowered = opens(plan_of(storage_url, 3))
    assert lowered.is_over(lowered.trials())
    assert search(lowered) == 0
    assert states(lowered) == ["COMPLETE"] * 6


PRUNERS = {
    "median": Target("optuna.pruners.MedianPruner", FrozenMap({"n_startup_trials": 3})),
    "hyperband": Target(
        "optuna.pruners.HyperbandPruner", FrozenMap({"min_resource": 1, "max_resource": 9, "reduction_factor": 3})
    ),
    "hyperband, of unknown length": Target("optuna.pruners.HyperbandPruner", FrozenMap({})),
}


def prunable(study: Study, trial: Trial) -> None:
    for epoch in range(1, 10):
        trial.report(loss(trial.params) + 1 / epoch, epoch)
        if trial.should_prune():
            assert study.end(trial, TrialState.PRUNED, None, {})
            return
    complete(study, trial)


@pytest.mark.parametrize("name", PRUNERS)
def test_a_pruned_search_that_is_continued_is_the_same_too(name: str, tmp_path: Path, opens: Opens) -> None:
    pruner = PRUNERS[name]
    whole = opens(plan_of(f"journal:///{tmp_path}/whole.log", 30, search="tpe", pruner=pruner))
    search(whole, end=prunable)
    for _ in range(5):
        parts = opens(plan_of(f"journal:///{tmp_path}/parts.log", 30, search="tpe", pruner=pruner))
        search(parts, 6, end=prunable)
    assert {"COMPLETE", "PRUNED"} <= set(states(whole))
    assert points(parts) == points(whole)


def test_a_pruner_compares_with_the_trials_of_earlier_processes(storage_url: str, opens: Opens) -> None:
    plan = plan_of(storage_url, 9, pruner=PRUNERS["median"])
    search(opens(plan), 4, end=prunable)
    study = opens(plan)
    trial = study.take()
    assert trial is not None
    trial.report(1e6, 1)
    assert trial.should_prune()


# What it is of


def _everything(storage: Any) -> list[Any]:
    return [
        (one.study_name, one.user_attrs, one.system_attrs, storage.get_all_trials(one._study_id))
        for one in storage.get_all_studies()
    ]


def test_a_study_of_something_else_is_refused_with_what_changed_and_both_ways_on(
    storage_url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    search(opens(plan_of(storage_url, 2)))
    before = _everything(opened(storage_url))
    with pytest.raises(ConfigError) as caught:
        Study(plan_of(storage_url, 5, "x=interval(-1.0, 2.0)", *SPACE[1:], seed=8))
    text = str(caught.value)
    assert "space.x.attributes.high: 1.0 -> 2.0" in text
    assert "seed: 7 -> 8" in text
    assert "lr" not in text, "it is as it was"
    assert "sweeps.study_name=OTHER" in text
    assert "ask for what study s is of" in text
    assert _everything(opened(storage_url)) == before


@pytest.mark.parametrize("is_empty", [False, True])
def test_a_study_that_another_program_made_is_refused(
    is_empty: bool, storage_url: str, opened: Callable[[str], Any]
) -> None:
    """An empty one whose direction is another's would be searched the wrong way."""
    raw = optuna.create_study(study_name="s", storage=opened(storage_url), direction="maximize")
    if not is_empty:
        raw.tell(raw.ask(), 1.0)
    before = _everything(opened(storage_url))
    with pytest.raises(ConfigError, match=r"trials of another program.*sweeps\.study_name=OTHER"):
        Study(plan_of(storage_url, 5))
    assert _everything(opened(storage_url)) == before


def test_a_study_whose_maker_died_before_it_said_what_it_is_of_is_taken_on(
    storage_url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    optuna.create_study(study_name="s", storage=opened(storage_url), direction="minimize")
    study = opens(plan_of(storage_url, 1))
    assert study.is_new
    assert search(study) == 1


# Who works on what


def test_the_trial_of_a_killed_process_is_taken_over_with_its_number_and_its_point(
    storage_url: str, tmp_path: Path, opens: Opens, die: Dies
) -> None:
    plan = plan_of(storage_url, 3)
    study = opens(plan)
    search(study, 1)
    die(plan)
    (_, left) = study.trials()
    taken = study.take()
    assert taken is not None
    assert (taken.number, taken.params) == (1, left.params)
    complete(study, taken)
    assert search(study) == 1
    search(undisturbed := opens(plan_of(f"journal:///{tmp_path}/undisturbed.log", 3)))
    assert points(study) == points(undisturbed)


def test_a_trial_that_took_two_processes_with_it_has_failed(storage_url: str, opens: Opens, die: Dies) -> None:
    plan = plan_of(storage_url, 2)
    die(plan)
    die(plan)
    study = opens(plan)
    assert search(study) == 1
    assert states(study) == ["FAIL", "COMPLETE"]
    assert "its process died" in study.trials()[0].user_attrs["error"]


@pytest.mark.parametrize("name", ["random", "tpe, each by itself", "qmc", "cmaes"])
def test_a_process_that_dies_between_two_parameters_does_not_change_the_second(
    name: str, tmp_path: Path, opens: Opens, die: Dies
) -> None:
    space = SEARCHES[name][1]
    search(undisturbed := opens(plan_of(f"journal:///{tmp_path}/undisturbed.log", 3, *space, search=name)))
    plan = plan_of(f"journal:///{tmp_path}/disturbed.log", 3, *space, search=name)
    search(study := opens(plan), 1)
    die(plan, after_params=1)
    assert len(study.trials()[1].params) == 1
    search(study)
    assert points(study) == points(undisturbed)


def test_a_trial_that_was_given_back_waits_and_is_next_and_that_counts_as_no_death(
    storage_url: str, opens: Opens
) -> None:
    study = opens(plan_of(storage_url, 2))
    point = None
    for _ in range(3):
        trial = study.take()
        assert trial is not None
        assert trial.number == 0
        assert point in (None, trial.params)
        point = trial.params
        study.give_back(trial)
        assert states(study) == ["WAITING"]
    other = opens(plan_of(storage_url, 2))
    assert search(other) == 2
    assert states(other) == ["COMPLETE"] * 2
    assert DEATHS not in other.trials()[0].system_attrs


def test_what_a_process_left_when_it_closed_its_study_is_taken_over_by_the_same_process(
    storage_url: str, opens: Opens
) -> None:
    """A notebook whose disk was full: its process lives, but nobody works on the trial any more."""
    plan = plan_of(storage_url, 1)
    first, second = opens(plan), opens(plan)
    first.take()
    assert second.take() is None, "the first is open, perhaps in another thread"
    first.close()
    assert search(second) == 1


def elsewhere(study: Study) -> Study:
    """As if it ran on another machine, each on one of its own, for a long time already."""
    study.owner = replace(study.owner, host=f"host of {study.owner.token}", since=0.0)
    return study


def _silence(study: Study, trial: Trial, seconds: float) -> None:
    """Make the last sign of life so old."""
    sign = {**study.trials()[trial.number].system_attrs[OWNER], "beat": time.time() - seconds}
    study.optuna._storage.set_trial_system_attr(trial._trial_id, OWNER, sign)


def test_a_process_on_another_machine_is_left_alone_while_it_gives_signs_of_life(
    storage_url: str, opens: Opens
) -> None:
    plan = plan_of(storage_url, 1)
    there, here = elsewhere(opens(plan)), opens(plan)
    trial = there.take()
    assert trial is not None
    assert here.take() is None
    _silence(there, trial, 60)
    assert here.take() is None
    _silence(there, trial, 600)
    assert here.take() is not None


def test_a_process_on_another_machine_that_took_over_an_old_trial_is_left_alone_from_the_first_moment(
    storage_url: str, opens: Opens
) -> None:
    plan = plan_of(storage_url, 1)
    first, second, third = elsewhere(opens(plan)), elsewhere(opens(plan)), opens(plan)
    trial = first.take()
    assert trial is not None
    _silence(first, trial, 600)
    assert second.take() is not None
    assert third.take() is None


def _until(is_so: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end, "too late"
        time.sleep(0.005)


def test_a_process_gives_signs_of_life_while_it_works(
    storage_url: str, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    study = opens(plan_of(storage_url, 1))
    trial = study.take()
    assert trial is not None
    _silence(study, trial, 600)
    with study.alive(trial):
        _until(lambda: time.time() - study.trials()[0].system_attrs[OWNER]["beat"] < 60)
    complete(study, trial)


class Counted(Study):
    """Counts how often it asked whose a trial is."""

    num_asked = 0

    def _is_ours(self, trial_id: int) -> bool:
        self.num_asked += 1
        return super()._is_ours(trial_id)


def test_a_process_that_slept_neither_ends_nor_takes_back_what_was_taken_over(
    storage_url: str, opens: Opens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.02)
    plan = plan_of(storage_url, 1)
    slept = Counted(plan)
    try:
        late = elsewhere(slept).take()
        assert late is not None
        _silence(slept, late, 600)
        taken = (heir := opens(plan)).take()
        assert taken is not None
        with slept.alive(late):
            _until(lambda: slept.num_asked > 3)
        before = heir.trials()
        assert not slept.end(late, TrialState.COMPLETE, [1.0], {"run": "late"})
        slept.give_back(late)
        assert heir.trials() == before
        assert heir.end(taken, TrialState.COMPLETE, [2.0], {"run": "heir"})
        assert not slept.end(late, TrialState.COMPLETE, [1.0], {"run": "late"})
        assert [(trial.values, trial.user_attrs) for trial in heir.trials()] == [([2.0], {"run": "heir"})]
    finally:
        slept.close()


class Interrupted(Study):
    """Ctrl-C while a point is drawn."""

    def _begun(self, trial_id: int, *, is_new: bool) -> Trial:
        os.kill(os.getpid(), signal.SIGINT)
        return super()._begun(trial_id, is_new=is_new)


def test_ctrl_c_while_a_trial_is_taken_leaves_it_waiting(storage_url: str, opens: Opens) -> None:
    study = Interrupted(plan_of(storage_url, 1))
    try:
        with pytest.raises(KeyboardInterrupt):
            study.take()
        assert states(study) == ["WAITING"]
        assert search(opens(study.plan)) == 1
    finally:
        study.close()


class Interrupting(dict[str, Any]):
    """Ctrl-C while it is written down."""

    def items(self) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return super().items()


def test_ctrl_c_while_the_end_of_a_trial_is_told_waits_until_it_is(storage_url: str, opens: Opens) -> None:
    study = opens(plan_of(storage_url, 1))
    trial = study.take()
    assert trial is not None
    with pytest.raises(KeyboardInterrupt):
        study.end(trial, TrialState.COMPLETE, [0.5], Interrupting(run="r"))
    assert [(one.state.name, one.value, one.user_attrs) for one in study.trials()] == [("COMPLETE", 0.5, {"run": "r"})]


# How trials end


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_trial_whose_objective_is_not_finite_has_failed_and_says_so(value: float, url: str, opens: Opens) -> None:
    study = opens(plan_of(url, 2, max_failure_rate=0.5))
    trial = study.take()
    assert trial is not None
    assert study.end(trial, TrialState.COMPLETE, [value], {"run": "r"})
    assert states(study) == ["FAIL"]
    assert study.trials()[0].user_attrs == {"run": "r", "error": f"the objective is {value:g}"}
    search(study)
    assert [trial.number for trial in study.best()] == [1]
    assert [trial.number for trial in study.ranked()] == [1]


def test_a_study_is_over_when_more_trials_failed_than_may(url: str, opens: Opens) -> None:
    study = opens(plan_of(url, 10, max_failure_rate=0.2))
    for number in range(3):
        assert not study.is_over(study.trials()), number
        trial = study.take()
        assert trial is not None
        study.end(trial, TrialState.FAIL, None, {"error": "why"})
    assert study.is_over(study.trials())


def test_a_trial_that_a_person_enqueued_is_carried_out_as_told_and_counts(
    storage_url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    study = opens(plan_of(storage_url, 3))
    search(study, 1)
    optuna.load_study(study_name="s", storage=opened(storage_url)).enqueue_trial({"x": 0.25, "kind": "b"})
    assert search(study) == 2
    trial = study.trials()[1]
    assert (trial.params["x"], trial.params["kind"]) == (0.25, "b")
    assert 1e-4 <= trial.params["lr"] <= 1e-1, "what was left open is drawn"
    assert states(study) == ["COMPLETE"] * 3


def test_an_enqueued_trial_for_which_no_point_can_be_drawn_fails_and_the_study_goes_on(
    storage_url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    study = opens(replace(grid_of(storage_url, 3), max_failure_rate=0.5))
    optuna.load_study(study_name="s", storage=opened(storage_url)).enqueue_trial({"kind": "b"})
    assert search(study) == 2
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE"]
    assert "no point could be drawn: ValueError" in study.trials()[0].user_attrs["error"]


def test_enqueued_trials_without_a_point_end_a_study_in_which_nothing_may_fail(
    url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    study = opens(grid_of(url, 3))
    optuna.load_study(study_name="s", storage=opened(url)).enqueue_trial({"kind": "b"})
    assert study.take() is None
    assert study.is_over(study.trials())


def test_the_best_of_two_objectives_is_a_front_and_of_none_nothing(url: str, opens: Opens) -> None:
    study = opens(plan_of(url, 20, search="nsga2"))
    assert study.best() == []
    search(study)
    front = {tuple(trial.values) for trial in study.best()}
    values = [tuple(trial.values) for trial in study.trials()]
    better = {v for v in values if not any(_dominates(other, v) for other in values)}
    assert front == better


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("way", ["minimize", "maximize"])
def test_trials_are_ranked_best_first_and_the_earliest_of_equal_ones(way: str, url: str, opens: Opens) -> None:
    study = opens(plan_of(url, 4, objectives=(("score", way),)))
    for value in (2.0, 0.0, 1.0, 0.0):
        trial = study.take()
        assert trial is not None
        study.end(trial, TrialState.COMPLETE, [value], {})
    assert [trial.number for trial in study.ranked()] == ([1, 3, 2, 0] if way == "minimize" else [0, 2, 1, 3])


# Others


def test_optuna_itself_reads_everything_that_a_study_holds(
    storage_url: str, opens: Opens, opened: Callable[[str], Any]
) -> None:
    """What optuna-dashboard and a person's notebook do."""
    study = opens(plan_of(storage_url, 6, pruner=PRUNERS["median"], max_failure_rate=0.5))
    search(study, 4, end=prunable)
    trial = study.take()
    assert trial is not None
    study.end(trial, TrialState.FAIL, None, {"error": "why", "list": [1, 2]})
    study.take()
    loaded = optuna.load_study(study_name="s", storage=opened(storage_url))
    trials = loaded.get_trials()
    assert [_shown(trial) for trial in trials] == [_shown(trial) for trial in study.trials()]
    assert trials[4].user_attrs == {"error": "why", "list": [1, 2]}
    assert trials[5].state == TrialState.RUNNING
    assert all(trial.datetime_start is not None for trial in trials)
    assert loaded.user_attrs["objectives"] == ["loss"]
    assert loaded.best_trial.number == study.best()[0].number
    assert len(loaded.trials_dataframe()) == 6


def _shown(trial: FrozenTrial) -> Any:
    kept = (trial.params, trial.distributions, trial.values, trial.user_attrs, trial.intermediate_values)
    return trial.number, trial.state, *kept


def test_what_a_study_of_someone_elses_name_holds_is_left_alone(storage_url: str, opens: Opens) -> None:
    one, other = opens(plan_of(storage_url, 2)), opens(replace(plan_of(storage_url, 3), name="other"))
    search(one)
    search(other)
    assert [len(study.trials()) for study in (one, other)] == [2, 3]
    assert points(one) == points(other)[:2]


def test_a_trial_that_is_taken_is_known_to_everybody_before_its_point_is_drawn(url: str, opens: Opens) -> None:
    """So that two processes never count the same trial as missing."""
    studies = [opens(plan_of(url, 2)) for _ in range(3)]
    taken = [study.take() for study in studies]
    assert [trial.number for trial in taken if trial is not None] == [0, 1]
    storage = open_storage(url)
    assert len(storage.get_all_trials(storage.get_study_id_from_name("s"))) == 2
    close_storage(storage)
