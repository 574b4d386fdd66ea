"""The pictures of a classifier: confusion matrix, ROC curves, calibration.

`targets` are class codes `[n]`, `predictions` probabilities `[n, classes]`, `names` in the order of the codes. Each
function draws into an empty figure. Not here: files and style (`plots.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.evaluation.curves import NUM_BINS, area_under_roc, calibration_bins, roc_curve
from mlops_hydra.evaluation.style import BLUE, CLASS_COLOURS, CLASS_DASHES, GREY, RED, lay_out

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_NUMBERED_CLASSES: Final = 20  # numbers in smaller cells cannot be read
_MOST_TICKS: Final = 40
_MOST_CURVE_POINTS: Final = 2000
_LONGEST_NAME: Final = 18


def draw_confusion(
    figure: Figure, *, names: Sequence[str], targets: NDArray[np.int64], predictions: NDArray[np.float64]
) -> None:
    """Counts in numbers, shares of the actual class in colour."""
    size = len(names)
    counts = np.bincount(targets * size + predictions.argmax(axis=1), minlength=size**2).reshape(size, size)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shown = [_short(name) for name in names]
    side = float(np.clip(0.6 * size, 3.0, 10.0))
    longest = max(map(len, shown))
    left = 0.7 + 0.085 * longest  # inches a letter
    bottom = 0.6 if _names_fit(shown) else 0.6 + 0.06 * longest
    lay_out(figure, side + left + 0.2, side + bottom + 0.4, left=left, bottom=bottom)
    axes = figure.add_subplot()
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    _name_ticks(axes, shown)
    if size <= _MOST_NUMBERED_CLASSES:
        _write_counts(axes, counts, shares)
    accuracy = np.trace(counts) / targets.size
    axes.set(
        title=f"accuracy {accuracy:.3f} over {targets.size:,} rows",
        xlabel="predicted",
        ylabel="actual (darker: a larger share)",
    )


def _name_ticks(axes: Axes, names: Sequence[str]) -> None:
    ticks = list(range(0, len(names), math.ceil(len(names) / _MOST_TICKS)))
    shown = [names[tick] for tick in ticks]
    axes.set_yticks(ticks, shown)
    if _names_fit(names):
        axes.set_xticks(ticks, shown)
    else:
        axes.set_xticks(ticks, shown, rotation=40, ha="right", rotation_mode="anchor")


def _names_fit(names: Sequence[str]) -> bool:
    """Side by side below a matrix, without slanting them."""
    return max(map(len, names)) <= (12 if len(names) == 2 else 4)


def _write_counts(axes: Axes, counts: NDArray[np.int64], shares: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            colour = "white" if shares[row, column] > 0.55 else "#222222"
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=colour)


def draw_roc(
    figure: Figure, *, names: Sequence[str], targets: NDArray[np.int64], predictions: NDArray[np.float64]
) -> None:
    """One curve of the positive (last) class, or of each class that occurs against the rest; two classes or more do."""
    codes = [1] if len(names) == 2 else np.unique(targets).tolist()
    lay_out(figure, 5.2, 5.2)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.4, label="chance")
    for code in codes:
        positive, scores = targets == code, predictions[:, code]
        colour = BLUE if len(codes) == 1 else CLASS_COLOURS[code % len(CLASS_COLOURS)]
        area = area_under_roc(positive, scores)
        label = f"{_short(names[code])}: {area:.3f}"
        dashes = CLASS_DASHES[codes.index(code) % len(CLASS_DASHES)]
        axes.plot(*_thinned(*roc_curve(positive, scores)), dashes, color=colour, label=label)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axes.set(title="ROC", xlabel="false positive rate", ylabel="true positive rate")
    axes.legend(loc="lower right", title="area under the curve", fontsize=9, title_fontsize=9)


def _thinned(*curve: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    size = curve[0].size
    kept = np.unique(np.linspace(0, size - 1, min(size, _MOST_CURVE_POINTS)).astype(np.int64))
    return [values[kept] for values in curve]


def draw_calibration(figure: Figure, *, targets: NDArray[np.int64], predictions: NDArray[np.float64]) -> None:
    """Accuracy against confidence in bins, and below how many rows each bin has."""
    bins = calibration_bins(targets, predictions)
    edges = np.linspace(0, 1, NUM_BINS + 1)
    used = bins.rows > 0
    lay_out(figure, 5.2, 5.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1], gridspec_kw={"hspace": 0.1})
    top.plot([0, 1], [0, 1], ":", color=GREY, linewidth=1.4, label="perfectly calibrated")
    top.vlines(bins.confidence[used], bins.confidence[used], bins.accuracy[used], color=RED, linewidth=1.4, label="gap")
    top.plot(bins.confidence[used], bins.accuracy[used], "o-", color=BLUE, markersize=5, label="model")
    top.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), ylabel="accuracy", title=f"calibration error {bins.error:.3f}")
    top.legend(loc="upper left")
    bottom.bar(edges[:-1], bins.rows, width=1 / NUM_BINS, align="edge", color=BLUE, edgecolor="white", linewidth=0.7)
    bottom.set(xlabel="confidence: probability of the predicted class", ylabel="rows")


def _short(name: str) -> str:
    """Cut in the middle: names that are alike differ at either end."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[: half - 1]}…{name[-half:]}"
