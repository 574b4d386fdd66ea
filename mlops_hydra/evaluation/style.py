"""Colours, style and margins of all plots. Not here: drawing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Paul Tol's bright and muted schemes: told apart with any colour vision. Line styles tell them apart in grey.
BLUE: Final = "#4477AA"
RED: Final = "#CC3311"
GREY: Final = "#888888"
CLASS_COLOURS: Final = (
    *("#332288", "#CC6677", "#117733", "#88CCEE", "#AA4499"),
    *("#999933", "#882255", "#44AA99", "#DDAA33", "#555555"),
)
CLASS_DASHES: Final = ("-", "--", "-.")

STYLE: Final[Any] = {  # a dict; matplotlib 3.11 types it by each of its 300 keys
    "text.usetex": False,
    "text.parse_math": False,  # a class may be called $5
    "font.size": 10.0,
    "axes.titlesize": 11.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "savefig.dpi": 110,
}


def lay_out(
    figure: Figure, width: float, height: float, *, left: float = 0.8, bottom: float = 0.6, gap: float = 0.0
) -> None:
    """Size, margins and the horizontal gap between panels, in inches.

    Set by hand because matplotlib's layout engines double the time of a plot (0.63 s rather than 0.32 s for four).
    """
    figure.set_size_inches(width, height)
    panel = (width - left - 0.2 - gap) / 2
    figure.subplots_adjust(left / width, bottom / height, 1 - 0.2 / width, 1 - 0.4 / height, wspace=gap / panel)
