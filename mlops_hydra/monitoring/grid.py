"""The grid of a numeric column: edges at quantiles of the reference, between which new values are counted.

    k edges make k+1 cells: (-inf, edges[0]], (edges[0], edges[1]], ..., (edges[k-1], inf]

A point is a value with a cell of its own, (nextafter(v, -inf), v]. The smallest and the largest value are points, so
the first and the last cell hold what lies outside of the range; infinities are counted there, too.
Not here: counts that know of missing values (`counts.py`).
"""

from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.data.values import FloatArray, IntArray

LARGEST: Final = float(np.finfo(np.float64).max)
_OVERSHOOT: Final = 0.25  # of a cell's share: a cell without a point holds at most 1.25/bins, but for rounding
_MAX_DIGITS: Final = 17
_ROUNDING: Final = 0.01  # of the gap to the next edge: a cell's width, and about its share, changes by 2 % at most
_MOVED: Final = 0.05  # of a cell's share may pass an edge when it is rounded


def make_edges(values: FloatArray, *, bins: int, weights: FloatArray | IntArray | None = None) -> FloatArray:
    """Strictly ascending edges [k] from values [n] in any order, without NaN; infinities are left aside.

    Points are the smallest and the largest value, and each that makes 1/bins of all, or every value when there are at
    most `bins` different ones. Elsewhere edges are quantiles, in as few digits as keep them in their place.

    Args:
        weights: what each value counts for; of weight 0 it only widens the range.

    Returns:
        About `bins` edges, twice as many where all are points (each has two); none where there is no finite value.
    """
    distinct, mass = _distinct(values, weights)
    if not len(distinct):
        return np.empty(0)
    if len(distinct) <= bins:
        return join_edges(distinct, np.empty(0))
    is_point = mass * bins >= mass.sum()
    is_point[[0, -1]] = True
    cumulated = np.cumsum(mass)
    chosen = _quantiles(cumulated, bins)
    points, others = distinct[is_point], distinct[chosen[~is_point[chosen]]]
    return join_edges(points, _rounded(others, join_edges(points, others), distinct, cumulated, bins))


def _quantiles(cumulated: FloatArray, bins: int) -> IntArray:
    """Places of the quantiles; also the one before where a value reaches far beyond its level, to part it off."""
    share = cumulated[-1] / bins
    levels = share * np.arange(1, bins)
    at = np.minimum(np.searchsorted(cumulated, levels), len(cumulated) - 1)
    is_far = cumulated[at] - levels > _OVERSHOOT * share
    return np.unique(np.maximum(np.concatenate([at, at[is_far] - 1]), 0))


def join_edges(points: FloatArray, others: FloatArray) -> FloatArray:
    """The edges that these points and further edges make."""
    return np.unique(np.concatenate([_next_below(points), points, others]))


def part_edges(edges: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Points and further edges; `join_edges` makes the same edges of them."""
    is_point = are_points(edges)[1:-1] if len(edges) else np.empty(0, dtype=bool)
    points = edges[1:][is_point]
    return points, edges[~np.isin(edges, np.concatenate([points, _next_below(points)]))]


def are_points(edges: FloatArray) -> NDArray[np.bool_]:
    """Whether each cell [k+1] is a point's."""
    is_point = np.zeros(len(edges) + 1, dtype=bool)
    is_point[1:-1] = edges[:-1] == _next_below(edges[1:])
    return is_point


def _next_below(values: FloatArray) -> FloatArray:
    with np.errstate(over="ignore"):  # minus infinity is below the last float
        return np.asarray(np.nextafter(values, -np.inf))


def count(values: FloatArray, edges: FloatArray) -> IntArray:
    """How many values [n], infinities included and NaN not, lie in each cell [k+1]."""
    return np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)


def resolution(edges: FloatArray, counts: IntArray) -> float:
    """How much larger than from the cells the Kolmogorov-Smirnov statistic can be: D <= D_cells + resolution.

    At an edge both cumulated shares F (reference) and G are known. Within the cell (a, b] they only grow, so that
    F - G <= F(b) - G(a) = F(a) - G(a) + (F(b) - F(a)), and G - F <= G(b) - F(a) = G(b) - F(b) + (F(b) - F(a)): at most
    D_cells and the reference's share of the cell. A point's cell has nothing within. NaN without counts.
    """
    total = counts.sum()
    if not total:
        return float("nan")
    return float(np.max(counts, initial=0, where=~are_points(edges)) / total)


def merge_cells(
    edges: tuple[FloatArray, FloatArray], cells: tuple[IntArray, IntArray]
) -> tuple[FloatArray, IntArray, int]:
    """Two grids with their counts as one, with as many edges as the finer of them.

    An edge of one grid cuts a cell of the other, whose values are taken as spread evenly.

    Returns:
        Edges, cells, and by how many values the cumulated counts at the edges can be wrong.
    """
    union = np.union1d(*edges)
    found = [_cumulated(e, c, union) for e, c in zip(edges, cells, strict=True)]
    cumulated, error = found[0][0] + found[1][0], found[0][1] + found[1][1]
    total = int(cells[0].sum() + cells[1].sum())
    kept = _thinned(np.diff(cumulated, prepend=0, append=total), max(map(len, edges)))
    return union[kept], np.diff(cumulated[kept], prepend=0, append=total), int(error[kept].max(initial=0))


def _cumulated(edges: FloatArray, cells: IntArray, at: FloatArray) -> tuple[IntArray, IntArray]:
    """Counts up to `at` [q], whole numbers, and by how much they can be wrong.

    Outside of the range there is no doubt: all beyond it is infinite. Without any edge all is, in either direction.
    """
    total = np.cumsum(cells)
    if not len(edges):
        return np.full(len(at), total[-1] // 2), np.full(len(at), total[-1] - total[-1] // 2)
    cell = np.searchsorted(edges, at, side="left")
    low_at, high_at = np.maximum(cell - 1, 0), np.minimum(cell, len(edges) - 1)
    low, high = total[low_at], total[high_at]
    start, end = (np.maximum(edges[i], -LARGEST) / 2 for i in (low_at, high_at))  # halves: their difference is finite
    width = end - start
    part = np.divide(np.maximum(at, -LARGEST) / 2 - start, width, out=np.ones(len(at)), where=width > 0)
    between = low + np.rint(np.clip(part, 0.0, 1.0) * (high - low)).astype(np.int64)
    is_known = (high_at == cell) & (edges[high_at] == at)
    estimate: IntArray = np.where(is_known, high, between)
    error: IntArray = np.where(is_known, 0, np.maximum(high - estimate, estimate - low))
    return estimate, error


def _thinned(cells: IntArray, num_edges: int) -> IntArray:
    """Which edges to keep: again and again the one goes that parts the two cells with the fewest counts together.

    The ends of the range stay points, with two edges each.
    """
    kept, inner = list(range(len(cells) - 1)), cells[2:-2].tolist()
    pairs = [a + b for a, b in pairwise(inner)]  # of the cells on both sides of each edge but those four
    while pairs and len(kept) > num_edges:
        place = pairs.index(min(pairs))
        del kept[place + 2]
        inner[place : place + 2] = [pairs[place]]
        around = inner[max(place - 1, 0) : place + 2]
        pairs[max(place - 1, 0) : place + 2] = [a + b for a, b in pairwise(around)]
    return np.array(kept, dtype=np.int64)


def _distinct(values: FloatArray, weights: FloatArray | IntArray | None) -> tuple[FloatArray, FloatArray]:
    """The different finite values, ascending, and what each counts for."""
    is_finite = np.isfinite(values)
    if weights is None:
        distinct, mass = np.unique(values[is_finite], return_counts=True)
        return distinct + 0.0, mass.astype(np.float64)  # -0.0 becomes 0.0
    distinct, place = np.unique(values[is_finite], return_inverse=True)
    return distinct + 0.0, np.bincount(place, weights=weights[is_finite], minlength=len(distinct)).astype(np.float64)


def _rounded(
    others: FloatArray, edges: FloatArray, distinct: FloatArray, cumulated: FloatArray, bins: int
) -> FloatArray:
    """`others`, which are some of the edges, each in the fewest digits that keep its place and its counts."""
    place = np.searchsorted(edges, others)
    half_gap = np.minimum(edges[place] / 2 - edges[place - 1] / 2, edges[place + 1] / 2 - edges[place] / 2)
    below = np.concatenate([[0.0], cumulated])
    rounded, left = others.copy(), np.arange(len(others))
    for digits in range(1, _MAX_DIGITS):
        exact = others[left]
        short = np.array([float(f"{edge:.{digits}g}") for edge in exact.tolist()])
        moved = np.abs(
            below[np.searchsorted(distinct, short, "right")] - below[np.searchsorted(distinct, exact, "right")]
        )
        is_near = np.abs(short / 2 - exact / 2) <= _ROUNDING * half_gap[left]
        fits = is_near & (moved <= _MOVED * cumulated[-1] / bins)
        rounded[left[fits]] = short[fits]
        left = left[~fits]
        if not len(left):
            break
    return rounded + 0.0
