"""Tests of counts: of categories, and of shares of rows such as the missing ones or those out of the training range.

Small expected counts are merged, or tested exactly: a chi-square of few rows reports too much. `detectable_*` say how
large a difference must be to be found.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from mlops_hydra.data.values import FloatArray, IntArray

_ENOUGH: Final = 5  # Cochran's rule: a smaller expected count is too small for the chi-square law


@dataclass(frozen=True, slots=True)
class ChiSquare:
    """Pearson's statistic of two rows of counts; `num_merged` categories were tested as one, 0 if each by itself.

    With one degree of freedom and few counts, `p_value` is Fisher's. `table` [2, c] is what was tested.
    """

    statistic: float
    p_value: float
    degrees: int
    num_merged: int
    table: IntArray = field(repr=False, compare=False)


def chi_square(reference: IntArray, current: IntArray) -> ChiSquare | None:
    """Whether two samples, counted in the same categories [c], have the same shares.

    Categories that neither sample has are left out. Those that would be expected fewer than 5 times in the smaller
    sample are merged, and that one with the next larger ones until it is expected 5 times or two are left, which
    Fisher's test then compares. None if a sample is empty, or has too few rows for any two categories.
    """
    table = np.stack([reference, current])
    sizes = table.sum(axis=1)
    if not sizes.min():
        return None
    enough = _ENOUGH * sizes.sum() / sizes.min()  # in both samples together: the smaller one's are expected 5 times
    table, num_merged = _merged(table[:, table.sum(axis=0) > 0], enough=enough)
    if table.shape[1] == 1:
        return None if num_merged else ChiSquare(0.0, 1.0, 0, 0, table)
    expected = sizes[:, None] * (table.sum(axis=0) / sizes.sum())
    value, degrees = float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1
    p_value = float(special.chdtrc(degrees, value))
    if table.sum(axis=0).min() < enough:
        p_value = _fisher(table[0, 0], sizes[0], table[1, 0], sizes[1])
    return ChiSquare(value, p_value, degrees, num_merged, table)


def _merged(table: IntArray, *, enough: float) -> tuple[IntArray, int]:
    """The table [2, c] with the categories of fewer than `enough` rows as one, the last; and how many those are."""
    totals = table.sum(axis=0)
    order = np.argsort(-totals, kind="stable")
    num_large = int((totals >= enough).sum())
    if table.shape[1] <= 2 or num_large == table.shape[1]:
        return table, 0
    while num_large > 1 and totals[order[num_large:]].sum() < enough:
        num_large -= 1
    merged = table[:, order[num_large:]]
    kept = [table[:, order[:num_large]], merged.sum(axis=1, keepdims=True)]
    return np.concatenate(kept, axis=1), merged.shape[1] if merged.shape[1] > 1 else 0


def detectable_variation(n: int, m: int, degrees: int, *, alpha: float, power: float = 0.8) -> float:
    """The total variation (0 to 1) that `chi_square` finds in `power` of all samples, however it is spread.

    Cohen's w from the non-central chi-square: by Cauchy and Schwarz a total variation of w/2 has at least this w.
    """
    if not n or not m or degrees < 1:
        return 1.0
    limit = special.chdtri(degrees, alpha)
    noncentrality = special.chndtrinc(limit, degrees, 1 - power)
    return float(min(1.0, math.sqrt(noncentrality * (1 / n + 1 / m)) / 2))


def share_p_values(reference_hits: ArrayLike, n: ArrayLike, current_hits: ArrayLike, m: ArrayLike) -> FloatArray:
    """Two-sided p [d] of hits among n against hits among m rows, [d] each or one number for all.

    Fisher's where a count below 5 is expected, else the chi-square's without correction. Nothing to tell apart (no hit
    at all, every row a hit, no rows): 1.0.
    """
    counts = (np.atleast_1d(np.asarray(given, dtype=np.int64)) for given in (reference_hits, n, current_hits, m))
    a, n, b, m = np.broadcast_arrays(*counts)
    hits, total = a + b, n + m
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.minimum(n, m) / total * np.minimum(hits, total - hits)
        share = hits / total
        value = (a / n - b / m) ** 2 / (share * (1 - share) * (1 / n + 1 / m))
    p = np.where((hits == 0) | (hits == total) | (n == 0) | (m == 0), 1.0, special.chdtrc(1, value))
    for i in np.flatnonzero((p < 1.0) & (expected < _ENOUGH)):
        p[i] = _fisher(a[i], n[i], b[i], m[i])
    return p


def _fisher(a: int, n: int, b: int, m: int) -> float:
    """Fisher's exact p: all tables with these margins that are no likelier than a hits of n against b of m."""
    a, n, b, m = int(a), int(n), int(b), int(m)
    if m > n:
        a, n, b, m = b, m, a, n
    if 2 * (a + b) > n + m:
        a, b = n - a, m - b
    hits = a + b
    x = np.arange(max(0, hits - n), min(hits, m) + 1)  # hits in the smaller sample
    ratios = np.log((hits - x[:-1]) / x[1:]) + np.log((m - x[:-1]) / (n - hits + x[1:]))
    logs = np.concatenate([[0.0], np.cumsum(ratios)])
    weights = np.exp(logs - logs.max())
    return float(min(1.0, weights[weights <= weights[b - x[0]] * (1 + 1e-7)].sum() / weights.sum()))


def range_p_values(below: ArrayLike, above: ArrayLike, n: ArrayLike, m: ArrayLike) -> FloatArray:
    """How probable it is that at least below + above of m new values lie outside of the range of n earlier ones, [d].

    1.0 for none. Exact for samples of one continuous distribution, too large with ties: any order of the n+m values is
    as probable as another, so the two outer gaps hold as many new values as the first two, and j or more lie there when
    among the first j+1 values at most one is an earlier one.
    """
    j = np.asarray(below, dtype=np.float64) + np.asarray(above, dtype=np.float64)
    n, m = np.asarray(n, dtype=np.float64), np.asarray(m, dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        all_ways = _log_choose(n + m, j + 1)
        none, one = _log_choose(m, j + 1), np.log(n) + _log_choose(m, j)
        p = np.exp(none - all_ways) + np.exp(one - all_ways)
    return np.asarray(np.where(n > 0, np.clip(p, 0.0, 1.0), 1.0))


def _log_choose(n: FloatArray, k: FloatArray) -> FloatArray:
    """log C(n, k), -inf for k > n; by the beta function, whose logarithm stays exact where factorials are huge."""
    log_ways = -special.betaln(np.maximum(n - k, 0) + 1, k + 1) - np.log1p(n)
    return np.asarray(np.where(k > n, -np.inf, log_ways))


def detectable_share(share: ArrayLike, n: ArrayLike, m: ArrayLike, *, alpha: float, power: float = 0.8) -> FloatArray:
    """By how much a share [d] of n rows must rise for `share_p_values` to find it among m in about `power` of samples.

    The normal approximation of both error rates, solved by iteration; for rare hits at least what makes the smallest
    number of hits that can be significant likely. 1 - share where nothing smaller is found.
    """
    share, n, m = (np.asarray(given, dtype=np.float64) for given in (share, n, m))
    z_alpha, z_power = special.ndtri(1 - alpha / 2), special.ndtri(power)
    with np.errstate(divide="ignore", invalid="ignore"):
        rise = (z_alpha + z_power) ** 2 * (1 / n + 1 / m)
        for _ in range(12):
            risen = np.minimum(share + rise, 1.0)
            pooled = (n * share + m * risen) / (n + m)
            rise = z_alpha * np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
            rise += z_power * np.sqrt(share * (1 - share) / n + risen * (1 - risen) / m)
        alone = np.ceil(np.log(alpha) / np.log(m / (n + m)))  # so many hits, none of them among the n, have p <= alpha
        usual = np.where(share > 0, np.ceil(special.bdtrik(1 - alpha, m, share)) + 1, 0)
        hits = np.minimum(np.fmax(alone, usual), m)
        rise = np.fmax(rise, special.betaincinv(hits, m - hits + 1, power) - share)
    return np.where((n > 0) & (m > 0), np.minimum(rise, 1 - share), 1 - share)
