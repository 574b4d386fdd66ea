"""Benjamini and Hochberg's adjustment against scipy's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra.monitoring.adjustment import adjusted


@given(st.lists(st.one_of(st.floats(0, 1), st.just(float("nan")), st.sampled_from([0.0, 0.01, 1.0])), max_size=70))
def test_p_values_are_adjusted_as_scipy_does_and_nan_does_not_count(values: list[float]) -> None:
    p = np.array(values, dtype=np.float64)
    known, before = ~np.isnan(p), p.copy()
    ours = adjusted(p)
    assert np.array_equal(p, before, equal_nan=True)
    assert np.isnan(ours[~known]).all()
    if known.any():
        assert ours[known] == pytest.approx(stats.false_discovery_control(p[known]), rel=1e-12)


def test_sixty_tests_without_drift_report_something_in_five_of_a_hundred_checks() -> None:
    p = np.random.default_rng(0).random((2000, 60))
    assert np.mean([(adjusted(row) < 0.05).any() for row in p]) == pytest.approx(0.05, abs=0.015)
