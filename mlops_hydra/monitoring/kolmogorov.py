"""The test of Kolmogorov and Smirnov for two samples: the statistic, from values or from counts, and what it can find.

The statistic D is the largest difference of the two cumulated shares, from 0 to 1. Its p-value is in `smirnov.py`.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mlops_hydra.data.values import FloatArray, IntArray

_BLOCKS: Final = 1024  # of 256, 512, 1024 and 2048 the fastest for 100,000 against 10,000 values: 0.13 ms, 0.41 without


def statistic_of_cells(reference: IntArray, current: IntArray) -> FloatArray:
    """D [d] of counts in the same cells, [d, cells] each; a lower bound of the values' own. Nothing counted: nan."""
    with np.errstate(invalid="ignore"):
        shares = [np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True) for counts in (reference, current)]
    return np.asarray(np.abs(shares[0] - shares[1]).max(axis=1, initial=0.0))


def statistic(reference: FloatArray, current: FloatArray) -> float:
    """D of two sorted samples [n] and [m] without NaN; nan where one is empty.

    It is reached at, or just left of, one of the shorter sample's values. With thousands of them most are ruled out
    first: between two neighbours on a grid of the longer one's values, neither share moves further than the grid tells.
    """
    if len(reference) < len(current):
        reference, current = current, reference
    n, m = len(reference), len(current)
    if not m:
        return math.nan
    if m <= 2 * _BLOCKS:
        return _largest(reference, current, np.arange(m)) / (n * m)
    start = np.arange(0, n, max(n // _BLOCKS, 1))
    first = np.searchsorted(current, reference[start])  # the block's first value in `current`
    start, first = np.append(start, n), np.append(first, m)
    bound = np.maximum(first[1:] * n - start[:-1] * m, start[1:] * m - first[:-1] * n)
    bound[first[1:] == first[:-1]] = 0
    top = int(bound.argmax())
    most = max(int(first[0]) * n, _largest(reference, current, np.arange(first[top], first[top + 1])))
    left = np.flatnonzero(bound > most)
    sizes = first[left + 1] - first[left]
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return max(most, _largest(reference, current, np.repeat(first[left], sizes) + within)) / (n * m)


def _largest(reference: FloatArray, current: FloatArray, at: IntArray) -> int:
    """The largest difference at the values `at` of `current`, times n*m: whole numbers do not round.

    Among equal values of `current` the last has the largest share above the reference's, the first the smallest one
    below it; the others do no harm.
    """
    n, m, values = len(reference), len(current), current[at]
    above = (at + 1) * n - np.searchsorted(reference, values, "right") * m
    below = np.searchsorted(reference, values, "left") * m - at * n
    return int(max(above.max(initial=0), below.max(initial=0)))


def detectable(n: ArrayLike, m: ArrayLike, *, alpha: float, power: float = 0.8) -> FloatArray:
    """The smallest D [d] of two populations that `power` of all samples of n and m show to be significant at `alpha`.

    The critical value (Vrbik's, solved for D) and what chance may take away: at one point the difference of two shares
    has a standard deviation of at most half of sqrt(1/n + 1/m). Differences over a wide range are found more often (a
    shift of a normal column of this size in 95 of 100 samples). 1.0 where nothing smaller is found.
    """
    n, m = np.asarray(n, dtype=np.float64), np.asarray(m, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = n * m / (n + m)
        limit = (special.kolmogi(alpha) - 1 / (6 * np.sqrt(size)) + 1 / (4 * size)) / (1 + 1 / (4 * size))
        found = (limit + 0.5 * special.ndtri(power)) / np.sqrt(size)
    return np.asarray(np.where(found < 1.0, found, 1.0))


def shift_of(statistic: ArrayLike) -> FloatArray:
    """By how many standard deviations a normal column would have to move to give this D; inf for 1."""
    return np.asarray(2 * special.ndtri((1 + np.asarray(statistic, dtype=np.float64)) / 2))
