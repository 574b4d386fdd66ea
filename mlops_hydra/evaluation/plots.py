"""Pictures of a run: how it learnt, and where its predictions are right.

Drawn on matplotlib's Figure without pyplot: no window, and no global state but the style, which is put back. matplotlib
is imported at the first plot (0.5 s). The pictures of a classifier are in `class_plots.py`. Not here: recording them.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.objective import Objective
from mlops_hydra.config.section import Task
from mlops_hydra.evaluation.class_plots import draw_calibration, draw_confusion, draw_roc
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.evaluation.style import BLUE, GREY, RED, STYLE, lay_out

if TYPE_CHECKING:
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]
_Draw = Callable[["Figure"], None]

_MOST_ROC_CLASSES: Final = 10
_MOST_POINTS: Final = 5000  # of a scatter plot: more take seconds to draw, and hide each other


def write_plots(
    folder: Path,
    *,
    history: History,
    task: Task,
    classes: Sequence[object],
    targets: NDArray[Any],
    predictions: NDArray[Any],
    objective: Objective,
) -> list[Path]:
    """Write the PNG files that fit the task into `folder`, which exists; what there is no data for is left out.

    `history` has a mapping an epoch: `epoch` (from 1), `train/loss`, `val/loss`, `val/<metric>`. `targets` and
    `predictions` are those of the test split, shaped as for `metrics.score`.
    """
    plots: dict[str, _Draw] = {}
    if history:
        plots["learning_curves.png"] = partial(_draw_learning_curves, history=history, objective=objective)
    if targets.size and np.isfinite(predictions).all():
        if task == "regression":
            plots["residuals.png"] = partial(_draw_residuals, targets=targets, predictions=predictions)
        else:
            plots |= _of_classes([str(name) for name in classes], targets, predictions)
    return _write(folder, plots)


def _of_classes(names: list[str], targets: NDArray[np.int64], predictions: NDArray[np.float64]) -> dict[str, _Draw]:
    plots: dict[str, _Draw] = {
        "confusion_matrix.png": partial(draw_confusion, names=names, targets=targets, predictions=predictions)
    }
    if len(names) <= _MOST_ROC_CLASSES and np.unique(targets).size > 1:
        plots["roc.png"] = partial(draw_roc, names=names, targets=targets, predictions=predictions)
    plots["calibration.png"] = partial(draw_calibration, targets=targets, predictions=predictions)
    return plots


def _write(folder: Path, plots: Mapping[str, _Draw]) -> list[Path]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # names in scripts that the font lacks
        for name, draw in plots.items():
            figure = Figure()
            draw(figure)
            figure.savefig(folder / name)
    return [folder / name for name in plots]


def _draw_learning_curves(figure: Figure, *, history: History, objective: Objective) -> None:
    epochs = [int(row["epoch"]) for row in history]
    best = _best_epoch(history, objective)
    panels = list(dict.fromkeys(("loss", objective.metric)))
    panels = [name for name in panels if _measured_splits(history, name)] or ["loss"]
    lay_out(figure, 5.4 * len(panels), 3.8, left=0.65, gap=0.65)
    marker = "o" if len(epochs) <= 30 else ""
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for split in _measured_splits(history, name):
            colour, dashes = {"train": (GREY, "--"), "val": (BLUE, "-")}[split]
            values = _column(history, f"{split}/{name}")
            axes.plot(epochs, values, dashes, color=colour, label=split, marker=marker, markersize=3.5)
        if best is not None:
            axes.axvline(best, color=RED, linestyle=":", linewidth=1.5, label=f"best epoch: {best}")
        axes.set(title=name.replace("_", " "), xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        if axes.get_legend_handles_labels()[0]:
            has_risen = len(values) > 1 and values[-1] > values[0]
            axes.legend(loc="lower right" if has_risen else "upper right")  # "best" warns where it takes a second


def _measured_splits(history: History, metric: str) -> list[str]:
    return [split for split in ("train", "val") if np.isfinite(_column(history, f"{split}/{metric}")).any()]


def _column(history: History, name: str) -> NDArray[np.float64]:
    return np.array([row.get(name, math.nan) for row in history], dtype=np.float64)


def _best_epoch(history: History, objective: Objective) -> int | None:
    """The first of the best; None where the objective was never measured."""
    costs = objective.sign * _column(history, f"val/{objective.metric}")
    if not np.isfinite(costs).any():
        return None
    return int(history[int(np.argmin(np.where(np.isfinite(costs), costs, np.inf)))]["epoch"])


def _draw_residuals(figure: Figure, *, targets: NDArray[np.float64], predictions: NDArray[np.float64]) -> None:
    measured = score("regression", targets, predictions)
    shown = np.unique(np.linspace(0, targets.size - 1, min(targets.size, _MOST_POINTS)).astype(np.int64))
    actual, predicted = targets[shown], predictions[shown]
    lay_out(figure, 10.8, 4.2, gap=0.9)
    left, right = figure.subplots(1, 2)
    dots = {"s": 14, "alpha": 0.5 if shown.size < 1000 else 0.2, "color": BLUE, "linewidths": 0}
    left.scatter(predicted, actual, **dots)
    left.axline((actual[0], actual[0]), slope=1, color=RED, linestyle="--", linewidth=1.4, label="actual = predicted")
    left.set(title=f"RMSE {measured['rmse']:.4g}, R² {measured['r2']:.3f}", xlabel="predicted", ylabel="actual")
    left.legend(loc="upper left")
    right.scatter(predicted, actual - predicted, **dots)
    right.axhline(0, color=RED, linestyle="--", linewidth=1.4)
    rows = f"{targets.size:,} rows" if shown.size == targets.size else f"{shown.size:,} of {targets.size:,} rows shown"
    right.set(title=rows, xlabel="predicted", ylabel="residual: actual - predicted")
