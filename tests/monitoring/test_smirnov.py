"""p-values of the two-sample test: counted paths against whole-number counts, and all regimes against scipy's."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra.monitoring.smirnov import p_values


def counted(n: int, m: int, steps: int) -> Fraction:
    """P(D >= steps / lcm(n, m)) from whole numbers: all paths that stay inside, one by one."""
    width, inside = steps * math.gcd(n, m), [[0] * (m + 1) for _ in range(n + 1)]
    for i in range(n + 1):
        for j in range(m + 1):
            if abs(i * m - j * n) < width:
                before = (inside[i - 1][j] if i else 0) + (inside[i][j - 1] if j else 0)
                inside[i][j] = before if i or j else 1
    return 1 - Fraction(inside[n][m], math.comb(n + m, n))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_small_samples_have_exactly_the_counted_p(n: int, m: int, part: float) -> None:
    steps = round(part * math.lcm(n, m))
    exact = float(counted(n, m, steps))
    assert p_values(steps / math.lcm(n, m), n, m)[0] == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize(
    ("n", "m"), [(8_000, 9_999), (10_000, 9_998), (10_000, 10_000), (10_000, 1), (10_000, 2), (9_999, 7), (3_000, 450)]
)
def test_up_to_ten_thousand_values_p_is_counted_as_scipy_does(n: int, m: int) -> None:
    first, second = np.zeros(n), np.zeros(m)
    for scaled in (0.4, 1.36, 5.0):  # two samples that have just this statistic
        moved = min(round(scaled / math.sqrt(n * m / (n + m)) * m), m)
        second[:] = 0.0
        second[:moved] = 1.0
        theirs = stats.ks_2samp(first, second)
        assert p_values(theirs.statistic, n, m)[0] == pytest.approx(theirs.pvalue, rel=1e-9)


@pytest.mark.parametrize("n", [10_001, 100_000, 3_000_000])
def test_above_ten_thousand_values_p_is_scipy_s_to_five_digits(n: int) -> None:
    sizes = np.array([1, 2, 5, 30, 99, 100, 101, 102, 150, 500, 2_000, 4_990, 5_010, 9_999, 10_000])
    scaled = np.array([0.0, 0.15, 0.3, 0.5, 0.61, 0.87, 1.0, 1.2, 1.36, 1.5, 1.9, 2.4, 2.49, 2.51, 3.0, 9.0])
    m, scaled = (grid.ravel() for grid in np.meshgrid(sizes, scaled))
    size = n * m / (n + m)
    statistic = np.minimum(scaled / np.sqrt(size), 1.0)
    theirs = np.clip(stats.kstwo.sf(statistic, np.round(size)), 0, 1)  # as `ks_2samp` has it
    assert p_values(statistic, n, m) == pytest.approx(theirs, abs=1e-5)
    assert p_values(statistic, m, n).tolist() == p_values(statistic, n, m).tolist()


def test_a_smaller_difference_is_never_less_probable() -> None:
    for n, m in ((10_000, 9_000), (20_000, 150), (20_000, 9_000), (50, 50)):
        p = p_values(np.arange(1, 9) / 25, n, m)
        assert (np.diff(p) <= 0).all()
        assert ((p >= 0) & (p <= 1)).all()


def test_samples_without_drift_have_p_below_alpha_as_often_as_alpha() -> None:
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.r_[np.full(700, 1 / 700), np.full(311, -1 / 311)], (2000, 1)), axis=1)
    statistic = np.abs(np.cumsum(orders, axis=1)).max(axis=1)
    p = p_values(statistic, 700, 311)
    for alpha in (0.05, 0.2, 0.5):
        assert (p <= alpha).mean() == pytest.approx(alpha, abs=4 * math.sqrt(alpha * (1 - alpha) / 2000))
