"""The Kolmogorov-Smirnov statistic against scipy's, and what a test of that size can find."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from mlops_hydra.data.values import FloatArray
from mlops_hydra.monitoring.kolmogorov import detectable, shift_of, statistic, statistic_of_cells
from mlops_hydra.monitoring.smirnov import p_values

numbers = st.one_of(
    st.integers(-3, 3).map(float), st.just(0.0), st.sampled_from([-math.inf, math.inf]), st.floats(allow_nan=False)
)
samples = arrays.arrays(np.float64, st.integers(1, 300), elements=numbers, fill=st.integers(-2, 2).map(float))


@settings(max_examples=60, deadline=None)
@given(samples, samples)
def test_any_two_samples_give_scipy_s_statistic_and_p(reference: FloatArray, current: FloatArray) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theirs = stats.ks_2samp(reference, current)
    ours = statistic(np.sort(reference), np.sort(current))
    assert ours == pytest.approx(theirs.statistic, abs=1e-12)
    p = 1.0 if caught else theirs.pvalue  # theirs came to 1 + 2e-16, and they fall back to a p that is up to 1e-4 off
    assert p_values(ours, len(reference), len(current))[0] == pytest.approx(p, abs=1e-5)


def test_the_blocks_that_are_ruled_out_hold_nothing_larger() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(size=13_000)
    kinds = [normal, normal.round(1), np.maximum(normal, 0.2), np.ones(13_000), np.where(normal > 1, np.inf, -np.inf)]
    for values in kinds:
        for n in (10_000, 7_000, 500):
            for shift in (0.0, 0.02, -1.0, 30.0):
                reference, current = values[:n], values[n:] + shift
                theirs = stats.ks_2samp(reference, current, method="asymp")
                assert statistic(np.sort(reference), np.sort(current)) == pytest.approx(theirs.statistic, abs=1e-12)


def test_a_hundred_thousand_against_ten_thousand_agree_with_scipy() -> None:
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.01, 0.1):
        reference, current = np.sort(rng.normal(size=100_000)), np.sort(rng.normal(shift, size=10_000))
        theirs = stats.ks_2samp(reference, current)
        ours = statistic(reference, current)
        assert ours == pytest.approx(theirs.statistic, abs=1e-12)
        assert p_values(ours, 100_000, 10_000)[0] == pytest.approx(theirs.pvalue, abs=1e-5)


def test_an_empty_sample_has_no_statistic() -> None:
    assert math.isnan(statistic(np.empty(0), np.ones(3)))
    assert math.isnan(statistic(np.ones(3), np.empty(0)))
    assert np.isnan(statistic_of_cells(np.zeros((1, 3), int), np.ones((1, 3), int))).all()
    assert np.isnan(p_values([math.nan, 0.5, 0.5], [5, 0, 5], [5, 5, 0])).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_cells_of_single_values_lose_nothing(counts: list[tuple[int, int]]) -> None:
    reference, current = np.array(counts).T
    padded = [np.pad(cells, (0, 3))[None] for cells in (reference, current)]
    values = [np.repeat(np.arange(float(len(counts))), cells) for cells in (reference, current)]
    assert statistic_of_cells(*padded)[0] == pytest.approx(statistic(*values), abs=1e-12, nan_ok=True)


@pytest.mark.parametrize(("n", "m", "alpha"), [(100_000, 10_000, 0.001), (20_000, 400, 0.05), (11_000, 2_000, 0.01)])
def test_a_difference_of_the_detectable_size_is_found_in_four_of_five_samples(n: int, m: int, alpha: float) -> None:
    rng = np.random.default_rng(2)
    least = float(detectable(n, m, alpha=alpha))

    def power(before: FloatArray, after: FloatArray) -> float:
        statistic = statistic_of_cells(rng.multinomial(n, before, 1000), rng.multinomial(m, after, 1000))
        return float((p_values(statistic, n, m) < alpha).mean())

    at_one_point = np.array([0.5 + least / 2, 0.5 - least / 2])
    assert power(at_one_point[::-1], at_one_point) == pytest.approx(0.8, abs=0.05)
    edges = stats.norm.ppf(np.linspace(0, 1, 200))
    moved = np.diff(stats.norm.cdf(edges - float(shift_of(least))))
    assert power(np.full(199, 1 / 199), moved) > 0.85  # large over a wide range: more easily found


def test_what_cannot_be_found_is_as_large_as_can_be() -> None:
    assert detectable([3, 0, 5], [3, 5, 0], alpha=0.01).tolist() == [1.0, 1.0, 1.0]


def test_the_shift_of_a_statistic_is_that_of_a_normal_column() -> None:
    shifts = np.array([0.0, 0.1, 2.0, np.inf])
    assert shift_of(2 * stats.norm.cdf(shifts / 2) - 1) == pytest.approx(shifts)
