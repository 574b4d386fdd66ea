"""The picture of an A/B test: its effect day by day, and who saw what. Not here: deciding anything.

Drawn as the pictures of a run are, without pyplot.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlops_hydra.atomic import replacing
from mlops_hydra.evaluation.style import CLASS_COLOURS, CLASS_DASHES, GREY, STYLE, lay_out
from mlops_hydra.serving.ab.result import AbResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDEST: Final = 4.0  # intervals of the first days, in widths of the last one: wider ones are cut off
_LONGEST_NAME: Final = 20


def draw_ab(path: Path, result: AbResult) -> None:
    """Write the PNG; an empty test is a picture that says so.

    Raises:
        TrackingError: the disk does not take it.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # names in scripts that the font lacks
        figure = Figure()
        lay_out(figure, 11.4, 4.2, left=0.8, bottom=0.6, gap=1.2)
        left, right = figure.subplots(1, 2)
        _draw_effect(left, result)
        _draw_exposures(right, result)
        with replacing(path) as file:
            figure.savefig(file, format="png")


def _draw_effect(axes: Axes, result: AbResult) -> None:
    scale = 100 if result.is_binary else 1
    axes.axhline(0, color=GREY, linewidth=1.2)
    for place, arm in enumerate(result.effects):
        days = [day for day in result.days if day.effects[arm].is_judged]
        if not days:
            continue
        times, effects = [_day(day.time) for day in days], [day.effects[arm] for day in days]
        colour, style = CLASS_COLOURS[place % len(CLASS_COLOURS)], CLASS_DASHES[place % len(CLASS_DASHES)]
        low, high = (
            [scale * bound for bound in bounds] for bounds in zip(*((e.low, e.high) for e in effects), strict=True)
        )
        values = [scale * each.difference for each in effects]
        axes.plot(times, values, style, color=colour, marker="o", markersize=3.5, label=_short(arm))
        if len(days) > 1:
            axes.fill_between(times, low, high, color=colour, alpha=0.18, linewidth=0)
        else:
            axes.vlines(times, low, high, color=colour, alpha=0.4, linewidth=6)
    unit = " (% points)" if result.is_binary else ""
    label = f"{_short(result.outcome)}: difference from {_short(result.control)}{unit}"
    axes.set(title=_title(result), ylabel=label, xlabel=_days(result))
    _limit(axes, result, scale)
    _date_axis(axes, result)


def _title(result: AbResult) -> str:
    if result.status != "judged":
        return "nothing to judge" if result.status == "nothing" else "too few to judge"
    verdict = "not to be trusted" if result.verdict == "untrustworthy" else result.verdict
    return f"effect: {verdict}; {100 * result.confidence:g} % interval for all looks"


def _days(result: AbResult) -> str:
    """What the points of a day are."""
    if result.has_times:
        return "exposures and outcomes until the end of the day (UTC)"
    return "exposures until the end of the day (UTC), outcomes as of now"


def _limit(axes: Axes, result: AbResult, scale: float) -> None:
    """To where the last intervals can be read; zero is always there."""
    last = [each for each in result.effects.values() if each.is_judged]
    if not last:
        axes.set_yticks([])
        return
    width = max(each.high - each.low for each in last) * _WIDEST / 2
    low = max(min(each.low for day in result.days for each in day.effects.values() if each.is_judged), -math.inf)
    high = max(each.high for day in result.days for each in day.effects.values() if each.is_judged)
    middle = [each.difference for each in last]
    bottom, top = max(low, min(middle) - width), min(high, max(middle) + width)
    room = 0.05 * (top - bottom)
    axes.set_ylim(scale * (min(bottom, 0) - room), scale * (max(top, 0) + room))


def _draw_exposures(axes: Axes, result: AbResult) -> None:
    times = [_day(day.time) for day in result.days]
    for place, (name, arm) in enumerate(result.arms.items()):
        colour = GREY if name == result.control else CLASS_COLOURS[(place - 1) % len(CLASS_COLOURS)]
        counts = [day.exposed[name] for day in result.days]
        expected = [arm.expected * sum(day.exposed.values()) for day in result.days]
        axes.plot(times, counts, color=colour, marker="o", markersize=3.5, label=f"{_short(name)}: {counts[-1]:,}")
        axes.plot(
            times, expected, ":", color="#222222", linewidth=1.3, label="as its weight says" if not place else None
        )
    axes.set(title=f"{result.units} exposed: {result.num_units:,}", ylabel=f"{result.units} so far", xlabel="day (UTC)")
    axes.set_ylim(bottom=0)
    _date_axis(axes, result)


def _date_axis(axes: Axes, result: AbResult) -> None:
    from matplotlib import dates
    from matplotlib.ticker import FuncFormatter

    if not result.days:
        axes.set(xticks=[], yticks=[])
        return
    untyped: Any = dates
    days = [_day(day.time) for day in result.days]
    ticks = sorted({days[0] + round(step * (days[-1] - days[0]) / 4) for step in range(5)})
    axes.set_xticks(ticks)
    room = max(0.5, (days[-1] - days[0]) / 20)
    axes.set_xlim(days[0] - room, days[-1] + room)
    axes.xaxis.set_major_formatter(untyped.DateFormatter("%Y-%m-%d" if len(ticks) < 3 else "%d %b"))
    if axes.get_title().startswith(result.units):
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _day(microseconds: int) -> int:
    """Days since 1970, which is what matplotlib counts: a look at the end of a day stands at its date."""
    return microseconds // 86_400_000_000


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
