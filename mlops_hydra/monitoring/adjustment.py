"""Many tests at once: p-values of which any set at or below alpha holds at most a share alpha of false alarms."""

import numpy as np

from mlops_hydra.data.values import FloatArray


def adjusted(p_values: FloatArray) -> FloatArray:
    """Benjamini and Hochberg's (1995) adjusted p-values [t]; nan stays nan and does not count as a test.

    The false discovery rate that is kept, and with no drift the rate of checks that report anything, holds for
    independent and positively dependent tests. `scipy.stats.false_discovery_control` gives the same; importing it takes
    the service longer than a check.
    """
    adjusted = np.full(len(p_values), np.nan)
    tests = np.flatnonzero(~np.isnan(p_values))
    worst_first = tests[np.argsort(-p_values[tests])]
    ranks = np.arange(len(tests), 0, -1)
    adjusted[worst_first] = np.minimum.accumulate(np.minimum(p_values[worst_first] * len(tests) / ranks, 1.0))
    return adjusted
