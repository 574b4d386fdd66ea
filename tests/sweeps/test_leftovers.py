"""The files of a study: what other programs read in them, whatever became of its trials."""

import math
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from mlops_hydra.errors import TrackingError
from mlops_hydra.sweeps.leftovers import trials_table, write_results, write_trials

LR = FloatDistribution(1e-5, 1.0, log=True)
WIDTH = IntDistribution(1, 512)
ODD = CategoricalDistribution([None, True, 3, "mean", 0.5])


def study_of(*trials: optuna.trial.FrozenTrial, objectives: tuple[str, ...] = ("val/log_loss",)) -> optuna.Study:
    study = optuna.create_study(directions=["minimize"] * len(objectives))
    study.set_user_attr("objectives", list(objectives))
    study.add_trials(trials)
    return study


def complete(*values: float, **options: Any) -> optuna.trial.FrozenTrial:
    options = {"params": {"optimizer.lr": 0.1}, "distributions": {"optimizer.lr": LR}} | options
    return create_trial(values=values, **options)


def read(study: optuna.Study, folder: Path) -> pd.DataFrame:
    """What comes back from the file."""
    return pd.read_parquet(write_trials(study, folder))


def test_results_are_those_of_the_plug_in(tmp_path: Path) -> None:
    study = study_of(complete(0.5), complete(0.25, params={"optimizer.lr": 0.01}), complete(0.75))
    path = write_results(study, tmp_path)
    assert path == tmp_path / "optimization_results.yaml"
    assert path.read_text() == "name: optuna\nbest_params:\n  optimizer.lr: 0.01\nbest_value: 0.25\n"


def test_results_of_several_objectives_are_the_pareto_front(tmp_path: Path) -> None:
    study = study_of(complete(1.0, 2.0), complete(2.0, 1.0), complete(2.0, 2.0), objectives=("a", "b"))
    results = OmegaConf.to_container(OmegaConf.load(write_results(study, tmp_path)))
    params = {"optimizer.lr": 0.1}
    solutions = [{"params": params, "values": [1.0, 2.0]}, {"params": params, "values": [2.0, 1.0]}]
    assert results == {"name": "optuna", "solutions": solutions}


def test_where_no_trial_is_complete_results_are_empty(tmp_path: Path) -> None:
    failed = create_trial(state=TrialState.FAIL)
    for trials in ((), (failed,)):
        results = OmegaConf.load(write_results(study_of(*trials), tmp_path))
        assert results == {"name": "optuna", "best_params": None, "best_value": None}
        results = OmegaConf.load(write_results(study_of(*trials, objectives=("a", "b")), tmp_path))
        assert results == {"name": "optuna", "solutions": []}


def test_results_keep_the_types_of_odd_parameters(tmp_path: Path) -> None:
    texts = {f"t{at}": text for at, text in enumerate(["1e3", "null", "true", "a: b", "猫", "${optimizer.lr}"])}
    params = texts | {"none": None, "flag": True, "whole": 3, "part": 1e-05}
    distributions = {name: CategoricalDistribution([value]) for name, value in params.items()}
    study = study_of(complete(math.inf, params=params, distributions=distributions))
    results: Any = OmegaConf.to_container(OmegaConf.load(write_results(study, tmp_path)), resolve=False)
    assert results == {"name": "optuna", "best_params": params, "best_value": math.inf}


def test_every_trial_has_a_line_and_gaps_are_null(tmp_path: Path) -> None:
    attrs = {"fingerprint": "abc", "status": "new", "run": "1", "seconds": 2, "overrides": ["a=1", "b=2"]}
    study = study_of(
        complete(0.5, user_attrs=attrs, intermediate_values={1: 0.9, 2: 0.5}),
        create_trial(state=TrialState.PRUNED, value=0.7, intermediate_values={1: 0.7}),
        create_trial(state=TrialState.FAIL, user_attrs={"error": "it broke"}),
    )
    study.enqueue_trial({"optimizer.lr": 0.5})
    study.ask()
    study.enqueue_trial({})
    table = read(study, tmp_path)
    assert list(table["number"]) == [0, 1, 2, 3, 4]
    assert list(table["state"]) == ["complete", "pruned", "failed", "running", "waiting"]
    assert table["value"].dropna().to_dict() == {0: 0.5}  # what a pruned trial reported is no value
    assert table["last_report"].dropna().to_dict() == {0: 0.5, 1: 0.7}
    assert list(table["num_reports"]) == [2, 1, 0, 0, 0]
    assert table["params.optimizer.lr"].dropna().to_dict() == {0: 0.1}
    assert table.loc[0, ["fingerprint", "status", "run", "overrides"]].tolist() == ["abc", "new", "1", "a=1 b=2"]
    assert table["seconds"].dropna().to_dict() == {0: 2.0}
    assert table["error"].dropna().to_dict() == {2: "it broke"}


def test_columns_are_named_after_several_objectives_and_never_twice(tmp_path: Path) -> None:
    study = study_of(complete(1.0, 2.0, 3.0), objectives=("val/log_loss", "error", "state"))
    table = read(study, tmp_path)
    assert table.loc[0, ["val/log_loss", "value.error", "value.state"]].tolist() == [1.0, 2.0, 3.0]
    assert table.columns.is_unique
    unnamed = optuna.create_study(directions=["minimize", "maximize"])
    assert {"value_0", "value_1"} <= set(read(unnamed, tmp_path).columns)


def test_a_study_without_trials_has_the_columns_of_every_study(tmp_path: Path) -> None:
    empty, one = read(study_of(), tmp_path), read(study_of(create_trial(value=1.0)), tmp_path)
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == one.dtypes.to_dict()


def test_parameters_of_one_type_keep_it_and_others_become_text(tmp_path: Path) -> None:
    def trial(odd: Any, width: int) -> optuna.trial.FrozenTrial:
        params = {"odd": odd, "model.width": width, "flag": True}
        kinds = {"odd": ODD, "model.width": WIDTH, "flag": CategoricalDistribution([True, False])}
        return create_trial(value=1.0, params=params, distributions=kinds)

    odd = [None, True, 3, "mean", 0.5]
    table = read(study_of(*(trial(value, at + 1) for at, value in enumerate(odd)), create_trial(value=1.0)), tmp_path)
    assert table["params.odd"].tolist()[:5] == ["null", "true", "3", "mean", "0.5"]
    assert table["params.model.width"].tolist()[:5] == [1, 2, 3, 4, 5]
    assert table["params.model.width"].dtype == "Int64"
    assert table["params.flag"].dtype == "boolean"
    assert table.loc[5, ["params.odd", "params.model.width", "params.flag"]].isna().all()


CHOICES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()


@given(st.lists(CHOICES, min_size=1, max_size=5))
def test_no_parameter_breaks_the_table(tmp_path_factory: pytest.TempPathFactory, choices: list[Any]) -> None:
    trials = [
        create_trial(value=1.0, params={"x": choice}, distributions={"x": CategoricalDistribution([choice])})
        for choice in choices
    ]
    study = study_of()
    table = trials_table(study_like(study, trials))
    path = tmp_path_factory.mktemp("table") / "trials.parquet"
    table.to_parquet(path)
    assert pd.read_parquet(path)["params.x"].notna().all()


def study_like(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> Any:
    """A study of trials that Optuna would not keep together."""

    class Mixed:
        user_attrs, directions = study.user_attrs, study.directions

        def get_trials(self, *, deepcopy: bool) -> list[optuna.trial.FrozenTrial]:
            return trials

    return Mixed()


def test_texts_that_are_no_unicode_are_kept_as_far_as_they_are(tmp_path: Path) -> None:
    table = read(study_of(create_trial(state=TrialState.FAIL, user_attrs={"error": "half \ud83d"})), tmp_path)
    assert table.loc[0, "error"] == "half ?"


def test_a_folder_that_is_gone_is_an_error_of_ours_and_leaves_nothing(tmp_path: Path) -> None:
    for write in (write_results, write_trials):
        with pytest.raises(TrackingError, match="cannot be written"):
            write(study_of(), tmp_path / "gone")
    assert list(tmp_path.iterdir()) == []
