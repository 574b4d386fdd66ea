"""Categories of two samples side by side, such that nothing but drift tells them apart.

Which categories a profile has is decided by its own rows: further rows of the same population have some that it lacks.
Whatever is chosen here, to be compared or to be merged, is chosen by the counts of both samples together.

Shapes: c categories of the profile, the last cell is for the others.
"""

import math
from typing import Final

import numpy as np

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.counts import CategoryCounts
from mlops_hydra.monitoring.profile import CategoryProfile

_MOST_NAMELESS: Final = 10_000
_SURE: Final = 4.0  # standard deviations by which a count may be larger or smaller by chance
_FAR: Final = 40.0
_MOST_STEPS: Final = 2_000
_LARGEST_RATE: Final = 500.0  # exp(-rate) is a float


def side_by_side(profile: CategoryProfile, current: CategoryCounts) -> tuple[IntArray, IntArray]:
    """Counts in the same cells, before and now.

    Where the profile has every category of its rows, each further one has a cell of its own, as those of the profile
    have. Where it has the most frequent ones only, those are compared that are among them in any case.
    """
    before, now = profile.counts.cells, current.cells
    if not before[-1] or len(before) == 1:
        unseen = _unseen(current)
        return np.concatenate([before[:-1], np.zeros_like(unseen)]), np.concatenate([now[:-1], unseen])
    is_sure = before[:-1] + now[:-1] >= _least(profile, current)
    kept = [np.append(cells[:-1][is_sure], cells[-1] + cells[:-1][~is_sure].sum()) for cells in (before, now)]
    return kept[0], kept[1]


def _unseen(current: CategoryCounts) -> IntArray:
    """Counts of the categories that the profile lacks; those whose names were not kept are taken for rare ones."""
    named = list(current.unseen.values())
    rest = int(current.cells[-1]) - sum(named)
    num_cells = min(rest, _MOST_NAMELESS)
    shared = [rest // num_cells + (i < rest % num_cells) for i in range(num_cells)] if rest > 0 else []
    return np.array([*named, *shared], dtype=np.int64)


def _least(profile: CategoryProfile, current: CategoryCounts) -> float:
    """A count of both samples with which a category is among the profile's, but for bad luck of 4 deviations."""
    n, m = profile.counts.num_values, current.num_values
    share = n / (n + m)
    doubt, smallest = _SURE * math.sqrt(share * (1 - share)), int(profile.counts.cells[:-1].min())
    return ((doubt + math.sqrt(doubt**2 + 4 * share * smallest)) / (2 * share)) ** 2


def new_categories_p_value(profile: CategoryProfile, current: CategoryCounts) -> float:
    """How probable so many rows in categories that the profile lacks are, if nothing drifted.

    Of categories with c rows in both samples, a share of (m / (n+m))^c has all of them among the m new ones: the number
    of such rows is a compound Poisson sum, a little too wide, as binomials are narrower. Panjer (1981) for its law, a
    normal law where that takes too long. 1.0 where the profile does not have all categories of its rows.
    """
    before, now = profile.counts.cells, current.cells
    if before[-1] or not now[-1]:
        return 1.0
    both = np.concatenate([before[:-1] + now[:-1], _unseen(current)])
    sizes, numbers = np.unique(both[both > 0], return_counts=True)
    share = current.num_values / (current.num_values + profile.counts.num_values)
    rates = numbers * share**sizes
    some = rates > 1e-12
    return _tail(int(now[-1]), sizes[some], rates[some])


def _tail(least: int, sizes: IntArray, rates: FloatArray) -> float:
    """P(sum of sizes, each as often as a Poisson count of its rate, is `least` or more), or a little more than that."""
    mean, deviation = float((sizes * rates).sum()), math.sqrt(float((sizes**2 * rates).sum()))
    least = min(least, int(mean + _FAR * deviation) + 1)  # what lies further out is as improbable as this
    if least > _MOST_STEPS or rates.sum() > _LARGEST_RATE:
        z = (least - 0.5 - mean) / deviation if deviation else math.inf
        return 0.5 * math.erfc(z / math.sqrt(2))
    weights = sizes * rates
    law = np.zeros(least)
    law[0] = math.exp(-float(rates.sum()))
    for total in range(1, least):
        fits = sizes <= total
        law[total] = float((weights[fits] * law[total - sizes[fits]]).sum()) / total
    return float(min(1.0, max(0.0, 1.0 - law.sum())))
