"""One temperature: found again where it is known, bounded where it is not, and never a change of what is predicted."""

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.calibration import fit_temperature


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def log_loss(logits, targets):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(targets)), targets]).mean()


def simulated(temperature, num_rows=20_000, num_classes=3, seed=0):
    """Logits of a network that is surer than it should be by `temperature`, and targets [n]."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(0, 1.5, size=(num_rows, num_classes))
    targets = (softmax(honest).cumsum(axis=1) < rng.random((num_rows, 1))).sum(axis=1)
    return honest * temperature, np.minimum(targets, num_classes - 1)


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 2.5, 12.0])
@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_a_known_temperature_is_found_again(temperature, num_classes):
    logits, targets = simulated(temperature, num_classes=num_classes)
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.05)


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(2, 5), st.floats(0.05, 20))
def test_no_other_temperature_has_a_smaller_log_loss_of_targets_that_are_doubted_a_little(
    seed, num_rows, num_classes, spread
):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, spread, size=(num_rows, num_classes))
    targets = rng.integers(0, num_classes, num_rows)
    found = fit_temperature(logits, targets)
    assert 0.01 <= found <= 100
    second = np.where(np.eye(num_classes)[targets] > 0, -np.inf, logits).argmax(axis=1)

    def doubted(temperature):
        losses = [log_loss(logits / temperature, codes) for codes in (targets, second)]
        return np.average(losses, weights=[num_rows + 0.5, 0.5])

    assert all(doubted(found) <= doubted(other) + 1e-6 for other in np.geomspace(0.01, 100, 41))


@given(st.integers(0, 2**32 - 1), st.floats(-500, 500), st.sampled_from([np.float32, np.float64]))
def test_only_differences_of_logits_count_and_no_prediction_changes(seed, shift, dtype):
    rng = np.random.default_rng(seed)
    logits, targets = rng.normal(0, 3, size=(50, 3)).astype(dtype), rng.integers(0, 3, 50)
    found = fit_temperature(logits, targets)
    assert fit_temperature(logits.astype(np.float64) + shift, targets) == pytest.approx(found, rel=1e-3)
    calibrated = softmax(logits.astype(np.float64) / found)
    assert (calibrated.argmax(axis=1) == logits.argmax(axis=1)).all()


@pytest.mark.parametrize("num_rows", [1, 10, 500])
@pytest.mark.parametrize("margin", [0.5, 5.0, 40.0])
def test_rows_without_an_error_prove_no_more_certainty_than_so_many_can(num_rows, margin):
    logits = np.tile([margin, 0.0], (num_rows, 1))
    found = fit_temperature(logits, np.zeros(num_rows, dtype=np.int64))
    assert softmax(logits / found)[0, 0] == pytest.approx((num_rows + 0.5) / (num_rows + 1), abs=1e-5)


def test_one_wrong_row_after_a_perfect_validation_does_not_cost_the_whole_log_loss():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 3, 40)
    logits = 6 * np.eye(3)[targets] + rng.normal(0, 1, (40, 3))
    assert (logits.argmax(axis=1) == targets).all()
    found = fit_temperature(logits, targets)
    wrong = np.array([(targets[0] + 1) % 3])
    assert log_loss(logits[:1] / found, wrong) < 2 * log_loss(logits[:1], wrong)


def test_logits_that_are_always_wrong_become_as_unsure_as_the_bound_lets_them():
    logits = np.array([[5.0, 0.0], [0.0, 5.0], [3.0, 1.0]])
    assert fit_temperature(logits, np.array([1, 0, 1])) == pytest.approx(100, rel=1e-3)


@pytest.mark.parametrize("size", [1e-30, 1e4, 1e30])
def test_logits_of_any_size_give_a_temperature_without_a_warning(size):
    logits, targets = simulated(1.0, num_rows=200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert 0.01 <= fit_temperature(logits * size, targets) <= 100


def test_what_it_is_given_stays_as_it_is():
    logits, targets = simulated(2.0, num_rows=100)
    before = logits.copy()
    fit_temperature(logits, targets)
    assert (logits == before).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_refused(bad):
    logits, targets = simulated(1.0, num_rows=10)
    logits[3, 1] = bad
    with pytest.raises(UsageError, match=r"trainer\.calibrate: needs finite outputs"):
        fit_temperature(logits, targets)


def test_no_rows_are_refused():
    with pytest.raises(UsageError, match="at least one row of validation"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))
