"""Two models on the same rows: the test, the interval, and how often the rule built on them is wrong."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit, ndtri

from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.comparison import Comparison, compare, mcnemar, paired_interval
from mlops_hydra.evaluation.metrics import metric_names, score

NAN = pytest.approx(math.nan, nan_ok=True)


def _classifiers(rng, num_rows, accuracies=(0.9, 0.9)):
    """Targets and two models of known accuracy; 90 % of the variance of what misleads them is the same for both."""
    targets = rng.integers(0, 2, num_rows)
    shared = rng.normal(size=num_rows)
    models = []
    for accuracy in accuracies:
        clarity = ndtri(accuracy)
        noise = math.sqrt(0.9) * shared + math.sqrt(0.1) * rng.normal(size=num_rows)
        chances = expit(2 * clarity * ((2 * targets - 1) * clarity + noise))
        models.append(np.stack([1 - chances, chances], axis=1))
    return targets, *models


def _regressors(rng, num_rows, scales=(1.0, 1.0)):
    """Targets and two models with known deviation of the errors, of which both share 90 % of the variance."""
    targets, shared = rng.normal(size=(2, num_rows))
    errors = (math.sqrt(0.9) * shared + math.sqrt(0.1) * rng.normal(size=num_rows) for _ in scales)
    return targets, *(targets + scale * error for scale, error in zip(scales, errors, strict=True))


def _declared(metric, pairs, num_rows, *, equal, resamples):
    """In which share of the pairs the rule declares a difference."""
    rng = np.random.default_rng(11)
    declared = 0
    for _ in range(pairs):
        if metric == "rmse":
            rows = _regressors(rng, num_rows, (1.0, 1.0) if equal else (0.96, 1.0))
            found = compare(metric, "regression", *rows, resamples=resamples)
        else:
            rows = _classifiers(rng, num_rows, (0.9, 0.9) if equal else (0.92, 0.9))
            found = compare(metric, "binary", *rows, resamples=resamples)
        declared += found.low > 0 or found.high < 0
    return declared / pairs


METRICS = ["accuracy", "log_loss", "roc_auc", "rmse"]


@pytest.mark.parametrize("metric", METRICS)
def test_equal_models_are_seldom_told_apart(metric):
    assert _declared(metric, 150, 300, equal=True, resamples=500) <= 0.08


@pytest.mark.parametrize("metric", METRICS)
def test_two_points_are_mostly_seen(metric):
    assert _declared(metric, 25, 5000, equal=False, resamples=200) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize(("num_rows", "limit"), [(200, 0.07), (1000, 0.06)])
@pytest.mark.parametrize("metric", METRICS)
def test_equal_models_are_told_apart_in_about_five_percent(metric, num_rows, limit):
    # Log loss has heavy tails: 5.8 % of 11,000 pairs at 200 rows, 7.3 % of 2,000 pairs at 50.
    share = _declared(metric, 1000, num_rows, equal=True, resamples=1000)
    print(f"{metric}, {num_rows} rows: {share:.3f}")
    assert share <= limit


@pytest.mark.slow
@pytest.mark.parametrize("metric", METRICS)
def test_two_points_of_five_thousand_rows_are_seen_in_eighty_percent(metric):
    share = _declared(metric, 500, 5000, equal=False, resamples=500)
    print(f"{metric}: {share:.3f}")
    assert share >= 0.8


@pytest.mark.parametrize("share", [0.05, 0.3])
@pytest.mark.parametrize("difference", [0.0, 0.02, -0.04])
def test_the_interval_of_accuracies_holds_the_truth_as_often_as_it_says(share, difference):
    rng = np.random.default_rng(5)
    chances = [(share + difference) / 2, (share - difference) / 2, 1 - share]
    held = 0
    for gained, lost, _ in rng.multinomial(200, chances, size=1000):
        low, high = paired_interval(int(gained), int(lost), 200, 0.95)
        held += low <= difference <= high
    assert 0.93 <= held / 1000 <= 0.99


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_the_interval_of_accuracies_leaves_zero_out_only_where_the_test_rejects(confidence):
    for gained in range(0, 60, 3):
        for lost in range(0, 60, 3):
            low, high = paired_interval(gained, lost, 300, confidence)
            assert (low > 0 or high < 0) == (mcnemar(gained, lost) <= 1 - confidence), (gained, lost)
            assert -1 <= low <= (gained - lost) / 300 <= high <= 1


def test_the_test_and_the_interval_are_the_published_ones():
    # The airways of 21 children in Fagerland, Lydersen, Laake 2014, Statistics in Medicine 33:2850.
    assert paired_interval(1, 7, 21, 0.95) == pytest.approx((-0.517, -0.026), abs=5e-4)
    assert mcnemar(1, 7) == pytest.approx(0.0391, abs=5e-5)


@given(st.integers(0, 200), st.integers(0, 200))
def test_the_mid_p_value_is_the_exact_one_less_half_of_what_was_seen(gained, lost):
    num = gained + lost
    exact = stats.binomtest(gained, num).pvalue if num else 1.0
    expected = 1.0 if gained == lost else exact - stats.binom.pmf(gained, num, 0.5)
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-8)
    assert mcnemar(gained, lost) == mcnemar(lost, gained)


@pytest.mark.parametrize("metric", metric_names("binary"))
def test_a_comparison_of_classifiers_says_both_values_and_mirrors_when_they_swap(metric):
    targets, first, second = _classifiers(np.random.default_rng(0), 800, (0.93, 0.88))
    found = compare(metric, "binary", targets, first, second)
    mirrored = compare(metric, "binary", targets, second, first)
    assert (found.metric, found.num_rows) == (metric, 800)
    assert found.candidate == score("binary", targets, first)[metric]
    assert found.champion == score("binary", targets, second)[metric]
    assert found.low < found.difference < found.high
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low), abs=1e-9)
    assert found.method == ("McNemar" if metric == "accuracy" else "paired bootstrap")
    assert (found.p_value is None) == (metric != "accuracy")
    assert found == compare(metric, "binary", targets, first, second)


@pytest.mark.parametrize("metric", metric_names("regression"))
def test_a_regression_is_compared_in_units_of_the_metric(metric):
    targets, first, second = _regressors(np.random.default_rng(0), 500, (0.8, 1.0))
    found = compare(metric, "regression", targets, first, second)
    tenfold = compare(metric, "regression", 10 * targets, 10 * first, 10 * second)
    unit = 1 if metric == "r2" else 10
    assert (tenfold.low, tenfold.high) == pytest.approx((unit * found.low, unit * found.high))


def test_pairing_makes_the_interval_much_narrower_than_two_intervals():
    from mlops_hydra.evaluation.intervals import bootstrap_intervals

    targets, first, second = _regressors(np.random.default_rng(0), 1000)
    found = compare("rmse", "regression", targets, first, second)
    alone = bootstrap_intervals("regression", targets, first)["rmse"]
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


@pytest.mark.parametrize("metric", metric_names("binary"))
def test_the_same_predictions_do_not_differ(metric):
    targets, first, _ = _classifiers(np.random.default_rng(0), 100)
    found = compare(metric, "binary", targets, first, first.copy())
    assert (found.low, found.difference, found.high) == (0, 0, 0)
    assert found.rows_to_decide(0) is None
    assert found.rows_to_decide(-0.01) == 1


@pytest.mark.parametrize("metric", ["accuracy", "f1", "balanced_accuracy"])
def test_five_rows_that_differ_are_too_few_to_decide_but_all_of_many_are_enough(metric):
    targets = np.arange(200) % 2
    right = np.eye(2)[targets] * 0.8 + 0.1
    for num_wrong, decided in ((4, False), (20, True)):
        worse = right.copy()
        worse[:num_wrong] = worse[:num_wrong, ::-1]
        found = compare(metric, "binary", targets, right, worse)
        assert (found.low > 0) == decided


def test_answers_that_agree_everywhere_leave_room_for_a_difference_elsewhere():
    targets = np.arange(60) % 2
    models = (np.eye(2)[targets] * weight + (1 - weight) / 2 for weight in (0.6, 0.8))
    found = compare("accuracy", "binary", targets, *models)
    assert -0.1 < found.low < 0 < found.high < 0.1
    assert found.p_value == 1


def test_as_many_rows_as_it_says_decide():
    rng = np.random.default_rng(2)
    few = compare("rmse", "regression", *_regressors(rng, 400, (0.98, 1.0)))
    assert few.low < 0 < few.high
    found = Comparison("rmse", 1.0, 1.1, low=-0.3, high=0.1, num_rows=100, method="paired bootstrap", p_value=None)
    assert found.rows_to_decide(0) in {400, 401}  # half a width of 0.2 has to shrink below 0.1
    assert found.rows_to_decide(-0.3) in {100, 101}
    assert found.rows_to_decide(found.difference) is None


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_predictions_that_are_not_finite_are_not_compared(metric):
    targets, first, second = _classifiers(np.random.default_rng(0), 50)
    second[3] = np.nan
    for models in ((first, second), (second, first), (second, second)):
        found = compare(metric, "binary", targets, *models)
        assert (found.low, found.high) == (NAN, NAN)
        assert found.rows_to_decide(0) is None


def test_no_rows_are_not_compared():
    found = compare("accuracy", "binary", np.empty(0, dtype=np.int64), np.empty((0, 2)), np.empty((0, 2)))
    assert (found.num_rows, found.low, found.high) == (0, NAN, NAN)
    own = compare("mine", "regression", np.empty(0), np.empty(0), np.empty(0), function=lambda *_: 1 / 0)
    assert (own.low, own.high) == (NAN, NAN)


def test_a_metric_undefined_in_most_resamples_has_no_interval():
    targets = np.array([0] * 40 + [1] * 40)
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 80))
    rare = lambda targets, _: 1.0 if np.bincount(targets.astype(int))[1] == 40 else math.nan  # noqa: E731
    found = compare("rare", "regression", targets, first, second, function=rare)
    assert (found.candidate, found.low) == (1.0, NAN)


def test_a_metric_of_the_users_own_is_compared_on_the_same_rows_for_both():
    calls = []

    def worst(targets, predictions):
        calls.append(targets)
        return np.sqrt(np.mean((targets - predictions) ** 2))

    rows = _regressors(np.random.default_rng(0), 400, (0.8, 1.0))
    own = compare("worst", "regression", *rows, function=worst)
    ours = compare("rmse", "regression", *rows)
    assert len(calls) == 2 + 2 * 500
    assert all(np.array_equal(first, second) for first, second in zip(calls[::2], calls[1::2], strict=True))
    assert (own.candidate, own.champion) == pytest.approx((ours.candidate, ours.champion))
    assert (own.low, own.high) == pytest.approx((ours.low, ours.high), abs=0.01)


def test_a_users_metric_named_accuracy_is_the_users():
    targets, first, second = _classifiers(np.random.default_rng(0), 60)
    own = compare("accuracy", "binary", targets, first, second, function=lambda _, predictions: predictions.mean())
    assert own.method == "paired bootstrap"
    assert own.candidate == first.argmax(axis=1).mean()


def test_a_users_metric_that_fails_is_told():
    with pytest.raises(UsageError, match=r"metrics\.mine: ZeroDivisionError"):
        compare("mine", "regression", np.zeros(3), np.ones(3), np.zeros(3), function=lambda *_: 1 / 0)


def test_rows_that_do_not_fit_are_refused_and_whose_they_are_is_said():
    targets, first, second = _classifiers(np.random.default_rng(0), 20)
    with pytest.raises(UsageError) as caught:
        compare("accuracy", "binary", targets, first[:-1], 2 * second)
    assert [fault.path for fault in caught.value.faults] == ["candidate.predictions", "champion.predictions[0]"]
    with pytest.raises(UsageError) as caught:
        compare("accuracy", "binary", targets + 1, first, second)
    assert len(caught.value.faults) == 1


def test_a_metric_that_is_not_measured_is_refused_with_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean roc_auc"):
        compare("roc_auk", "binary", *_classifiers(np.random.default_rng(0), 20))


def test_importing_it_does_not_import_scipy():
    script = "import sys, mlops_hydra.evaluation.comparison\nassert 'scipy' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
