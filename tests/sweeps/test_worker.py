"""Trials one after another: whose fault a failure is, and what happens to the trial then."""

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import Trial, TrialState

from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.errors import DataError, Fault, NonFiniteError, TrackingError, TrainingError
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.space import parse_space
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.worker import SHOWN_LENGTH, Ended, reporter, work

Act = Callable[[Trial], Any]


def plan_of(url: str, total: int, **others: Any) -> Plan:
    fields = {"objectives": (("loss", "minimize"),), "pruner": None, "seed": 7, "identity": {"seed": 7}, **others}
    sampler = Target("optuna.samplers.RandomSampler", FrozenMap({}))
    space = parse_space({}, ["x=interval(-1.0, 1.0)"])
    return Plan(name="s", storage=url, total=total, space=space, sampler=sampler, **fields)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"journal:///{tmp_path}/study.log"


@contextmanager
def opened_study(plan: Plan) -> Iterator[Study]:
    study = Study(plan)
    try:
        yield study
    finally:
        study.close()


def carried_out(trial: Trial) -> Ended:
    return Ended(TrialState.COMPLETE, (trial.params["x"] ** 2,), {"run": f"run of {trial.number}"})


class Acting:
    """Carries out trials, but for those whose number is given: there it does what is given."""

    def __init__(self, **acts: Act) -> None:
        self._acts = {int(number.removeprefix("at_")): act for number, act in acts.items()}
        self.numbers: list[int] = []

    def __call__(self, trial: Trial) -> Ended:
        self.numbers.append(trial.number)
        if trial.number in self._acts:
            self._acts[trial.number](trial)
        return carried_out(trial)


def raising(error: BaseException, cause: BaseException | None = None) -> Act:
    def act(_: Trial) -> None:
        raise error from cause

    return act


def shown(study: Study) -> list[str]:
    return [trial.state.name for trial in study.trials()]


def test_a_worker_carries_out_all_trials_and_keeps_what_it_is_told_of_each(storage_url: str) -> None:
    with opened_study(plan_of(storage_url, 5)) as study:
        work(study, carried_out)
        trials = study.trials()
    assert [trial.value for trial in trials] == [trial.params["x"] ** 2 for trial in trials]
    assert [trial.user_attrs for trial in trials] == [{"run": f"run of {number}"} for number in range(5)]


@pytest.mark.parametrize(
    "error",
    [
        TrainingError("a layer of [8, 0] units"),
        NonFiniteError("the loss is nan", epoch=1, step=3),
        DataError(Fault("data.path", "no such column", "y")),
        TrackingError("holds neither a result nor a trial"),
        ZeroDivisionError("division by zero"),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_wrong_with_one_trial_is_kept_and_the_others_go_on(error: Exception, url: str) -> None:
    with opened_study(plan_of(url, 4, max_failure_rate=0.25)) as study:
        work(study, Acting(at_1=raising(error)))
        assert shown(study) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
        assert study.trials()[1].user_attrs == {"error": f"{type(error).__name__}: {error}"}


def test_an_error_of_any_length_is_kept_in_a_readable_one(storage_url: str) -> None:
    with opened_study(plan_of(storage_url, 1, max_failure_rate=1.0)) as study:
        work(study, Acting(at_0=raising(ValueError("x" * 1_000_000))))
        assert len(study.trials()[0].user_attrs["error"]) == SHOWN_LENGTH


def test_more_failures_than_may_be_end_the_study(url: str) -> None:
    with opened_study(plan_of(url, 10, max_failure_rate=0.2)) as study:
        execute = Acting(**{f"at_{number}": raising(ValueError(str(number))) for number in (1, 3, 4)})
        work(study, execute)
        assert execute.numbers == [0, 1, 2, 3, 4]
        assert shown(study).count("FAIL") == 3
        work(study, execute)
        assert execute.numbers == [0, 1, 2, 3, 4], "the same command finds it over"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_trial_without_a_finite_objective_has_failed(value: float, url: str) -> None:
    def execute(trial: Trial) -> Ended:
        return Ended(TrialState.COMPLETE, (value if trial.number == 0 else 1.0,), {"run": "r"})

    with opened_study(plan_of(url, 2, max_failure_rate=0.5)) as study:
        work(study, execute)
        assert shown(study) == ["FAIL", "COMPLETE"]
        assert study.trials()[0].user_attrs["error"] == f"the objective is {value:g}"


DISK_FULL = OSError(errno.ENOSPC, "No space left on device")
NOT_ITS_FAULT: dict[str, tuple[BaseException, BaseException | None]] = {
    "Ctrl-C": (KeyboardInterrupt(), None),
    "SIGTERM": (SystemExit(143), None),
    "a full disk": (TrackingError("weights.safetensors cannot be written"), DISK_FULL),
    "a server that is not there": (TrackingError("MLflow does not answer"), ConnectionRefusedError()),
}


@pytest.mark.parametrize("name", NOT_ITS_FAULT)
def test_what_is_not_the_fault_of_the_trial_gives_it_back_and_ends_the_worker(name: str, storage_url: str) -> None:
    error, cause = NOT_ITS_FAULT[name]
    with opened_study(plan_of(storage_url, 3)) as study:
        with pytest.raises(type(error)) as caught:
            work(study, Acting(at_1=raising(error, cause)))
        assert caught.value is error
        assert shown(study) == ["COMPLETE", "WAITING"]
        point = study.trials()[1].params
    with opened_study(plan_of(storage_url, 3)) as again:
        work(again, execute := Acting())
        assert execute.numbers == [1, 2]
        assert shown(again) == ["COMPLETE"] * 3
        assert again.trials()[1].params == point


@pytest.mark.parametrize("is_back", [True, False], ids=["back at once", "away"])
def test_a_store_that_fails_during_a_trial_is_not_the_fault_of_the_trial(is_back: bool, postgres_database: str) -> None:
    """If it is away for longer, the trial cannot be given back, and the next command takes it over."""
    plan = plan_of(postgres_database, 3, max_failure_rate=1.0)

    def tell_nobody(trial: Trial) -> None:
        report = reporter(plan, trial)
        _open_door(postgres_database, False)
        try:
            report(0.5, 1)
        finally:
            _open_door(postgres_database, is_back)

    with opened_study(plan) as study, pytest.raises(TrackingError, match="not currently accepting connections"):
        work(study, Acting(at_1=tell_nobody))
    _open_door(postgres_database, True)
    with opened_study(plan) as study:
        assert shown(study) == ["COMPLETE", "WAITING" if is_back else "RUNNING"]
        work(study, Acting())
        assert shown(study) == ["COMPLETE"] * 3


def _open_door(database: str, is_open: bool) -> None:
    """Whether the server lets anybody in."""
    import psycopg

    name = database.partition("@/")[2].partition("?")[0]
    with psycopg.connect(database.replace(f"/{name}?", "/postgres?"), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS {str(is_open).lower()}")
        if not is_open:
            connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))


def test_a_journal_that_is_torn_during_a_trial_ends_the_worker_and_nothing_is_appended(
    url: str, tmp_path: Path
) -> None:
    path = tmp_path / "study.log"

    def tear(_: Trial) -> None:
        with path.open("ab") as file:
            file.write(b'{"op_code": 4, "tr')

    with opened_study(plan_of(url, 3)) as study:
        with pytest.raises(TrackingError, match="last line is incomplete"):
            work(study, Acting(at_1=tear))
        content = path.read_bytes()
    assert content.endswith(b'{"op_code": 4, "tr')
    path.write_bytes(content[: content.rindex(b"\n") + 1])
    with opened_study(plan_of(url, 3)) as study:
        work(study, Acting())
        assert shown(study) == ["COMPLETE"] * 3


def test_each_epoch_is_told_once_even_if_it_is_trained_again(storage_url: str) -> None:
    """A trial that goes on from its checkpoint has told of some epochs that it trains once more."""
    plan = plan_of(storage_url, 1, pruner=Target("optuna.pruners.MedianPruner", FrozenMap({})))

    def interrupted(trial: Trial) -> None:
        _tell(plan, trial, [0.5, 0.4])
        raise KeyboardInterrupt

    with opened_study(plan) as study, pytest.raises(KeyboardInterrupt):
        work(study, Acting(at_0=interrupted))
    with opened_study(plan) as study:
        work(study, Acting(at_0=lambda trial: _tell(plan, trial, [0.5, 9.9, 0.3])))
        assert study.trials()[0].intermediate_values == {1: 0.5, 2: 0.4, 3: 0.3}


def _tell(plan: Plan, trial: Trial, scores: Sequence[float]) -> None:
    report = reporter(plan, trial)
    for epoch, score in enumerate(scores, start=1):
        assert not report(score, epoch)


def test_one_looks_at_the_study_before_each_trial_and_once_it_is_over(url: str) -> None:
    seen: list[int] = []
    with opened_study(plan_of(url, 3)) as study:
        work(study, carried_out, tick=lambda: seen.append(len(study.trials())))
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("wait", [True, False])
def test_a_worker_waits_for_the_last_trials_of_others_if_it_is_asked_to(wait: bool, url: str) -> None:
    seen: list[list[str]] = []
    with opened_study(plan_of(url, 2)) as other, opened_study(plan_of(url, 2)) as study:
        held = other.take()
        assert held is not None

        def tick() -> None:
            seen.append(shown(study))
            if seen.count(["RUNNING", "COMPLETE"]) == 2:
                other.end(held, TrialState.COMPLETE, [0.5], {})

        work(study, carried_out, tick=tick, wait=wait)
        assert shown(study) == ["COMPLETE" if wait else "RUNNING", "COMPLETE"]


def test_a_worker_that_waits_takes_over_what_the_other_leaves(url: str) -> None:
    with opened_study(plan_of(url, 2)) as other, opened_study(plan_of(url, 2)) as study:
        held = other.take()
        assert held is not None

        def tick() -> None:
            if shown(study) == ["RUNNING", "COMPLETE"]:
                other.give_back(held)

        work(study, execute := Acting(), tick=tick)
        assert execute.numbers == [1, 0]
        assert shown(study) == ["COMPLETE"] * 2
