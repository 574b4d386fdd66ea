"""How far apart two samples are, from their counts in the same cells: the size of a difference, whatever its p."""

from typing import Final

import numpy as np

from mlops_hydra.data.values import FloatArray, IntArray

_GROUPS: Final = 10  # as PSI is used: its rules of thumb, 0.1 and 0.25, are for about ten groups


def wasserstein_of_cells(
    edges: FloatArray, reference: IntArray, current: IntArray, *, below: FloatArray, above: FloatArray
) -> FloatArray:
    """Wasserstein's distance W1 [d] in the columns' units: the area between the two cumulated shares.

    `edges` [d, k], padded with the last one; counts [d, k+1], padded with zeros. `below` and `above` [d] are the sums
    of the distances of current values from the reference's range. Exact outside of the range and where the values are
    points; else each cell's values are taken as spread evenly over it, which moves W1 by less than the cells' widths,
    weighted with their shares. Cells that reach to infinity do not count. Nothing counted on a side: nan.
    """
    sizes = current.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = [np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True) for counts in (reference, current)]
        gaps = shares[1] - shares[0]
        left, right = gaps[:, :-2], gaps[:, 1:-1]
        areas = np.where(left * right < 0, (left**2 + right**2) / (2 * np.abs(left - right)), np.abs(left + right) / 2)
        widths = np.diff(edges, axis=1)
        widths[~np.isfinite(widths)] = 0.0
        return np.asarray((areas * widths).sum(axis=1) + (below + above) / sizes)


def population_stability(reference: IntArray, current: IntArray, *, max_groups: int | None = _GROUPS) -> FloatArray:
    """The population stability index [d] of counts [d, c] in the same cells, padded with zeros. Nothing counted: nan.

    Neighbouring cells form at most `max_groups` groups of about equal shares of the reference, as is done for numbers;
    None: each cell by itself, for categories. Half a count is added to each group that either side has, so that the
    index is finite; both sides equal gives 0 only about then.
    """
    if max_groups is not None:
        reference, current = _grouped(reference, current, max_groups)
    used = (reference + current) > 0
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = [
            (counts + 0.5 * used) / (counts.sum(axis=1) + 0.5 * used.sum(axis=1))[:, None]
            for counts in (reference, current)
        ]
        terms = np.where(used, (shares[0] - shares[1]) * np.log(shares[0] / shares[1]), 0.0)
    known = (reference.sum(axis=1) > 0) & (current.sum(axis=1) > 0)
    return np.where(known, terms.sum(axis=1), np.nan)


def _grouped(reference: IntArray, current: IntArray, max_groups: int) -> tuple[IntArray, IntArray]:
    """Counts [d, max_groups]: a cell belongs where the middle of its share of the reference lies."""
    sizes = np.maximum(reference.sum(axis=1, keepdims=True), 1)
    middle = (np.cumsum(reference, axis=1) - reference / 2) / sizes
    group = np.minimum((middle * max_groups).astype(np.int64), max_groups - 1)
    group += np.arange(len(reference))[:, None] * max_groups
    shape = (len(reference), max_groups)
    grouped = [
        np.bincount(group.ravel(), counts.ravel(), minlength=shape[0] * shape[1]).reshape(shape)
        for counts in (reference, current)
    ]
    return grouped[0].astype(np.int64), grouped[1].astype(np.int64)


def total_variation(reference: IntArray, current: IntArray) -> float:
    """The share of rows, 0 to 1, that would have to change their category; of counts [c]. Nothing counted: nan."""
    if not reference.sum() or not current.sum():
        return float("nan")
    return float(np.abs(reference / reference.sum() - current / current.sum()).sum() / 2)
