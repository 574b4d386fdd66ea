"""The baseline knows the training labels and nothing else."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.baseline import Baseline
from mlops_hydra.evaluation.metrics import score


@given(st.lists(st.integers(0, 3), min_size=1))
def test_every_row_gets_the_training_shares_of_the_classes(codes):
    predictions = Baseline.fit(np.array(codes), "multiclass", 4).predict(3)
    assert predictions.shape == (3, 4)
    assert predictions.tolist() == [[codes.count(code) / len(codes) for code in range(4)]] * 3


def test_a_regression_gets_the_training_mean():
    baseline = Baseline.fit(np.array([1.0, 2.0, 6.0]), "regression")
    assert baseline.predict(2).tolist() == [3.0, 3.0]


def test_no_constant_probability_has_a_smaller_log_loss_on_the_training_labels():
    targets = np.array([0, 0, 1, 1, 1, 2])
    best = score("multiclass", targets, Baseline.fit(targets, "multiclass", 3).predict(6))["log_loss"]
    for other in np.random.default_rng(0).dirichlet(np.ones(3), size=50):
        assert score("multiclass", targets, np.tile(other, (6, 1)))["log_loss"] >= best


def test_a_baseline_ranks_nothing():
    rng = np.random.default_rng(0)
    train, test = rng.integers(0, 2, 100), rng.integers(0, 2, 50)
    measured = score("binary", test, Baseline.fit(train, "binary", 2).predict(50))
    assert measured["roc_auc"] == 0.5
    assert measured["balanced_accuracy"] == 0.5


def test_predicting_no_rows_keeps_the_shape():
    assert Baseline.fit(np.array([0, 1]), "binary", 2).predict(0).shape == (0, 2)
    assert Baseline.fit(np.array([0.0, 1.0]), "regression").predict(0).shape == (0,)


@pytest.mark.parametrize(
    ("targets", "task", "num_classes", "told"),
    [
        ([], "regression", None, "at least one training label"),
        ([0, 3], "multiclass", 3, "from 0 to 2, got '0 to 3'"),
        ([-1, 0], "binary", 2, "from 0 to 1, got '-1 to 0'"),
        ([0, 1], "binary", None, "num_classes: needed for binary"),
    ],
)
def test_labels_that_say_nothing_are_refused(targets, task, num_classes, told):
    with pytest.raises(UsageError, match=told):
        Baseline.fit(np.array(targets), task, num_classes)
