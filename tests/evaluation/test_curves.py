"""The curves against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_hydra.evaluation.curves import NUM_BINS, area_under_roc, average_precision, calibration_bins, roc_curve

ranked_rows = st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=60).filter(
    lambda rows: len({positive for positive, _ in rows}) == 2
)


def _split(rows):
    positive, scores = zip(*rows, strict=True)
    return np.array(positive), np.array(scores, dtype=np.float64) / 6


@given(ranked_rows)
def test_the_area_under_the_roc_curve_is_that_of_sklearn_with_ties_too(rows):
    positive, scores = _split(rows)
    assert area_under_roc(positive, scores) == pytest.approx(sk.roc_auc_score(positive, scores), abs=1e-9)


@given(ranked_rows)
def test_average_precision_is_that_of_sklearn_with_ties_too(rows):
    positive, scores = _split(rows)
    assert average_precision(positive, scores) == pytest.approx(sk.average_precision_score(positive, scores), abs=1e-9)


@given(ranked_rows)
def test_a_roc_curve_rises_from_none_to_all(rows):
    false_rate, true_rate = roc_curve(*_split(rows))
    for rate in (false_rate, true_rate):
        assert (rate[0], rate[-1]) == (0, 1)
        assert (np.diff(rate) >= 0).all()


def test_reversed_scores_mirror_the_area():
    rng = np.random.default_rng(3)
    positive, scores = rng.random(500) < 0.3, rng.normal(size=500)
    assert area_under_roc(positive, -scores) == pytest.approx(1 - area_under_roc(positive, scores), abs=1e-12)


def test_calibration_bins_are_closed_on_the_right_and_hold_every_row():
    confidence = np.array([1 / 15 * 9, 0.95, 1.0])  # the first is the right edge of the ninth bin
    bins = calibration_bins(np.zeros(3, dtype=np.int64), np.stack([confidence, 1 - confidence], axis=1))
    assert np.flatnonzero(bins.rows).tolist() == [8, 14]
    assert bins.rows.sum() == 3
    assert len(bins.rows) == NUM_BINS


def test_the_calibration_error_is_the_mean_gap_weighted_by_rows():
    confident, unsure = [[0.9, 0.1]] * 3, [[0.6, 0.4]] * 1
    bins = calibration_bins(np.array([0, 0, 1, 0]), np.array(confident + unsure))
    assert bins.error == pytest.approx(3 / 4 * abs(2 / 3 - 0.9) + 1 / 4 * abs(1 - 0.6), abs=1e-12)


def test_a_model_that_means_what_it_says_has_next_to_no_calibration_error():
    rng = np.random.default_rng(0)
    chance = rng.uniform(size=100_000)
    targets = (rng.uniform(size=chance.size) < chance).astype(np.int64)
    assert calibration_bins(targets, np.stack([1 - chance, chance], axis=1)).error < 0.01
