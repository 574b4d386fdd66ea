"""The two pictures that have an axis for each parameter: slices and parallel coordinates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.objective import Objective
from mlops_hydra.evaluation.style import GREY, RED
from mlops_hydra.sweeps.plot_data import Numbers, Parameter, StudyData, at_first, clipped, worst_shown
from mlops_hydra.sweeps.plot_text import axis_label, logarithmic_across, shortened, title_number, whole_numbers, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS: Final = 4
_EARLY_TO_LATE: Final = "viridis_r"
_GOLDEN: Final = 0.6180339887  # its multiples spread points evenly


def draw_slices(figure: Figure, *, data: StudyData, names: Sequence[str]) -> None:
    """Value by parameter, a panel each; later trials are darker. Several objectives have rows of their own."""
    parameters = _named(data, names)
    num_columns = min(_COLUMNS, len(parameters))
    rows_each = math.ceil(len(parameters) / num_columns)
    num_rows = rows_each * len(data.objectives)
    figure.set_size_inches(1.9 + 2.7 * num_columns, 0.4 + 2.9 * num_rows)
    grid = figure.subplots(num_rows, num_columns, squeeze=False)
    for axes in grid.flat[:]:
        axes.set_visible(False)
    for index, objective in enumerate(data.objectives):
        values = data.values(index)
        worst = worst_shown(values, objective)
        for at, parameter in enumerate(parameters):
            axes = grid[index * rows_each + at // num_columns, at % num_columns]
            axes.set_visible(True)
            dots = _slice(axes, data, parameter, clipped(values, worst, objective))
            axes.set_ylim(*_limits(clipped(values, worst, objective)[0]))
            axes.set_ylabel(axis_label(objective, "\n") if at % num_columns == 0 else "")
            axes.tick_params(labelleft=at % num_columns == 0)
    bar = figure.colorbar(dots, ax=grid, label="trial", aspect=30 * num_rows / 2, fraction=0.05)
    bar.outline.set_visible(False)
    whole_numbers(bar.ax.yaxis)


def _slice(axes: Axes, data: StudyData, parameter: Parameter, values: tuple[Numbers, NDArray[np.bool_]]) -> Any:
    from matplotlib.ticker import MaxNLocator

    numbers, positions = data.numbers(), parameter.positions(data.done)
    if parameter.choices:  # side by side, as points of one choice would hide each other
        positions = positions + ((numbers * _GOLDEN) % 1 - 0.5) * 0.4
    limits = (numbers.min(), max(numbers.max(), numbers.min() + 1))
    shown, beyond = values
    for marker, chosen in (("^" if beyond.any() else "o", beyond), ("o", ~beyond)):
        style = {"cmap": _EARLY_TO_LATE, "vmin": limits[0], "vmax": limits[1], "s": 20, "alpha": 0.8, "linewidths": 0}
        dots = axes.scatter(positions[chosen], shown[chosen], c=numbers[chosen], marker=marker, **style)
    axes.set_xlabel(wrapped(shortened(parameter.name, 56), 28))
    if parameter.choices:
        _choices_across(axes, parameter.choices)
    elif parameter.is_log:
        logarithmic_across(axes)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=parameter.is_whole, min_n_ticks=1))
    return dots


def _limits(values: Numbers) -> tuple[float, float]:
    """The same for all panels of an objective, whichever trials have their parameter."""
    margin = 0.05 * (values.max() - values.min()) or 0.05 * abs(values[0]) or 0.5
    return values.min() - margin, values.max() + margin


def _choices_across(axes: Axes, choices: Sequence[str]) -> None:
    step = math.ceil(len(choices) / 12)
    labels = [shortened(choice, 16) for choice in choices[::step]]
    is_long = sum(map(len, labels)) > 22
    turned: dict[str, Any] = (
        {"rotation": 35, "ha": "right", "rotation_mode": "anchor", "fontsize": 8} if is_long else {}
    )
    axes.set_xticks(range(0, len(choices), step), labels, **turned)
    axes.set_xlim(-0.6, len(choices) - 0.4)


def draw_parallel_coordinates(figure: Figure, *, data: StudyData, names: Sequence[str]) -> None:
    """A line a trial through its values and parameters; the best are drawn last, and red where there are objectives.

    Colours follow ranks, not values: one diverged trial would give all others the same colour.
    """
    scales = [*(_value_scale(data, index) for index in range(len(data.objectives)))]
    scales += [_parameter_scale(data, parameter) for parameter in _named(data, names)]
    figure.set_size_inches(1.6 + 1.55 * len(scales), 5.2)
    axes = figure.subplots()
    heights = np.column_stack([scale.heights for scale in scales])
    if len(data.objectives) == 1:
        _draw_ranked(axes, heights, data)
    else:
        _draw_front(axes, heights, data.front())
    for at, scale in enumerate(scales):
        _draw_scale(axes, at, scale)
    axes.set_xticks(range(len(scales)), [scale.name for scale in scales], fontsize=9)
    axes.set(xlim=(-0.55, len(scales) - 0.85), ylim=(-0.1 if np.isnan(heights).any() else -0.03, 1.03), yticks=[])
    axes.tick_params(length=0, pad=6)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


@dataclass(frozen=True, slots=True)
class _Scale:
    """One upright axis: where the trials cross it (0 below, 1 above, NaN: not at all), and its labels."""

    name: str
    heights: Numbers
    ticks: Sequence[tuple[float, str]]


def _value_scale(data: StudyData, index: int) -> _Scale:
    objective = data.objectives[index]
    values = data.values(index)
    shown, beyond = clipped(values, worst_shown(values, objective), objective)
    scale = _number_scale(_value_name(objective), shown)
    if not beyond.any():
        return scale
    edge = 1.0 if objective.sign > 0 else 0.0
    ticks = [tick for tick in scale.ticks if abs(tick[0] - edge) > 0.06]
    return _Scale(scale.name, scale.heights, [*ticks, (edge, "or worse")])


def _value_name(objective: Objective) -> str:
    return f"{wrapped(shortened(objective.metric, 48), 16)}\n({'lower' if objective.sign > 0 else 'higher'} is\nbetter)"


def _parameter_scale(data: StudyData, parameter: Parameter) -> _Scale:
    positions = parameter.positions(data.done)
    if not parameter.choices:
        return _number_scale(
            wrapped(shortened(parameter.name, 56), 16), positions, is_log=parameter.is_log, is_whole=parameter.is_whole
        )
    last = max(len(parameter.choices) - 1, 1)
    step = math.ceil(len(parameter.choices) / 20)
    ticks = [(at / last, shortened(choice, 14)) for at, choice in enumerate(parameter.choices)][::step]
    spread = ((data.numbers() * _GOLDEN) % 1 - 0.5) * 0.06 / last  # lines through one choice stay apart
    return _Scale(wrapped(shortened(parameter.name, 56), 16), positions / last + spread, ticks)


def _number_scale(name: str, values: Numbers, *, is_log: bool = False, is_whole: bool = False) -> _Scale:
    from matplotlib.ticker import LogLocator, MaxNLocator

    low, high = np.nanmin(values), np.nanmax(values)
    if low == high:
        return _Scale(name, np.where(np.isnan(values), np.nan, 0.5), [(0.5, f"{low:g}")])
    locator = LogLocator(numticks=6) if is_log else MaxNLocator(5, integer=is_whole)
    ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
    if len(ticks) < 2:
        ticks = [low, high]

    def height(value: Any) -> Any:
        first, last, own = (np.log(number) if is_log else number for number in (low, high, value))
        return (own - first) / (last - first)

    return _Scale(name, height(values), [(float(height(tick)), f"{tick:.4g}") for tick in ticks])


def _draw_scale(axes: Axes, at: int, scale: _Scale) -> None:
    axes.plot([at, at], [0, 1], color="#444444", linewidth=1, zorder=5)
    box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.8}
    ticks = [*scale.ticks, (_ABSENT, "not set")] if np.isnan(scale.heights).any() else scale.ticks
    for height, label in ticks:
        axes.plot([at - 0.03, at], [height, height], color="#444444", linewidth=1, zorder=5)
        axes.text(at - 0.05, height, label, ha="right", va="center", fontsize=8, bbox=box, zorder=6)


_ABSENT: Final = -0.07  # the height of a parameter that a trial does not have


def _draw_ranked(axes: Axes, heights: Numbers, data: StudyData) -> None:
    objective, values = data.objectives[0], data.values(0)
    _, ranks = np.unique(objective.sign * values, return_inverse=True)  # 0 is the best; equals share a rank
    parts = 1 - ranks / max(ranks.max(), 1)
    order = np.argsort(parts, kind="stable")
    lines = _lines(heights[order], cmap="Blues", linewidths=0.7 + 0.9 * parts[order] ** 3, alpha=_alpha(len(values)))
    lines.set_array(0.15 + 0.85 * parts[order])
    lines.set_clim(0, 1)
    axes.add_collection(lines)
    best = at_first(objective, values)
    axes.add_collection(_lines(heights[best : best + 1], colors=RED, linewidths=2, alpha=1.0))
    axes.set_title(f"darker is better; red: the best, {title_number(values[best])} of trial {data.numbers()[best]:.0f}")


def _draw_front(axes: Axes, heights: Numbers, front: NDArray[np.bool_]) -> None:
    axes.add_collection(_lines(heights[~front], colors=GREY, linewidths=0.7, alpha=0.5 * _alpha(len(front))))
    axes.add_collection(_lines(heights[front], colors=RED, linewidths=1.3, alpha=_alpha(front.sum())))
    axes.set_title(f"red: the Pareto front, {front.sum()} of {len(front)} trials")


def _alpha(num_lines: int) -> float:
    return float(np.clip(60 / max(num_lines, 1), 0.3, 0.9))


def _lines(heights: Numbers, **style: Any) -> Any:
    from matplotlib.collections import LineCollection

    filled = np.where(np.isnan(heights), _ABSENT, heights)
    return LineCollection([np.column_stack([np.arange(row.size), row]) for row in filled], zorder=2, **style)


def _named(data: StudyData, names: Sequence[str]) -> list[Parameter]:
    found = {parameter.name: parameter for parameter in data.parameters}
    return [found[name] for name in names]
