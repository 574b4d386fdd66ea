"""The picture of a column: its distribution in the reference, filled, against the current one, a line.

Drawn as the pictures of a run are, without pyplot. Numbers and dates are in `number_pictures.py`. Not here: deciding
anything.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops_hydra.evaluation.style import GREY, STYLE
from mlops_hydra.evaluation.wording import num, with_digits
from mlops_hydra.monitoring.number_pictures import FILL, LINE, Floats, draw_numbers, grid_of
from mlops_hydra.monitoring.result import Picture
from mlops_hydra.monitoring.wording import shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI: Final = 150
_WIDTH: Final = 5.4  # inches
_HEIGHT: Final = 3.0
_LEFT: Final = 0.62  # margins
_BOTTOM: Final = 0.5
_MOST_CATEGORIES: Final = 20
_LONGEST_LABEL: Final = 24


def draw(name: str, picture: Picture) -> bytes:
    """A PNG, 810 pixels wide; what cannot be drawn is a picture that says why."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    num_bars = min(len(picture.labels), _MOST_CATEGORIES + 1)
    height = 1.2 + 0.22 * max(num_bars, 3) if num_bars else _HEIGHT
    left = _room_for(picture.labels) if num_bars else _LEFT
    with mpl.rc_context({**STYLE, "font.size": 9.0}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # names in scripts that the font lacks
        figure = Figure(figsize=(_WIDTH, height))
        figure.subplots_adjust(left / _WIDTH, _BOTTOM / height, 1 - 0.15 / _WIDTH, 1 - 0.62 / height)
        figure.suptitle(shown(name, 60), x=0.15 / _WIDTH, y=1 - 0.08 / height, ha="left", va="top", fontsize=10.5)
        _draw_shares(figure.subplots(), picture)
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _draw_shares(axes: Axes, picture: Picture) -> None:
    both = np.nan_to_num(np.stack([picture.reference, picture.current]).astype(np.float64))
    grid = grid_of(picture.edges)
    if not both.any() or (grid is None and not picture.labels):
        which = "reference" if both.any() else "reference and current data"
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, f"no values in the {which}", transform=axes.transAxes, ha="center", color=GREY)
        return
    if picture.labels:
        _draw_categories(axes, picture.labels, both)
    elif grid is not None:
        draw_numbers(axes, grid, both, is_date=picture.kind == "date")
    _name_series(axes, both)


def _name_series(axes: Axes, shares: Floats) -> None:
    """Above the plot, where nothing is hidden by it."""
    from matplotlib.patches import Patch

    handles = []
    for name, each, look in zip(("reference", "current"), shares, (FILL, LINE), strict=True):
        style: dict[str, Any] = dict(look)
        handles.append(Patch(label=name if each.any() else f"{name}: no values", **style))
    axes.legend(handles=handles, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, borderaxespad=0.2)


def _room_for(labels: tuple[str, ...]) -> float:
    """Inches."""
    return min(0.3 + 0.075 * max(8, *(len(shown(label, _LONGEST_LABEL)) for label in labels)), 2.2)


def _draw_categories(axes: Axes, labels: tuple[str, ...], both: Floats) -> None:
    """Those that differ most come first, the others as one."""
    reference, current = both
    names = [shown(label, _LONGEST_LABEL) for label in labels]
    order = np.lexsort((-np.maximum(reference, current), -np.abs(current - reference).round(12)))
    order = order[both[:, order].sum(axis=0) > 0]
    shown_ones = order if len(order) <= _MOST_CATEGORIES + 1 else order[:_MOST_CATEGORIES]
    rest = order[len(shown_ones) :]
    bars = both[:, shown_ones]
    texts = [names[place] for place in shown_ones]
    if rest.size:
        bars = np.column_stack([bars, both[:, rest].sum(axis=1)])
        texts.append(num(rest.size, "other"))
    places = np.arange(len(texts), dtype=np.float64)
    for each, look, offset in zip(bars, (FILL, LINE), (-0.2, 0.2), strict=True):
        style: dict[str, Any] = dict(look)
        axes.barh(places + offset, 100 * each, height=0.38, **style)
    for place, (before, now) in enumerate(bars.T):
        text = f" {_percent(before)} → {_percent(now)}"
        axes.text(100 * max(before, now), place, text, va="center", fontsize=8, color="#333333")
    axes.set_yticks(places, texts)
    axes.set_ylim(len(texts) - 0.4, -0.6)
    longest = 100 * max(float(bars.max()), 1e-9)
    axes.set_xlim(0, 1.33 * longest)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= 1.05 * longest])
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("share of the values (%)")


def _percent(share: float) -> str:
    return f"{with_digits(100 * share, 2)} %" if share >= 0.0001 else "0 %" if not share else "< 0.01 %"
