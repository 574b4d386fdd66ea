"""Gates: what passes, what does not, and that nothing unmeasured ever passes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import COSTS, METRICS, Objective
from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.gates import QualityGate, Verdict, check_gates, judge, overall

GATES = [QualityGate("accuracy", 0.9, "higher"), QualityGate("latency_p95_ms", 50.0, "lower")]
LOG_LOSS = Objective("log_loss", "minimize")
NOTHING = [None, math.nan, math.inf, -math.inf, "0.95", True]
finite = st.floats(allow_nan=False, allow_infinity=False)


def judged(metrics, *, task="binary", objective=LOG_LOSS, **gate):
    (verdict,) = judge({"mine": GateConfig(**gate)}, metrics, task=task, objective=objective)
    return verdict


def test_the_mission_s_call_passes_every_gate():
    assert check_gates({"accuracy": 0.91, "latency_p95_ms": 40.0}, GATES) == []


def test_each_failed_gate_gets_a_sentence_with_value_and_threshold():
    assert check_gates({"accuracy": 0.85, "latency_p95_ms": 60.0}, GATES) == [
        "accuracy is 0.85, must be >= 0.9",
        "latency_p95_ms is 60, must be <= 50",
    ]


def test_a_missing_latency_does_not_pass_a_gate_that_wants_it_low():
    (sentence,) = check_gates({"accuracy": 0.91, "latency_p50_ms": 1.0}, GATES)
    assert sentence == "latency_p95_ms was not measured; did you mean latency_p50_ms?"


def test_without_a_name_alike_the_measured_ones_are_listed():
    assert check_gates({"r2": 1, "mae": 2}, GATES[:1]) == ["accuracy was not measured; measured: mae, r2"]
    assert check_gates({}, GATES[:1]) == ["accuracy was not measured; measured: nothing"]


@pytest.mark.parametrize("value", NOTHING)
@pytest.mark.parametrize("gate", GATES)
def test_what_is_no_finite_number_never_passes(gate, value):
    assert len(check_gates({gate.metric: value}, [gate])) == 1


@given(finite, finite)
def test_a_gate_passes_exactly_on_its_side_and_equality_passes(value, threshold):
    assert (check_gates({"m": value}, [QualityGate("m", threshold, "higher")]) == []) is (value >= threshold)
    assert (check_gates({"m": value}, [QualityGate("m", threshold, "lower")]) == []) is (value <= threshold)


@given(finite, finite)
def test_value_and_threshold_look_different_when_they_are(value, threshold):
    for sentence in check_gates({"m": value}, [QualityGate("m", threshold, "higher")]):
        shown, limit = sentence.removeprefix("m is ").split(", must be >= ")
        assert float(shown) != float(limit)


def test_numbers_are_shown_as_people_write_them():
    gate = QualityGate("rmse", 54321.0, "lower")
    assert check_gates({"rmse": np.float64(1234567.891)}, [gate]) == ["rmse is 1234568, must be <= 54321"]


def test_a_gate_that_makes_no_sense_tells_all_that_is_wrong():
    with pytest.raises(UsageError) as caught:
        QualityGate("", math.nan, "highr")
    assert [fault.path for fault in caught.value.faults] == [
        "QualityGate.metric",
        "QualityGate.threshold",
        "QualityGate.direction",
    ]
    assert caught.value.faults[2].nearest == ("higher",)


def test_gates_are_values():
    assert QualityGate("accuracy", 0.9, "higher") == GATES[0]
    with pytest.raises(AttributeError):
        GATES[0].threshold = 0.1


@pytest.mark.parametrize("metric", [metric for metric in METRICS if metric != "loss"])
def test_each_known_metric_is_judged_on_its_good_side(metric):
    good, bad = (0.8, 0.2) if METRICS[metric].direction == "maximize" else (0.2, 0.8)
    assert judged({f"test/{metric}": good}, metric=metric, threshold=0.5).verdict == "passed"
    assert judged({f"test/{metric}": bad}, metric=metric, threshold=0.5).verdict == "failed"


@pytest.mark.parametrize("metric", COSTS)
def test_costs_have_no_split_and_are_better_low(metric):
    assert judged({metric: 5.0}, metric=metric, threshold=10) == Verdict(
        "mine", metric, 5.0, 10.0, "lower", "passed", f"{metric} 5 <= 10"
    )


def test_the_verdict_carries_everything_that_the_result_file_needs():
    assert judged({"test/accuracy": 0.913}, metric="accuracy", threshold=0.9) == Verdict(
        name="mine",
        metric="test/accuracy",
        value=0.913,
        threshold=0.9,
        direction="higher",
        verdict="passed",
        reason="test/accuracy 0.913 >= 0.9",
    )


def test_a_gate_on_validation_reads_validation():
    metrics = {"test/accuracy": 0.1, "val/accuracy": 0.95}
    assert judged(metrics, metric="accuracy", threshold=0.9, on="val").verdict == "passed"
    assert judged(metrics, metric="accuracy", threshold=0.9).verdict == "failed"


def test_the_word_objective_means_the_objective_and_its_direction():
    verdict = judged({"test/gain": 3.0}, objective=Objective("gain", "maximize"), metric="objective", threshold=2)
    assert (verdict.metric, verdict.direction, verdict.verdict) == ("test/gain", "higher", "passed")


def test_a_metric_of_the_user_s_own_needs_a_direction_to_pass():
    metrics = {"test/gain": 3.0}
    unknown = judged(metrics, metric="gain", threshold=2)
    assert (unknown.verdict, unknown.direction) == ("failed", None)
    assert "gates.mine.direction" in unknown.reason
    assert judged(metrics, metric="gain", threshold=2, direction="higher").verdict == "passed"


def test_a_direction_given_wins_over_the_known_one():
    assert judged({"test/accuracy": 0.4}, metric="accuracy", threshold=0.5, direction="lower").verdict == "passed"


@pytest.mark.parametrize(
    ("metric", "baseline", "by", "just_enough", "too_little", "told"),
    [
        (
            "accuracy",
            0.6,
            0.05,
            0.65,
            0.6499,
            "test/accuracy is 0.6499, must be >= 0.65 (baseline/accuracy 0.6 + 0.05)",
        ),
        (
            "accuracy",
            0.5,
            "10%",
            0.55,
            0.5499,
            "test/accuracy is 0.5499, must be >= 0.55 (baseline/accuracy 0.5 + 10%)",
        ),
        ("log_loss", 0.7, 0.2, 0.5, 0.51, "test/log_loss is 0.51, must be <= 0.5 (baseline/log_loss 0.7 - 0.2)"),
        ("rmse", 80.0, "20%", 64.0, 64.01, "test/rmse is 64.01, must be <= 64 (baseline/rmse 80 - 20%)"),
        ("r2", -0.5, "10%", -0.45, -0.46, "test/r2 is -0.46, must be >= -0.45 (baseline/r2 -0.5 + 10%)"),
        ("rmse", 80.0, None, 79.99, 80.0, "test/rmse is 80, must be < 80 (baseline/rmse 80)"),
        ("accuracy", 0.6, 0.0, 0.61, 0.6, "test/accuracy is 0.6, must be > 0.6 (baseline/accuracy 0.6)"),
        ("f1", 0.0, "10%", 0.01, 0.0, "test/f1 is 0, must be > 0 (baseline/f1 0)"),
    ],
)
def test_the_baseline_is_beaten_by_the_margin_and_not_by_less(metric, baseline, by, just_enough, too_little, told):
    def against_baseline(value):
        metrics = {f"test/{metric}": value, f"baseline/{metric}": baseline}
        return judged(metrics, metric=metric, better_than="baseline", by=by)

    assert against_baseline(just_enough).verdict == "passed"
    failed = against_baseline(too_little)
    assert (failed.verdict, failed.reason) == ("failed", told)


@pytest.mark.parametrize("value", NOTHING)
def test_a_measurement_that_is_missing_fails_against_threshold_and_baseline(value):
    metrics = {"test/accuracy": value, "baseline/accuracy": 0.5}
    for kind in ({"threshold": 0.0}, {"better_than": "baseline"}):
        verdict = judged(metrics, metric="accuracy", **kind)
        assert (verdict.verdict, verdict.value) == ("failed", None)
        assert "measured" in verdict.reason


@pytest.mark.parametrize("baseline", [None, math.nan])
def test_without_a_baseline_to_compare_with_the_gate_is_undecided(baseline):
    verdict = judged({"test/roc_auc": 0.99, "baseline/roc_auc": baseline}, metric="roc_auc", better_than="baseline")
    assert (verdict.verdict, verdict.value) == ("undecided", 0.99)
    assert "baseline/roc_auc" in verdict.reason


def test_gates_for_other_tasks_are_left_out_and_the_rest_keep_their_order():
    gates = {
        "b": GateConfig(metric="accuracy", threshold=0.5),
        "numbers": GateConfig(metric="r2", threshold=0.5, tasks=("regression",)),
        "a": GateConfig(metric="f1", threshold=0.5, tasks=("binary", "multiclass")),
    }
    metrics = {"test/accuracy": 1.0, "test/f1": 1.0}
    verdicts = judge(gates, metrics, task="binary", objective=LOG_LOSS)
    assert [verdict.name for verdict in verdicts] == ["b", "a"]


@given(st.lists(st.sampled_from(["passed", "failed", "undecided"])))
def test_the_worst_verdict_is_the_verdict(decisions):
    verdicts = [Verdict("g", "m", 0.0, 0.0, "higher", decision, "") for decision in decisions]
    order = ["passed", "undecided", "failed"]
    assert overall(verdicts) == max(decisions, key=order.index, default="passed")
