"""Pictures of studies: which come, that nothing odd stops them, and what can be read in them."""

import logging
import math
import struct
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import optuna
import pytest
from matplotlib.figure import Figure
from optuna.trial import Trial, TrialState

from mlops_hydra.config.objective import Objective
from mlops_hydra.sweeps import study_plots
from mlops_hydra.sweeps.parameter_plots import draw_parallel_coordinates, draw_slices
from mlops_hydra.sweeps.plot_data import read_study, worst_shown
from mlops_hydra.sweeps.plot_text import shortened, wrapped
from mlops_hydra.sweeps.study_plots import draw_history, draw_pareto_front, importances, write_plots
from tests.sampled import some

ONE = ["history", "importances", "parallel_coordinates", "slice"]


def suggest(trial: Trial) -> float:
    """Four parameters, and a value that follows from the first."""
    lr = trial.suggest_float("optimizer.lr", 1e-5, 1e-1, log=True)
    trial.suggest_int("data.encoding.max_categories", 2, 100)
    if trial.suggest_categorical("model", ["mlp", None, True, 3]) == "mlp":
        trial.suggest_float("model.dropout", 0.0, 0.5)
    return abs(math.log10(lr) + 3)


def make(num_trials: int, *directions: str, names: tuple[str, ...] = ()) -> optuna.Study:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler, directions=list(directions) or ["minimize"])  # type: ignore[arg-type]
    study.set_user_attr("objectives", list(names) or [f"val/metric{at}" for at in range(len(directions) or 1)])
    for number in range(num_trials):
        trial = study.ask()
        value = suggest(trial)
        study.tell(trial, [value, *(value * (number % 5) * at for at in range(1, len(directions)))])
    return study


def told(values: list[float]) -> optuna.Study:
    """A study in which `values` came of one parameter."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for value in values:
        trial = study.ask()
        suggest(trial)
        study.tell(trial, value)
    return study


def warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def stems(paths: list[Path]) -> list[str]:
    return [path.stem for path in paths]


def test_a_study_with_one_objective_gets_pictures_that_can_be_read(tmp_path: Path) -> None:
    paths = write_plots(make(20), tmp_path)
    assert stems(paths) == ONE
    assert sorted(paths) == sorted((tmp_path / "plots").iterdir())
    for path in paths:
        assert all(200 < length < 2500 for length in struct.unpack(">II", path.read_bytes()[16:24]))


@pytest.mark.parametrize("num_objectives", some([2, 3], every=2))
def test_two_and_three_objectives_get_a_pareto_front(tmp_path: Path, num_objectives: int) -> None:
    directions = ("minimize", "maximize", "minimize")[:num_objectives]
    assert stems(write_plots(make(20, *directions), tmp_path)) == [*ONE, "pareto_front"]


def test_four_objectives_get_none(tmp_path: Path) -> None:
    assert stems(write_plots(make(8, *["minimize"] * 4), tmp_path)) == ONE


def test_reports_get_curves(tmp_path: Path) -> None:
    study = make(5)
    for state in (TrialState.PRUNED, TrialState.FAIL):
        trial = study.ask()
        for epoch, value in enumerate((3.0, math.nan, math.inf, 1.0), start=1):
            trial.report(value, epoch)
        study.tell(trial, state=state)
    assert stems(write_plots(study, tmp_path)) == [*ONE, "intermediate_values"]


def test_one_trial_has_a_history_and_nothing_to_compare(tmp_path: Path) -> None:
    assert stems(write_plots(make(1), tmp_path)) == ["history"]


def test_without_complete_trials_there_are_no_pictures(tmp_path: Path) -> None:
    study = make(0)
    assert write_plots(study, tmp_path) == []
    study.tell(study.ask(), state=TrialState.FAIL)
    study.ask()
    assert write_plots(study, tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_constant_objective_has_no_important_parameter(tmp_path: Path) -> None:
    assert stems(write_plots(told([0.5] * 6), tmp_path)) == ["history", "parallel_coordinates", "slice"]


@pytest.mark.parametrize(
    "values",
    [[math.inf, 1.0, -math.inf, 2.0], [1.7e308, -1.7e308, 0.0, 1.0], [1e300, -1e300, 1.0], [5e-324, 0.0], [1e30, 1.0]],
)
def test_values_from_outside_the_world_are_drawn_as_far_as_they_can(
    tmp_path: Path, values: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    assert stems(write_plots(told(values), tmp_path)) == ONE
    assert not warned(caplog)


def test_only_infinite_values_leave_nothing_to_draw(tmp_path: Path) -> None:
    assert write_plots(told([math.inf, math.inf]), tmp_path) == []


def test_names_cannot_break_a_picture(tmp_path: Path) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.set_user_attr("objectives", ["val/$x^{ and a name that goes on and on and on"])
    for _ in range(12):
        trial = study.ask()
        for name in ("$5", "$x^{", "猫", "a\nb", "%s", "+a.b.c_" + "long_" * 20, "x" * 80):
            trial.suggest_categorical(name, ["$a_", "猫", "", "b\nb", "x.y" * 30, 1.5])
        study.tell(trial, trial.number % 5)
    assert stems(write_plots(study, tmp_path)) == ONE


def test_what_cannot_be_drawn_is_a_warning_and_the_others_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(figure: Figure, **_: object) -> None:
        raise ZeroDivisionError("of a picture")

    monkeypatch.setattr(study_plots, "draw_slices", fail)
    assert stems(write_plots(make(5), tmp_path)) == ["history", "importances", "parallel_coordinates"]
    assert warned(caplog) == ["slice.png could not be drawn: ZeroDivisionError: of a picture"]


def test_a_folder_that_cannot_be_made_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "plots").write_text("in the way")
    assert write_plots(make(5), tmp_path) == []
    assert "could not be made: FileExistsError" in caplog.text


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_the_best_line_follows_the_direction(direction: str) -> None:
    study, figure = make(15, direction), Figure()
    draw_history(figure, data=read_study(study))
    (line,) = (line for line in figure.axes[0].lines if line.get_label() == "best so far")
    values = [trial.value or 0.0 for trial in study.trials]
    assert np.asarray(line.get_ydata())[-1] == (min(values) if direction == "minimize" else max(values))
    assert figure.axes[0].get_title() == f"best {study.best_value:.5g}, trial {study.best_trial.number}"
    assert ("higher" in figure.axes[0].get_ylabel()) == (direction == "maximize")


def test_one_diverged_trial_does_not_flatten_the_others() -> None:
    values = np.array([1.0, 1.1, 1.2, 1.3, 1e9])
    worst = worst_shown(values, Objective("loss", "minimize"))
    assert worst is not None
    assert 1.3 < worst < 1.4
    assert worst_shown(values, Objective("loss", "maximize")) is None  # there the far one is the best
    assert worst_shown(np.array([1.0, 2.0, 3.0, 9.0]), Objective("loss", "minimize")) is None


def test_the_parameter_that_decides_is_the_most_important_whichever_way_is_better() -> None:
    for direction in ("minimize", "maximize"):
        weights = importances(read_study(make(300, direction)), 0)
        assert next(iter(weights)) == "optimizer.lr"
        assert sum(weights.values()) == pytest.approx(1)
    assert "model.dropout" in weights  # although not all trials have it


def test_metrics_are_named_on_the_axes_of_the_front() -> None:
    figure = Figure()
    draw_pareto_front(figure, data=read_study(make(10, "minimize", "maximize", names=("val/log_loss", "speed"))))
    axes = figure.axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("val/log_loss (lower is better)", "speed (higher is better)")


def test_parameters_drawn_from_a_log_scale_are_shown_on_one() -> None:
    figure, data = Figure(), read_study(make(10))
    draw_slices(figure, data=data, names=["optimizer.lr", "data.encoding.max_categories", "model"])
    scales = {axes.get_xlabel(): axes.get_xscale() for axes in figure.axes if axes.get_xlabel()}
    assert scales == {"optimizer.lr": "log", "data.encoding.max_categories": "linear", "model": "linear"}


def test_choices_are_named_and_absent_parameters_have_a_place_of_their_own() -> None:
    figure, data = Figure(), read_study(make(10))
    draw_parallel_coordinates(figure, data=data, names=["model", "model.dropout"])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert {"mlp", "null", "true", "3", "not set"} <= texts


def test_names_are_broken_where_they_can_be_and_shortened_from_the_front() -> None:
    assert wrapped("data.encoding.max_categories", 16) == "data.encoding.\nmax_categories"
    assert wrapped("trainer.early_stopping_min_delta", 16) == "trainer.\nearly_stopping_\nmin_delta"
    assert shortened("torch.nn.modules.activation.Hardswish", 14) == "…Hardswish"
    assert shortened("torch.nn.ReLU", 14) == "torch.nn.ReLU"


def test_a_thousand_trials_are_drawn(tmp_path: Path) -> None:
    assert stems(write_plots(make(1000), tmp_path)) == ONE


def test_the_style_of_the_user_s_own_plots_is_left_alone(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    write_plots(make(4), tmp_path)
    assert dict(mpl.rcParams) == before


def test_plots_need_no_pyplot_and_importing_them_loads_no_matplotlib(tmp_path: Path) -> None:
    script = f"""
import sys, pathlib, optuna
from mlops_hydra.sweeps.study_plots import write_plots
assert not {{"matplotlib", "torch", "sklearn", "pandas"}} & set(sys.modules)
study = optuna.create_study()
for value in (1, 2, 3):
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    study.tell(trial, value)
assert len(write_plots(study, pathlib.Path({str(tmp_path)!r}))) == 4
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
