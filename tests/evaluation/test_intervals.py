"""Intervals against `score` called on resampled rows one by one, and how often they hold the truth."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.intervals import Interval, bootstrap_intervals
from mlops_hydra.evaluation.metrics import metric_names, score
from mlops_hydra.evaluation.resampling import WeightedMetrics, draw_weights, percentiles

TASKS = [("binary", 2), ("multiclass", 3), ("multiclass", 10), ("regression", 1)]


def _rows(task, num_rows, num_classes, *, seed=0, decimals=15):
    """Targets, and predictions that know something about them; few decimals make ties."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        targets = np.round(rng.normal(300, 50, num_rows), decimals)
        return targets, np.round(targets + rng.normal(0, 20, num_rows), decimals)
    targets = rng.integers(0, num_classes, num_rows)
    logits = rng.normal(size=(num_rows, num_classes))
    logits[np.arange(num_rows), targets] += 1
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return targets, rng.multinomial(10**decimals, chances) / 10**decimals


def _one_by_one(task, targets, predictions, weights):
    """`score` of the rows that each column of weights stands for."""
    columns = [np.repeat(np.arange(targets.size), column.astype(int)) for column in weights.T]
    measured = [score(task, targets[rows], predictions[rows]) for rows in columns]
    return {name: [each[name] for each in measured] for name in metric_names(task)}


def _approx(values):
    return pytest.approx(np.array(values), rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize(("task", "num_classes"), TASKS)
@pytest.mark.parametrize("decimals", [15, 1])
def test_rows_that_all_weigh_one_are_measured_like_the_rows(task, num_classes, decimals):
    targets, predictions = _rows(task, 5000, num_classes, decimals=decimals)
    weighted = WeightedMetrics(task, targets, predictions, metric_names(task))(np.ones((5000, 2), dtype=np.float32))
    for name, value in score(task, targets, predictions).items():
        assert weighted[name] == _approx([value, value]), name


@given(st.sampled_from(TASKS), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([15, 1]))
def test_weighted_rows_are_measured_like_rows_that_occur_as_often(kind, num_rows, seed, decimals):
    task, num_classes = kind
    targets, predictions = _rows(task, num_rows, num_classes, seed=seed, decimals=decimals)
    weights = draw_weights(np.random.default_rng(seed), num_rows, 5)
    weighted = WeightedMetrics(task, targets, predictions, metric_names(task))(weights)
    for name, values in _one_by_one(task, targets, predictions, weights).items():
        assert weighted[name] == _approx(values), name


@pytest.mark.parametrize(("task", "num_classes"), TASKS)
def test_many_rows_are_measured_like_rows_that_occur_as_often(task, num_classes):
    targets, predictions = _rows(task, 3000, num_classes, decimals=2)
    weights = draw_weights(np.random.default_rng(1), 3000, 8)
    weighted = WeightedMetrics(task, targets, predictions, metric_names(task))(weights)
    for name, values in _one_by_one(task, targets, predictions, weights).items():
        assert weighted[name] == _approx(values), name


@pytest.mark.parametrize("num_rows", [1, 7, 36, 37, 500, 20_000])
def test_a_resample_draws_as_many_rows_as_there_are(num_rows):
    weights = draw_weights(np.random.default_rng(0), num_rows, 40)
    assert weights.shape == (num_rows, 40)
    assert (weights.sum(axis=0) == num_rows).all()


@pytest.mark.parametrize("num_rows", [5, 50, 1000])
def test_weights_are_multinomial(num_rows):
    weights = draw_weights(np.random.default_rng(0), num_rows, 400_000 // num_rows)
    chances = [math.comb(num_rows, k) * num_rows**-k * (1 - 1 / num_rows) ** (num_rows - k) for k in range(6)]
    assert np.bincount(weights.astype(int).ravel())[:6] / weights.size == pytest.approx(chances, abs=0.004)
    assert weights.mean(axis=1) == pytest.approx(np.ones(num_rows), abs=5 / math.sqrt(weights.shape[1]))
    variance = weights.var(axis=1).mean()
    assert variance == pytest.approx(1 - 1 / num_rows, abs=0.02)
    apart = np.cov(weights[:2])[0, 1]
    assert apart == pytest.approx(-1 / num_rows, abs=5 / math.sqrt(weights.shape[1]))


@pytest.mark.parametrize(("task", "num_classes"), TASKS)
def test_every_metric_has_an_interval_that_holds_its_value(task, num_classes):
    targets, predictions = _rows(task, 2000, num_classes)
    intervals = bootstrap_intervals(task, targets, predictions, resamples=500)
    measured = score(task, targets, predictions)
    assert tuple(intervals) == metric_names(task)
    for name, interval in intervals.items():
        assert interval.n == 2000
        if name != "calibration_error":  # resampling adds noise to a sum of absolute gaps: its bootstrap lies above
            assert interval.low < measured[name] < interval.high, name


def test_the_same_seed_gives_the_same_intervals_and_another_one_others():
    rows = _rows("binary", 300, 2)
    first, again, other = (bootstrap_intervals("binary", *rows, resamples=200, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert all(first[name] != other[name] for name in first)


def test_more_rows_and_less_confidence_make_an_interval_narrower():
    def width(num_rows, confidence):
        interval = bootstrap_intervals("regression", *_rows("regression", num_rows, 1), confidence=confidence)["rmse"]
        return interval.high - interval.low

    assert width(4000, 0.95) == pytest.approx(width(1000, 0.95) / 2, rel=0.15)
    assert width(1000, 0.8) == pytest.approx(width(1000, 0.95) * 1.2816 / 1.96, rel=0.1)


def test_what_is_undefined_has_no_interval():
    certain = np.tile([0.3, 0.7], (40, 1))
    intervals = bootstrap_intervals("binary", np.ones(40, dtype=np.int64), certain)
    assert math.isnan(intervals["roc_auc"].low)
    assert math.isnan(intervals["f1"].high)
    assert intervals["accuracy"] == Interval(40, 1.0, 1.0)
    constant = bootstrap_intervals("regression", np.full(40, 0.1), np.linspace(0, 1, 40))
    assert math.isnan(constant["r2"].low)
    assert constant["mae"].low < constant["mae"].high


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_rows_one_row_and_predictions_that_are_not_finite_have_no_interval(task):
    for num_rows, poison in ((0, 0.5), (1, 0.5), (20, np.nan)):
        predictions = np.full(num_rows if task == "regression" else (num_rows, 2), poison)
        intervals = bootstrap_intervals(task, np.zeros(num_rows, dtype=np.int64), predictions)
        assert tuple(intervals) == metric_names(task)
        assert all(interval.n == num_rows and math.isnan(interval.low) for interval in intervals.values())


def test_resamples_without_a_value_are_left_out_and_too_few_leave_none():
    values = np.append(np.arange(51.0), np.full(49, np.nan))
    assert percentiles(values, 1000, 0.9) == pytest.approx((2.5, 47.5), abs=0.1)
    assert all(math.isnan(bound) for bound in percentiles(np.append(values, [np.nan] * 3), 1000, 0.9))


def test_nothing_warns_when_a_class_is_rare():
    targets = np.array([0] * 39 + [2])
    predictions = np.tile([0.8, 0.1, 0.1], (40, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        intervals = bootstrap_intervals("multiclass", targets, predictions)
    assert intervals["balanced_accuracy"].low == 0.5  # of the two thirds of resamples in which both classes occur


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(UsageError, match="probabilities of shape"):
        bootstrap_intervals("binary", np.zeros(3, dtype=np.int64), np.zeros((4, 2)))


def _share_that_holds_the_truth(num_rows, repeats, resamples):
    """Of rmse and mae under normal errors, and of accuracy and log loss under calibrated chances."""
    rng = np.random.default_rng(3)
    grid = (np.arange(1_000_000) + 0.5) / 1_000_000  # chances of class 1 are uniform
    entropy = -np.mean(grid * np.log(grid) + (1 - grid) * np.log1p(-grid))
    truth = {"rmse": 1.0, "mae": math.sqrt(2 / math.pi), "accuracy": 0.75, "log_loss": entropy}
    held = dict.fromkeys(truth, 0)
    for _ in range(repeats):
        chances = rng.random(num_rows)
        targets = (rng.random(num_rows) < chances).astype(np.int64)
        intervals = bootstrap_intervals(
            "binary", targets, np.stack([1 - chances, chances], axis=1), resamples=resamples
        ) | bootstrap_intervals("regression", np.zeros(num_rows), rng.normal(size=num_rows), resamples=resamples)
        for name, value in truth.items():
            held[name] += intervals[name].low <= value <= intervals[name].high
    return {name: count / repeats for name, count in held.items()}


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    assert min(_share_that_holds_the_truth(300, 150, 400).values()) >= 0.9


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
    for num_rows in (100, 1000):
        shares = _share_that_holds_the_truth(num_rows, 1000, 2000)
        assert all(0.925 <= share <= 0.97 for share in shares.values()), shares
