"""The picture of a column of numbers or dates. The frame around it, and categories, are in `pictures.py`.

The cells of a grid vary in width, so that they are shown as shares of bars of one width; values with a cell of their
own are bars of their own, and what lies beyond the axis is in hatched bars at its ends.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.evaluation.style import BLUE, GREY, RED
from mlops_hydra.evaluation.wording import with_digits

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Floats = NDArray[np.float64]

FILL: Final = {"facecolor": BLUE, "alpha": 0.45, "edgecolor": BLUE, "linewidth": 0.8}
LINE: Final = {"facecolor": "none", "edgecolor": RED, "linewidth": 1.5}
_NUM_BARS: Final = 36
_MOST_BARS: Final = 30  # values that are drawn apart
_MOST_LABELLED: Final = 14
_MOST_LETTERS: Final = 64  # below an axis
_TAILS: Final = (0.01, 0.05)  # shares of rows at either end that do not stretch the axis: reference, current
_MOST_DAYS_APART: Final = 62  # that are not named by months
_MOST_DAYS: Final = 2_500_000  # the year 8814, and 154: beyond them lie the ends of Python's calendar
_LEAST_DAYS: Final = -663_000


class Grid(NamedTuple):
    """Finite edges, over `scale` so that no sum of them overflows, and which inner cells hold one value each.

    `first` is the cell above the first finite edge.
    """

    edges: Floats
    scale: float
    is_point: NDArray[np.bool_]
    first: int


def grid_of(edges: Floats) -> Grid | None:
    """None without a finite edge."""
    finite = np.isfinite(edges)
    if not finite.any():
        return None
    inner = np.asarray(edges, dtype=np.float64)[finite]
    with np.errstate(over="ignore"):
        is_point = np.diff(inner) <= 4 * np.spacing(np.abs(inner[1:]))
    largest = float(np.abs(inner).max())
    power = math.floor(math.log10(largest)) if largest > 0 else 0
    scale = 1.0 if -5 <= power <= 15 else 10.0 ** max(power, -300)
    return Grid(inner / scale, scale, is_point, int(np.argmax(finite)) + 1)


class _Axis(NamedTuple):
    """From where to where; the values and the shares [2] (reference, current) beyond either end."""

    low: float
    high: float
    limits: tuple[float, float]
    beyond: tuple[Floats, Floats]

    @property
    def span(self) -> float:
        return self.high - self.low


def _axis_of(grid: Grid, shares: Floats) -> _Axis:
    """The training range; without tails that would take half of the axis."""
    edges, cumulated = grid.edges, np.cumsum(shares, axis=1)[:, grid.first - 1 : grid.first - 1 + len(grid.edges)]
    total, last = shares.sum(axis=1), len(edges) - 1
    tails = [(each, tail) for each, tail, rows in zip(cumulated, _TAILS, total, strict=True) if rows]
    low = min(edges[max(int(np.searchsorted(each, tail, side="right")) - 1, 0)] for each, tail in tails)
    high = max(edges[min(int(np.searchsorted(each, each[-1] - tail)), last)] for each, tail in tails)
    room = 0.5 * (high - low)
    low = edges[0] if low - edges[0] <= room else low - room / 4
    high = edges[-1] if edges[-1] - high <= room else high + room / 4
    limits = float(edges[1] if last and grid.is_point[0] and low == edges[0] else low), float(high)
    below, above = (np.array([np.interp(end, edges, each) for each in cumulated]) for end in (low, high))
    if high - low <= 8 * np.spacing(max(abs(low), abs(high))):  # one value
        room = max(0.1 * abs(high), 1e-9) if high else 1.0
        low, high = high - room, high + room
    return _Axis(float(low), float(high), limits, (below, total - above))


def draw_numbers(axes: Axes, grid: Grid, both: Floats, *, is_date: bool) -> None:
    """Shares [2, k+1] of the reference and the current data."""
    axis = _axis_of(grid, both)
    inner = both[:, grid.first : grid.first + len(grid.is_point)]
    spread = np.where(grid.is_point, 0.0, inner)
    if spread.any():
        _draw_steps(axes, grid, spread, axis)
    points = np.flatnonzero(grid.is_point & (grid.edges[1:] >= axis.low) & (grid.edges[1:] <= axis.high))
    values, width = grid.edges[1:][points], 0.0
    if points.size:
        width = _width_of(values, axis, is_thin=bool(spread.any()))
        draw_points = _draw_bars if points.size <= _MOST_BARS or spread.any() else _draw_outlines
        draw_points(axes, values, inner[:, points], width)
    _draw_ends(axes, axis, room=width / 2, texts=_Texts(axis.span, is_date=_fits_dates(grid, axis, is_date=is_date)))
    few = values if points.size <= _MOST_LABELLED and not spread.any() else None
    _lay_out_values(axes, grid, axis, few, is_date=is_date)


def _draw_steps(axes: Axes, grid: Grid, spread: Floats, axis: _Axis) -> None:
    """Bars of one width: the shares of cells are spread evenly over each of them."""
    bars = np.linspace(axis.low, axis.high, _NUM_BARS + 1)
    for place, each in enumerate(spread):
        cumulated = np.concatenate([[0.0], np.cumsum(each)])
        _draw_stairs(axes, np.diff(np.interp(bars, grid.edges, cumulated)), bars, is_line=bool(place))


def _draw_stairs(axes: Axes, shares: Floats, bounds: Floats, *, is_line: bool) -> None:
    if is_line:
        axes.stairs(100 * shares, bounds, color=RED, linewidth=1.5)
    else:
        axes.stairs(100 * shares, bounds, fill=True, facecolor=BLUE, alpha=0.45)


def _width_of(values: Floats, axis: _Axis, *, is_thin: bool) -> float:
    """Of a bar that holds one value: as wide as fits between two."""
    if is_thin:
        return 0.4 * axis.span / _NUM_BARS
    gap = float(np.diff(values).min()) if len(values) > 1 else axis.span / 6
    return max(0.8 * gap, axis.span / 200)


def _draw_bars(axes: Axes, places: Floats, shares: Floats, width: float, *, hatch: str = "") -> None:
    for each, look in zip(shares, (FILL, LINE), strict=True):
        style: dict[str, Any] = {**look, "hatch": hatch}
        axes.bar(places, 100 * each, width=width, zorder=2, **style)


def _draw_outlines(axes: Axes, values: Floats, shares: Floats, width: float) -> None:
    """Of many values: neighbours touch, wider gaps are empty."""
    reach = np.minimum(np.diff(values) / 2, width / 1.6)  # 0.8 of the narrowest gap is the width of a bar
    left, right = values - np.append(reach[0], reach), values + np.append(reach, reach[-1])
    bounds = np.column_stack([left, right]).ravel()
    for place, each in enumerate(shares):
        heights = np.zeros(len(bounds) - 1)
        heights[::2] = each
        keep = np.append(np.diff(bounds) > 1e-6 * width, True)
        _draw_stairs(axes, heights[keep[:-1]], bounds[keep], is_line=bool(place))


class _Texts(NamedTuple):
    """Of values on an axis that is so long."""

    span: float
    is_date: bool

    def of(self, value: float) -> str:
        return _day(value, self.span) if self.is_date else _number(value, self.span)


def _fits_dates(grid: Grid, axis: _Axis, *, is_date: bool) -> bool:
    return is_date and grid.scale == 1.0 and axis.low >= _LEAST_DAYS and axis.high <= _MOST_DAYS


def _draw_ends(axes: Axes, axis: _Axis, *, room: float, texts: _Texts) -> None:
    """Hatched bars of what lies beyond the axis, which has `room` for the halves of bars at its ends.

    They are cut off where they would flatten the others: the share of current values stands above.
    """
    width = 0.05 * axis.span
    bounds = [axis.low - room, axis.high + room]
    highest = float(axes.dataLim.y1) if axes.patches else 0.0
    top = 100 * max(float(shares.max()) for shares in axis.beyond)
    top = 2 * highest if 0 < 2.5 * highest < top else max(top, highest)
    axes.set_ylim(0, 1.12 * top)
    for end, sign in enumerate("<>"):
        side, shares = 2 * end - 1, axis.beyond[end]
        if (shares < 0.0005).all():
            continue
        place = bounds[end] + side * 1.5 * width
        axes.axvline(bounds[end] + side * 0.5 * width, color=GREY, linewidth=0.8, linestyle=":")
        _draw_bars(axes, np.array([place]), shares[:, None], width, hatch="////")
        style: dict[str, Any] = {"transform": axes.get_xaxis_transform(), "va": "top", "ha": ("left", "right")[end]}
        axes.text(place + side * width / 2, -0.12, f"{sign} {texts.of(axis.limits[end])}", **style)
        share = f"{with_digits(100 * shares[1], 2)} %" if shares[1] >= 0.0005 else ""
        look: dict[str, Any] = {"color": RED, "fontsize": 8, "bbox": {"facecolor": "white", "linewidth": 0, "pad": 1.5}}
        axes.text(place, min(100 * shares[1], top) + 0.025 * top, share, ha="center", va="bottom", zorder=3, **look)
        bounds[end] = place + side * width / 2
    margin = 0.03 * axis.span
    axes.set_xlim(bounds[0] - margin, bounds[1] + margin)


def _lay_out_values(axes: Axes, grid: Grid, axis: _Axis, values: Floats | None, *, is_date: bool) -> None:
    in_days = _fits_dates(grid, axis, is_date=is_date)
    ticks = _ticks(axis, in_days=in_days) if values is None else values
    texts = [_Texts(axis.span, is_date=in_days).of(float(tick)) for tick in ticks]
    step = math.ceil(sum(len(text) + 2 for text in texts) / _MOST_LETTERS) or 1
    axes.set_xticks(ticks[::step], texts[::step])
    axes.grid(visible=False, axis="x")
    axes.set_ylabel("share of the values (%)")
    unit = (
        f"in units of {grid.scale:.0e}" if grid.scale != 1.0 else "days since 1970" if is_date and not in_days else ""
    )
    axes.set_title(unit, loc="left", fontsize=9)


def _ticks(axis: _Axis, *, in_days: bool) -> Floats:
    """Round numbers, whole days, or first days of months and years."""
    from matplotlib.ticker import MaxNLocator

    if in_days and axis.span > _MOST_DAYS_APART:
        return _month_starts(axis)
    locator = MaxNLocator(nbins=4 if in_days else 6, integer=in_days and axis.span > 4)
    found = np.asarray(locator.tick_values(axis.low, axis.high), dtype=np.float64)
    return found[(found >= axis.low) & (found <= axis.high)]


def _month_starts(axis: _Axis) -> Floats:
    """At most five, at whole months, quarters, years, or more."""
    ends = np.array([axis.low, axis.high]).astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    months = np.arange(ends[0] + 1, ends[1] + 1)
    for step in (1, 2, 3, 6, *(12 * years for years in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000))):
        found = months[months % step == 0]
        if found.size <= 5:
            break
    return np.asarray(found.astype("datetime64[M]").astype("datetime64[D]"), dtype=np.float64)


def _number(value: float, span: float) -> str:
    """With as many digits as tell the ticks apart."""
    if not span or abs(value) < 1e-9 * span:
        return "0"
    digits = math.ceil(math.log10(max(abs(value) / span, 1e-3))) + 3
    text = with_digits(value, min(max(digits, 3), 17))
    return text if "e" in text or "." in text else f"{int(text):,}"


def _day(days: float, span: float) -> str:
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=min(max(days, _LEAST_DAYS), _MOST_DAYS))
    return moment.strftime("%Y-%m-%d" if span > 4 else "%m-%d %H:%M")
