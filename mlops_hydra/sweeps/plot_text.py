"""Names and numbers on the axes of a study's pictures, short enough to be read.

Numbers are plain text, `0.001` rather than powers of ten, because the style turns off matplotlib's mathematics.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from mlops_hydra.config.objective import Objective

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis


def axis_label(objective: Objective, gap: str = " ") -> str:
    """The metric and which way is better."""
    return f"{shortened(objective.metric, 30)}{gap}({'lower' if objective.sign > 0 else 'higher'} is better)"


def shortened(text: str, most: int) -> str:
    """The end of a dotted name, which tells more than its beginning; the beginning of other text."""
    text = " ".join(text.split())
    if len(text) <= most:
        return text
    if "." not in text or " " in text:
        return text[: most - 1] + "…"
    end = text[1 - most :]
    return "…" + (end.partition(".")[2] or end)


def wrapped(name: str, most: int) -> str:
    """A dotted name over several lines of `most` characters, broken at dots, else at underscores."""
    lines: list[str] = []
    for part in name.replace(".", ".\n").split("\n"):
        pieces = [part] if len(part) <= most else textwrap.wrap(part.replace("_", "_ "), most)
        for piece in (piece.replace("_ ", "_") for piece in pieces):
            if lines and len(lines[-1]) + len(piece) <= most:
                lines[-1] += piece
            else:
                lines.append(piece)
    return "\n".join(lines)


def title_number(value: float) -> str:
    """Five digits."""
    return f"{value:.5g}"


def whole_numbers(axis: Axis) -> None:
    """No trial 2.5 and no epoch 0.5."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))


def logarithmic_across(axes: Axes) -> None:
    """A logarithmic scale: powers of ten as `0.001` or `1e-06`, no more than five."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_xscale("log")
    axis = axes.xaxis
    axis.set_major_locator(LogLocator(numticks=5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
