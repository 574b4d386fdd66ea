"""Plots: which files come, that odd data cannot stop them, and that nothing else changes."""

import struct
import subprocess
import sys
from functools import partial

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from mlops_hydra.config.objective import Objective
from mlops_hydra.evaluation.class_plots import draw_confusion, draw_roc
from mlops_hydra.evaluation.plots import write_plots

CLASSIFIER = ["learning_curves.png", "confusion_matrix.png", "roc.png", "calibration.png"]
LOG_LOSS = Objective("log_loss", "minimize")


def _history(num_epochs=5, metric="log_loss"):
    return [
        {"epoch": epoch, "train/loss": 1 / epoch, "val/loss": 2 / epoch, f"val/{metric}": 2 / epoch}
        for epoch in range(1, num_epochs + 1)
    ]


def _rows(num_rows, num_classes):
    rng = np.random.default_rng(0)
    return rng.integers(0, num_classes, num_rows), rng.dirichlet(np.ones(num_classes), size=num_rows)


def _size(path):
    """Width and height in pixels, from the header."""
    header = path.read_bytes()[:24]
    assert header.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", header[16:24])


def _plot(folder, *, classes, num_rows=60, history=None, objective=LOG_LOSS):
    targets, predictions = _rows(num_rows, len(classes))
    return write_plots(
        folder,
        history=_history() if history is None else history,
        task="binary" if len(classes) == 2 else "multiclass",
        classes=classes,
        targets=targets,
        predictions=predictions,
        objective=objective,
    )


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_classifier_gets_four_pictures_that_can_be_read(tmp_path, num_classes):
    paths = _plot(tmp_path, classes=range(num_classes))
    assert [path.name for path in paths] == CLASSIFIER
    assert sorted(paths) == sorted(tmp_path.iterdir())
    assert all(300 < length < 1500 for path in paths for length in _size(path))


def test_more_than_ten_classes_get_no_roc_curves(tmp_path):
    names = {path.name for path in _plot(tmp_path, classes=range(45), num_rows=300)}
    assert names == {"learning_curves.png", "confusion_matrix.png", "calibration.png"}


def test_a_regression_gets_curves_and_residuals_however_many_rows(tmp_path):
    targets = np.random.default_rng(0).normal(size=200_000)
    paths = write_plots(
        tmp_path,
        history=_history(metric="rmse"),
        task="regression",
        classes=(),
        targets=targets,
        predictions=targets * 0.5,
        objective=Objective("rmse", "minimize"),
    )
    assert [path.name for path in paths] == ["learning_curves.png", "residuals.png"]


def test_class_names_cannot_break_a_picture(tmp_path):
    odd = ["$5", "$x^{", "猫", "a\nb", "", "%s", "_", "a name that goes on and on and on"]
    assert [path.name for path in _plot(tmp_path, classes=odd)] == CLASSIFIER


@pytest.mark.parametrize(
    "history",
    [
        _history(1),
        [{"epoch": 1, "train/loss": 0.5}],
        [{"epoch": 1, "train/loss": np.nan, "val/loss": np.nan, "val/log_loss": np.nan}],
        [*_history(3), {"epoch": 4, "train/loss": 0.1, "val/loss": np.inf, "val/log_loss": np.nan}],
    ],
)
def test_short_or_broken_histories_are_drawn_as_far_as_they_go(tmp_path, history):
    assert [path.name for path in _plot(tmp_path, classes="ab", history=history)] == CLASSIFIER


def test_without_epochs_there_is_no_learning_curve(tmp_path):
    assert [path.name for path in _plot(tmp_path, classes="ab", history=[])] == CLASSIFIER[1:]


def test_an_objective_that_is_the_loss_gets_one_panel(tmp_path):
    two_panels = _size(_plot(tmp_path, classes="ab")[0])
    one_panel = _size(_plot(tmp_path, classes="ab", objective=Objective("loss", "minimize"))[0])
    assert one_panel == (two_panels[0] // 2, two_panels[1])


def test_one_row_or_none_and_values_that_are_not_finite_are_no_reason_to_fail(tmp_path):
    plot = partial(write_plots, tmp_path, history=[], objective=LOG_LOSS)
    one = plot(task="binary", classes="ab", targets=np.array([1]), predictions=np.array([[0.5, 0.5]]))
    assert [path.name for path in one] == ["confusion_matrix.png", "calibration.png"]
    assert [p.name for p in plot(task="regression", classes=(), targets=np.ones(1), predictions=np.ones(1))] == [
        "residuals.png"
    ]
    assert plot(task="regression", classes=(), targets=np.empty(0), predictions=np.empty(0)) == []
    assert plot(task="regression", classes=(), targets=np.ones(2), predictions=np.array([1, np.nan])) == []


def test_the_confusion_matrix_has_actual_classes_in_rows():
    figure = Figure()
    probabilities = np.eye(3)[[0, 0, 2, 1]]
    draw_confusion(figure, names="abc", targets=np.array([0, 1, 1, 2]), predictions=probabilities)
    (axes,) = figure.axes
    numbers = {text.get_position(): text.get_text() for text in axes.texts}
    assert numbers == {(0, 0): "1", (0, 1): "1", (2, 1): "1", (1, 2): "1"}  # (column, row)
    assert (axes.get_xlabel(), axes.get_ylabel().split()[0]) == ("predicted", "actual")


def test_roc_curves_leave_out_classes_that_do_not_occur_and_name_the_area():
    figure = Figure()
    probabilities = np.array([[0.8, 0.1, 0.1], [0.2, 0.1, 0.7], [0.3, 0.3, 0.4]])
    draw_roc(figure, names=["cat", "dog", "cow"], targets=np.array([0, 2, 2]), predictions=probabilities)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["chance", "cat: 1.000", "cow: 1.000"]


def test_the_style_of_the_user_s_own_plots_is_left_alone(tmp_path):
    before = dict(mpl.rcParams)
    _plot(tmp_path, classes="ab")
    assert dict(mpl.rcParams) == before


def test_plots_need_no_pyplot_and_importing_them_loads_no_matplotlib(tmp_path):
    script = f"""
import sys, pathlib, numpy as np
from mlops_hydra.config.objective import Objective
from mlops_hydra.evaluation.plots import write_plots
assert not {{"matplotlib", "torch", "sklearn"}} & set(sys.modules)
write_plots(pathlib.Path({str(tmp_path)!r}), history=[], task="regression", classes=(), targets=np.arange(3.0),
            predictions=np.ones(3), objective=Objective("rmse", "minimize"))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)
