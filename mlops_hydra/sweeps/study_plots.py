"""Pictures of a study: how it went, what mattered, and what can be had at once.

All are drawn here rather than by `optuna.visualization.matplotlib`: that one cuts and overlaps names like
`data.encoding.max_categories`, calls the metric "Objective Value", and changes pyplot's style for the whole process. As
in `evaluation/plots.py`, matplotlib is imported at the first plot, without pyplot. The pictures with an axis for each
parameter are in `parameter_plots.py`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.atomic import replacing
from mlops_hydra.config.objective import Objective
from mlops_hydra.evaluation.style import BLUE, GREY, RED, STYLE
from mlops_hydra.sweeps.parameter_plots import draw_parallel_coordinates, draw_slices
from mlops_hydra.sweeps.plot_data import (
    LARGEST,
    Numbers,
    StudyData,
    at_first,
    best_so_far,
    clipped,
    read_study,
    worst_shown,
)
from mlops_hydra.sweeps.plot_text import axis_label, shortened, title_number, whole_numbers

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PLOTS: Final = (
    *("history.png", "importances.png", "parallel_coordinates.png"),
    *("slice.png", "pareto_front.png", "intermediate_values.png"),
)

_Draw = Callable[["Figure"], None]

_log = logging.getLogger(__name__)
_DOT: Final[dict[str, Any]] = {"s": 22.0, "linewidths": 0.0}
_MOST_PARAMETERS: Final = 12  # of a picture with an axis for each
_FEWEST_TOP: Final = 5  # trials whose parameters PED-ANOVA compares with all: fewer say little


def write_plots(study: optuna.Study, folder: Path) -> list[Path]:
    """Write those of `PLOTS` that the study has the data for into `folder`/plots.

    What cannot be drawn or written is a warning in the log: a study is not lost to a picture.
    """
    written: list[Path] = []
    try:
        pictures = _pictures(read_study(study))
        if pictures:
            (folder / "plots").mkdir(parents=True, exist_ok=True)
            _write(folder / "plots", pictures, written)
    except Exception as error:
        _log.warning("The plots of the study could not be made: %s: %s", type(error).__name__, error)
    return written


def _write(folder: Path, pictures: Mapping[str, _Draw], written: list[Path]) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # names in scripts that the font lacks
        for name in (name for name in PLOTS if name in pictures):
            try:
                figure = Figure(layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
                pictures[name](figure)
                with replacing(folder / name) as file:
                    figure.savefig(file, format="png")
                written.append(folder / name)
            except Exception as error:
                _log.warning("%s could not be drawn: %s: %s", name, type(error).__name__, error)


def _pictures(data: StudyData) -> dict[str, _Draw]:
    pictures: dict[str, _Draw] = {}
    if data.done:
        pictures["history.png"] = partial(draw_history, data=data)
    weights = [importances(data, index) for index in range(len(data.objectives))]
    names = _by_weight(data, weights)
    if any(weights):
        pictures["importances.png"] = partial(draw_importances, data=data, weights=weights)
    if len(data.done) > 1 and names:
        pictures["slice.png"] = partial(draw_slices, data=data, names=names)
        pictures["parallel_coordinates.png"] = partial(draw_parallel_coordinates, data=data, names=names)
    if len(data.objectives) in (2, 3) and data.done:
        pictures["pareto_front.png"] = partial(draw_pareto_front, data=data)
    if any(len(trial.intermediate_values) > 1 for trial in data.trials):
        pictures["intermediate_values.png"] = partial(draw_intermediate_values, data=data)
    return pictures


def importances(data: StudyData, objective: int) -> dict[str, float]:
    """How much each parameter decides whether a trial is among the best, most first; empty where nothing can be said.

    PED-ANOVA (Watanabe et al. 2023, https://arxiv.org/abs/2304.10255) compares the best tenth, and at least five, with
    all: 0.04 s for 1,000 trials of 12 parameters, where fANOVA takes 28 s.
    """
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # 0.9 s: it loads scikit-learn

    values = data.values(objective)
    names = [parameter.name for parameter in data.parameters]
    if np.unique(values).size < 2 or not names:
        return {}
    sign = data.objectives[objective].sign
    evaluator = PedAnovaImportanceEvaluator(target_quantile=_top(len(data.done)) / len(data.done))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that lower is better for a target; that few trials say little
        return get_param_importances(
            data.study,
            evaluator=evaluator,
            params=names,
            target=lambda trial: sign * _drawable(trial.values[objective]),
        )


def _drawable(value: float) -> float:
    """Infinite, so that Optuna leaves it out, where `read_study` does."""
    return value if abs(value) <= LARGEST else math.inf


def _top(num_trials: int) -> int:
    return min(max(math.ceil(num_trials / 10), _FEWEST_TOP), max(num_trials // 2, 1))


def _by_weight(data: StudyData, weights: Sequence[Mapping[str, float]]) -> list[str]:
    """The parameters that matter most to any objective."""
    names = sorted(parameter.name for parameter in data.parameters)
    return sorted(names, key=lambda name: -sum(own.get(name, 0.0) for own in weights))[:_MOST_PARAMETERS]


def draw_history(figure: Figure, *, data: StudyData) -> None:
    """Value by trial, and the best so far; a panel an objective."""
    num_panels = len(data.objectives)
    figure.set_size_inches(7.5, 1.2 + 2.9 * num_panels)
    panels = figure.subplots(num_panels, 1, sharex=True, squeeze=False)[:, 0]
    for index, (axes, objective) in enumerate(zip(panels, data.objectives, strict=True)):
        values, numbers = data.values(index), data.numbers()
        worst = worst_shown(values, objective)
        _scatter(axes, numbers, values, worst, objective)
        best = at_first(objective, values)
        until = [*numbers, max(trial.number for trial in data.trials)]
        line = best_so_far(values, objective)
        axes.step(until, [*line, line[-1]], where="post", color=RED, label="best so far")
        axes.set(title=f"best {title_number(values[best])}, trial {numbers[best]:.0f}", ylabel=axis_label(objective))
    _mark_others(panels[-1], data)
    panels[-1].set_xlabel("trial")
    whole_numbers(panels[-1].xaxis)
    _legend_below(figure, panels[0], panels[-1])


def _scatter(axes: Axes, numbers: Numbers, values: Numbers, worst: float | None, objective: Objective) -> None:
    shown, beyond = clipped(values, worst, objective)
    axes.scatter(numbers[~beyond], shown[~beyond], color=BLUE, alpha=0.75, label="complete", **_DOT)
    if beyond.any():
        marker = "^" if objective.sign > 0 else "v"
        label = f"worse than shown ({beyond.sum()})"
        axes.scatter(numbers[beyond], shown[beyond], color=BLUE, marker=marker, label=label, s=30, facecolors="none")


def _mark_others(axes: Axes, data: StudyData) -> None:
    """On the axis, at their numbers: trials without a value that can be drawn."""
    drawn = {trial.number for trial in data.done}
    place = axes.get_xaxis_transform()  # trial number across, part of the height up
    for state, label, marker, colour in _OTHERS:
        numbers = [trial.number for trial in data.trials if trial.state == state and trial.number not in drawn]
        if numbers:
            style: dict[str, Any] = {"marker": marker, "color": colour, "s": 32, "linewidths": 1.2, "zorder": 4}
            style |= {"transform": place, "clip_on": False, "label": f"{label} ({len(numbers)})"}
            axes.scatter(numbers, np.zeros(len(numbers)), **style)


_OTHERS: Final = (
    (TrialState.PRUNED, "pruned", "|", GREY),
    (TrialState.FAIL, "failed", "x", "black"),
    (TrialState.COMPLETE, "infinite", "1", "black"),
)


def _legend_below(figure: Figure, *panels: Axes) -> None:
    """One legend for all panels, where it hides nothing."""
    handles = {
        label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=3)


def draw_importances(figure: Figure, *, data: StudyData, weights: Sequence[Mapping[str, float]]) -> None:
    """Bars, the most important on top; a panel an objective."""
    drawn = [(own, objective) for own, objective in zip(weights, data.objectives, strict=True) if own]
    num_bars = max(min(len(own), 2 * _MOST_PARAMETERS) for own, _ in drawn)
    figure.set_size_inches(2.6 + 4.4 * len(drawn), 1.3 + 0.32 * num_bars)
    for axes, (own, objective) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn, strict=True):
        shown = list(own.items())[: 2 * _MOST_PARAMETERS]
        names = [shortened(name, 34) for name, _ in shown]
        heights = range(len(shown))
        bars = axes.barh(heights, [weight for _, weight in shown], color=BLUE, height=0.65)
        axes.bar_label(bars, [f"{weight:.2f}" for _, weight in shown], padding=3, fontsize=9)
        axes.set_yticks(heights, names)
        axes.set_ylim(num_bars - 0.4, -0.6)
        axes.set_xlim(0, 1.12 * max(weight for _, weight in shown))
        axes.grid(axis="y", visible=False)
        top = _top(len(data.done))
        few = "; few trials, a rough guess" if top < _FEWEST_TOP else ""
        axes.set(title=objective.metric, xlabel=f"importance for being among the best {top} of {len(data.done)}{few}")


def draw_pareto_front(figure: Figure, *, data: StudyData) -> None:
    """Each pair of objectives: a third one makes three panels, as a cube on paper hides which point is better."""
    pairs = list(combinations(range(len(data.objectives)), 2))
    figure.set_size_inches(0.6 + 5.2 * len(pairs), 4.6)
    front = data.front()
    for axes, (across, up) in zip(figure.subplots(1, len(pairs), squeeze=False)[0], pairs, strict=True):
        x, y = (_clipped(data, index) for index in (across, up))
        axes.scatter(x[~front], y[~front], color=GREY, alpha=0.6, label="dominated", **_DOT)
        order = np.argsort(x[front], kind="stable")
        if len(pairs) == 1:
            axes.plot(x[front][order], y[front][order], color=RED, linewidth=1, alpha=0.6)
        label = f"Pareto front ({front.sum()})"
        axes.scatter(x[front], y[front], color=RED, label=label, s=30, linewidths=0, zorder=3)
        _name_points(axes, x[front][order], y[front][order], data.numbers()[front][order])
        axes.set(xlabel=axis_label(data.objectives[across]), ylabel=axis_label(data.objectives[up]))
    _legend_below(figure, figure.axes[0])


def _clipped(data: StudyData, objective: int) -> Numbers:
    values = data.values(objective)
    return clipped(values, worst_shown(values, data.objectives[objective]), data.objectives[objective])[0]


def _name_points(axes: Axes, x: Numbers, y: Numbers, numbers: Numbers) -> None:
    """The trials' numbers, as far as there is room between the points."""
    named: list[Any] = []
    spans = [high - low for low, high in (axes.get_xlim(), axes.get_ylim())]
    for point in zip(x, y, numbers, strict=True):
        apart = (((point[0] - x0) / spans[0], (point[1] - y0) / spans[1]) for x0, y0 in named)
        if all(math.hypot(across, 2 * up) > 0.12 for across, up in apart):
            named.append(point[:2])
            axes.annotate(f"{point[2]:.0f}", point[:2], (5, 4), textcoords="offset points", fontsize=8, color="#444444")


def draw_intermediate_values(figure: Figure, *, data: StudyData) -> None:
    """What each trial reported by epoch: complete and pruned ones, the best on top."""
    from matplotlib.lines import Line2D

    figure.set_size_inches(7.5, 4.4)
    axes, objective = figure.subplots(), data.objectives[0]
    best = data.done[at_first(objective, data.values(0))].number if data.done else None
    drawn = sorted(data.trials, key=lambda trial: (trial.number == best, trial.state == TrialState.COMPLETE))
    curves = {trial.number: _curve(trial) for trial in drawn if trial.intermediate_values}
    worst = worst_shown(np.concatenate([curve[:, 1] for curve in curves.values()]), objective)
    handles: dict[str, Line2D] = {}
    alpha = min(0.8, max(0.08, 20 / len(curves)))
    for trial in (trial for trial in drawn if trial.number in curves):
        label, style = _line_of(trial, best, alpha)
        x, y = curves[trial.number].T
        marker = "." if len(x) == 1 else ""
        (handles[label],) = axes.plot(x, clipped(y, worst, objective)[0], label=label, marker=marker, **style)
    axes.set(
        xlabel="epoch",
        ylabel=axis_label(objective),
        title=f"{len(curves)} {'trial' if len(curves) == 1 else 'trials'} with reports",
    )
    whole_numbers(axes.xaxis)
    opaque = [Line2D([], [], color=line.get_color(), linestyle=line.get_linestyle()) for line in handles.values()]
    figure.legend(opaque, list(handles), loc="outside lower center", ncols=4)


def _curve(trial: FrozenTrial) -> Numbers:
    """Epochs and values as two columns; what is not finite interrupts the line."""
    curve = np.array(sorted(trial.intermediate_values.items()), dtype=np.float64)
    curve[~(np.abs(curve[:, 1]) <= LARGEST), 1] = np.nan
    return curve


def _line_of(trial: FrozenTrial, best: int | None, alpha: float) -> tuple[str, dict[str, Any]]:
    if trial.number == best:
        return f"best, trial {best}", {"color": RED, "linewidth": 2.0, "zorder": 4}
    if trial.state == TrialState.COMPLETE:
        return "complete", {"color": BLUE, "linewidth": 1.0, "alpha": alpha, "zorder": 3}
    label = "pruned" if trial.state == TrialState.PRUNED else "failed or unfinished"
    dashes = "--" if trial.state == TrialState.PRUNED else ":"
    return label, {"color": GREY, "linewidth": 1.0, "alpha": alpha, "linestyle": dashes, "zorder": 2}
