"""What a person reads when a study has ended."""

import io
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from rich.console import Console

from mlops_hydra.sweeps.closing import print_study

SPACE = {"optimizer.lr": FloatDistribution(1e-5, 1.0), "model": CategoricalDistribution(["[red]mlp", None])}
PARAMS = {"optimizer.lr": 0.0031622776601683794, "model": "[red]mlp"}


def complete(*values: float) -> FrozenTrial:
    return create_trial(values=values, params=PARAMS, distributions=SPACE)


def failed(error: str | None) -> FrozenTrial:
    return create_trial(state=TrialState.FAIL, user_attrs={"error": error} if error else {})


def printed(*trials: FrozenTrial, objectives: tuple[str, ...] = ("val/log_loss",), **options: Any) -> str:
    study = optuna.create_study(study_name="first[try]", directions=["minimize"] * len(objectives))
    study.set_user_attr("objectives", list(objectives))
    study.add_trials(trials)
    console = Console(file=io.StringIO(), width=100)
    print_study(console, study, Path.cwd() / "outputs" / "studies" / "first", **{"command": None} | options)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_best_is_told_exactly_and_how_to_run_it() -> None:
    text = printed(
        complete(0.5), complete(0.25), create_trial(state=TrialState.PRUNED), command="mlops-hydra model=mlp"
    )
    assert text.splitlines() == [
        "",
        "first[try]  3 trials: 2 complete, 1 pruned",
        "best    val/log_loss 0.2500  trial 1",
        "        optimizer.lr=0.0031622776601683794",
        "        model=[red]mlp",
        "files   outputs/studies/first",
        "run it  mlops-hydra model=mlp",
    ]


@pytest.mark.parametrize("objectives", [("a",), ("a", "b")])
def test_a_study_without_a_complete_trial_says_so(objectives: tuple[str, ...]) -> None:
    assert "none: no trial is complete" in printed(objectives=objectives)
    assert "first[try]  1 trial: 1 failed" in printed(failed("x"), objectives=objectives)


def test_the_pareto_front_is_a_table_from_end_to_end() -> None:
    text = printed(*(complete(float(at), 0.0 - at) for at in range(30)), objectives=("a", "b"))
    head, columns, *rows = text.splitlines()[2:-1]
    assert head == "Pareto front:  30 trials, 10 of them"
    assert columns.split() == ["trial", "a", "b", "parameters"]
    numbers = [int(row.split()[0]) for row in rows]
    assert len(numbers) == 10
    assert (numbers[0], numbers[-1]) == (0, 29)
    assert rows[0].split()[1:3] == ["0.0000", "0.0000"]


def test_the_most_frequent_errors_are_counted() -> None:
    errors = ["a [b]\nmore", "a [b]", "c", "c", "c", "d", "e", None]
    rows = [row for row in printed(*map(failed, errors)).splitlines() if row.startswith("failed")]
    assert rows == [
        "failed  3 times: c",
        "failed  2 times: a [b]",
        "failed  once: d",
        "failed  2 for other reasons; see trials.parquet",
    ]


def test_a_confirmation_is_a_table_by_its_keys() -> None:
    rows = [{"configuration": "best [1]", "n": 3, "val": 0.25}, {"configuration": "defaults", "n": 3, "test": 1.0}]
    text = printed(complete(0.5), confirmation_rows=rows)
    table = [row.split() for row in text.splitlines()[5:8]]
    assert table == [
        ["configuration", "n", "val", "test"],
        ["best", "[1]", "3", "0.2500", "-"],
        ["defaults", "3", "-", "1.0000"],
    ]
