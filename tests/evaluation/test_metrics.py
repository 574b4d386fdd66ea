"""Metrics against scikit-learn's, after each epoch against those at the end, and the user's own."""

import functools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from mlops_hydra.config.objective import METRICS
from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.metrics import EpochMetrics, metric_names, score, user_metrics

NAN = pytest.approx(math.nan, nan_ok=True)


def _softmax(logits):
    return torch.tensor(logits).double().softmax(dim=1).numpy()


def _rows(num_rows, num_classes, seed=0):
    """Codes in which every class occurs, and float32 logits that know something about them."""
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num_rows - num_classes)])
    logits = rng.normal(size=(num_rows, num_classes)).astype(np.float32)
    logits[np.arange(num_rows), targets] += 1
    return targets, logits


def _sklearn_scores(targets, probabilities):
    """The same metrics by scikit-learn; every class occurs in `targets`."""
    predicted, num_classes = probabilities.argmax(axis=1), probabilities.shape[1]
    binary = num_classes == 2
    one_hot = np.eye(num_classes)[targets]
    scores = probabilities[:, 1] if binary else probabilities
    return {
        "accuracy": sk.accuracy_score(targets, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(targets, predicted),
        "f1": sk.f1_score(targets, predicted, average="binary" if binary else "macro", zero_division=0),
        "roc_auc": sk.roc_auc_score(targets, scores, multi_class="ovr"),
        "average_precision": sk.average_precision_score(targets if binary else one_hot, scores),
        "log_loss": sk.log_loss(targets, probabilities, labels=range(num_classes)),
    }


@pytest.mark.parametrize("num_classes", [2, 3, 10])
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_of_a_classifier_is_that_of_sklearn(num_classes, seed):
    targets, logits = _rows(200, num_classes, seed)
    probabilities = _softmax(logits)
    measured = score("binary" if num_classes == 2 else "multiclass", targets, probabilities)
    del measured["calibration_error"]  # scikit-learn has none
    assert measured == pytest.approx(_sklearn_scores(targets, probabilities), abs=1e-9)


@given(st.lists(st.tuples(st.integers(0, 2), *[st.integers(0, 3)] * 3), min_size=1, max_size=40))
def test_ties_and_few_rows_are_measured_as_sklearn_does(rows):
    table = np.array([(0, 1, 0, 0), (1, 0, 1, 0), (2, 0, 0, 1), *rows])
    targets, probabilities = table[:, 0], _softmax(table[:, 1:].astype(np.float32))
    measured = score("multiclass", targets, probabilities)
    del measured["calibration_error"]
    assert measured == pytest.approx(_sklearn_scores(targets, probabilities), abs=1e-9)


@given(st.lists(st.tuples(*[st.floats(-1e6, 1e6)] * 2), min_size=2, max_size=40))
def test_every_metric_of_a_regression_is_that_of_sklearn(rows):
    targets, predictions = np.array(rows).T
    measured = score("regression", targets, predictions)
    assert measured["rmse"] == pytest.approx(sk.root_mean_squared_error(targets, predictions), rel=1e-9, abs=1e-9)
    assert measured["mae"] == pytest.approx(sk.mean_absolute_error(targets, predictions), rel=1e-9, abs=1e-9)
    if np.ptp(targets) > 1e-3:  # below, the variance is rounding
        assert measured["r2"] == pytest.approx(sk.r2_score(targets, predictions), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_the_metrics_measured_are_those_the_configuration_knows_but_the_loss(task):
    targets, logits = _rows(30, 2 if task == "binary" else 3)
    predictions = targets * 0.9 if task == "regression" else _softmax(logits)
    assert set(score(task, targets, predictions)) == {name for name, info in METRICS.items() if task in info.tasks} - {
        "loss"
    }


def test_naming_the_only_class_there_is_earns_nothing():
    for task, num_classes in (("binary", 2), ("multiclass", 4)):
        measured = score(task, np.ones(5, dtype=np.int64), np.eye(num_classes)[[1] * 5])
        for name in ("balanced_accuracy", "f1", "roc_auc", "average_precision"):
            assert measured[name] == NAN, name
        assert measured["accuracy"] == 1


def test_a_class_without_rows_is_left_out_of_the_means():
    targets, logits = _rows(60, 3)
    probabilities = _softmax(logits)
    with_a_fourth = np.hstack([probabilities, np.zeros((60, 1))])
    assert score("multiclass", targets, with_a_fourth) == pytest.approx(score("multiclass", targets, probabilities))


def test_equal_targets_leave_r2_open_even_for_a_perfect_prediction():
    for constant in (0.0, 0.1, -1e9):
        targets = np.full(7, constant)
        assert score("regression", targets, targets) == {"rmse": 0, "mae": 0, "r2": NAN}


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_one_prediction_that_is_not_finite_leaves_every_metric_open(poison):
    targets, logits = _rows(20, 3)
    probabilities = _softmax(logits)
    probabilities[7, 1] = poison
    assert all(math.isnan(value) for value in score("multiclass", targets, probabilities).values())
    assert all(math.isnan(value) for value in score("regression", targets * 1.0, probabilities[:, 1]).values())


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_no_rows_are_measured_as_nan(task):
    predictions = np.empty(0) if task == "regression" else np.empty((0, 2))
    measured = score(task, np.empty(0, dtype=np.int64), predictions)
    assert tuple(measured) == metric_names(task)
    assert all(math.isnan(value) for value in measured.values())


def test_certainty_that_is_wrong_costs_a_finite_log_loss():
    assert score("binary", np.array([0, 1]), np.array([[0.0, 1.0], [0.0, 1.0]]))["log_loss"] == pytest.approx(
        18.02, 0.01
    )


@pytest.mark.parametrize(
    ("task", "targets", "predictions", "told"),
    [
        ("binary", [0, 1], [[0.2, 0.8]], "shape"),
        ("binary", [0, 1], [0.2, 0.8], "shape"),
        ("binary", [0, 1], [[0.2, 0.3, 0.5]] * 2, "two columns"),
        ("multiclass", [0, 1], [[1.0], [1.0]], "at least two columns"),
        ("multiclass", [0, 3], [[0.2, 0.3, 0.5]] * 2, r"targets\[1\]: class codes go from 0 to 2, got 3"),
        ("multiclass", [0.5, 1], [[0.2, 0.3, 0.5]] * 2, "whole numbers"),
        ("multiclass", [0, 1], [[0.2, 0.3, 0.5], [2.0, -1.0, 3.0]], r"predictions\[1\].*softmax"),
        ("regression", [0.5, 1], [[0.5], [1.0]], r"shape \(2,\)"),
    ],
)
def test_predictions_that_do_not_fit_are_refused_with_the_reason(task, targets, predictions, told):
    with pytest.raises(UsageError, match=told):
        score(task, np.array(targets), np.array(predictions))


def test_bad_codes_and_bad_probabilities_are_told_together():
    with pytest.raises(UsageError) as caught:
        score("binary", np.array([0, 5]), np.array([[2.0, 2.0], [0.5, 0.5]]))
    assert [fault.path for fault in caught.value.faults] == ["targets[1]", "predictions[0]"]


@pytest.mark.parametrize(("task", "num_classes"), [("binary", 2), ("multiclass", 3), ("multiclass", 10)])
@pytest.mark.parametrize("objective", ["log_loss", "roc_auc", "average_precision", "calibration_error"])
def test_an_epoch_is_measured_like_the_end(task, num_classes, objective):
    targets, logits = _rows(360, num_classes)
    measured = EpochMetrics(task, num_classes, objective)(torch.tensor(logits), torch.tensor(targets))
    expected = score(task, targets, _softmax(logits))
    assert set(measured) == {"accuracy", "balanced_accuracy", "f1", "log_loss", objective}
    assert measured == pytest.approx({name: expected[name] for name in measured}, abs=1e-6)


@given(st.integers(1, 30), st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_an_epoch_is_measured_like_the_end_whatever_classes_occur(num_rows, num_classes, seed):
    rng = np.random.default_rng(seed)
    targets, logits = rng.integers(0, num_classes, num_rows), rng.normal(size=(num_rows, num_classes))
    task = "binary" if num_classes == 2 else "multiclass"
    measured = EpochMetrics(task, num_classes, "loss")(torch.tensor(logits).float(), torch.tensor(targets))
    expected = score(task, targets, _softmax(logits.astype(np.float32)))
    assert measured == pytest.approx({name: expected[name] for name in measured}, abs=1e-6, nan_ok=True)


def test_an_epoch_of_a_regression_is_in_units_of_the_target():
    rng = np.random.default_rng(1)
    targets = rng.normal(300, 50, 200)
    predictions = targets + rng.normal(0, 20, 200)
    mean, scale = targets.mean(), targets.std()
    standardised = [torch.tensor((values - mean) / scale).float()[:, None] for values in (predictions, targets)]
    measured = EpochMetrics("regression", 1, "rmse", scale)(*standardised)
    assert measured == pytest.approx(score("regression", targets, predictions), rel=1e-5)


def test_a_regression_is_not_broadcast_when_targets_come_flat():
    outputs, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([1.0, 2.0, 3.0])
    assert EpochMetrics("regression", 1, "rmse")(outputs, targets)["mae"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_an_epoch_with_a_logit_that_is_not_finite_is_nan_throughout(poison):
    targets, logits = _rows(50, 3)
    logits[11, 2] = poison
    measured = EpochMetrics("multiclass", 3, "roc_auc")(torch.tensor(logits), torch.tensor(targets))
    assert len(measured) == 5
    assert all(math.isnan(value) for value in measured.values())


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_an_epoch_without_rows_is_nan_and_no_error(task):
    width = 3 if task == "multiclass" else 1
    targets = torch.empty(0, dtype=torch.int64) if task == "multiclass" else torch.empty(0, 1)
    assert all(
        math.isnan(value) for value in EpochMetrics(task, width, "loss")(torch.empty(0, width), targets).values()
    )


def test_epoch_metrics_take_half_precision_and_tensors_that_require_gradients():
    targets, logits = _rows(100, 3)
    outputs = torch.tensor(logits).bfloat16().requires_grad_()
    measured = EpochMetrics("multiclass", 3, "roc_auc")(outputs, torch.tensor(targets))
    expected = score("multiclass", targets, _softmax(outputs.detach().float().numpy()))
    assert measured == pytest.approx({name: expected[name] for name in measured}, abs=1e-6)


def test_ten_thousand_classes_need_no_table_of_a_hundred_million_cells():
    targets = torch.arange(10_000)[:50]
    outputs = torch.nn.functional.one_hot(targets, 10_000).float()
    assert EpochMetrics("multiclass", 10_000, "accuracy")(outputs, targets)["f1"] == 1


def test_a_users_metric_gets_codes_and_probabilities_if_it_names_them():
    targets, logits = _rows(50, 3)
    probabilities = _softmax(logits)

    def top_two(targets, predictions, probabilities):
        assert predictions.shape == targets.shape
        return np.mean([code in row.argsort()[-2:] for code, row in zip(targets, probabilities, strict=True)])

    functions = {"hits": lambda targets, predictions: (targets == predictions).sum(), "top_two": top_two}
    measured = user_metrics(functions, targets, probabilities, "multiclass")
    assert measured["hits"] / 50 == score("multiclass", targets, probabilities)["accuracy"]
    assert measured["hits"] / 50 <= measured["top_two"] <= 1


def test_a_users_metric_of_a_regression_gets_values():
    functions = {"worst": lambda targets, predictions: np.abs(targets - predictions).max()}
    assert user_metrics(functions, np.array([1.0, 2.0]), np.array([1.0, 5.0]), "regression") == {"worst": 3.0}


@pytest.mark.parametrize("value", [3, 3.0, np.float32(3), np.array(3), np.array([3.0]), torch.tensor(3.0)])
def test_any_kind_of_single_number_is_a_metric(value):
    measured = user_metrics({"mine": lambda *_: value}, np.zeros(2), np.zeros(2), "regression")
    assert measured == {"mine": 3.0}
    assert type(measured["mine"]) is float


def test_a_bound_argument_of_a_users_metric_stays_bound():
    functions = {"f2": functools.partial(sk.fbeta_score, beta=2)}
    targets, probabilities = np.array([0, 1, 1, 0]), np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]])
    assert user_metrics(functions, targets, probabilities, "binary") == {"f2": pytest.approx(0.5)}


def test_every_users_metric_that_fails_is_named_with_its_place():
    def divides(targets, predictions):
        return 1 / 0

    functions = {
        "divides": divides,
        "text": lambda *_: "high",
        "nothing": lambda *_: None,
        "many": lambda targets, _: targets,
        "arity": lambda _: 1.0,
        "fine": lambda *_: 1.0,
    }
    with pytest.raises(UsageError) as caught:
        user_metrics(functions, np.zeros(3), np.zeros(3), "regression")
    told = {fault.path: fault.rule for fault in caught.value.faults}
    assert list(told) == ["metrics.divides", "metrics.text", "metrics.nothing", "metrics.many", "metrics.arity"]
    assert "ZeroDivisionError" in told["metrics.divides"]
    assert f"{__file__}:{divides.__code__.co_firstlineno + 1}" in told["metrics.divides"]
    assert "returned 'high'; a metric returns one number" in told["metrics.text"]


def test_a_users_metric_cannot_change_what_is_recorded():
    def sorts(targets, predictions):
        targets.sort()
        predictions.sort()
        return 0.0

    targets, predictions = np.array([3.0, 1.0]), np.array([2.0, 1.0])
    user_metrics({"sorts": sorts}, targets, predictions, "regression")
    assert (targets.tolist(), predictions.tolist()) == ([3.0, 1.0], [2.0, 1.0])


def test_users_metrics_of_predictions_that_are_not_finite_are_nan_and_not_called():
    def refuses(targets, predictions):
        raise AssertionError

    assert user_metrics({"mine": refuses}, np.zeros(2), np.array([1.0, np.nan]), "regression") == {"mine": NAN}


def test_nothing_warns_however_odd_the_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        score("multiclass", np.array([2]), np.array([[1.0, 0.0, 0.0, 0.0]]))
        score("binary", np.array([1, 1]), np.array([[0.5, 0.5]] * 2))
        score("regression", np.array([1.0]), np.array([2.0]))
        EpochMetrics("multiclass", 4, "roc_auc")(torch.zeros(1, 4), torch.tensor([2]))
